"""Run the tests of this folder. Words go to pytest; `--write` writes the generated files of deploy/ instead.

As root on Debian, missing programs are installed. Without a program, its tests are skipped, and the skips listed.
"""

import subprocess
import sys

from tests.deployment.helm import MANIFEST, render
from tests.deployment.systemd import UNIT, write_unit
from tests.support.debian_packages import find_program, install_package

if sys.argv[1:] == ["--write"]:
    MANIFEST.write_text(render(), "utf-8")
    UNIT.write_text(write_unit(), "utf-8")
    sys.exit()
for program in ("nginx", "caddy", "haproxy", "systemd-analyze"):
    if find_program(program) is None:
        install_package("systemd" if program == "systemd-analyze" else program)
command = [sys.executable, "-m", "pytest", "-rs", "tests/deployment", "-m", "slow or not slow", *sys.argv[1:]]
sys.exit(subprocess.run(command, check=False).returncode)
