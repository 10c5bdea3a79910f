"""The pages for contributors, and the files for their editors and agents, agree with the source."""

import configparser
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from anthropic_proxy.gateway.settings import Settings
from tests.support.paths import ROOT

PAGES = ("architecture", "recipes", "add-a-provider", "testing")
FOLDERS = ("anthropic_proxy", "conformance", "tests", "scripts")
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


def test_the_container_for_development_is_set_up_as_a_clone_is() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    commands = re.search(r"^ *```sh long\n *(.+)$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert commands is not None
    assert container["postCreateCommand"] == commands[1]
    assert container["forwardPorts"] == [Settings().port]
    python = re.fullmatch(r".+/python:(\d+\.\d+)", container["image"])
    assert python is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"Programming Language :: Python :: {python[1]}" in project["classifiers"]


def test_editors_use_the_line_length_of_the_formatter() -> None:
    editors = configparser.ConfigParser()
    editors.read_string("[common]\n" + (ROOT / ".editorconfig").read_text("utf-8"))
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    assert editors["*.py"].getint("max_line_length") == ruff["line-length"]


def test_each_script_and_folder_that_agents_are_told_about_exists() -> None:
    named = re.findall(r"\b(?:scripts|tests)/[\w/.]+\w", (ROOT / "AGENTS.md").read_text("utf-8"))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_table_of_libraries_has_each_dependency_and_extra() -> None:
    text = (ROOT / "docs/contributing/architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (.*?) \|", text.partition("\n| library |")[2].partition("\n\n")[0], re.MULTILINE)
    listed = re.findall(r"`([^`]+)`", " ".join(rows))
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = metadata["project"]["optional-dependencies"]
    of_users = [lines for extra, lines in extras.items() if extra != "tests"]
    groups = (metadata["project"]["dependencies"], *of_users, metadata["dependency-groups"]["docs"])
    names = {Requirement(line).name for group in groups for line in group}
    assert sorted(listed) == sorted(names)
