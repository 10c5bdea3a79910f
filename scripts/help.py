"""List the scripts and the parts of scripts/ci.py, each with the first line of its description."""

import ast
import sys

from environments import ROOT, run

for script in sorted((ROOT / "scripts").glob("*.py")):
    if script.name not in ("environments.py", "tiers.py"):
        description = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
        print(f"  {'scripts/' + script.name:<28}{description.partition(chr(10))[0]}")
print(flush=True)
run(sys.executable, "scripts/ci.py")
