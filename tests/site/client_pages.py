"""The pages of docs/start about programs of others that `scripts/ci.py clients` follows, and the packages they name."""

import re
from typing import NamedTuple

from tests.site.pages import DOCS

PAGES = ("agent-sdk", "langchain", "opencode", "pydantic-ai", "sdks")
FRAMEWORKS = ("Agno", "AI SDK", "DSPy", "Haystack", "Inspect", "Instructor", "LLM", "pi", "Strands Agents")
"""Sections of the page `frameworks`."""
_TESTED = re.compile(r"^Tested with (.*)", re.MULTILINE)
_PACKAGE = re.compile(r"`([\w@/.,-]+(?:\[[\w,]+\])?)` (\d[\w.]*\d)")


class Packages(NamedTuple):
    """The packages with which a page was tested, with their versions."""

    python: dict[str, str]
    npm: dict[str, str]


def texts() -> dict[str, str]:
    """Return the pages of docs/start by their names; of the page `frameworks` each section, by its heading."""
    pages = {path.stem: path.read_text("utf-8") for path in (DOCS / "start").glob("*.md")}
    _, *sections = re.split(r"^## ", pages.pop("frameworks"), flags=re.MULTILINE)
    return pages | {section.partition("\n")[0]: section for section in sections}


def packages_of(text: str) -> Packages | None:
    """Return the packages of the line `Tested with …`: those before and after the words `npm package`."""
    if (line := _TESTED.search(text)) is None:
        return None
    python, _, npm = line[1].partition("npm package")
    return Packages(dict(_PACKAGE.findall(python)), dict(_PACKAGE.findall(npm)))
