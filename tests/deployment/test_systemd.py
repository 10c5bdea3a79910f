"""The unit of systemd for a whole machine: written from the command `service`, and checked by systemd itself."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.systemd import UNIT, write_unit
from tests.support.waiting import WAIT_SECONDS

MAX_EXPOSURE = 2.0
"""Maximum of the exposure level of `systemd-analyze security`: 0 is safe, 10 is unsafe."""


def test_the_unit_is_valid_and_restricted(tmp_path: Path) -> None:
    text = UNIT.read_text("utf-8")
    assert text == write_unit(), "run: python3 scripts/ci.py deployment --write"
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/anthropic-proxy/bin/python", sys.executable))
    for words in (["verify", unit], ["security", "--offline=true", unit]):
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert unit.name not in done.stderr
    (level,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(level) <= MAX_EXPOSURE
