"""Lists of providers in texts: each names every provider of the registry."""

import re

import pytest

from anthropic_proxy.engine.providers import Provider
from tests.support.paths import ROOT
from tests.support.provider_lists import OFFERED


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize("row", OFFERED, ids=lambda row: row.name)
def test_the_comment_of_preferred_provider_names_the_provider(row: Provider) -> None:
    comment = read(".env.example").partition("## Provider")[2].partition("# PREFERRED_PROVIDER=")[0]
    assert re.search(rf"\b{row.name}\b", comment)


def test_the_page_of_providers_has_the_order_of_the_registry() -> None:
    """Configuration refers to this table for the order of preference."""
    rows = re.findall(r"^\| (.+?) \|", read("docs/guide/providers.md").partition("\n## ")[0], re.MULTILINE)[2:]
    titles = [row.partition(" (")[0] for row in rows]
    assert titles[: len(OFFERED)] == [row.title for row in OFFERED]
