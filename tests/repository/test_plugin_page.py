"""The facts of docs/contributing/plugins.md. tests/processes/test_plugins.py runs its examples."""

import re

from anthropic_proxy import app
from anthropic_proxy.gateway.server.endpoints import PROBE_PATHS
from anthropic_proxy.gateway.telemetry.log.receipts import MAX_QUEUED_RECEIPTS
from anthropic_proxy.plugins import Receipt
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/contributing/plugins.md").read_text("utf-8")


def test_the_page_lists_every_field_of_a_receipt() -> None:
    table = PAGE.partition("## Fields of a receipt")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(Receipt.__struct_fields__)


def test_the_page_states_the_limits_of_the_code() -> None:
    assert f"{MAX_QUEUED_RECEIPTS:,} receipts" in PAGE
    assert f"{app.SHUTDOWN_GRACE_SECONDS:.0f} s" in PAGE
    assert all(f"`{path}`" in PAGE for path in PROBE_PATHS)
