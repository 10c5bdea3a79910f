"""Serve on 127.0.0.1:8082; creates .venv first. Options go to the command: `serve.py --port 8083`."""

import os
import sys


def find_folder(text: str) -> str:
    """Return the absolute path of a folder that the user has named, in the current directory of the user."""
    return text and os.path.abspath(os.path.expanduser(text))


words = sys.argv[1:]
for number, word in enumerate(words):
    if word.startswith("--config="):
        words[number] = f"--config={find_folder(word.partition('=')[2])}"
    elif number and words[number - 1] == "--config":
        words[number] = find_folder(word)

from environments import PYTHON, become, set_up  # noqa: E402  # it changes the current directory

set_up()
become(PYTHON, "-m", "anthropic_proxy", "serve", *words)
