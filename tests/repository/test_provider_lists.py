"""The table of providers in the guide has every provider of the registry."""

import re

from tests.support.paths import ROOT
from tests.support.provider_lists import OFFERED


def test_the_page_of_providers_has_the_order_of_the_registry() -> None:
    """Configuration refers to this table for the order of preference."""
    rows = re.findall(
        r"^\| (.+?) \|", (ROOT / "docs/guide/providers.md").read_text("utf-8").partition("\n## ")[0], re.MULTILINE
    )[2:]
    titles = [row.partition(" (")[0] for row in rows]
    assert titles[: len(OFFERED)] == [row.title for row in OFFERED]
