"""Page Activity: the stated work by person and others, its cost, both charts, the export, and how it is turned on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.console.dashboard.activity import GROUPS, build_activity_page, tabulate_activity
from anthropic_proxy.console.keys.rights import Rights
from anthropic_proxy.console.ledger.activity import Measurement, Sender
from anthropic_proxy.console.ledger.activity_store import ActivityStore
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Cost
from tests.support.ledger import NOON, new_receipt, reading, store
from tests.support.page_context import build_context, read_table

ANN, BOB = Client("ci", owner="Ann", team="build"), Client("laptop", owner="Bob", team="build")
COLUMNS = (
    "name",
    "lines_added",
    "lines_removed",
    "accepted",
    "commits",
    "pull_requests",
    "time",
    "commit_cost",
    "cost",
)
_NUMBERS = {
    "lines_added": 1_200,
    "lines_removed": 40,
    "edits_accepted": 9,
    "edits_rejected": 1,
    "commits": 4,
    "pull_requests": 1,
    "user_microseconds": 5_400 * MICROSECONDS,
}


def add_work(settings: Settings, client: Client, now: float, **numbers: int) -> None:
    opened = ActivityStore(settings, lambda: now)
    sender = Sender(id=client.name, key_label=client.name, owner=client.owner, team=client.team)
    opened.add(
        sender,
        [
            Measurement(series=name, place=round(now), grows=False, name=name, value=value)
            for name, value in numbers.items()
        ],
    )
    opened.close()


async def store_work(settings: Settings) -> None:
    receipts = [
        new_receipt(1, client=ANN),
        new_receipt(2, client=BOB),
        new_receipt(3, started_at=NOON - 3 * HOUR_SECONDS),
    ]
    await store(settings, *receipts, cost=Cost(6_000_000_000, None, "own"))
    add_work(settings, ANN, NOON, **_NUMBERS)
    add_work(settings, BOB, NOON - 2 * HOUR_SECONDS, lines_added=10)


def build(
    settings: Settings, query: Mapping[str, list[str]] | None = None, **fields: Any
) -> tuple[Mapping[str, Any], list[list[Any]]]:
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard/activity", connection, settings, query, now=NOON + 60, **fields)
        return build_activity_page(context), [[*row] for row in tabulate_activity(context).rows]


async def test_people_are_listed_with_their_work_and_its_cost(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data", virtual_keys=True)
    await store_work(settings)
    page, rows = build(settings)
    assert page["verdict"] == "1,210 lines added, 40 removed, 4 commits, 1 pull request."
    assert read_table(page, *COLUMNS) == [
        ["Ann", "1,200", "40", "90 %", "4", "1", "90 min", "$1.50", "$6.00"],
        ["Bob", "10", "0", "–", "0", "0", "–", "–", "$6.00"],
    ]
    assert page["table"].rows[0].cells["name"].href == "/dashboard/requests?owner=Ann"
    assert rows == [
        ["Ann", 1200, 40, 9, 1, 4, 1, 5400.0, 0.0, 6],
        ["Bob", 10, 0, 0, 0, 0, 0, 0.0, 0.0, 6],
    ]
    assert [(one.name, one.total) for one in page["lines"].series] == [("added", "1,210"), ("removed", "40")]
    assert [(one.name, one.total) for one in page["commits"].series] == [("commits", "4"), ("pull requests", "1")]
    assert page["lines_title"] == "Lines per hour"


@pytest.mark.parametrize("by", GROUPS)
async def test_each_group_has_all_work(tmp_path: Path, by: str) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store_work(settings)
    _, rows = build(settings, {"by": [by], "range": ["7d"]})
    assert sum(row[1] for row in rows) == 1_210
    assert len(rows) == {"owner": 2, "key": 2}.get(by, 1)


async def test_a_filter_and_a_range_hold(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store_work(settings)
    page, rows = build(settings, {"owner": ["Bob"]})
    assert (page["verdict"], len(rows)) == ("10 lines added, 0 removed, 0 commits.", 1)
    page, rows = build(settings, {"range": ["90d"], "owner": ["Cay"]})
    assert (page["verdict"], rows, page["is_empty"]) == ("No work in this range.", [], False)


async def test_a_member_begins_with_the_own_projects(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store_work(settings)
    page, _ = build(settings, rights=Rights(role="member"))
    assert (page["by"], page["may_turn_on"]) == ("project", False)
    assert build(settings)[0]["by"] == "project"  # without team keys, there is one person


ADDRESS = "https://proxy.example.net"


async def test_a_company_without_work_reads_how_it_is_turned_on(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data", virtual_keys=True)
    await store(settings, new_receipt(1))
    page, _ = build(settings, address=ADDRESS)
    assert (page["is_empty"], page["may_turn_on"], page["is_stored"]) == (True, True, True)
    assert page["snippet"] == (
        '[managed_settings."*".env]\n'
        'CLAUDE_CODE_ENABLE_TELEMETRY = "1"\n'
        'OTEL_METRICS_EXPORTER = "otlp"\n'
        'OTEL_EXPORTER_OTLP_PROTOCOL = "http/protobuf"\n'
        'OTEL_EXPORTER_OTLP_ENDPOINT = "https://proxy.example.net"'
    )
    assert 'export OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20KEY"' in page["variables"].splitlines()


async def test_a_person_alone_reads_the_variables_with_the_address_of_the_page(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_receipt(1))
    page, _ = build(settings, address=ADDRESS)
    assert (page["snippet"], page["needs_key"]) == ("", False)
    assert page["variables"].splitlines() == [
        'export CLAUDE_CODE_ENABLE_TELEMETRY="1"',
        'export OTEL_METRICS_EXPORTER="otlp"',
        'export OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"',
        'export OTEL_EXPORTER_OTLP_ENDPOINT="https://proxy.example.net"',
    ]


async def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_receipt(1))
    with pytest.raises(InvalidRequest) as raised:
        build(settings, {"by": ["kind"]})
    assert (
        raised.value.message == "by: 'kind' is not allowed; use owner, team, cost-center, project, key, requested, day."
    )
