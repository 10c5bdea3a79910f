"""The writer stores each receipt once, with its sums in the same transaction."""

import gc
import itertools
import json
import weakref
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs
from msgspec.structs import astuple
from sqlalchemy import func, select

from anthropic_proxy.console.ledger.connection import MAX_ROWS_PER_STATEMENT, DatabaseError
from anthropic_proxy.console.ledger.database import classify_database_error, find_spool_file, open_for_writing
from anthropic_proxy.console.ledger.engines import find_database_problems
from anthropic_proxy.console.ledger.histograms import decode_histogram, find_percentile
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import sum_usage
from anthropic_proxy.console.ledger.records import (
    FACETS,
    REPLACEMENT,
    FacetLimits,
    RowBuilder,
    StoredRequest,
    add_up,
    decode_checks,
    decode_tool_times,
)
from anthropic_proxy.console.ledger.tables import hourly, requests, session_hours
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.gateway.prices.price_list import find_price_package_version
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import (
    CallCheck,
    Client,
    Cost,
    InspectionRecord,
    ModelUsage,
    PrefixChange,
    Receipt,
    UpstreamAttempt,
)
from anthropic_proxy.secrets import Secret
from tests.support.ledger import (
    NOON,
    UNKNOWN_COST,
    count_rows,
    new_receipt,
    read_hourly,
    read_rows,
    reading,
    rejecting_connections,
    running_ledger,
    store,
)


def test_each_field_that_a_receipt_shares_with_a_stored_request_is_stored() -> None:
    defaults = {field.name: field.default for field in structs.fields(StoredRequest)}
    samples = {bool: True, int: 7, str: "a text"}
    values = {
        field.name: samples[type(field.default)]
        for field in structs.fields(Receipt)
        if type(field.default) in samples and type(field.default) is type(defaults.get(field.name))
    }
    row = RowBuilder(()).build(new_receipt(**values), UNKNOWN_COST)
    assert {name: getattr(row, name) for name in values} == values


