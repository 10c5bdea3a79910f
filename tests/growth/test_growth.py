"""The most informative rows of the growth table in the least time; `scripts/ci.py growth` measures all."""

import subprocess
import sys

import pytest

from tests.growth.measure import Growth, Sample
from tests.support.paths import ROOT

FAST = (
    "steps with one call id / server",
    "system messages after user messages",
    "unknown blocks",
    "new betas",
    "fences of ```, whole",
    "at every length",
    "behind a slow answer",
    "address by byte",
    "text: errors",
)


def test_critical_rows_grow_linearly() -> None:
    command = [sys.executable, "-m", "tests.growth", *FAST]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout


@pytest.mark.parametrize(
    ("units", "defect"),
    [
        ((1_000_000, 2_000_000, 4_000_000), ""),
        ((1_000_000, 4_000_000, 16_000_000), "units grow 4.0 times"),
        ((13_000_000, 1_700_000, 3_400_000), ""),  # only the first is served
        ((13_000_000, 1_700_000, 6_800_000), "units grow 6.0 times"),
    ],
)
def test_a_rejected_size_is_compared_with_the_next_one(units: tuple[int, int, int], defect: str) -> None:
    growth = Growth(200, tuple(Sample(0, number, 0, "served") for number in units))
    assert growth.find_defect() == defect
