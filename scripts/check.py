"""Check format, lint, types, architecture and tests; each commit must pass. Options go to test.py."""

import sys

from environments import PYTHON, become, run, set_up

ARCHITECTURE = "tests/repository/test_architecture.py"

set_up("dev")
run(PYTHON, "-m", "ruff", "format", "--check", ".")
run(PYTHON, "-m", "ruff", "check", ".")
for platform in ("linux", "darwin", "win32"):
    run(PYTHON, "-m", "mypy", "--platform", platform)
run(PYTHON, "-m", "mypy", "--config-file", "tests/mypy.ini")
run(PYTHON, "-m", "pytest", ARCHITECTURE)
become(sys.executable, "scripts/test.py", "--deselect", ARCHITECTURE, *sys.argv[1:])