async def test_every_fact_of_a_receipt_is_stored(database: Settings) -> None:
    receipt = new_receipt(
        client=Client("key 2", owner="Ann", team="build", cost_center="4711"),
        user_agent="claude-cli/2.1.328 (external, sdk-cli)",
        session="s1",
        agent="a1",
        project="shop",
        stream=True,
        route="cheap first",
        route_reason="BIG_MODEL",
        failed_attempts=["openai 529"],
        cache_read_tokens=7,
        cache_write_tokens=8,
        cache_write_1h_tokens=6,
        thinking_tokens=5,
        tool_count=3,
        message_count=4,
        tool_results=6,
        tool_errors=2,
        fidelity=FidelityReport(
            notes=[
                FidelityNote("dropped", "top_k", "not supported"),
                FidelityNote("approximated", "content.tool_use.input", "x"),
            ]
        ),
        adaptations=["limit 4096"],
        billed_searches=2,
        kind="auto_mode_check",
        agent_type="Explore",
        prompt_id="p1",
        parent="req_parent",
        checks=[
            CallCheck("toolu_0", "Read", "harmless", rule="only reads", kind="rule"),
            CallCheck("toolu_1", "Bash", "flagged", "Deletes data.", rule="Deleting", request="req_1"),
        ],
        tool_times=[("Bash", 1.166), ("Read", 0.008)],
        inspections=[InspectionRecord("secrets", "request", "redacted", {"key": 2}, 0.004)],
        prefix_change=PrefixChange("tools", "tool 3 (WebFetch)", 0.5, tokens=57),
        blocks=[
            ("text", "", NOON + 0.501, 3),
            ("thinking", "", NOON + 0.751, 15),
            ("tool call", "Read", NOON + 0.751, 15),
        ],
        attempts=[
            UpstreamAttempt(
                provider="openai", model="m", offset_seconds=0.25, status=529, error_type="overloaded_error"
            )
        ],
    )
    parts = (
        ModelUsage(provider="groq", model="small", input_tokens=80, output_tokens=20, cost=1_400, requested_cost=9),
        ModelUsage(provider="groq", model="large", kind="advisor_message", input_tokens=20, searches=2, cost=100),
    )
    await store(database, receipt, cost=Cost(1500, None, "genai-prices 0.2.3", parts))
    (row,) = read_rows(database)
    assert isinstance(row.pop("worker"), int)
    assert row.pop("instance")
    assert row == {
        "id": "req_000000000000000000000001",
        "started_at": 1_795_262_400_001_000,
        "client": "claude-cli",
        "key_label": "key 2",
        "owner": "Ann",
        "texts_of": "",
        "team": "build",
        "cost_center": "4711",
        "project": "shop",
        "session": "s1",
        "agent": "a1",
        "user_agent": "claude-cli/2.1.328 (external, sdk-cli)",
        "path": "/v1/messages",
        "stream": True,
        "requested_model": "claude-haiku-4-5",
        "provider": "groq",
        "prefix": "groq",
        "model": "small",
        "route": "cheap first",
        "route_reason": "BIG_MODEL",
        "attempts": 2,
        "failed_attempts": '["openai 529"]',
        "status": 200,
        "outcome": "end_turn",
        "outcome_class": "retried",
        "error_type": "",
        "error_code": "",
        "error": "",
        "remedy": "",
        "tool_count": 3,
        "message_count": 4,
        "tool_results": 6,
        "tool_errors": 2,
        "malformed_replies": 1,
        "method": "POST",
        "input_tokens": 100,
        "cache_read_tokens": 7,
        "cache_write_tokens": 8,
        "cache_write_1h_tokens": 6,
        "output_tokens": 20,
        "thinking_tokens": 5,
        "cost": 1500,
        "requested_cost": None,
        "price_source": "genai-prices 0.2.3",
        "first_token": 500_000,
        "duration": 1_500_000,
        "output_rate": 20.0,
        "notes": '[{"handling":"dropped","field":"top_k","reason":"not supported"},'
        '{"handling":"approximated","field":"content.tool_use.input","reason":"x"}]',
        "note_count": 2,
        "adaptations": '["limit 4096"]',
        "prefix_change": "tool 3 (WebFetch)",
        "kind": "auto_mode_check",
        "agent_type": "Explore",
        "prompt_id": "p1",
        "parent": "req_parent",
        "checks": '[{"call":"toolu_0","tool":"Read","verdict":"harmless","rule":"only reads","kind":"rule"},'
        '{"call":"toolu_1","tool":"Bash","verdict":"flagged","reason":"Deletes data.","rule":"Deleting",'
        '"request":"req_1"}]',
        "verdict": "flagged",
        "tool_times": '[["Bash",1166000],["Read",8000]]',
        "inspections": '[{"inspector":"secrets","part":"request","decision":"redacted","kinds":{"key":2},'
        '"seconds":0.004}]',
        "prefix_change_tokens": 57,
        "billed_searches": 2,
        "attempt_times": '[[250000,0,"openai","m",529,"overloaded_error","",0]]',
        "reply_blocks": '[["text","",500000,250000,12],["tool call","Read",750000,0,0]]',
        "model_usage": '[{"input_tokens":80,"output_tokens":20,"provider":"groq","model":"small","cost":1400,'
        '"requested_cost":9},{"input_tokens":20,"provider":"groq","model":"large","kind":"advisor_message",'
        '"searches":2,"cost":100}]',
    }


async def test_texts_of_one_request_are_not_stored_for_the_next_one_with_the_same_labels(database: Settings) -> None:
    attempt = UpstreamAttempt(provider="groq", model="small", offset_seconds=0.0)
    texts = ("id", "error", "failed_attempts", "adaptations", "attempt_times")
    await store(
        database,
        new_receipt(1, error="slow", failed_attempts=["groq 429"], adaptations=["drop top_k"], attempts=[attempt]),
        new_receipt(2),
    )
    assert [[row[name] for name in texts] for row in read_rows(database)] == [
        [f"req_{1:024d}", "slow", '["groq 429"]', '["drop top_k"]', '[[0,0,"groq","small",0,"","",0]]'],
        [f"req_{2:024d}", "", "", "", ""],
    ]


