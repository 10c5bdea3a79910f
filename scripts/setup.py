"""Create .venv from the lock files: `setup.py` to serve, `setup.py dev` to develop. Other words are extras.

`setup.py vertex litellm` adds two extras, and later calls keep them. Returns at once if nothing changed.
"""

import sys

from environments import set_up

set_up(*sys.argv[1:])
