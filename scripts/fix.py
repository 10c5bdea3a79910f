"""Format the code, apply the fixes of the linter, and write the pages that are generated from the code.

The code is formatted before the linter, which rejects long lines, and after it, because its fixes need it.

Every step runs, also after a lint error that must be fixed by hand. The exit status is that of the first failed step.
"""

import subprocess
import sys

from environments import PYTHON, set_up

STEPS = (
    ("ruff", "format", "."),
    ("ruff", "check", "--fix", "."),
    ("ruff", "format", "."),
    ("tests.site", "--write"),
)

set_up("dev")
statuses = [subprocess.run((PYTHON, "-m", *step), check=False).returncode for step in STEPS]
sys.exit(next(filter(None, statuses), 0))
