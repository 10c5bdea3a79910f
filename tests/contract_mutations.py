"""Deletion of each member of the wire contract in turn; mypy must fail every time."""

import ast
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACT = "anthropic_proxy/wire/contract.py"
Mutation = tuple[str, str, str, str]
"""File, class, deleted member, and the text of the file without the member."""


def main() -> int:
    """Check every mutation in a copy of the package. Returns the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "anthropic_proxy", folder / "anthropic_proxy")
        (folder / "mypy.ini").write_text("[mypy]\nstrict = True\n")
        try:
            return _check_mutations(folder)
        finally:
            _dmypy(folder, "stop")


def _check_mutations(folder: Path) -> int:
    unchanged = _check(folder)
    if unchanged.returncode != 0:
        print(unchanged.stdout, unchanged.stderr)
        return 1
    undetected = []
    mutations = list(find_mutations(folder))
    for path, owner, member, text in mutations:
        file = folder / path
        original = file.read_text("utf-8")
        file.write_text(text, "utf-8")
        outcome = _check(folder)
        file.write_text(original, "utf-8")
        errors = [line for line in outcome.stdout.splitlines() if ": error: " in line]
        print(f"{path}: {owner}.{member}: {errors[0] if errors else 'NOT DETECTED'}", flush=True)
        if not errors:
            undetected.append(f"{owner}.{member}")
    print(f"{len(mutations)} deletions, {len(undetected)} not detected: {', '.join(undetected)}")
    return 1 if undetected or not mutations else 0


def find_mutations(folder: Path) -> Iterator[Mutation]:
    """Yield the deletions: every member of the base classes, and in each wire every abstract method."""
    contract = _classes((folder / CONTRACT).read_text("utf-8"))
    for owner in ("BaseDialect", "Decoder", "Wire", "RelayWire"):
        for member in _members(contract[owner]):
            yield CONTRACT, owner, member, _without((folder / CONTRACT).read_text("utf-8"), owner, member)
    abstract = {name: {m for m, node in _members(contract[name]).items() if _is_abstract(node)} for name in contract}
    abstract["RelayWire"] |= abstract["Wire"]
    for file in sorted((folder / "anthropic_proxy/wire").glob("*/*.py")):
        text = file.read_text("utf-8")
        for owner, node in _classes(text).items():
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases} & {"Decoder", "Wire", "RelayWire"}
            for member in sorted(set().union(*(abstract[base] for base in bases))):
                yield str(file.relative_to(folder)), owner, member, _without(text, owner, member)


def _classes(text: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


def _members(owner: ast.ClassDef) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in owner.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = node
    return found


def _is_abstract(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        ast.unparse(decorator) == "abstractmethod" for decorator in node.decorator_list
    )


def _without(text: str, owner: str, member: str) -> str:
    """Return the source without one member; its class remains valid."""
    node = _members(_classes(text)[owner])[member]
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    lines = text.splitlines(keepends=True)
    lines[first - 1 : node.end_lineno] = ["    pass\n"]
    return "".join(lines)


def _check(folder: Path) -> subprocess.CompletedProcess[str]:
    return _dmypy(folder, "run", "--", "--config-file", "mypy.ini", "--cache-dir", ".cache", "-p", "anthropic_proxy")


def _dmypy(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy.dmypy", *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
