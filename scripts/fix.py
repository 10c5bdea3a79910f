"""Format the code, apply the fixes of the linter, and write the pages that are generated from the code."""

from environments import PYTHON, run, set_up

set_up("dev")
run(PYTHON, "-m", "ruff", "check", "--fix", ".")
run(PYTHON, "-m", "ruff", "format", ".")
run(PYTHON, "-m", "tests.module_tree", "--write")
run(PYTHON, "-m", "tests.site", "--write")
