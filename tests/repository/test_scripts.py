"""`scripts/fix.py` with programs in place of ruff and of the generators, which print their arguments."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

ENVIRONMENTS = """import sys
PYTHON = sys.executable
def set_up(*words): pass
"""
PROGRAM = """import sys
print(__spec__.name, *sys.argv[1:], flush=True)
sys.exit({statuses}.get(sys.argv[1], 0))
"""


@pytest.mark.parametrize(
    ("ruff", "generators", "expected"),
    [({}, {}, 0), ({"check": 3}, {}, 3), ({"check": 3}, {"--write": 4}, 3), ({}, {"--write": 4}, 4)],
)
def test_fix_runs_each_step_after_a_failure_and_ends_with_the_first_status(
    ruff: dict[str, int], generators: dict[str, int], expected: int, tmp_path: Path
) -> None:
    for folder in ("scripts", "tests"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "scripts/fix.py", tmp_path / "scripts")
    (tmp_path / "scripts/environments.py").write_text(ENVIRONMENTS)
    (tmp_path / "tests/__init__.py").touch()
    for name, statuses in (("ruff", ruff), ("tests/site", generators)):
        (tmp_path / f"{name}.py").write_text(PROGRAM.format(statuses=statuses))
    ended = subprocess.run(
        [sys.executable, "scripts/fix.py"], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout.splitlines(), ended.stderr) == (
        expected,
        ["ruff check --fix .", "ruff format .", "tests.site --write"],
        "",
    )
