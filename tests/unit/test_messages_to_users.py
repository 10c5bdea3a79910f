"""Every command, setting and extra that a message names exists, so that the instructions work as typed."""

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

from anthropic_proxy.cli import commands
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.settings import list_variables
from tests.architecture import modules_of_the_package
from tests.support.paths import ROOT

GAP = "\0"
"""Stands in a message for what is filled in."""
COMMAND = re.compile(r"(?<![\w-])anthropic-proxy ([a-z]+)(?=$|[\s.,:\0])")
EXTRA = re.compile(r"anthropic-proxy\[([a-z,]+)\]")
VARIABLE = re.compile(r"(?<![\w\0$])([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]|[A-Z]{3,}(?==))(?![\w\0])")
ENDING = re.compile(r"\0(_[A-Z][A-Z_]*)")
NO_SETTINGS = {
    "ANTHROPIC_BASE_URL",  # the client's own
    "ANTHROPIC_AUTH_TOKEN",  # the client's own
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),  # of the environment, for every program
    "NAME",  # of the form NAME=value
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),  # of the environment, not of .env
}
NO_COMMANDS = {"speaks", "cannot", "demonstration"}  # sentences about the program, not lines to type


def messages() -> Iterator[tuple[str, str]]:
    """Yield each text of the package that people may read, with its place; one word alone is no message."""
    for module in modules_of_the_package():
        inner = {id(part) for node in ast.walk(module.tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        plain = ((node, str(node.value)) for node in module.literals() if id(node) not in inner)
        filled = ((node, spelled(node)) for node in ast.walk(module.tree) if isinstance(node, ast.JoinedStr))
        for node, text in (*plain, *filled):
            if len(text.split()) > 1:
                yield f"{module.name}, line {node.lineno}", text


def spelled(node: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)


MESSAGES = list(messages())


def named(pattern: re.Pattern[str]) -> dict[str, str]:
    return {name: place for place, text in MESSAGES for name in pattern.findall(text)}


def test_commands_exist() -> None:
    found = named(COMMAND)
    known = {name for name in commands if not name.startswith("-")}
    assert {name: place for name, place in found.items() if name not in known | NO_COMMANDS} == {}


def test_settings_exist() -> None:
    found, known = named(VARIABLE), set(list_variables(PROVIDERS)) | NO_SETTINGS
    assert {"PROXY_API_KEY", "BIG_MODEL", "VERTEX_PROJECT"} <= set(found), "is the pattern still right?"
    assert {name: place for name, place in found.items() if name not in known} == {}


@pytest.mark.parametrize("ending", sorted(named(ENDING)))
def test_settings_that_are_put_together_exist_for_every_provider(ending: str) -> None:
    assert {row.env_prefix + ending for row in PROVIDERS if row.env_prefix} <= set(list_variables(PROVIDERS))


def test_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {extra for names in named(EXTRA) for extra in names.split(",")} <= set(extras)
