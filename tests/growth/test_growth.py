"""The most informative rows of the growth table in the least time; `scripts/ci.py growth` measures all."""

import subprocess
import sys

from tests.support.paths import ROOT

FAST = (
    "steps with one call id / server",
    "system messages after user messages",
    "unknown blocks",
    "fences of ```, whole",
    "at every length",
    "behind a slow answer",
    "address by byte",
    "text: errors",
)


def test_critical_rows_grow_linearly() -> None:
    command = [sys.executable, "-m", "tests.growth", *FAST]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout
