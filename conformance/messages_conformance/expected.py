"""The file `expected-failures.toml`: failures that are known, each with a reason."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from messages_conformance.rows import SuiteError
from messages_conformance.runner import Outcome, Result
from messages_conformance.texts import escape_unprintable, shorten

_TABLE = "failures"
_HEAD = """\
# Known failures of the checks of messages-conformance: check → reason. A check that fails without being in this file
# makes a run red, and so does a check of this file that passes. Write it again with --write-expected FILE, which keeps
# the reasons.
"""
_MAX_REASON = 200


def read_expected(file: Path) -> dict[str, str]:
    """Return check → reason. Raises `SuiteError`."""
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SuiteError(f"{file} cannot be read: {error}") from error
    table = content.pop(_TABLE, {})
    if content or not isinstance(table, dict):
        raise SuiteError(f"{file}: it has the table [{_TABLE}] only, not {', '.join(content) or 'another value'}")
    for name, reason in table.items():
        if not isinstance(reason, str):
            raise SuiteError(f"{file}: {name} has {reason!r} instead of a reason; ids and reasons are in quotes")
    return {name: escape_unprintable(reason) for name, reason in table.items()}


def write_expected(file: Path, results: Sequence[Result], known: Mapping[str, str]) -> None:
    """Write the failures of a run. Known reasons stay, also those of checks that did not run."""
    outcomes = {result.check.id: result for result in results}
    reasons = {name: reason for name, reason in known.items() if not _has_run(outcomes.get(name))}
    for result in results:
        if result.outcome is Outcome.FAILED:
            first = shorten(" ".join(result.reasons[0].split()), _MAX_REASON)
            reasons[result.check.id] = known.get(result.check.id) or first
    lines = (f"{json.dumps(name)} = {_quote(reason)}\n" for name, reason in sorted(reasons.items()))
    file.write_text(f"{_HEAD}\n[{_TABLE}]\n{''.join(lines)}", "utf-8")


def find_new(results: Sequence[Result], expected: Mapping[str, str]) -> list[Result]:
    """Return the failures that are not expected."""
    return [result for result in results if result.outcome is Outcome.FAILED and result.check.id not in expected]


def find_stale(results: Sequence[Result], expected: Mapping[str, str]) -> list[Result]:
    """Return the checks that pass although they are expected to fail."""
    return [result for result in results if result.outcome is Outcome.PASSED and result.check.id in expected]


def _has_run(result: Result | None) -> bool:
    return result is not None and result.outcome in (Outcome.PASSED, Outcome.FAILED)


def _quote(text: str) -> str:
    """Return a basic string of TOML, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
