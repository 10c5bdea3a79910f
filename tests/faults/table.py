"""Text of the rows, for docs/guide/reliability.md, and their results, for the reader of a run."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from tests.faults.cases.case import FaultCase
from tests.faults.expected import Case, Cases
from tests.faults.protocols import PROTOCOLS
from tests.faults.runner import Result
from tests.support.paths import ROOT

DOCS = ROOT / "docs/guide/reliability.md"
BEGIN, END = "<!-- faults: begin, written by scripts/ci.py faults --write -->", "<!-- faults: end -->"
_NO_CASE = "–"
_WIDTH = 58
_CELL = 12


def describe(rows: Sequence[FaultCase]) -> str:
    """Return the table of the documentation: each fault, and the response of the client."""
    lines = [f"{len(rows)} faults, each on {len(PROTOCOLS)} wires."]
    for phase, members in groupby(rows, lambda case: case.phase):
        lines += ["", f"### {phase.capitalize()}", ""]
        lines += ["| fault | streamed | not streamed | where it differs |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {case.fault} | {_words(case.cases.streamed)} | {_whole_words(case.cases)} | {_differences(case)} |"
            for case in members
        ]
    return "\n".join(lines)


def written() -> str:
    return DOCS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def write(rows: Sequence[FaultCase]) -> None:
    before, _, remaining = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    behind = remaining.partition(END)[2]
    DOCS.write_text(f"{before}{BEGIN}\n\n{describe(rows)}\n\n{END}{behind}", encoding="utf-8")


def head() -> str:
    return "seconds, streamed and not".ljust(_WIDTH) + "".join(protocol.name.rjust(_CELL) for protocol in PROTOCOLS)


def line_of(case: FaultCase, results: Sequence[Result]) -> str:
    """Return the outcome of a row: the time to the client's last byte on each wire, or a cross."""
    return case.name[: _WIDTH - 2].ljust(_WIDTH) + "".join(
        _cell(results, protocol.name).rjust(_CELL) for protocol in PROTOCOLS
    )


def problems_of(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        for problem in result.problems:
            yield f"{result.case.name} [{result.protocol}, {'streamed' if result.streams else 'whole'}] {problem}"


def _cell(results: Sequence[Result], protocol: str) -> str:
    times = [_time(result) for result in results if result.protocol == protocol]
    return " ".join(times) if times else _NO_CASE


def _time(result: Result) -> str:
    return "✕" if result.problems else f"{max(result.seconds or 0.0, 0.0):.2f}"


def _words(case: Case | None) -> str:
    return _NO_CASE if case is None else case.words


def _whole_words(cases: Cases) -> str:
    return "the same" if cases.whole == cases.streamed else _words(cases.whole)


def _differences(case: FaultCase) -> str:
    grouped: dict[str, list[str]] = {}
    for protocol, cases in case.differ.items():
        streamed, whole = _words(cases.streamed), _words(cases.whole)
        parts = [streamed] if streamed == whole else [part for part in (streamed, whole) if part != _NO_CASE]
        grouped.setdefault("; not streamed: ".join(parts), []).append(protocol)
    differences = "; ".join(f"{', '.join(protocols)}: {words}" for words, protocols in grouped.items())
    return f"{differences} ({case.because})" if case.because else differences