async def test_hourly_sums_equal_the_rows(database: Settings) -> None:
    outcomes = ("end_turn", "error", "cancelled", "max_tokens")
    receipts = [
        new_receipt(
            number,
            started_at=NOON + number * 10,
            model=f"m{number % 3}",
            outcome=outcomes[number % 4],
            first_token_seconds=None if number % 4 == 1 else 0.1 * (number % 7 + 1),
            duration_seconds=(number + 1) / 100,
            input_tokens=number,
            output_tokens=2 * number,
            tool_results=2 * number,
            tool_errors=number,
        )
        for number in range(1200)
    ]
    with running_ledger(database, cost=Cost(3, 5, "x")) as ledger:
        await ledger.record(*receipts[:700])
        ledger.wait_written(700)
        await ledger.record(*receipts[700:])
        ledger.wait_written(1200)
    sums = read_hourly(database)
    rows = read_rows(database)
    assert len(rows) == 1200
    assert {row["hour"] for row in sums} == {int(NOON) // 3600 + number for number in range(4)}
    for name in ("input_tokens", "output_tokens", "cost", "requested_cost", "duration", "tool_results", "tool_errors"):
        assert sum(row[name] for row in sums) == sum(row[name] for row in rows), name
    assert sum(row["tool_errors"] for row in sums) == sum(number for number in range(1200) if number % 4 in (0, 3))
    assert sum(row["requests"] for row in sums) == 1200
    assert sum(row["errors"] for row in sums) == 300
    assert sum(row["unknown_cost_requests"] for row in sums) == 0
    assert sum(row["first_token_count"] for row in sums) == 900
    assert sum(sum(decode_histogram(row["duration_histogram"]).values()) for row in sums) == 1200
    assert sum(sum(decode_histogram(row["first_token_histogram"]).values()) for row in sums) == 900
    last = decode_histogram(sums[-1]["duration_histogram"])
    assert find_percentile(last, 0.5) == pytest.approx(11_500_000, rel=0.1)


async def test_unknown_costs_are_counted_and_never_zero(database: Settings) -> None:
    await store(database, new_receipt(1), new_receipt(2))
    (sums,) = read_hourly(database)
    assert [row["cost"] for row in read_rows(database)] == [None, None]
    assert (sums["cost"], sums["unknown_cost_requests"], sums["unknown_requested_cost_requests"]) == (0, 2, 2)


@pytest.mark.parametrize(
    ("fields", "cost", "source"),
    [
        (
            {"billed_searches": 2},
            21_000_000,
            f"{find_price_package_version()}, 2 web searches",
        ),  # 500 × 2, and $10 per 1,000
        ({"service_tier": "priority"}, 1_750_000, f"{find_price_package_version()}, tier priority"),
        ({"service_tier": "scale"}, None, f"{find_price_package_version()}, no price of tier scale"),
        ({"service_tier": "bad\0 tier"}, None, f"{find_price_package_version()}, no price of tier other"),
    ],
)
async def test_searches_and_tiers_have_the_same_cost_in_rows_and_sums(
    database: Settings, fields: dict[str, object], cost: int | None, source: str
) -> None:
    usual = {"provider": "openai", "prefix": "openai", "model": "gpt-4.1", "input_tokens": 500, "output_tokens": 0}
    await store(database, new_receipt(1, **{**usual, "cache_read_tokens": 0, **fields}), cost=None)
    (row,), (sums,) = read_rows(database), read_hourly(database)
    assert (row["cost"], row["price_source"]) == (cost, source)
    assert (sums["cost"], sums["unknown_cost_requests"]) == (cost or 0, int(cost is None))


async def test_a_receipt_is_stored_once(database: Settings) -> None:
    """A transaction is repeated if the answer to its commit is lost."""
    with running_ledger(database) as ledger:
        await ledger.record(*map(new_receipt, range(3)))
        ledger.wait_written(3)
        await ledger.record(*map(new_receipt, range(5)))
        ledger.wait_until(lambda: not len(ledger.queue))
    assert count_rows(database) == 5
    assert sum(row["requests"] for row in read_hourly(database)) == 5


async def test_the_results_of_a_batch_are_stored_once(database: Settings) -> None:
    """Clients may read them again, from an instance that does not know that they were counted."""
    batch = {"request_id": "msgbatch_01abc", "input_tokens": 700}
    await store(database, new_receipt(1), new_receipt(**batch))
    await store(database, new_receipt(**batch), new_receipt(2))
    assert [row["id"] for row in read_rows(database)] == ["msgbatch_01abc", f"req_{1:024d}", f"req_{2:024d}"]
    assert sum(row["requests"] for row in read_hourly(database)) == 3
    assert sum(row["input_tokens"] for row in read_hourly(database)) == 900


async def test_texts_that_no_database_accepts_are_replaced(database: Settings) -> None:
    hostile = "a\x00b\ud800c\n\x1b[31m" + "x" * 5000
    note = FidelityNote("dropped", "a\x00\ud800", "r")
    receipt = new_receipt(
        model=hostile,
        session=hostile,
        error=hostile,
        input_tokens=2**70,
        fidelity=FidelityReport(notes=[note]),
        blocks=[("tool call", "b\ud800", NOON, 0), ("", "", NOON + 1, 5)],
    )
    await store(database, receipt)
    (row,) = read_rows(database)
    assert row["model"].startswith("a b?c  [31mxxx")
    assert (len(row["model"]), len(row["error"])) == (200, 2000)
    assert row["input_tokens"] == (2**63 - 1) >> 16
    assert json.loads(row["notes"])[0]["field"] == "a?"
    assert json.loads(row["reply_blocks"]) == [["tool call", "b?", 0, 1_000_000, 5]]


@pytest.mark.parametrize("fields", [{"output_tokens": None}, {"status": 2**70}], ids=["not built", "rejected"])
async def test_a_receipt_that_cannot_be_stored_is_dropped_alone(
    database: Settings, fields: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with running_ledger(database) as ledger:
        await ledger.record(new_receipt(1), new_receipt(2, **fields), new_receipt(3))
        ledger.wait_written(2)
        state = ledger.queue.state
    assert [row["id"][-1] for row in read_rows(database)] == ["1", "3"]
    assert sum(row["requests"] for row in read_hourly(database)) == 2
    assert (state.condition, state.dropped_rows, len(ledger.queue)) == ("ok", 1, 0)
    (warning,) = ledger.warnings
    assert warning.startswith("The ledger dropped the request req_000000000000000000000002: ")
    assert [record.name for record in caplog.records if record.name.startswith("psycopg")] == []


async def test_no_key_is_stored(database: Settings, tmp_path: Path) -> None:
    key, foreign = "a-very-secret-key-0001", "sk-ant-api03-abcdefghijklmnopqrst"
    settings = structs.replace(database, keys={"groq": [Secret(key)]})
    receipt = new_receipt(
        error=f"key {key} is wrong",
        project=key,
        user_agent=f"x/1 {foreign}",
        session=foreign,
        failed_attempts=[f"groq {key}"],
        fidelity=FidelityReport(notes=[FidelityNote("dropped", key, foreign)]),
    )
    await store(settings, receipt)
    (row,) = read_rows(settings)
    assert row["error"] == "key …0001 is wrong"
    assert not [name for name, value in row.items() if key in str(value) or foreign in str(value)]


async def test_a_key_is_removed_from_an_error_of_a_request_with_the_names_of_earlier_ones(database: Settings) -> None:
    key = "a-very-secret-key-0001"
    settings = structs.replace(database, keys={"groq": [Secret(key)]})
    errors = ("", f"key {key} is wrong", "", "y" * 3_000)
    await store(settings, *(new_receipt(number, error=error) for number, error in enumerate(errors, 1)))
    rows = read_rows(settings)
    assert [row["error"][:19] for row in rows] == ["", "key …0001 is wrong", "", "y" * 19]
    assert [len(row["error"]) for row in rows] == [0, 18, 0, 2_000]
    assert {(row["model"], row["client"], row["project"]) for row in rows} == {
        (rows[0]["model"], rows[0]["client"], rows[0]["project"])
    }


@pytest.mark.parametrize("length", range(160, 200, 5))
async def test_a_shortened_text_contains_no_part_of_a_key(database: Settings, length: int) -> None:
    key = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
    settings = structs.replace(database, keys={"groq": [Secret(key)]})
    await store(settings, new_receipt(project=f"{'p' * length} {key}"))
    (row,) = read_rows(settings)
    assert key[:8] not in row["project"]


async def test_what_models_and_clients_write_about_tool_calls_is_bounded(database: Settings) -> None:
    key = "sk-test-0123456789abcdefghijklmnop"
    long = "x " * 140 + key
    checks = [CallCheck(f"toolu_{number}", "t" * 9_000, "unavailable", long, rule=long * 2) for number in range(200)]
    flagged = CallCheck("toolu_200", "Bash", "flagged")
    times = [("n" * 9_000, 10.0**300)] * 200
    await store(database, new_receipt(checks=[*checks, flagged], tool_times=times))
    (row,) = read_rows(database)
    assert row["verdict"] == "flagged"
    found, tools = decode_checks(row["checks"]), decode_tool_times(row["tool_times"])
    assert (len(found), len(found[0].tool), len(found[0].reason), len(found[0].rule)) == (100, 128, 288, 300)
    assert [one.call for one in found] == [*(f"toolu_{number}" for number in range(99)), "toolu_200"]
    assert "sk-test" not in row["checks"]
    assert (len(tools), len(tools[0].name)) == (100, 128)


async def test_headers_of_clients_without_access_are_not_stored(database: Settings) -> None:
    refused = {"outcome": "error", "error_type": "authentication_error", "status": 401, "provider": ""}
    await store(
        database, *(new_receipt(number, project=f"p{number}", session="s", agent="a", **refused) for number in range(5))
    )
    assert {(row["project"], row["session"], row["agent"]) for row in read_rows(database)} == {("", "", "")}
    assert len(read_hourly(database)) == 1


async def test_refused_requests_are_in_the_sums_and_one_a_minute_and_kind_is_a_row(
    database: Settings,
) -> None:
    rejected = {"outcome": "error", "error_type": "rate_limit_error", "status": 429, "provider": "", "model": ""}
    kinds = {
        "a": rejected,
        "b": {**rejected, "error_type": "billing_error"},
        "": {**rejected, "error_type": "authentication_error", "status": 401, "requested_model": ""},
    }
    rejections = [
        new_receipt(number, client=Client(key), started_at=NOON + 2 * number, session="s1", **kinds[key])
        for number, key in zip(range(1_998), ["a", "b", ""] * 666, strict=True)
    ]
    by_provider = {**rejected, "provider": "groq", "model": "small"}
    others = [new_receipt(number, started_at=NOON + 2 * number, **by_provider) for number in range(2_000, 2_030)]
    with running_ledger(database) as ledger:
        await ledger.record(*rejections[:700])
        ledger.wait_written(700)
        await ledger.record(*rejections[700:], *others)
        ledger.wait_written(2_028)
    rows = read_rows(database)
    assert sum(row["provider"] == "groq" for row in rows) == 30
    assert sum(row["provider"] == "" for row in rows) == 3 * 67, "three kinds, in 67 minutes"
    sums = [row for row in read_hourly(database) if row["provider"] == ""]
    assert {row["key_label"] for row in sums} == {*kinds}
    assert (sum(row["requests"] for row in sums), sum(row["errors"] for row in sums)) == (1_998, 1_998)
    with reading(database) as engine, engine.connect() as connection:
        chosen = RequestSelection(has_model=True)
        for by in ("key", "session"):
            assert add_up(group.sums for group in sum_usage(connection, chosen, by)).requests == 2 * 666 + 30
        assert list(find_database_problems(connection)) == []


async def test_a_rejection_in_a_transaction_that_failed_is_a_row_too(database: Settings) -> None:
    rejected = {"outcome": "error", "error_type": "rate_limit_error", "status": 429, "provider": "", "model": ""}
    with running_ledger(database) as ledger:
        await ledger.record(new_receipt(1, client=Client("a"), **rejected), new_receipt(2, status=2**70))
        ledger.wait_written(1)
    assert [row["key_label"] for row in read_rows(database)] == ["a"]
    assert sum(row["requests"] for row in read_hourly(database)) == 1


@pytest.mark.parametrize("error_type", ["authentication_error", "permission_error"])
async def test_a_client_without_access_cannot_add_rows_to_the_sums(database: Settings, error_type: str) -> None:
    chosen = ("project", "session", "agent", "user_agent", "method", "path", "requested_model", "model", "route")
    refused = {"outcome": "error", "error_type": error_type, "status": 403, "provider": ""}
    receipts = [new_receipt(number, **refused, **dict.fromkeys(chosen, f"v{number}")) for number in range(5)]
    await store(database, *receipts)
    assert [row["requests"] for row in read_hourly(database)] == [5]
    assert count_rows(database, session_hours) == 1


class _Name(str):
    """Text that a weak reference can observe."""

    __slots__ = ("__weakref__",)


@pytest.mark.parametrize("error_type", ["authentication_error", "permission_error"])
def test_headers_of_clients_without_access_are_not_kept_in_memory(error_type: str) -> None:
    builder = RowBuilder([])
    receipt = new_receipt(outcome="error", error_type=error_type, status=401, provider="")
    names = [_Name("project"), _Name("session"), _Name("agent")]
    receipt.project, receipt.session, receipt.agent = names
    row = builder.build(receipt, UNKNOWN_COST)
    assert (row.project, row.session, row.agent, row.error_type) == ("", "", "", error_type)
    references = list(map(weakref.ref, names))
    del receipt, names
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


async def test_values_that_clients_choose_add_a_bounded_number_of_rows_to_the_sums(database: Settings) -> None:
    chosen = {name: facet for name, facet in FACETS.items() if facet.max_values is not None}
    of_the_proxy = {"outcome", "provider", "key", "owner", "team", "route", "verdict"}
    assert chosen.keys() == {name for name, facet in FACETS.items() if facet.sums} - of_the_proxy
    for place, facet in enumerate(chosen.values()):
        values = [f"value {number}" for number in range(1_000)]
        of_client = facet.column == "cost_center"
        fields = [{"client": Client(cost_center=one)} if of_client else {facet.column: one} for one in values]
        numbers, at = range(place * 1_000, place * 1_000 + 1_000), NOON + place * 3600
        receipts = [new_receipt(number, started_at=at, **one) for number, one in zip(numbers, fields, strict=True)]
        await store(database, *receipts)
    await store(database, new_receipt(9_999, prompt_id="p", started_at=NOON + len(chosen) * 3600))
    with reading(database) as engine, engine.connect() as connection:
        for table in (hourly, session_hours):
            rows = connection.execute(select(table.c.hour, func.count()).group_by(table.c.hour)).all()
            counts = {int(hour): count for hour, count in rows}
            for place, (name, facet) in enumerate(chosen.items()):
                most = min(facet.max_values or 0, 999) + 1 if table.name in facet.sums else 1
                assert counts[int(NOON) // 3600 + place] == most, name
        found = connection.execute(select(func.count()).where(requests.c.kind == REPLACEMENT)).scalar_one()
    assert found == 980


def test_an_hour_keeps_the_values_that_it_had_first_and_another_one_begins_anew() -> None:
    limits, hour = FacetLimits(), round(NOON) * 1_000_000
    rows = [StoredRequest(session=f"s{number}", started_at=hour) for number in (*range(6_000), 0)]
    rows.append(StoredRequest(session="s5999", started_at=hour + 3_600_000_000))
    for row in rows:
        limits.apply(row)
    assert [row.session for row in rows[4_998:5_002]] == ["s4998", "s4999", REPLACEMENT, REPLACEMENT]
    assert [row.session for row in rows[-2:]] == ["s0", "s5999"]
    assert len({row.session for row in rows[:-1]}) == 5_001


def test_the_names_of_one_key_and_those_that_nobody_serves_take_no_places_of_others() -> None:
    limits, chosen = FacetLimits(), ("model", "requested_model", "project", "session")
    many = [StoredRequest(key_label="a", **dict.fromkeys(chosen, f"v{number}")) for number in range(6_000)]
    other = StoredRequest(key_label="b", output_tokens=1, **dict.fromkeys(chosen, "of b"))
    served = StoredRequest(key_label="a", model="served", output_tokens=1)
    for row in (*many, other, served):
        limits.apply(row)
    assert many[600].model == many[600].project == many[5_500].session == REPLACEMENT
    assert [getattr(other, name) for name in chosen] == ["of b"] * 4
    assert served.model == "served"


async def test_successful_requests_without_an_exchange_are_left_out(database: Settings) -> None:
    free = {"outcome": "", "input_tokens": 0, "output_tokens": 0}
    with running_ledger(database) as ledger:
        await ledger.record(
            new_receipt(1, path="/v1/models", **free),
            new_receipt(2, path="/v1/messages/count_tokens", **free),
            new_receipt(3, path="/v1/messages/count_tokens", outcome="error", error_type="api_error", status=502),
            new_receipt(4, path="/nothing", outcome="error", status=404),
            new_receipt(5),
        )
        ledger.wait_written(3)
    assert [row["id"][-1] for row in read_rows(database)] == ["3", "4", "5"]


async def test_a_full_queue_drops_new_receipts_and_counts_them(sqlite: Settings) -> None:
    with running_ledger(sqlite, max_rows=3) as ledger:
        other = open_for_writing(sqlite)
        with other.transaction():  # holds the lock
            await ledger.record(*map(new_receipt, range(5)))
            assert ledger.queue.state.dropped_rows == 2
            assert len(ledger.queue) == 3
        ledger.wait_written(3)
        other.close()
    assert [row["id"][-1] for row in read_rows(sqlite)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("fields", "refused_rows"),
    [
        ({"outcome": "error", "error_type": "authentication_error", "provider": ""}, ["00"]),
        ({"outcome": "error", "path": "/nothing", "provider": ""}, ["00", "01", "02"]),
        ({"outcome": "max_tokens"}, ["00", "01", "02"]),
    ],
    ids=["no key", "no path", "no call"],
)
async def test_requests_without_a_call_leave_room_for_others_in_the_queue(
    sqlite: Settings, fields: dict[str, str], refused_rows: list[str]
) -> None:
    refused = {"input_tokens": 0, "output_tokens": 0, **fields}
    with running_ledger(sqlite, max_rows=6) as ledger:
        other = open_for_writing(sqlite)
        with other.transaction():  # holds the lock
            await ledger.record(*(new_receipt(number, **refused) for number in range(5)))
            await ledger.record(*map(new_receipt, range(10, 14)))
            assert (ledger.queue.state.dropped_rows, len(ledger.queue)) == (3, 6)
        ledger.wait_written(6)
        other.close()
    assert [row["id"][-2:] for row in read_rows(sqlite)] == [*refused_rows, "10", "11", "12"]
    assert sum(row["requests"] for row in read_hourly(sqlite)) == 6


async def test_rows_that_arrive_faster_than_they_are_stored_wait_in_the_file(
    database: Settings, tmp_path: Path
) -> None:
    settings = structs.replace(database, data_directory=tmp_path / "spool")
    file = find_spool_file(settings)
    assert file is not None
    with running_ledger(settings, max_rows=2_000) as ledger:
        await ledger.record(*map(new_receipt, range(1_000)))
        ledger.wait_written(1_000)
        await ledger.record(*map(new_receipt, range(1_000, 3_000)))
        ledger.wait_written(3_000)
        assert (ledger.queue.state.condition, ledger.queue.state.dropped_rows) == ("ok", 0)
    assert file.exists()
    assert sum(row["requests"] for row in read_hourly(settings)) == 3_000


async def test_rows_that_arrive_without_an_end_leave_time_to_store_them(database: Settings, tmp_path: Path) -> None:
    settings, numbers = structs.replace(database, data_directory=tmp_path / "spool"), itertools.count(2_000)

    def follow(_: Receipt) -> Cost:
        """While a row is built, the next one arrives."""
        if ledger.queue.state.written_rows < 1_500:
            ledger.queue.record(new_receipt(next(numbers)))
        return UNKNOWN_COST

    with running_ledger(settings, max_rows=2_000, cost=follow) as ledger:
        await ledger.record(*map(new_receipt, range(2_000)))
        ledger.wait_written(1_500)
        assert ledger.queue.spooled_rows < 100_000


async def test_a_deleted_request_changes_no_sums(database: Settings) -> None:
    await store(database, *map(new_receipt, range(4)))
    connection = open_for_writing(database)
    assert connection.execute("DELETE FROM requests") == 4
    connection.close()
    assert sum(row["requests"] for row in read_hourly(database)) == 4


_COLUMNS = ("hash", "key_id", "hint", "created_at", "expires_at")
_EVERYTHING = f"SELECT {', '.join(_COLUMNS)} FROM key_hashes ORDER BY hash"


def rows_of(count: int) -> list[tuple[object, ...]]:
    return [(f"{number:04}", "key_1", "x", number, None) for number in range(count)]


@pytest.mark.parametrize("count", [1, 3, MAX_ROWS_PER_STATEMENT, 2 * MAX_ROWS_PER_STATEMENT + 7])
def test_all_rows_are_inserted(database: Settings, count: int) -> None:
    with closing(open_for_writing(database)) as connection:
        with connection.transaction():
            connection.insert("key_hashes", _COLUMNS, rows_of(count))
        assert connection.query(_EVERYTHING) == rows_of(count)


@pytest.mark.parametrize("order", [1, -1], ids=["small first", "large first"])
def test_rows_with_different_types_in_one_column_are_inserted_by_one_statement(database: Settings, order: int) -> None:
    """PostgreSQL derives the type of a column from all rows, and psycopg sends integers in the smallest type."""
    rows = [
        StoredRequest(id="req_1", input_tokens=1, cost=None, first_token=None, output_rate=None),
        StoredRequest(id="req_2", input_tokens=2**15, cost=5, first_token=2**31, output_rate=2.0),
        StoredRequest(id="req_3", input_tokens=2**46, cost=2**46, first_token=None, output_rate=0.25, stream=True),
        StoredRequest(id="req_4", input_tokens=0, cost=-1, first_token=3, output_rate=None),
    ][::order]
    with closing(open_for_writing(database)) as connection:
        connection.insert("requests", StoredRequest.__struct_encode_fields__, list(map(astuple, rows)))
    stored = [
        StoredRequest(*map(row.__getitem__, StoredRequest.__struct_encode_fields__)) for row in read_rows(database)
    ]
    assert stored == sorted(rows, key=lambda row: row.id)


def test_a_failed_transaction_is_rolled_back_and_the_next_one_is_stored(database: Settings) -> None:
    with closing(open_for_writing(database)) as connection:
        with pytest.raises(DatabaseError, match="key_hashes") as raised, connection.transaction():
            connection.insert("key_hashes", _COLUMNS, [*rows_of(3), *rows_of(1)])
        assert raised.value.concerns_value

        def fail() -> None:
            with connection.transaction():
                connection.insert("key_hashes", _COLUMNS, rows_of(2))
                raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            fail()
        with connection.transaction():
            connection.insert("key_hashes", _COLUMNS, rows_of(1))
        assert connection.query(_EVERYTHING) == rows_of(1)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_ends_is_reported_with_its_reason(database: Settings) -> None:
    with closing(open_for_writing(database)) as connection:

        def lose_connection() -> None:
            with connection.transaction():
                connection.insert("key_hashes", _COLUMNS, rows_of(1))
                with rejecting_connections(database):
                    connection.insert("key_hashes", _COLUMNS, rows_of(2)[1:])

        with pytest.raises(DatabaseError) as raised:
            lose_connection()
        assert str(raised.value).splitlines()[0] == "terminating connection due to administrator command"
        assert classify_database_error(raised.value) == "unreachable"
        with connection.transaction():  # on another connection
            connection.insert("key_hashes", _COLUMNS, rows_of(1))
        assert connection.query(_EVERYTHING) == rows_of(1)
