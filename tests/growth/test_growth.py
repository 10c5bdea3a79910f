"""The growth table (`tests/growth`): its counted operations, and its most informative rows in the least time."""

import asyncio
import subprocess
import sys

import pytest

from tests.growth.rows import MEASUREMENTS
from tests.support.paths import ROOT

FAST = (
    "steps with one call id / server",
    "system messages after user messages",
    "unknown blocks",
    "fences of ```, whole",
    "at every length",
    "behind a slow answer",
    "address by byte",
)


@pytest.mark.slow
def test_critical_rows_grow_linearly() -> None:
    command = [sys.executable, "-m", "tests.growth", *FAST]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout


@pytest.mark.parametrize("wire", sorted({wire for _, wire in MEASUREMENTS}))
def test_each_row_has_an_outcome(wire: str) -> None:
    """No row fails before its measurement, which takes minutes and is not part of this suite."""
    outcomes = {row.name: asyncio.run(row.of_wire(wire)(row.n)()) for row, row_wire in MEASUREMENTS if row_wire == wire}
    assert {name: outcome for name, outcome in outcomes.items() if not outcome or outcome.startswith("500")} == {}
