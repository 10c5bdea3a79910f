"""A pytest plugin that puts the program into PATH, as its installers do.

So texts name it `anthropic-proxy`, and not by its path, which differs between machines.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

_folder = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def pytest_configure(config: pytest.Config) -> None:
    name = "anthropic-proxy.exe" if sys.platform == "win32" else "anthropic-proxy"
    program = Path(sys.executable).parent / name
    folder = config.stash[_folder] = tempfile.TemporaryDirectory()
    if sys.platform == "win32":
        shutil.copy(program, folder.name)
    else:
        (Path(folder.name) / name).symlink_to(program)
    os.environ["PATH"] = f"{folder.name}{os.pathsep}{os.environ['PATH']}"


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_folder].cleanup()
