"""Scripts with programs in place of those that they run, which print their arguments."""

import os
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


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (("--config", "."), ("--config", "{here}")),
        (("--config=own/", "--port", "."), ("--config={here}/own", "--port", ".")),
        (("--port", "1", "--config", "../x"), ("--port", "1", "--config", "{above}/x")),
        (("--config", "~/own", "--config=~/own"), ("--config", "{home}/own", "--config={home}/own")),
        (("--config",), ("--config",)),
        (("--config=",), ("--config=",)),
        (("--config", "/etc/proxy"), ("--config", "/etc/proxy")),
    ],
)
def test_serve_passes_the_folder_of_the_current_directory(
    given: tuple[str, ...], passed: tuple[str, ...], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    for folder in (here, tmp_path / "scripts"):
        folder.mkdir()
    shutil.copy(ROOT / "scripts/serve.py", tmp_path / "scripts")
    (tmp_path / "scripts/environments.py").write_text(
        f"import os\n{ENVIRONMENTS}def become(*words): print(*words[4:])\nos.chdir({str(tmp_path)!r})\n"
    )
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "scripts/serve.py"), *given],
        check=True,
        cwd=here,
        env={**os.environ, "HOME": "/home/ada", "USERPROFILE": "/home/ada"},
        capture_output=True,
        text=True,
    )
    expected = [word.format(here=here, above=tmp_path, home="/home/ada") for word in passed]
    assert ended.stdout.split() == expected
