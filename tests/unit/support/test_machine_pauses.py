"""Pauses of the machine: another process never reads a new time with an earlier sum of pauses."""

import mmap
import subprocess
import sys
from pathlib import Path

from tests.support.machine_pauses import PAUSES
from tests.support.paths import ROOT

_COUNT = 1_000_000
_WRITE = f"""
import mmap, sys
from tests.support.machine_pauses import PAUSES, write_pauses
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), PAUSES.size) as memory:
    for number in range({_COUNT}):
        write_pauses(memory, number, number)
"""


def test_a_reader_never_sees_a_measurement_without_its_pauses(tmp_path: Path) -> None:
    path = tmp_path / "pauses"
    path.write_bytes(PAUSES.pack(0.0, 0.0))
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), PAUSES.size, access=mmap.ACCESS_READ) as memory,
        subprocess.Popen([sys.executable, "-c", _WRITE, str(path)], cwd=ROOT) as process,
    ):
        found = []
        while process.poll() is None:
            found += [read for read in (PAUSES.unpack_from(memory) for _ in range(1_000)) if read[1] < read[0]]
    assert (process.returncode, found) == (0, [])
