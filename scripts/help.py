"""List the scripts, each with the first line of its description."""

import ast
from pathlib import Path

from environments import ROOT


def describe(path: Path) -> str:
    """Return the first line of the description of a script."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


for script in sorted((ROOT / "scripts").glob("*.py")):
    if script.name not in ("environments.py", "tiers.py"):
        print(f"  {'scripts/' + script.name:<32}{describe(script)}")
print("\nTiers of the gate, their parts, and measurements:")
for function in ast.parse((ROOT / "scripts/ci.py").read_text("utf-8")).body:
    if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
        name = function.name.replace("_", "-")
        print(f"  {'scripts/ci.py ' + name:<32}{(ast.get_docstring(function) or '').partition(chr(10))[0]}")
