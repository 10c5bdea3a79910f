"""A pytest plugin: a process of pytest-xdist reports once on a test that passed.

Otherwise it sends five messages a test, whose handling takes longer than many tests: start, end, and a report on each
of setup, call and teardown. Reports of setup and teardown are sent if they failed or were skipped, or lasted as long as
`--durations` shows.
"""

import pytest
from _pytest.runner import runtestprotocol

SHOWN_SECONDS = 0.005
"""The default of `--durations-min`."""


class _OneReport:
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        for report in runtestprotocol(item, log=False, nextitem=nextitem):
            if report.when == "call" or not report.passed or report.duration >= SHOWN_SECONDS:
                item.ihook.pytest_runtest_logreport(report=report)
        return True


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_OneReport())
