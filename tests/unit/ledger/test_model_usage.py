"""A request whose provider has called several models: each model has its own tokens and costs in all sums."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Connection

from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.console.keys.queries import sum_budget_uses
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.console.ledger.export import build_request_object, tabulate_requests
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import (
    collect_latencies,
    count_facets,
    group_speeds,
    measure_model_performance,
    sum_model_periods,
    sum_previous_range,
    sum_usage,
)
from anthropic_proxy.console.ledger.records import (
    GROUP_NAMES,
    StoredRequest,
    UsageSums,
    add_up,
    decode_model_usage,
    move_sums,
)
from anthropic_proxy.console.ledger.request_queries import find_stored_request, list_sessions, to_receipt
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules, decode_budget
from anthropic_proxy.plugins import Client, Cost, ModelUsage
from tests.support.ledger import NOON, new_receipt, read_hourly, read_rows, reading, store

HOUR = 3_600
FIRST_HOUR = int(NOON) // HOUR
HAIKU, OPUS = ("anthropic", "claude-haiku-4-5"), ("anthropic", "claude-opus-4-5")
FIELDS: dict[str, Any] = {
    **dict(zip(("provider", "model"), HAIKU, strict=True)),
    "prefix": "anthropic",
    "client": Client("key 1", owner="ann", team="build"),
    "session": "s1",
    "kind": "main",
}


def part(model: tuple[str, str], kind: str, cost: int | None, **counts: int) -> ModelUsage:
    return ModelUsage(provider=model[0], model=model[1], kind=kind, cost=cost, requested_cost=cost, **counts)


ADVISED = (
    part(HAIKU, "", 1_000, input_tokens=100, output_tokens=20),
    part(OPUS, "advisor_message", 9_000, input_tokens=50, cache_read_tokens=7, cache_write_tokens=3, output_tokens=30),
    part(OPUS, "fallback_message", 500, input_tokens=5, output_tokens=1),
    part(HAIKU, "compaction", 200, input_tokens=40, output_tokens=4),
)
PLAIN = part(HAIKU, "", 1_100, input_tokens=100, output_tokens=20)
UNPRICED = (PLAIN, part(OPUS, "advisor_message", None, input_tokens=10, output_tokens=2))


async def fill(settings: Settings, *usages: tuple[ModelUsage, ...], start: float = NOON, **fields: Any) -> None:
    """Store a request for each of `usages`, one second apart, with the cost of its parts."""
    costs, receipts = {}, []
    for number, parts in enumerate(usages):
        totals = structs.replace(parts[0])
        for one in parts[1:]:
            totals.add_tokens(one)
        counts = {name: getattr(totals, name) for name in ("input_tokens", "output_tokens", "cache_read_tokens")}
        receipt = new_receipt(
            number,
            **{**FIELDS, **counts, **fields},
            cache_write_tokens=totals.cache_write_tokens,
            started_at=start + number,
        )
        amounts = [one.cost for one in parts]
        cost = None if None in amounts else sum(amount or 0 for amount in amounts)
        listed = [one.requested_cost for one in parts]
        requested_cost = None if None in listed else sum(amount or 0 for amount in listed)
        costs[receipt.request_id] = Cost(cost, requested_cost, "test", parts if len(parts) > 1 else ())
        receipts.append(receipt)
    await store(settings, *receipts, cost=lambda receipt: costs[receipt.request_id])


@pytest.fixture
async def connection(database: Settings) -> "Iterator[Connection]":
    """Return a connection to a ledger with an advised request, a plain one, and one whose advisor has no price."""
    await fill(database, ADVISED, (PLAIN,), UNPRICED)
    with reading(database) as engine, engine.connect() as opened:
        yield opened


def select_hours(first: int, end: int, **values: str) -> RequestSelection:
    return RequestSelection(start=first * HOUR * 1_000_000, end=end * HOUR * 1_000_000, values=values)


SOURCES = pytest.mark.parametrize("hours", [3, 4], ids=["single requests", "sums by hour"])


@SOURCES
async def test_each_model_has_its_own_tokens_and_costs(connection: Connection, hours: int) -> None:
    chosen = select_hours(FIRST_HOUR, FIRST_HOUR + hours)
    found = {(group.provider, group.name): group.sums for group in sum_usage(connection, chosen, "model")}
    assert found == {
        HAIKU: UsageSums(requests=3, input_tokens=340, output_tokens=64, cost=2_300, requested_cost=2_300),
        OPUS: UsageSums(
            input_tokens=65,
            cache_read_tokens=7,
            cache_write_tokens=3,
            output_tokens=33,
            cost=9_500,
            requested_cost=9_500,
            unknown_cost_requests=1,
            unknown_requested_cost_requests=1,
        ),
    }


@SOURCES
@pytest.mark.parametrize("unknown", ["cost", "requested_cost"])
async def test_of_two_costs_only_the_unknown_one_is_missing(database: Settings, hours: int, unknown: str) -> None:
    """The model of the request has no price for one of its two costs, and the advisor has both."""
    known = "requested_cost" if unknown == "cost" else "cost"
    await fill(database, (structs.replace(PLAIN, **{unknown: None}), part(OPUS, "advisor_message", 9_000)))
    chosen = select_hours(FIRST_HOUR, FIRST_HOUR + hours)
    with reading(database) as engine, engine.connect() as opened:
        found = {group.name: group.sums for group in sum_usage(opened, chosen, "model")}
    counts = {"requests": 1, "input_tokens": 100, "output_tokens": 20}
    assert found == {
        HAIKU[1]: UsageSums(**counts, **{known: 1_100, f"unknown_{unknown}_requests": 1}),
        OPUS[1]: UsageSums(**{known: 9_000}),
    }


@SOURCES
async def test_each_grouping_has_the_same_sums(connection: Connection, hours: int) -> None:
    chosen = select_hours(FIRST_HOUR, FIRST_HOUR + hours)
    totals = {by: add_up(group.sums for group in sum_usage(connection, chosen, by)) for by in GROUP_NAMES}
    assert all(total == totals["day"] for total in totals.values())
    assert (totals["day"].requests, totals["day"].cost, totals["day"].unknown_cost_requests) == (3, 11_800, 1)
    assert totals["day"].all_input_tokens == 415


@SOURCES
async def test_a_filter_by_model_selects_its_part(connection: Connection, hours: int) -> None:
    for by in ("owner", "team", "day", "kind"):
        chosen = select_hours(FIRST_HOUR, FIRST_HOUR + hours, model=OPUS[1])
        (group,) = sum_usage(connection, chosen, by)
        assert (group.sums.requests, group.sums.cost, group.sums.output_tokens) == (0, 9_500, 33), by
    chosen = select_hours(FIRST_HOUR, FIRST_HOUR + hours, owner="ann")
    divided = [(group.name, group.part, group.sums.cost) for group in sum_usage(connection, chosen, "kind", "model")]
    assert divided == [("main", OPUS, 9_500), ("main", HAIKU, 2_300)]


async def test_periods_have_the_same_parts(connection: Connection) -> None:
    short, long = (select_hours(FIRST_HOUR, FIRST_HOUR + hours) for hours in (2, 5))
    by_hour = [sum_model_periods(connection, chosen, HOUR) for chosen in (short, long)]
    assert [(one.start, one.model.model, one.model.sums.cost) for one in by_hour[0]] == [
        (FIRST_HOUR * HOUR, HAIKU[1], 2_300),
        (FIRST_HOUR * HOUR, OPUS[1], 9_500),
    ]
    assert sorted(by_hour[0], key=lambda one: one.model.model) == sorted(by_hour[1], key=lambda one: one.model.model)
    later = structs.replace(long, start=(FIRST_HOUR + 1) * HOUR * 1_000_000, values={"model": OPUS[1]})
    assert sum_previous_range(connection, later, (FIRST_HOUR + 2) * HOUR * 1_000_000).cost == 9_500


@SOURCES
async def test_what_a_model_writes_for_requests_of_another_one_is_no_speed(connection: Connection, hours: int) -> None:
    rows = measure_model_performance(connection, select_hours(FIRST_HOUR, FIRST_HOUR + hours), 0)
    assert {row.model.model: (row.rated_tokens, row.rated_time) for row in rows} == {
        HAIKU[1]: (64, 3_000_000),
        OPUS[1]: (0, 0),
    }
    assert group_speeds(rows, lambda row: row.model.model) == {HAIKU[1]: pytest.approx(64 / 3)}


@SOURCES
async def test_a_batch_whose_duration_is_unknown_has_no_speed_and_no_latency(database: Settings, hours: int) -> None:
    await fill(database, ADVISED, (PLAIN,))
    batch = {"request_id": "msgbatch_1", "duration_seconds": 0.0, "first_token_seconds": None}
    await fill(database, ADVISED, **batch)
    chosen = select_hours(FIRST_HOUR, FIRST_HOUR + hours)
    with reading(database) as engine, engine.connect() as opened:
        rows = measure_model_performance(opened, chosen, 0)
        (latencies,) = collect_latencies(opened, chosen, 0, quantity="duration").values()
    assert {row.model.model: (row.rated_tokens, row.rated_time) for row in rows} == {
        HAIKU[1]: (44, 2_000_000),
        OPUS[1]: (0, 0),
    }
    assert sum(latencies.values()) == 2


@SOURCES
async def test_a_model_without_requests_is_no_value_of_a_list(connection: Connection, hours: int) -> None:
    counted = count_facets(connection, select_hours(FIRST_HOUR, FIRST_HOUR + hours), ["model"], 10)
    assert counted.values == {"model": [(HAIKU[1], 3)]}


async def test_the_context_of_a_session_is_that_of_its_largest_call(database: Settings) -> None:
    await fill(database, ADVISED)
    with reading(database) as engine, engine.connect() as opened:
        (row,) = list_sessions(opened, select_hours(FIRST_HOUR, FIRST_HOUR + 4), 5).rows
    assert (row.sums.all_input_tokens, row.sums.cost) == (205, 10_700)


@pytest.mark.parametrize(
    ("budget", "used"),
    [
        ("1USD/total", 10_700),
        ("1USD/total for claude-opus-*", 9_500),
        ("1USD/total for anthropic/claude-haiku-4-5", 1_200),
        ("1000tokens/total for claude-opus-4-5", 55 + 3 + 31),
    ],
)
@pytest.mark.parametrize("age", [60, 40 * HOUR])
async def test_a_budget_for_a_model_gets_its_part_from_the_ledger(
    database: Settings, budget: str, used: int, age: int
) -> None:
    now = time.time()
    await fill(database, ADVISED, start=now - age)
    since = structs.replace(decode_budget(budget), since=now - age - 60)
    scope = Scope("team", "build", "team/build", Rules(budgets=(since,)))
    with closing(open_for_reading(database)) as reader:
        assert sum_budget_uses(reader, database, [(scope, since)], now) == [used]


async def test_a_stored_request_lists_its_models(database: Settings) -> None:
    await fill(database, ADVISED, (PLAIN,))
    with reading(database) as engine, engine.connect() as opened:
        row, plain = (find_stored_request(opened, f"req_{number:024d}") for number in (0, 1))
    assert row is not None
    assert plain is not None
    assert decode_model_usage(row.model_usage) == list(ADVISED)
    assert (row.cost, row.input_tokens, plain.model_usage) == (10_700, 195, "")
    listed = build_request_object(row)["model_usage"]
    assert [(one["model"], one["kind"], str(one["cost"])) for one in listed] == [
        (HAIKU[1], "", "0.000001"),
        (OPUS[1], "advisor_message", "0.000009"),
        (OPUS[1], "fallback_message", "5E-7"),
        (HAIKU[1], "compaction", "2E-7"),
    ]
    (cells,) = tabulate_requests([plain]).rows
    assert cells[tabulate_requests([]).titles.index("model_usage")] == []
    assert to_receipt(row).output_tokens == 55


async def test_names_that_a_provider_states_add_a_bounded_number_of_rows(database: Settings) -> None:
    names = [("anthropic", f"claude-{number}") for number in range(600)]
    await fill(database, *((PLAIN, part(name, "advisor_message", 1, output_tokens=1)) for name in names))
    models = {row["model"] for row in read_hourly(database)}
    assert len(models) <= 502
    assert "other" in models
    assert sum(row["cost"] for row in read_hourly(database)) == 600 * 1_101
    assert {json.loads(row["model_usage"])[1]["model"] for row in read_rows(database)} <= models


def test_a_damaged_list_of_models_moves_nothing() -> None:
    row = StoredRequest(provider="anthropic", model="x", cost=5, requested_cost=5, model_usage='[{"provider": 7}]')
    assert list(move_sums(row.provider, row.model, row.cost, row.requested_cost, row.model_usage)) == []


@pytest.mark.parametrize(
    ("models", "used"), [("", 505), ("m*", 505), ("groq/m*", 505), ("gr*/m504", 5), ("m3", 6), ("openai/m*", 0)]
)
async def test_a_budget_forgets_no_model_because_of_many_names(database: Settings, models: str, used: int) -> None:
    """A replaced name counts for each budget for which it may count."""
    named = [new_receipt(number, model=f"m{number}", client=Client("a")) for number in range(503)]
    named += [new_receipt(number, model=f"n{number}", client=Client("a")) for number in range(503, 505)]
    others = [new_receipt(600 + number, model=f"x{number}", client=Client("b")) for number in range(600)]
    await store(database, *others, *named, cost=Cost(1, None, "list"))
    budget = Budget(1.0, "usd", "total", models=models)
    scope = Scope("key", "a", "key/a", Rules(budgets=(budget,)))
    with closing(open_for_reading(database)) as reader:
        assert sum_budget_uses(reader, database, [(scope, budget)], NOON + 60) == [used]
