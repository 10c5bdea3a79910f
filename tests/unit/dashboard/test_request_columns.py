"""What the table of requests shows in each column that people can choose."""

from collections.abc import Mapping
from pathlib import Path

from anthropic_proxy.console.dashboard.requests import build_requests_page
from anthropic_proxy.console.dashboard.tables import COLUMNS, Table
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import CallCheck, Client, Cost, PrefixChange
from tests.support.ledger import new_receipt, reading, store
from tests.support.page_context import build_context

SHOWN: Mapping[str, str] = {
    "project": "shop",
    "session": "shop s1",
    "agent": "a1",
    "kind": "subagent",
    "agent-type": "Explore",
    "verdict": "flagged",
    "key": "key 2",
    "program": "claude-cli/2.1.332",
    "route": "cheap first",
    "rule": "BIG_MODEL",
    "error": "busy",
    "messages": "4",
    "tools": "3",
    "tool-errors": "2",
    "attempts": "2",
    "changes": "1",
    "prefix-change": "tool 3 (WebFetch)",
    "in": "4,040",
    "cached": "74 %",
    "cache-write": "40",
    "out": "200",
    "thinking": "50",
    "first": "0.50 s",
    "total": "1.50 s",
    "rate": "200 tokens/s",
    "requested-cost": "$0.009",
    "cost": "$0.002",
}
"""Column → text for the stored request below."""


async def test_each_column_shows_its_value(tmp_path: Path) -> None:
    """A column that is gone, or has no row here, fails the test."""
    settings = Settings(data_directory=tmp_path)
    receipt = new_receipt(
        client=Client("key 2", owner="Ann", team="build"),
        user_agent="claude-cli/2.1.332",
        session="s1",
        agent="a1",
        project="shop",
        kind="subagent",
        agent_type="Explore",
        route="cheap first",
        route_reason="BIG_MODEL",
        error="busy",
        input_tokens=1_000,
        cache_read_tokens=3_000,
        cache_write_tokens=40,
        output_tokens=200,
        thinking_tokens=50,
        tool_count=3,
        message_count=4,
        tool_results=6,
        tool_errors=2,
        failed_attempts=["openai 529"],
        fidelity=FidelityReport(notes=[FidelityNote("dropped", "top_k", "not supported")]),
        checks=[CallCheck("toolu_1", "Bash", "flagged", "Deletes data.")],
        prefix_change=PrefixChange("tools", "tool 3 (WebFetch)", 0.5, tokens=57),
    )
    await store(settings, receipt, cost=Cost(1_500_000, 9_000_000, "genai-prices 0.2.3"))
    with reading(settings) as engine, engine.connect() as connection:
        query = {"columns": [",".join(SHOWN)]}
        page = build_requests_page(build_context("/dashboard/requests", connection, settings, query))
    table = page["table"]
    assert isinstance(table, Table)
    (row,) = table.rows
    assert {name: row.cells[name].text for name in SHOWN} == SHOWN
    assert {column.name for column in COLUMNS} == SHOWN.keys()
