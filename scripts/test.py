"""Run the tests; creates .venv first. Options go to pytest, except --update and --thorough.

Four run at a time, because some of them wait for processes; `-n 0` runs one at a time.
  --update    rewrite the expected files of tests/golden
  --thorough  1,000 examples per property instead of 25
"""

import os
import sys
from pathlib import Path

from environments import PYTHON, become, set_up

set_up("dev")
options = ["--update-golden" if option == "--update" else option for option in sys.argv[1:]]
missing = [
    path for option in options if option.startswith("tests/") and not Path(path := option.split("::")[0]).exists()
]
if missing:  # pytest names none of them if it has several processes
    sys.exit(f"There is no {' and no '.join(missing)}.")
if "--thorough" in options:
    options.remove("--thorough")
    os.environ["HYPOTHESIS_PROFILE"] = "thorough"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise each process of each run compiles every test module
become(PYTHON, "-m", "pytest", "-n", "4", "--dist", "worksteal", *options)
