"""Check format, lint, types, import contracts and unit tests; each commit must pass. Options go to test.py.

`check.py --static` runs no tests, and checks the types on three platforms.
"""

import sys

from environments import PYTHON, become, run, set_up

PLATFORMS = ("linux", "darwin", "win32")

set_up("dev")
options = sys.argv[1:]
static = options == ["--static"]
run(PYTHON, "-m", "ruff", "format", "--check", ".")
run(PYTHON, "-m", "ruff", "check", ".")
run(PYTHON, "-c", 'from importlinter.cli import lint_imports_command; lint_imports_command(["--no-cache"])')
for platform in PLATFORMS if static else (sys.platform,):
    run(PYTHON, "-m", "mypy", "--platform", platform)
run(PYTHON, "-m", "mypy", "--config-file", "tests/mypy.ini")
if not static:
    become(sys.executable, "scripts/test.py", "tests/unit", "tests/repository", *options)
