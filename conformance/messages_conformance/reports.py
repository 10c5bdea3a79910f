"""The reports of a run that are files. They are written as checks end, so that a run which is killed leaves them."""

import os
from datetime import UTC, datetime
from pathlib import Path

from messages_conformance import __version__
from messages_conformance.arguments import Plan
from messages_conformance.junit import write_junit
from messages_conformance.results import to_json
from messages_conformance.rows import SuiteError
from messages_conformance.runner import Result


class Reports:
    """JSON and JUnit XML of the results so far."""

    def __init__(self, plan: Plan, url: str, json: Path | None, junit: Path | None) -> None:
        self._plan = plan
        self._url = url
        self._json = json
        self._junit = junit
        self._results: dict[str, Result] = {}
        self.write(complete=False)

    def add(self, result: Result) -> None:
        self._results[result.check.id] = result
        self.write(complete=False)

    def write(self, *, complete: bool) -> None:
        """`complete`: the run has ended. Raises `SuiteError`."""
        results = [self._results[check.id] for check in self._plan.checks if check.id in self._results]
        expected = self._plan.expected
        if self._json is not None:
            facts = {
                "suite": __version__,
                "date": datetime.now(UTC).date().isoformat(),
                "model": self._plan.options.model,
                "backend": self._plan.options.backend,
            }
            _write(self._json, to_json(results, self._url, expected, facts, complete=complete), complete=complete)
        if self._junit is not None:
            _write(self._junit, write_junit(results, expected), complete=complete)


def _write(file: Path, text: str, *, complete: bool) -> None:
    """Write a file whole, or leave it as it was. What is no file, such as a pipe, gets the complete text only."""
    try:
        if file.exists() and not file.is_file():
            if complete:
                file.write_text(text, "utf-8")
            return
        part = file.with_name(f"{file.name}.part")
        part.write_text(text, "utf-8")
        os.replace(part, file)
    except OSError as error:
        raise SuiteError(f"{file} cannot be written: {error.strerror}") from error
