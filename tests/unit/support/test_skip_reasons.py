"""A skip for a reason that is not allowed fails the session, in one process and with several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HEADING = "skips for a reason that is not allowed (tests/support/skip_reasons.py)"


def run_session(folder: Path, source: str, *options: str) -> tuple[int, list[str]]:
    """Return the exit status of a session with the plugin, and the lines of its summary on skips."""
    (folder / "test_it.py").write_text(f"import pytest\n{source}\ndef test_passes():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.skip_reasons", "--rootdir", str(folder), *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    _, _, summary = done.stdout.partition(f" {HEADING} ")
    return done.returncode, [line for line in summary.splitlines() if line.startswith("test_it.py")]


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two workers"])
@pytest.mark.parametrize(
    ("source", "forbidden"),
    [
        ('@pytest.mark.skipif(True, reason="engine: none")\ndef test_one():\n    pass', []),
        ('def test_one():\n    pytest.skip("platform: none")', []),
        ('pytest.importorskip("no_such", reason="key: none")', []),
        ("@pytest.mark.xfail\ndef test_one():\n    assert False", []),
        ('def test_one():\n    pytest.skip("no file")', ["test_it.py::test_one: no file"]),
        (
            '@pytest.mark.parametrize("name", [])\ndef test_one(name):\n    pass',
            ["test_it.py::test_one[NOTSET]: got empty parameter set for (name)"],
        ),
        ('pytest.importorskip("no_such", reason="no package")', ["test_it.py: no package"]),
    ],
)
def test_a_skip_needs_an_allowed_reason(
    tmp_path: Path, source: str, forbidden: list[str], options: tuple[str, ...]
) -> None:
    status, lines = run_session(tmp_path, source, *options)
    assert lines == forbidden
    if forbidden:
        assert status == 1
    else:
        assert status in (0, 5)  # 5: the one module was skipped
