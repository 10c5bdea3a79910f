"""A pytest plugin: a test that does not end prints the stacks of its process and fails; the next run in a new process.

The setting `faulthandler_timeout` of pytest starts and ends a thread in each test, which takes longer than many tests.
"""

import faulthandler
import os
import time

import pytest

SECONDS = 900
EARLIER_SECONDS = 60
"""By so much the limit of a test may be shorter: the tests of that time have one limit."""


class _Limit:
    def __init__(self) -> None:
        self._stderr = os.dup(2)  # in a test, 2 is a file of pytest
        self._since = -float(EARLIER_SECONDS)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        now = time.monotonic()
        if now - self._since >= EARLIER_SECONDS:
            self._since = now
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=self._stderr)

    def pytest_unconfigure(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        os.close(self._stderr)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Limit())
