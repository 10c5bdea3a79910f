"""A pytest plugin: the report on a failed test contains the last lines of the logs of its processes."""

from collections.abc import Generator

import pytest

from tests.support.waiting import process_logs

LINES = 100


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    process_logs.ended.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [("processes", text) for text in process_logs.render(LINES)]
    return report
