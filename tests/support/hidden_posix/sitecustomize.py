"""Start-up of a Python process that a test starts. `hiding.hide` puts this folder on its path."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

FOLDER = str(Path(__file__).parent)
sys.path.insert(0, FOLDER)
import hiding  # type: ignore[import-not-found]  # noqa: E402

sys.path[:] = [entry for entry in sys.path if entry != FOLDER]
hiding.hide()
following = PathFinder.find_spec("sitecustomize", sys.path)
if following is not None and following.loader is not None:
    following.loader.exec_module(sys.modules[__name__])
