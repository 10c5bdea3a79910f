"""The table of providers in the guide has every provider of the registry."""

import re

from anthropic_proxy.engine.providers import PROVIDERS
from tests.support.paths import ROOT
from tests.support.provider_lists import OFFERED


def test_the_page_of_providers_has_the_order_of_the_registry() -> None:
    """Configuration refers to this table for the order of preference."""
    rows = re.findall(
        r"^\| (.+?) \|", (ROOT / "docs/guide/providers.md").read_text("utf-8").partition("\n## ")[0], re.MULTILINE
    )[2:]
    titles = [row.partition(" (")[0] for row in rows]
    assert titles[: len(OFFERED)] == [row.title for row in OFFERED]


def test_the_page_of_providers_names_the_address_of_each_vendor() -> None:
    text = (ROOT / "docs/guide/providers.md").read_text("utf-8")
    vendors = [server for server in PROVIDERS.find("openai").hosts if server.base_url]
    assert [vendor.name for vendor in vendors if vendor.base_url.removesuffix("/v1") not in text] == []
