"""The growth table (`tests/growth`): its counted operations, and its most informative rows in the least time."""

import asyncio
import subprocess
import sys

import pytest

from tests.growth import work
from tests.growth.instrument import rewrite
from tests.growth.page import MARK, PAGE, starts_of_all
from tests.growth.rows import MEASUREMENTS
from tests.growth.run import run_measurements
from tests.growth.table import Row
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

LINEAR = {
    "a loop": "for item in items: pass",
    "appended": "found = []\nfor item in items: found.append(item)",
    "joined": "found = ','.join(items)",
    "a set": "seen = set()\nfor item in items:\n    if item in seen: pass\n    seen.add(item)",
    "searched from a place": "place = 0\nwhile (place := text.find(' ', place) + 1): pass",
    "matches": "import re\nfor match in re.compile('x').finditer(text): pass",
}
QUADRATIC = {
    "a list": "for item in items:\n    if item in items: pass",
    "popped from the front": "left = list(items)\nwhile left: left.pop(0)",
    "put in front": "found = []\nfor item in items: found.insert(0, item)",
    "added to bytes": "found = b''\nfor item in items: found += b'x'",
    "searched from the beginning": "for item in items: text.find('missing')",
    "sliced": "left = text\nwhile left: left = left[1:]",
    "formatted": "found = ''\nfor item in items: found = f'{found}x'",
    "sorted in a loop": "for item in items: sorted(items)",
    "nested loops": "for item in items:\n    for other in items: pass",
    "a comprehension in a loop": "for item in items: [other for other in items]",
    "a pattern from the beginning": "import re\nfor item in items: re.compile('missing').search(text)",
    "copied": "for item in items: [*items]",
}


def counted(source: str, n: int) -> int:
    """Return the steps and units of a piece of code on an input of size n."""
    names = {"items": [f"{number}" for number in range(n)], "text": "a " * n}
    code = rewrite(source, "<test>", names)
    before = sum(work.METER)
    exec(code, names)
    return sum(work.METER) - before


@pytest.mark.parametrize("source", LINEAR.values(), ids=LINEAR)
def test_linear_work_grows_twice(source: str) -> None:
    small, middle, large = (counted(source, n) for n in (200, 400, 800))
    assert 1.9 < (large - middle) / (middle - small) < 2.1


@pytest.mark.parametrize("source", QUADRATIC.values(), ids=QUADRATIC)
def test_quadratic_work_grows_four_times(source: str) -> None:
    small, middle, large = (counted(source, n) for n in (200, 400, 800))
    assert 3.7 < (large - middle) / (middle - small) < 4.1


@pytest.mark.slow
def test_critical_rows_grow_linearly() -> None:
    command = [sys.executable, "-m", "tests.growth", *FAST]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout


def test_an_exception_fails_its_row_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve() -> str:
        return "served"

    async def fail() -> str:
        raise ValueError("no reply")

    rows = [
        Row("input that ends the run", ["server"], lambda wire: lambda n: fail),
        Row("input without rows for a wire", ["gemini"], lambda wire: {}[wire]),
        Row("input that is served", ["ollama"], lambda wire: lambda n: serve),
    ]
    found, failed = run_measurements([(row, row.wires[0]) for row in rows])
    assert (list(found), failed) == ([2], 2)
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "input that ends the run server FAILS: ValueError: no reply",
        "input without rows for a wire gemini FAILS: KeyError: 'gemini'",
        "input that is served ollama 0.0 0.0 0.0 served",
        "3 measurements of 3 dimensions, 2 failed",
    ]


def test_the_documentation_has_a_line_for_each_dimension() -> None:
    _, _, table = PAGE.read_text("utf-8").partition(MARK)
    _, *lines = [line for line in table.splitlines() if line.startswith("| ")]
    starts = starts_of_all()
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


@pytest.mark.parametrize("wire", sorted({wire for _, wire in MEASUREMENTS}))
def test_each_row_has_an_outcome(wire: str) -> None:
    """No row fails before its measurement, which takes minutes and is not part of this suite."""
    outcomes = {row.name: asyncio.run(row.of_wire(wire)(row.n)()) for row, row_wire in MEASUREMENTS if row_wire == wire}
    assert {name: outcome for name, outcome in outcomes.items() if not outcome or outcome.startswith("500")} == {}
