"""A pytest plugin: `pytest -p tests.support.hidden_posix` runs the tests as on a system without POSIX.

`hiding` contains the list of hidden names. `sitecustomize` hides them in each Python process that a test starts,
`isolated` in a process that ignores the environment.
"""

import os
import sys

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Hide POSIX in the process that runs tests, before it imports the tested modules."""
    starts_workers = early_config.known_args_namespace.numprocesses and "PYTEST_XDIST_WORKER" not in os.environ
    if not starts_workers:
        assert "anthropic_proxy" not in sys.modules, "it would keep what it has imported"
        from tests.support.hidden_posix.hiding import hide

        hide()
