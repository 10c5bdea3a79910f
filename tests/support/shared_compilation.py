"""A pytest plugin: the processes of pytest-xdist compile the test modules together, each of them a share.

Otherwise each of them compiles all modules in the first run of a clone, with 10 s of processor time.
"""

import contextlib
import importlib
import os

import pytest

from tests.support.paths import ROOT, TESTS


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import the share of this process before the collection. The others find the compiled modules on the disk."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")
    if not worker or session.config.args != session.config.getini("testpaths"):
        return
    left_out = set(session.config.getini("norecursedirs"))
    paths = [path for path in TESTS.rglob("test_*.py") if not left_out & set(path.relative_to(TESTS).parts)]
    paths.sort(key=lambda path: (-path.stat().st_size, path))
    for path in paths[int(worker.removeprefix("gw")) :: int(count)]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # the collection reports them
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
