"""The list of modules on the architecture page, from the docstrings of the modules; `--write` updates the page."""

import ast
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "anthropic_proxy"
PAGE = ROOT / "docs/contributing/architecture.md"
BEGIN, END = "<!-- modules: begin -->", "<!-- modules: end -->"


def describe() -> str:
    """Return one table per package, those of the package root first."""
    paths = sorted(PACKAGE.rglob("*.py"), key=lambda path: (len(_parts(path)) > 1, _parts(path)))
    return "\n\n".join("\n".join(_table(folder, list(members))) for folder, members in groupby(paths, _folder))


def written_page() -> str:
    """Return the page with the present modules."""
    before, _, remainder = PAGE.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{describe()}\n\n{END}{remainder.partition(END)[2]}"


def _table(folder: str, paths: list[Path]) -> Iterator[str]:
    yield f"| `{folder}/` | {_summary(PACKAGE / folder.removeprefix('anthropic_proxy') / '__init__.py')} |"
    yield "| --- | --- |"
    for path in paths:
        parts = _parts(path)[0 if folder == "anthropic_proxy" else 1 :]
        if path.name != "__init__.py":
            yield f"| `{'/'.join(parts).removesuffix('.py')}` | {_summary(path)} |"
        elif len(parts) > 1:
            yield f"| `{'/'.join(parts[:-1])}/` | {_summary(path)} |"


def _parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).parts


def _folder(path: Path) -> str:
    parts = _parts(path)
    return parts[0] if len(parts) > 1 else "anthropic_proxy"


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return docstring.partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(written_page(), "utf-8")
    elif PAGE.read_text("utf-8") != written_page():
        sys.exit("The modules on the architecture page have changed: python3 scripts/ci.py modules --write")
