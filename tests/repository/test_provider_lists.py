"""Lists of providers in texts: each names every provider of the registry."""

import re
from collections import defaultdict

import pytest

from anthropic_proxy.routing.providers import PROVIDERS, Provider
from anthropic_proxy.routing.router.targets import _PREFERENCE_ORDER
from tests.support.paths import ROOT

SELECTABLE = [row for row in PROVIDERS if row.offered_to_users]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize("row", SELECTABLE, ids=lambda row: row.name)
def test_the_comment_of_preferred_provider_names_the_provider(row: Provider) -> None:
    comment = read(".env.example").partition("## Provider")[2].partition("# PREFERRED_PROVIDER=")[0]
    assert re.search(rf"\b{row.name}\b", comment)


def test_the_page_of_providers_has_the_order_of_the_registry() -> None:
    """Configuration refers to this table for the order of preference."""
    rows = re.findall(r"^\| (.+?) \|", read("docs/guide/providers.md").partition("\n## ")[0], re.MULTILINE)[2:]
    titles = [row.partition(" (")[0] for row in rows]
    assert titles[: len(SELECTABLE)] == [row.title for row in SELECTABLE]


def test_the_order_of_preference_is_the_order_of_the_registry() -> None:
    assert [row for row in SELECTABLE if row in _PREFERENCE_ORDER] == list(_PREFERENCE_ORDER)


def test_no_two_providers_share_a_signature_tag() -> None:
    """Thinking is returned to every provider with the tag of its signature."""
    users = defaultdict(set)
    for row in PROVIDERS:
        for config in row.wires.values():
            if tag := getattr(config.dialect, "signature_tag", ""):
                users[tag].add(row.name)
    assert {tag: names for tag, names in users.items() if len(names) > 1} == {}
