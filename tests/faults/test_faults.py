"""One or two rows of each phase, and the table of the documentation; `scripts/ci.py faults` runs all rows."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.faults import table
from tests.faults.cases import CASES
from tests.faults.cases.case import FaultCase
from tests.faults.client import Answer
from tests.faults.expected import ClientDisconnected, Complete, Cut, Expected, Passed, Refused, check_answer
from tests.faults.protocols import PROTOCOLS
from tests.faults.runner import FaultRunner, seems_blocked

QUICK = (
    "connect: connection reset after accept",
    "before the head: 101 Switching Protocols",
    "status: 429, `retry-after: 61`",
    "status: 429, a limit per minute that the request alone exceeds",
    "body: a chunk size that is not a number",
    "content: no end event after the last content",
    "client: disconnects in the middle of the reply",
)


@pytest.fixture(scope="module")
def runner() -> Iterator[FaultRunner]:
    runner = FaultRunner()
    yield runner
    runner.close()


@pytest.mark.parametrize("case", [case for case in CASES if case.name in QUICK], ids=lambda case: case.name)
def test_what_becomes_of_a_fault(case: FaultCase, runner: FaultRunner) -> None:
    results = runner.run(case)
    if seems_blocked(results):
        results = runner.run(case)
    assert list(table.problems_of(results)) == []


def test_the_documentation_has_the_table_of_the_rows() -> None:
    assert table.written() == table.describe(CASES), "scripts/ci.py faults --write brings it up to date"


def test_every_row_has_a_unique_name_and_differs_only_in_scripts() -> None:
    counted = Counter(case.name for case in CASES)
    assert [name for name, count in counted.items() if count > 1] == []
    assert set(QUICK) <= counted.keys()
    assert {protocol for case in CASES for protocol in case.differ} <= {protocol.name for protocol in PROTOCOLS}


_STREAM = {"content-type": "text/event-stream"}
_TORN = Answer(200, _STREAM, b'event: message_start\ndata: {"type":"message_start"}\n\nevent: content', complete=True)
_ERROR = Answer(502, {"request-id": "r"}, b'{"type":"error","error":{"type":"api_error","message":"m"}}', complete=True)


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        (Complete(), Answer()),
        (Complete(), _ERROR),
        (Complete(), _TORN),
        (Cut(), _TORN),
        (Cut(), _ERROR),
        (Passed(), _ERROR),
        (Refused(502, "overloaded_error"), _ERROR),
        (Refused(502, "api_error", wait=2), _ERROR),
        (Refused(502, "api_error", final=True), _ERROR),
        (Refused(502, "api_error", message="another"), _ERROR),
        (Refused(502, "api_error"), Answer(502, _ERROR.headers, _ERROR.body)),
        (Refused(502, "api_error"), Answer(502, {}, _ERROR.body, complete=True)),
        (Passed(), Answer(hung=True)),
    ],
)
def test_the_lab_sees_what_is_not_as_expected(expected: Expected, answer: Answer) -> None:
    assert list(check_answer(expected, answer)) != []


def test_the_lab_accepts_what_is_as_expected() -> None:
    assert list(check_answer(Refused(502, "api_error"), _ERROR)) == []
    assert list(check_answer(ClientDisconnected(), Answer())) == []
