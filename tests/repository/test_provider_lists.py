"""Lists of providers in texts: each names every provider of the registry."""

import re
from collections import defaultdict

import pytest

from anthropic_proxy.engine.providers import PROVIDERS, Provider
from anthropic_proxy.engine.routing.router import choose_preferred_provider_name
from anthropic_proxy.gateway.settings import load_settings
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


def test_the_order_of_preference_is_the_order_of_the_registry() -> None:
    variables = {
        row.name: f"{row.env_prefix}_PROJECT" if row.key_source == "google" else row.key_variable for row in PROVIDERS
    }
    expected = [row.name for row in OFFERED if row.key_required != "never" or row.key_source == "google"]
    for position, name in enumerate(expected):
        environ = {str(variables[each]): "key-of-the-test" for each in expected[position:]}
        settings = load_settings(environ, PROVIDERS, env_file=None)
        assert choose_preferred_provider_name(settings, ()) == name


def test_no_two_providers_share_a_signature_tag() -> None:
    """Thinking is returned to every provider with the tag of its signature."""
    users = defaultdict(set)
    for row in PROVIDERS:
        for config in row.wires.values():
            if tag := getattr(config.dialect, "signature_tag", ""):
                users[tag].add(row.name)
    assert {tag: names for tag, names in users.items() if len(names) > 1} == {}
