"""Serve on 127.0.0.1:8082; creates .venv first. Options go to the command: `serve.py --port 8083`."""

import sys

from environments import PYTHON, become, set_up

set_up()
become(PYTHON, "-m", "anthropic_proxy", "serve", *sys.argv[1:])
