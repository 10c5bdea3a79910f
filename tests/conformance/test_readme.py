"""The page of the suite: its options and its commands are those of the program."""

import re
import shlex

import pytest

from messages_conformance.__main__ import build_parser
from messages_conformance.backends import NEEDS_OF_BACKENDS
from messages_conformance.rows import NEEDS, SETS, Level
from tests.site.pages import Block, blocks
from tests.support.paths import ROOT

README = (ROOT / "conformance/README.md").read_text("utf-8")
ACTION = (ROOT / "conformance/action.yml").read_text("utf-8")


def list_options() -> set[str]:
    return {name for action in build_parser("x")._actions for name in action.option_strings if name.startswith("--")}


def test_the_page_lists_every_option() -> None:
    table = README.partition("## Options")[2]
    listed = set(re.findall(r"`(--[a-z-]+)", "\n".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))))
    assert listed == list_options() - {"--help", "--version"}


def test_the_page_lists_sets_and_levels() -> None:
    first_cells = set(re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE))
    assert {*SETS, *Level} <= first_cells


def test_the_page_lists_what_a_server_may_lack() -> None:
    table = README.partition("| `--without` |")[2].partition("## ")[0]
    first_cells = re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)} == NEEDS.keys() - NEEDS_OF_BACKENDS


@pytest.mark.parametrize("block", [block for block in blocks(README) if block.language == "sh"], ids=str)
def test_commands_of_the_page_are_accepted(block: Block) -> None:
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        program, *words = shlex.split(line)
        assert program in ("pip", "messages-conformance", "pytest")
        if program == "messages-conformance":
            build_parser("x").parse_args(words)
        for word in words:
            if word.startswith("--messages-"):
                assert word.replace("--messages-", "--") in {*list_options(), "--url"}
