"""A pytest plugin: a skip for a reason that is not in a closed list fails the session.

Otherwise a part of the suite can stop running unnoticed.
"""

import pytest

ALLOWED_KINDS = ("key: ", "engine: ", "platform: ")
"""Kinds of missing things: a provider key, an optional engine such as LiteLLM, an ability of system or interpreter.

Packages of the development lock file are no engines.
"""
_FORBIDDEN = pytest.StashKey[list[str]]()
_WORKER_OUTPUT = "forbidden_skips"


def is_allowed(reason: str) -> bool:
    return reason.removeprefix("Skipped: ").startswith(ALLOWED_KINDS)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FORBIDDEN] = []
    config.pluginmanager.register(_SkipRecorder(config.stash[_FORBIDDEN]))


class _SkipRecorder:
    """Records skips of tests and of modules. With pytest-xdist, modules are seen by the workers only."""

    def __init__(self, forbidden: list[str]) -> None:
        self._forbidden = forbidden

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._record(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._record(report)

    def _record(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple) and not is_allowed(report.longrepr[2]):
            line = f"{report.nodeid}: {report.longrepr[2].removeprefix('Skipped: ')}"
            if line not in self._forbidden:
                self._forbidden.append(line)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        for line in vars(node).get("workeroutput", {}).get(_WORKER_OUTPUT, ()):
            if line not in self._forbidden:
                self._forbidden.append(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    forbidden = session.config.stash[_FORBIDDEN]
    output = vars(session.config).get("workeroutput")
    if output is not None:
        output[_WORKER_OUTPUT] = forbidden
    elif forbidden and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[_FORBIDDEN]:
        terminalreporter.section("skips for a reason that is not allowed (tests/support/skip_reasons.py)")
        for line in config.stash[_FORBIDDEN]:
            terminalreporter.write_line(line)
