"""Format the code, apply the fixes of the linter, and write the pages that are generated from the code.

The code is formatted before the linter, which rejects long lines, and after it, because its fixes need it.

With `--changelog`, also join the fragments of `changes/` into CHANGELOG.md, and remove them. Only a release does this.

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
steps = (*STEPS, ("tests.site", "--changelog")) if sys.argv[1:] == ["--changelog"] else STEPS
statuses = [subprocess.run((PYTHON, "-m", *step), check=False).returncode for step in steps]
sys.exit(next(filter(None, statuses), 0))
