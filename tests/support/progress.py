"""A pytest plugin: the name of a failed test is printed at once, and a line every few seconds says how far the run is.

Not with `-v`, `-q` or one test alone: pytest's own output then says it already.
"""

import time

import pytest

SECONDS = 5.0


class Progress:
    """Counts the reports of one run, in the process that prints."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._start = self._printed = time.monotonic()
        self._total = self._ended = self._failed = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._total = len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._total = len(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str, str] | None:
        """Print no dot for a test that passed or was skipped; the summary counts it all the same."""
        if report.passed:
            return ("passed" if report.when == "call" else "", "", "")
        return ("skipped", "", "") if report.skipped else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed += 1
            self._reporter.ensure_newline()
            reason = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
            self._reporter.write_line(f"FAILED {report.nodeid}: {reason.partition(chr(10))[0]}", red=True)
            self._reporter.flush()
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self._ended += 1
            now = time.monotonic()
            if now - self._printed >= SECONDS or self._ended == self._total:
                self._printed = now
                share = 100 * self._ended // max(self._total, 1)
                failed = f", {self._failed} failed" if self._failed else ""
                self._reporter.ensure_newline()
                self._reporter.write_line(
                    f"{share:3} %  {self._ended:,} of {self._total:,} tests{failed}, {now - self._start:.0f} s"
                )
                self._reporter.flush()  # standard output may be a pipe or a file


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.get_verbosity() == 0:
        config.pluginmanager.register(Progress(reporter))
