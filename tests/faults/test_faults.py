"""One or two rows of each phase, and the table of the documentation; `scripts/ci.py faults` runs all rows."""

from collections.abc import Iterator

import pytest

from tests.faults import table
from tests.faults.cases import CASES
from tests.faults.cases.case import FaultCase
from tests.faults.runner import FaultRunner, seems_blocked

QUICK = (
    "connect: connection reset after accept",
    "before the head: 101 Switching Protocols",
    "status: 400",
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
