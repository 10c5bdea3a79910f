"""Each name with an underscore on the pages for contributors is one of the source: a function, a field, a file."""

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = ("architecture", "recipes", "add-a-provider", "testing")
FOLDERS = ("anthropic_proxy", "tests", "scripts")
KINDS = (".py", ".toml", ".html")
OF_OTHERS = {"anthropic_to_gemini", "ignore_imports", "load_dotenv"}
"""Names of a rejected design, of import-linter and of a library."""


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Return all words of the source, and of the names of its files."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix != ".pyc"]
    texts = [path.read_text("utf-8") for path in paths if path.suffix in KINDS and path != Path(__file__)]
    return set(re.findall(r"\w+", "\n".join([*texts, *map(str, paths)])))


@pytest.mark.parametrize("page", PAGES)
def test_each_name_of_the_source_exists(page: str, words: set[str]) -> None:
    text = (ROOT / f"docs/contributing/{page}.md").read_text("utf-8")
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    names = set(re.findall(r"(?<![\w*])\w*_\w*[^\W_]\b", code))
    assert sorted(names - words - OF_OTHERS) == []
