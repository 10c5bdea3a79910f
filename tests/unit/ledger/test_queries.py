"""Sums and lists of stored requests are the same on each database engine."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import ColumnElement, Connection, select

from anthropic_proxy.console.dashboard.tables import COLUMNS
from anthropic_proxy.console.ledger import queries, request_queries
from anthropic_proxy.console.ledger.export import build_usage_object, tabulate_usage
from anthropic_proxy.console.ledger.histograms import (
    MAX_BUCKET,
    encode_histogram,
    find_percentile,
    sum_encoded_histograms,
)
from anthropic_proxy.console.ledger.periods import FORMS, RequestSelection, resolve_usage_range
from anthropic_proxy.console.ledger.queries import (
    collect_latencies,
    count_facets,
    sum_periods,
    sum_previous_range,
    sum_usage,
)
from anthropic_proxy.console.ledger.records import COMMON_VALUES, GROUP_NAMES, add_up
from anthropic_proxy.console.ledger.request_queries import (
    SortedRequest,
    SortOrder,
    find_stored_request,
    list_sorted_requests,
    list_stored_requests,
    request_conditions,
    stream_stored_requests,
    to_receipt,
)
from anthropic_proxy.console.ledger.tables import requests
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import CallCheck, Client, Cost, InspectionRecord, Receipt, UpstreamAttempt
from tests.support.ledger import NOON, new_receipt, reading, running_ledger, store

pytestmark = pytest.mark.usefixtures("utc")

HOUR = 3_600
FIRST_HOUR = int(NOON) // HOUR


@pytest.fixture
async def connection(database: Settings) -> "Iterator[Connection]":
    """Return a connection to a ledger with 30 requests: every third failed, every fifth cancelled, 5 s apart."""
    receipts = [
        new_receipt(
            number,
            started_at=NOON + number % 3 * HOUR + number * 5,
            project=f"project {number % 2}",
            session=f"session {number % 4}",
            tool_results=4,
            tool_errors=1,
            route="" if number % 10 else "cheap first",
            kind="subagent" if number % 5 == 4 else "main",
            agent_type="Explore" if number % 5 == 4 else "",
            prompt_id=f"prompt {number % 3}",
            checks=[CallCheck("toolu_1", "Bash", "not_flagged")] if number % 2 else [],
            outcome="error" if number % 3 == 0 else "cancelled" if number % 5 == 0 else "end_turn",
        )
        for number in range(30)
    ]
    await store(database, *receipts, cost=Cost(1_000, None, "test"))
    with reading(database) as engine, engine.connect() as opened:
        yield opened


def _select_hours(first: int, end: int) -> RequestSelection:
    return RequestSelection(start=first * HOUR * 1_000_000, end=end * HOUR * 1_000_000)


@pytest.mark.parametrize("hours", [3, 4], ids=["single requests", "sums by hour"])
async def test_each_grouping_adds_up_to_the_same_sums(connection: Connection, hours: int) -> None:
    chosen = _select_hours(FIRST_HOUR, FIRST_HOUR + hours)
    found = {by: sum_usage(connection, chosen, by) for by in GROUP_NAMES}
    totals = {by: add_up(group.sums for group in groups) for by, groups in found.items()}
    assert all(total == totals["day"] for total in totals.values())
    total = totals["day"]
    assert (total.requests, total.errors, total.cancelled, total.succeeded) == (30, 10, 4, 16)
    assert (total.tool_results, total.tool_errors, total.malformed_replies) == (64, 16, 0)
    assert (total.input_tokens, total.output_tokens, total.cost) == (3_000, 600, 30_000)
    assert (total.unknown_cost_requests, total.unknown_requested_cost_requests) == (0, 30)
    assert [group.name for group in found["hour"]] == [f"2026-11-21T{hour}:00Z" for hour in (12, 13, 14)]
    assert [group.sums.requests for group in found["hour"]] == [10, 10, 10]
    assert {group.name: group.sums.requests for group in found["project"]} == {"project 0": 15, "project 1": 15}
    assert {group.name: group.sums.requests for group in found["route"]} == {"": 27, "cheap first": 3}
    assert {group.name: group.sums.requests for group in found["kind"]} == {"main": 24, "subagent": 6}
    assert {group.name: group.sums.requests for group in found["verdict"]} == {"": 15, "not_flagged": 15}
    assert {group.name: group.sums.requests for group in found["agent"]} == {"": 24, "Explore": 6}
    assert {group.name: group.sums.requests for group in found["prompt"]} == {f"prompt {n}": 10 for n in range(3)}
    assert [(group.provider, group.name) for group in found["model"]] == [("groq", "small")]
    assert sum_usage(connection, _select_hours(0, FIRST_HOUR), "model") == []


@pytest.mark.parametrize("hours", [3, 4], ids=["single requests", "sums by hour"])
async def test_each_group_is_divided_by_a_second_facet(connection: Connection, hours: int) -> None:
    chosen = _select_hours(FIRST_HOUR, FIRST_HOUR + hours)

    def count(by: str, split: str, selection: RequestSelection = chosen) -> list[tuple[str, Sequence[str], int]]:
        found = sum_usage(connection, selection, by, split=split)
        return [(group.name, group.part, group.sums.requests) for group in found]

    assert count("project", "kind") == [
        ("project 0", ("main",), 12),
        ("project 0", ("subagent",), 3),
        ("project 1", ("main",), 12),
        ("project 1", ("subagent",), 3),
    ]
    assert count("kind", "project") == [
        ("main", ("project 0",), 12),
        ("main", ("project 1",), 12),
        ("subagent", ("project 0",), 3),
        ("subagent", ("project 1",), 3),
    ]
    assert count("day", "kind") == [("2026-11-21", ("main",), 24), ("2026-11-21", ("subagent",), 6)]
    assert count("kind", "model") == [("main", ("groq", "small"), 24), ("subagent", ("groq", "small"), 6)]
    one = structs.replace(chosen, values={"project": "project 1"})
    assert count("kind", "route", one) == [("main", ("",), 12), ("subagent", ("",), 3)]
    assert sum(number for *_, number in count("session", "kind")) == 30
    settings = Settings()
    groups = sum_usage(connection, one, "owner", split="model")
    table = tabulate_usage(settings, "owner", groups, "model")
    assert (table.titles[:3], [row[:3] for row in table.rows]) == (
        ["owner", "model", "requests"],
        [["", "groq/small", 15]],
    )
    shown = build_usage_object(settings, "owner", groups, one, split="model")
    assert (shown["split"], [(row["name"], row["part"]) for row in shown["groups"]]) == ("model", [("", "groq/small")])


@pytest.mark.parametrize("hours", [3, 4], ids=["single requests", "sums by hour"])
async def test_usage_counts_requests_to_models_in_each_grouping(database: Settings, hours: int) -> None:
    query = {"method": "GET", "path": "/v1/models/gpt-nope", "requested_model": "", "provider": "", "model": ""}
    failed = {"outcome": "error", "status": 404, "input_tokens": 0, "output_tokens": 0}
    await store(
        database,
        new_receipt(1, session="one"),
        new_receipt(2, session="one", **query, **failed),
        new_receipt(3, session="other", **query, **failed),
        new_receipt(4, **query, **failed),
        cost=Cost(1_000, None, "test"),
    )
    chosen = structs.replace(_select_hours(FIRST_HOUR, FIRST_HOUR + hours), has_model=True)
    with reading(database) as engine, engine.connect() as connection:
        for by in GROUP_NAMES:
            total = add_up(group.sums for group in sum_usage(connection, chosen, by))
            assert (total.requests, total.errors, total.cost) == (1, 0, 1_000), by
        sessions = sum_usage(connection, chosen, "session")
        assert [(group.name, group.sums.requests) for group in sessions] == [("one", 1)]
        assert len(list_stored_requests(connection, structs.replace(chosen, has_model=False), 100)) == 4


async def test_lists_continue_at_a_position_and_follow_the_selection(connection: Connection) -> None:
    everything, listed = RequestSelection(), []
    position = None
    while rows := list_stored_requests(connection, everything, 7, position):
        listed += rows
        position = (rows[-1].started_at, rows[-1].id)
    assert [row.id for row in listed] == [row.id for row in list_stored_requests(connection, everything, 100)]
    assert len(listed) == 30
    assert listed == sorted(listed, key=lambda row: (row.started_at, row.id), reverse=True)
    failed = RequestSelection(values={"outcome_class": "error", "project": "project 1"})
    assert {row.outcome for row in list_stored_requests(connection, failed, 100)} == {"error"}
    assert len(list_stored_requests(connection, failed, 100)) == 5
    assert len(list_stored_requests(connection, RequestSelection(text="session 3"), 100)) == 7
    assert len(list_stored_requests(connection, RequestSelection(text="SESSION 3"), 100)) == 7
    assert list_stored_requests(connection, RequestSelection(text="%"), 100) == []
    assert list_stored_requests(connection, RequestSelection(is_changed=True), 100) == []
    counts = count_facets(connection, failed, ("project", "outcome_class", "session"), 9)
    assert (counts.partial_columns, dict(counts.values["project"])) == ([], {"project 0": 5, "project 1": 5})
    assert dict(counts.values["outcome_class"]) == {"error": 5, "ok": 8, "cancelled": 2}
    assert dict(counts.values["session"]) == {"session 1": 2, "session 3": 3}
    routed = RequestSelection(values={"route": "cheap first"})
    assert [row.route for row in list_stored_requests(connection, routed, 100)] == ["cheap first"] * 3
    assert dict(count_facets(connection, routed, ("route",), 9).values["route"]) == {"": 27, "cheap first": 3}
    assert find_stored_request(connection, listed[3].id) == listed[3]
    assert find_stored_request(connection, "req_none") is None


@pytest.mark.parametrize("column", COMMON_VALUES)
async def test_requests_with_a_common_value_and_with_another_one_are_found(database: Settings, column: str) -> None:
    """The index of each of these columns lacks the common value."""
    common, rare = (
        COMMON_VALUES[column],
        {"key_label": "key 2", "outcome_class": "error", "verdict": "flagged"}.get(column, "x"),
    )
    several: dict[str, dict[str, Any]] = {
        "key_label": {"client": Client(rare)},
        "owner": {"client": Client(owner=rare)},
        "team": {"client": Client(team=rare)},
        "cost_center": {"client": Client(cost_center=rare)},
        "outcome_class": {"outcome": rare},
        "verdict": {"checks": [CallCheck("toolu_1", "Bash", "flagged")]},
    }
    fields = several.get(column, {column: rare})
    times = [NOON + number * HOUR for number in range(9)]
    with running_ledger(database) as ledger:
        for number, at in enumerate(times):
            await ledger.record(new_receipt(number, started_at=at, **(fields if number % 3 else {})))
        ledger.wait_written(9)
    starts = [0, round(times[4] * 1_000_000), round(times[7] * 1_000_000)]
    with reading(database) as engine, engine.connect() as connection:
        selections = [
            RequestSelection(start=start, values={column: value})
            for value in (common, rare, "none")
            for start in starts
        ]
        found = [[int(row.id[-2:]) for row in list_stored_requests(connection, one, 9)] for one in selections]
        if engine.dialect.name == "sqlite":
            assert _find_index(connection, RequestSelection(values={column: rare})) == f"requests_by_{column}"
    assert found == [[6, 3, 0], [6], [], [8, 7, 5, 4, 2, 1], [8, 7, 5, 4], [8, 7], [], [], []]


def _find_index(connection: Connection, chosen: RequestSelection) -> str:
    """Return the name of the index by which SQLite reads the selection."""
    latest = select(requests).where(*request_conditions(chosen)).order_by(requests.c.started_at.desc())
    statement = latest.compile(connection, compile_kwargs={"literal_binds": True})
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").one()
    return str(plan[-1]).partition(" INDEX ")[2].partition(" ")[0]


@pytest.mark.parametrize(
    ("since", "until", "hours"),
    [
        ("1h", "", (-1, 0)),
        ("3h", "1h", (-3, -1)),
        ("24h", "", (-24, 1)),
        ("7d", "", (-168, 1)),
        ("today", "", (-12, 1)),
        ("yesterday", "yesterday", (-36, -12)),
        ("2026-11-01", "2026-11-02", (-492, -444)),
        ("2026-10", "2026-10", (-1236, -492)),
        ("2026-11", "2026-11", (-492, 1)),
        ("2d", "1d", (-48, -23)),
    ],
)
def test_long_periods_have_complete_hours(since: str, until: str, hours: tuple[int, int]) -> None:
    now = datetime.fromtimestamp(NOON + 600, UTC)
    found = resolve_usage_range(since, until, now, UTC)
    offset, hour = FIRST_HOUR * HOUR + (600 if found.is_short_range else 0), HOUR * 1_000_000
    assert (found.start / hour - offset / HOUR, found.end / hour - offset / HOUR) == hours


@pytest.mark.parametrize("since", ["0h", "2026-11-22", "2026-12"])
def test_a_beginning_that_is_not_in_the_past_is_rejected(since: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        resolve_usage_range(since, "", datetime.fromtimestamp(NOON, UTC), UTC)
    assert raised.value.message == f'--since is "{since}", which is not in the past. {FORMS}.'


def test_a_year_of_an_export_has_four_digits() -> None:
    now = datetime.fromtimestamp(NOON, UTC)
    exported = build_usage_object(Settings(), "day", [], resolve_usage_range("0110-05-18", "", now, UTC))
    assert (exported["from"], exported["to"]) == ("0110-05-18T00:00Z", "2026-11-21T12:00Z")


async def test_sums_of_sessions_include_every_request(database: Settings) -> None:
    count = request_queries.MAX_SESSION_REQUESTS + 500
    receipts = [
        new_receipt(number, started_at=NOON + number * 12, session="long", input_tokens=number, project="shop")
        for number in range(count)
    ]
    receipts.append(new_receipt(count, started_at=NOON, session="short", outcome="cancelled", input_tokens=7))
    await store(database, *receipts, cost=Cost(1_000, None, "test"))
    everything = RequestSelection(start=0, end=int(NOON + 100 * HOUR) * 1_000_000)
    with reading(database) as engine, engine.connect() as connection:
        total = request_queries.sum_session(connection, "long")
        listed = request_queries.list_sessions(connection, everything, 1)
        requests = request_queries.list_session_requests(connection, "long")
        filtered = request_queries.list_sessions(
            connection, RequestSelection(start=0, end=everything.end, values={"model": "small"}), 10
        )
        (group, other) = sum_usage(connection, _select_hours(FIRST_HOUR, FIRST_HOUR + 100), "session")
    assert total is not None
    assert (total.sums.requests, total.sums.cost, total.max_context, total.project) == (
        count,
        count * 1_000,
        count - 1,
        "shop",
    )
    assert (total.started_at, total.last_at) == (int(NOON * 1e6), int((NOON + (count - 1) * 12) * 1e6))
    assert (listed.rows, listed.count, listed.is_complete) == ([total], 2, True)
    assert len(requests) == request_queries.MAX_SESSION_REQUESTS
    assert requests[-1].input_tokens == count - 1
    assert (filtered.rows[0], filtered.count, filtered.is_complete) == (total, 2, True)
    assert (group.name, group.sums) == ("long", total.sums)
    assert (other.name, other.sums.cancelled, other.sums.succeeded) == ("short", 1, 0)


async def test_the_maximum_context_of_a_session_is_that_of_one_call(database: Settings) -> None:
    calls = [
        UpstreamAttempt(
            provider="groq", model="small", offset_seconds=number, input_tokens=80, cache_read_tokens=number
        )
        for number in range(3)
    ]
    looped = new_receipt(1, session="loop", input_tokens=240, cache_read_tokens=3, attempts=calls)
    await store(database, looped)
    with reading(database) as engine, engine.connect() as connection:
        found = request_queries.sum_session(connection, "loop")
    assert found is not None
    assert (found.max_context, found.sums.input_tokens) == (82, 240)


@pytest.mark.parametrize("hours", [2, 100])
async def test_the_project_of_a_session_is_that_of_its_latest_requests(database: Settings, hours: int) -> None:
    receipts = [
        new_receipt(number, session="moved", project=project, started_at=NOON + number * HOUR // 2)
        for number, project in enumerate(["shop", "zoo", "zoo", "blog"])
    ]
    receipts.append(new_receipt(9, session="stays", project="zoo"))
    await store(database, *receipts)
    chosen = RequestSelection(start=int(NOON) * 1_000_000, end=int(NOON + hours * HOUR) * 1_000_000)
    with reading(database) as engine, engine.connect() as connection:
        listed = request_queries.list_sessions(connection, chosen, 9)
    assert [(row.session, row.project) for row in listed.rows] == [("moved", "blog"), ("stays", "zoo")]


async def test_latencies_are_grouped_by_provider_and_model(database: Settings) -> None:
    slow = new_receipt(2, provider="azure", first_token_seconds=30.0)
    await store(database, new_receipt(1), slow)
    for hours in (1, 100):
        chosen = RequestSelection(start=int(NOON) * 1_000_000, end=int(NOON + hours * HOUR) * 1_000_000)
        with reading(database) as engine, engine.connect() as connection:
            found = collect_latencies(connection, chosen, 24 * HOUR, ("provider", "model"))
        speeds = {names: find_percentile(histogram, 0.5) for (_, names), histogram in found.items()}
        assert {*speeds} == {("groq", "small"), ("azure", "small")}
        assert (speeds["azure", "small"] or 0) > 20_000_000 > 1_000_000 > (speeds["groq", "small"] or 0) > 0


async def test_counts_of_values_follow_all_filters_within_a_limit(
    database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MAX_COUNTED_REQUESTS", 20)
    receipts = [
        new_receipt(
            number,
            started_at=NOON + number * 600,
            model=f"model {number % 2}",
            session=f"session {number % 3}",
            error="timeout" if number % 6 == 0 else "",
        )
        for number in range(30)
    ]
    await store(database, *receipts)
    day = RequestSelection(start=int(NOON) * 1_000_000, end=int(NOON + 5 * HOUR) * 1_000_000)
    hour = structs.replace(day, end=int(NOON + HOUR) * 1_000_000)
    found = {}
    with reading(database) as engine, engine.connect() as connection:
        for name, chosen in {
            "all": day,
            "one hour": hour,
            "timeouts": structs.replace(day, text="TIMEOUT"),
            "session": structs.replace(hour, values={"session": "session 1"}),
        }.items():
            counts = queries.count_facets(connection, chosen, ("model", "session"), 9)
            found[name] = dict(counts.values["model"]), dict(counts.values["session"]), list(counts.partial_columns)
    assert found == {
        "all": ({"model 0": 15, "model 1": 15}, {"session 0": 10, "session 1": 10, "session 2": 10}, []),
        "one hour": ({"model 0": 3, "model 1": 3}, {"session 0": 2, "session 1": 2, "session 2": 2}, []),
        "timeouts": ({"model 0": 3}, {"session 0": 3}, ["model", "session"]),
        "session": ({"model 0": 1, "model 1": 1}, {"session 0": 2, "session 1": 2, "session 2": 2}, []),
    }


async def test_the_range_before_has_the_same_length_and_the_same_filters(database: Settings) -> None:
    now = NOON + 1_800
    starts = [now - minutes * 60 - 1 for minutes in range(0, 60 * 60, 10)]
    receipts = [
        new_receipt(number, started_at=start, error="timeout" if number % 2 else "")
        for number, start in enumerate(starts)
    ]
    await store(database, *receipts, cost=Cost(1_000, None, "test"))
    found = {}
    with reading(database) as engine, engine.connect() as connection:
        for since in ("24h", "3h"):
            chosen = resolve_usage_range(since, "", datetime.fromtimestamp(now, UTC), UTC)
            timeouts = structs.replace(chosen, text="timeout")
            sums = sum(row.sums.requests for row in sum_periods(connection, chosen, HOUR if since == "24h" else 300))
            before = sum_previous_range(connection, chosen, int(now * 1_000_000))
            found[since] = sums, before, sum_previous_range(connection, timeouts, int(now * 1_000_000))
    assert found == {"24h": (147, (147, 147_000), (74, 74_000)), "3h": (18, (18, 18_000), (9, 9_000))}


_HISTOGRAMS = st.dictionaries(st.integers(0, MAX_BUCKET), st.integers(1, 300) | st.integers(1, 2**40), max_size=40)


@given(histograms=st.lists(_HISTOGRAMS, max_size=8))
def test_the_sum_has_the_counts_of_all_histograms(histograms: list[dict[int, int]]) -> None:
    buckets = {bucket for one in histograms for bucket in one}
    expected = {bucket: sum(one.get(bucket, 0) for one in histograms) for bucket in buckets}
    assert sum_encoded_histograms(" ".join(encode_histogram(one).hex() for one in histograms)) == expected


SORT_KEYS = {column.name: column.sort for column in COLUMNS if isinstance(column.sort, ColumnElement)}
COUNT = 12


@pytest.fixture
async def ledger(database: Settings) -> Settings:
    """Return a ledger with 12 requests: their numbers repeat, and every fourth has no first token."""
    receipts = [
        new_receipt(
            number,
            started_at=NOON + number,
            input_tokens=100 * (number % 5),
            cache_read_tokens=10 * (number % 3),
            output_tokens=number * 7 % 5,
            tool_count=number % 2,
            duration_seconds=0.5 + number * 5 % 7,
            first_token_seconds=None if number % 4 == 0 else 0.1 + number * 3 % 4 / 10,
            project="even" if number % 2 == 0 else "odd",
        )
        for number in range(COUNT)
    ]
    await store(database, *receipts, cost=Cost(1_000, None, "test"))
    return database


def test_every_order_is_complete_in_both_directions(ledger: Settings) -> None:
    with reading(ledger) as engine, engine.connect() as connection:
        for name, key in SORT_KEYS.items():
            for is_descending in (True, False):
                order, pages = SortOrder(key, is_descending), []
                place = None
                while found := list_sorted_requests(connection, RequestSelection(), order, 5, before=place):
                    pages.append(found)
                    place = found[-1].position
                listed = [one for page in pages for one in page]
                assert [len(page) for page in pages] == [5, 5, 2]
                assert len({one.request.id for one in listed}) == COUNT
                assert [value(one) for one in listed] == sorted(
                    (value(one) for one in listed), reverse=is_descending
                ), name
                back = list_sorted_requests(connection, RequestSelection(), order, 5, after=pages[2][0].position)
                assert back == pages[1]


def value(one: SortedRequest) -> float:
    return one.position[0]


def test_unknown_values_are_last_and_filters_apply(ledger: Settings) -> None:
    chosen = RequestSelection(values={"project": "even"})
    with reading(ledger) as engine, engine.connect() as connection:
        found = {
            is_descending: list_sorted_requests(connection, chosen, SortOrder(SORT_KEYS["first"], is_descending), COUNT)
            for is_descending in (True, False)
        }
    for is_descending, rows in found.items():
        times = [one.request.first_token for one in rows]
        assert times[-3:] == [None] * 3
        assert times[:-3] == sorted((time for time in times if time is not None), reverse=is_descending)
        assert {one.request.project for one in rows} == {"even"}


async def test_an_export_streams_the_requests_in_order_of_time(connection: Connection) -> None:
    rows = list(stream_stored_requests(connection))
    assert len(rows) == 30
    assert rows == sorted(rows, key=lambda row: (row.started_at, row.id))


NOT_RESTORED = {
    "attempts": "`logs` shows the failed ones only, which are stored in another form",
    "base_url": "it is needed for the price, which is stored",
    "blocks": "stored with times of their own, which only the pages show",
    "cost": "stored beside the receipt",
    "iterations": "stored as the usage of each model, with its cost",
    "limit_headers": "headers of the response, which the client has",
    "message_id": "for traces",
    "plain_form": "stored among the adaptations",
    "prefix_change": "stored as a text, which only the pages show",
    "region": "a part of the price, whose source is stored",
    "retry_after_seconds": "a header of the response, which the client has",
    "service_tier": "a part of the price, whose source is stored",
    "session_model": "stored in the reason of the route",
    "stated_cost": "a part of the price, whose source is stored",
    "trace": "for traces",
    "upstream_excerpt": "for the log",
}
"""Field of a receipt that a stored request does not have in this form → reason."""
_SAMPLES: Mapping[type, Any] = {bool: True, int: 7, float: 1.5, str: "a text"}
_STORED: Mapping[str, Any] = {
    "request_id": "req_7",
    "client": Client("key 2", owner="Ann", team="build"),
    "started_at": NOON,
    "first_token_seconds": 0.5,
    "failed_attempts": ["groq 529"],
    "adaptations": ["limit 4096"],
    "fidelity": FidelityReport(notes=[FidelityNote("dropped", "top_k", "not supported")], dropped=1),
    "checks": [CallCheck("toolu_1", "Bash", "flagged", "Deletes data.")],
    "inspections": [InspectionRecord("secrets", "request", "redacted", {"key": 2}, 0.004)],
    "tool_times": [("Bash", 1.099)],
}


async def test_logs_have_each_field_of_a_stored_request_as_of_a_recent_one(tmp_path: Path) -> None:
    """A new field of `Receipt` is stored in a form that `to_receipt` reads, or has a reason not to be."""
    fields = [field for field in structs.fields(Receipt) if field.name not in NOT_RESTORED]
    values = {field.name: _STORED.get(field.name, _SAMPLES.get(type(field.default))) for field in fields}
    assert [name for name, value in values.items() if value is None] == []
    settings = Settings(data_directory=tmp_path)
    await store(settings, Receipt(**values))
    with reading(settings) as engine, engine.connect() as connection:
        row = find_stored_request(connection, values["request_id"])
    assert row is not None
    found = to_receipt(row)
    assert {name: getattr(found, name) for name in values} == values
