"""A skip for a reason that is not allowed fails the session, in one process and with several."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HEADING = "skips for a reason that is not allowed (tests/support/skip_reasons.py)"


ALLOWED = (
    '@pytest.mark.skipif(True, reason="engine: none")\ndef test_one():\n    pass',
    'def test_one():\n    pytest.skip("platform: none")',
    'pytest.importorskip("no_such", reason="key: none")',
    "@pytest.mark.xfail\ndef test_one():\n    assert False",
)
FORBIDDEN = {
    'def test_one():\n    pytest.skip("no file")': "test_0.py::test_one: no file",
    '@pytest.mark.parametrize("name", [])\ndef test_one(name):\n    pass': (
        "test_1.py::test_one[NOTSET]: got empty parameter set for (name)"
    ),
    'pytest.importorskip("no_such", reason="no package")': "test_2.py: no package",
}
ONE_PROCESS_AND_TWO_WORKERS = pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two workers"])


def run_session(folder: Path, sources: Iterable[str], *options: str) -> tuple[int, list[str]]:
    """Return the exit status of a session with the plugin, and the lines of its summary on skips."""
    for number, source in enumerate(sources):
        (folder / f"test_{number}.py").write_text(f"import pytest\n{source}\ndef test_passes():\n    pass\n")
    plugins = ["-p", "tests.support.skip_reasons", "-p", "xdist"]
    command = [sys.executable, "-m", "pytest", *plugins, "--rootdir", str(folder), *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=240)
    _, _, summary = done.stdout.partition(f" {HEADING} ")
    return done.returncode, [line for line in summary.splitlines() if line.startswith("test_")]


@ONE_PROCESS_AND_TWO_WORKERS
def test_a_skip_for_an_allowed_reason_passes(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert run_session(tmp_path, ALLOWED, *options) == (0, [])


@ONE_PROCESS_AND_TWO_WORKERS
def test_a_skip_for_another_reason_fails_the_session(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, lines = run_session(tmp_path, FORBIDDEN, *options)
    assert (status, sorted(lines)) == (1, sorted(FORBIDDEN.values()))
