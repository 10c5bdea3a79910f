"""A pytest plugin: the folders of tests (`tmp_path`) are in memory, where a file system for that is large enough.

A new database waits for the disk several times. `--basetemp` names another folder.
"""

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path("/dev/shm")
MIN_FREE_BYTES = 4 * 1024**3
"""The folders of tests that passed are removed at once. Those that failed stay; a test may fill several 100 MB."""
VARIABLE = "PYTEST_DEBUG_TEMPROOT"
"""Names the folder in which pytest creates the folders of its runs."""


def _is_usable() -> bool:
    """Programs that tests install there have to run."""
    if sys.platform != "linux" or not os.access(FOLDER, os.W_OK):
        return False
    system = os.statvfs(FOLDER)
    return system.f_bavail * system.f_frsize >= MIN_FREE_BYTES and not system.f_flag & os.ST_NOEXEC


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and config.getoption("basetemp") is None and _is_usable():
        os.environ.setdefault(VARIABLE, str(FOLDER))
