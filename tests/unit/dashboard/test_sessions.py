"""Pages of sessions: names, share of the context window, failed requests and unknown costs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.dashboard.conversation import ToolWait
from anthropic_proxy.console.dashboard.page import Figure
from anthropic_proxy.console.dashboard.permissions import find_client_of_label
from anthropic_proxy.console.dashboard.requests import build_requests_page
from anthropic_proxy.console.dashboard.session import MAX_TURNS, build_session_page
from anthropic_proxy.console.dashboard.sessions import build_sessions_page
from anthropic_proxy.console.formats import clock_time, day_and_time
from anthropic_proxy.console.keys.administration import KeyCommand, open_administration
from anthropic_proxy.console.ledger.periods import resolve_usage_range
from anthropic_proxy.console.ledger.queries import sum_usage
from anthropic_proxy.console.ledger.receipt_queue import ContentBuffer
from anthropic_proxy.console.ledger.request_queries import sum_sessions
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Cost, ModelFeatures, PrefixChange
from tests.support.ledger import NOON, UNKNOWN_COST, new_receipt, reading, running_ledger, store
from tests.support.page_context import build_context, read_table

FAILED: dict[str, Any] = {
    "outcome": "error",
    "status": 529,
    "error_type": "overloaded_error",
    "error": "groq: overloaded",
    "input_tokens": 0,
    "output_tokens": 0,
    "first_token_seconds": None,
}
STARTED = day_and_time(NOON * 1_000_000)


async def pages_of(
    directory: Path, *fields: dict[str, Any], project: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of the list and of the page of a session, whose model reads at most 200,000 tokens."""
    settings = Settings(data_directory=directory / "data")
    receipts = [
        new_receipt(number, **{"session": "0f6c2a1e", "project": project, "started_at": NOON + 9 * number, **one})
        for number, one in enumerate(fields)
    ]
    known = {"small": Cost(43_000_000, None, "own"), "local": Cost(0, None, "local")}
    await store(settings, *receipts, cost=lambda receipt: known.get(receipt.model, UNKNOWN_COST))
    with reading(settings) as engine, engine.connect() as connection:
        window = ModelFeatures(
            model="groq/small",
            provider="groq",
            context_window=300_000,
            max_input=200_000,
            max_output=None,
            tools=True,
            images=True,
            documents=True,
            efforts=(),
            has_thinking_budget=False,
            source="list",
        )

        def describe(names: Sequence[str], label: str) -> list[ModelFeatures]:
            return [structs.replace(window, max_input=4_096) if label == "small" else window]

        found = [
            build(build_context(path, connection, settings, query, describe_models=describe))
            for build, path, query in (
                (build_sessions_page, "/dashboard/sessions", {}),
                (build_session_page, "/dashboard/session", {"session": ["0f6c2a1e"]}),
            )
        ]
    return dict(found[0] or {}), dict(found[1] or {})


async def test_failed_requests_and_unknown_costs_are_no_zeros(tmp_path: Path) -> None:
    unpriced = {"model": "new"}
    listed, page = await pages_of(tmp_path, {}, FAILED | unpriced, unpriced, unpriced, {})
    assert [(one.label, one.value, one.note) for one in page["figures"]][:3] == [
        ("Requests", "5", "1 error"),
        ("Cost", "≥ $0.086", "$0.043 per request; 3 unknown"),
        ("Largest context", "100", "<1 % of the window of 200 k; 100 in the latest request"),
    ]
    assert page["context_chart"].series[0].values == [100.0, None, 100.0, 100.0, 100.0]
    assert [row[1] for row in page["context_chart"].rows] == ["100", "–", "100", "100", "100"]
    times = [clock_time((NOON + 9 * number) * 1_000_000) for number in range(5)]
    assert [column.label for column in page["context_chart"].columns] == times, "with seconds, so that they differ"
    assert read_table(listed, "cost")[0][0] == "≥ $0.086, 3 unknown"


async def test_only_the_conversation_counts_for_the_largest_context(tmp_path: Path) -> None:
    beside = {"input_tokens": 36_000, "model": "o3", "tool_count": 0}
    listed, page = await pages_of(
        tmp_path,
        {"kind": "main"},
        {"kind": "classifier", **beside},
        {"kind": "subagent", "agent": "a1", **beside},
        {"kind": "auxiliary", **beside},
    )
    assert (page["figures"][2].value, page["figures"][2].note) == (
        "100",
        "<1 % of the window of 200 k; 100 in the latest request",
    )
    assert listed["table"].rows[0].cells["context"].note == "<1 % of 200 k"


async def test_the_length_of_a_session_is_the_same_on_both_pages(tmp_path: Path) -> None:
    listed, page = await pages_of(tmp_path, {}, {}, {})
    assert (read_table(listed, "length")[0][0], page["verdict"]) == ("18.0 s", "3 requests in 18.0 s.")


async def test_the_window_is_that_of_the_key_whose_requests_a_session_has(tmp_path: Path) -> None:
    """An error has taught a window of 4,096 tokens about the requests of this key."""
    listed, page = await pages_of(tmp_path, {"client": Client(name="small")})
    assert page["figures"][2].note == "2 % of the window of 4,096; 100 in the latest request"
    (row,) = listed["table"].rows
    assert row.cells["context"].note == "2 % of 4,096"


async def test_the_client_of_a_stored_label_is_its_key_or_the_label_itself(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data", virtual_keys=True)
    with open_administration(settings, "test") as administration:
        key = administration.execute(KeyCommand(action="create", fields={"label": "ci"})).key
    assert key is not None
    with reading(settings) as engine, engine.connect() as connection:
        assert [find_client_of_label(connection, label) for label in ("ci", "key 1", "")] == [key.id, "key 1", ""]


@pytest.mark.parametrize("range_name", ["1h", "7d"])
async def test_all_screens_count_the_requests_of_a_session_that_named_a_model(range_name: str, tmp_path: Path) -> None:
    """Single requests are added up for an hour, and hourly sums for a week."""
    settings = Settings(data_directory=tmp_path / "data")
    unnamed: dict[str, Any] = {
        **FAILED,
        "status": 404,
        "requested_model": "",
        "provider": "",
        "prefix": "",
        "model": "",
    }
    earlier = {"session": "none", "started_at": NOON - 5 * 86_400}
    fields: list[dict[str, Any]] = [{}, unnamed, FAILED, unnamed, {"session": "two"}, {**unnamed, **earlier}]
    receipts = [
        new_receipt(number, **{"session": "one", "started_at": NOON + number, **each})
        for number, each in enumerate(fields)
    ]
    await store(settings, *receipts)
    with reading(settings) as engine, engine.connect() as connection:
        query = {"range": [range_name]}
        listed = build_sessions_page(build_context("/dashboard/sessions", connection, settings, query))
        page = build_session_page(build_context("/dashboard/session", connection, settings, {"session": ["one"]}))
        everything = build_requests_page(build_context("/dashboard/requests", connection, settings, query))
        used = sum_usage(
            connection, resolve_usage_range("8d", "", datetime.fromtimestamp(NOON + 3_600, UTC)), "session"
        )
    assert [row.id for row in listed["table"].rows] == ["two", "one"]
    assert read_table(listed, "requests", "errors") == [["1", "0"], ["2", "1"]]
    assert listed["verdict"] == "2 sessions in this range."
    assert everything["verdict"] == f"3 requests in this range. {2 if range_name == '1h' else 3} more named no model."
    assert page is not None
    assert page["figures"][0] == Figure("Requests", "2", "1 error")
    assert (page["verdict"], page["turn_count"]) == ("2 requests in 3.00 s. 2 more named no model.", 2)
    assert sorted((one.name, one.sums.requests, one.sums.errors) for one in used) == [("one", 2, 1), ("two", 1, 0)]


async def test_a_session_of_one_request_has_no_length(tmp_path: Path) -> None:
    listed, page = await pages_of(tmp_path, {})
    assert (read_table(listed, "length")[0][0], page["verdict"]) == ("–", "1 request.")


UUID = "0f6c2a1e-94a4-4c56-9d83-1f2b3c4d5e6f"


@pytest.mark.parametrize(
    ("session", "project", "name"),
    [
        (UUID, "checkout-api", "checkout-api 0f6c2a1e"),
        (UUID, "", "Session 0f6c2a1e"),
        ("nightly-2026-11-17", "shop", "shop nightly-2026-11-17"),
    ],
)
async def test_a_session_without_a_title_is_named_by_its_project_and_the_beginning_of_its_id(
    tmp_path: Path, session: str, project: str, name: str
) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_receipt(session=session, project=project))
    assert names_everywhere(settings, session) == {name}


def names_everywhere(settings: Settings, session: str) -> set[str]:
    """Return the names of the session in list and page, and in the function that commands and the palette use."""
    with reading(settings) as engine, engine.connect() as connection:
        listed = build_sessions_page(build_context("/dashboard/sessions", connection, settings))
        page = build_session_page(build_context("/dashboard/session", connection, settings, {"session": [session]}))
        named = find_names(connection, sum_sessions(connection, [session]))
    assert page is not None
    rows = {row.id: row.cells["name"].text for row in listed["table"].rows}
    return {rows[session], str(page["title"]), named[session]}


def reply_with(text: str, *, stream: bool) -> bytes:
    if not stream:
        return msgspec.json.encode({"type": "message", "content": [{"type": "text", "text": text}]})
    half = len(text) // 2
    deltas = [{"index": 0, "delta": {"type": "text_delta", "text": part}} for part in (text[:half], text[half:])]
    events = [{"type": "message_start", "message": {}}, *({"type": "content_block_delta", **one} for one in deltas)]
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), msgspec.json.encode(one)) for one in events)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"title": "Fix the test of discounts"}', "Fix the test of discounts"),
        ('```json\n{"title": " Fix\\nit\\u0007 "}\n```', "Fix it"),
        (f'{{"title": "Use sk-ant-api03-{"a" * 40}"}}', "Use sk-…aaaa"),
        ('{"title": 5}', "shop 0f6c2a1e"),
        ("Fix the test", "shop 0f6c2a1e"),
    ],
)
async def test_a_session_has_its_title_as_its_one_name(tmp_path: Path, text: str, name: str, stream: bool) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    titles = ContentBuffer(lambda: None)
    with running_ledger(settings, titles=titles) as ledger:
        for number, title in enumerate(('{"title": "Earlier"}', text)):
            receipt = new_receipt(number, session=UUID, project="shop", kind="auxiliary", agent="")
            if number or name.startswith("Fix"):
                titles.record(receipt.request_id, "client request", b"{}")
                titles.record(receipt.request_id, "client response", reply_with(title, stream=stream))
            await ledger.record(receipt)
        ledger.wait_written(2)
    (found,) = names_everywhere(settings, UUID)
    assert found == name
    with reading(settings) as engine, engine.connect() as connection:
        query = {"q": [name.rsplit(maxsplit=1)[-1]]}
        listed = build_sessions_page(build_context("/dashboard/sessions", connection, settings, query))
    assert [row.id for row in listed["table"].rows] == [UUID]


async def test_a_session_shows_one_conversation_at_a_time_and_its_latest_turns(tmp_path: Path) -> None:
    agents = [{"agent": "explore-1"}, *({} for _ in range(MAX_TURNS + 5))]
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, *(new_receipt(number, session="one", **one) for number, one in enumerate(agents)))

    def build(query: dict[str, list[str]]) -> Any:
        with reading(settings) as engine, engine.connect() as connection:
            query = {"session": ["one"], **query}
            return build_session_page(build_context("/dashboard/session", connection, settings, query))

    page = build({})
    assert [(name, count, shown) for _, name, count, shown in page["agents"]] == [
        ("Sub-agent explore-1", 1, False),
        ("Main", MAX_TURNS + 5, True),
    ]
    assert [turn.row.id for turn in page["turns"]] == [f"req_{number:024d}" for number in range(6, MAX_TURNS + 6)]
    assert (page["first"], page["part"].newer) == (6, "")
    older = build({"before": [page["turns"][0].row.id]})
    assert ([turn.row.id for turn in older["turns"]][-1], older["first"]) == (f"req_{5:024d}", 1)
    assert older["part"].older == ""
    assert build({"after": [older["turns"][-1].row.id]})["turns"][0].row.id == page["turns"][0].row.id
    assert [turn.row.agent for turn in build({"by": ["explore-1"]})["turns"]] == ["explore-1"]
    with pytest.raises(InvalidRequest) as raised:
        build({"by": ["none"]})
    assert raised.value.message == "by: the session has no sub-agent 'none'."


async def test_requests_beside_the_conversation_are_no_turns_of_it(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    own = {"session": "one", "user_agent": "claude-cli/2.1.332 (external, cli)", "message_count": 1}
    failed = {"outcome": "error", "status": 502, "input_tokens": 0, "output_tokens": 0}
    receipts = [new_receipt(1, **own, **failed), new_receipt(2, **own, tool_count=4)]
    receipts.append(new_receipt(3, **{**own, "message_count": 2}))
    await store(settings, *receipts)

    def build(**query: list[str]) -> Any:
        with reading(settings) as engine, engine.connect() as connection:
            return build_session_page(
                build_context("/dashboard/session", connection, settings, {"session": ["one"], **query})
            )

    page, apart = build(), build(by=["background"])
    assert [(name, count, shown) for _, name, count, shown in page["agents"]] == [
        ("Main", 1, True),
        ("Background", 2, False),
    ]
    assert [turn.row.id for turn in page["turns"]] == [receipts[1].request_id]
    assert page["figures"][0] == Figure("Requests", "3", "1 error, 1 in the background")
    assert [turn.row.id for turn in apart["turns"]] == [receipts[0].request_id, receipts[2].request_id]


async def test_the_kind_of_a_request_decides_whether_it_is_a_turn(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    own = {"session": "one", "user_agent": "claude-cli/2.1.332 (external, cli)", "message_count": 1}
    kinds = ["main", "compaction", "auxiliary", "classifier", "auto_mode_check", "other"]
    rows = [new_receipt(number, **own, kind=kind, tool_count=number % 2) for number, kind in enumerate(kinds)]
    await store(settings, *rows, new_receipt(9, **own, kind="main", tool_count=4))
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard/session", connection, settings, {"session": ["one"]})
        page: Any = build_session_page(context)
    assert [(name, count) for _, name, count, _ in page["agents"]] == [("Main", 4), ("Background", 3)]
    assert [turn.row.kind for turn in page["turns"]] == ["main", "compaction", "other", "main"]


async def test_a_session_without_any_tools_is_a_conversation(tmp_path: Path) -> None:
    own = {"user_agent": "claude-cli/2.1.332 (external, cli)", "message_count": 1}
    _, page = await pages_of(tmp_path, own, own)
    assert [(name, count) for _, name, count, _ in page["agents"]] == [("Main", 2)]


async def test_requests_that_break_the_cache_are_marked_with_their_cost(tmp_path: Path) -> None:
    tokens = {"model": "gpt-4.1", "provider": "openai", "prefix": "openai", "input_tokens": 500}
    change = PrefixChange("tools", "tool 3 (WebFetch)", 0.9, tokens=40_000)
    _, page = await pages_of(
        tmp_path,
        {**tokens, "input_tokens": 45_000},
        {**tokens, "cache_read_tokens": 45_000},
        {**tokens, "input_tokens": 42_000, "cache_read_tokens": 5_000, "prefix_change": change},
        {**tokens, "input_tokens": 4_000, "cache_read_tokens": 48_000},
        {**tokens, "input_tokens": 53_000},
        {**tokens, "model": "gpt-4.1-mini"},
    )
    first, expired = "40.0 k tokens read again, $0.060 more", "48.0 k tokens read again, $0.072 more"
    assert [turn.cache_break and (turn.cache_break.cause, turn.cache_break.loss) for turn in page["turns"]] == [
        *(None, None, ("tool 3 (WebFetch) changed", first), None, ("cache not read", expired), None),
    ]
    assert page["figures"][-1].note == "98.0 k tokens; 2 breaks, $0.13 more"
    chart = page["cached_chart"]
    assert [(band.first, band.last, band.label) for band in chart.bands] == [
        (2, 2, "tool 3 (WebFetch)"),
        (4, 4, "cache not read"),
    ]
    assert chart.titles == ["Read from cache", "break"]
    assert [row[1:] for row in chart.rows] == [
        ["0 %", "–"],
        ["99 %", "–"],
        ["11 %", f"tool 3 (WebFetch) changed: {first}"],
        ["92 %", "–"],
        ["0 %", f"cache not read: {expired}"],
        ["0 %", "–"],
    ]
    assert chart.columns[2].title.endswith(f": Read from cache = 11 %; tool 3 (WebFetch) changed = {first}")
    assert chart.columns[2].href == f"/dashboard/requests/{page['turns'][2].row.id}"


async def test_a_long_session_marks_the_breaks_of_each_column(tmp_path: Path) -> None:
    change = PrefixChange("system", "system text", 0.9, tokens=2_000)
    broken = {"input_tokens": 3_000, "prefix_change": change}
    _, page = await pages_of(tmp_path, *(broken if number == 61 else {} for number in range(130)))
    chart = page["cached_chart"]
    assert (len(chart.columns), [(band.first, band.label) for band in chart.bands]) == (44, [(20, "system text")])
    assert chart.columns[20].href.endswith(f"{61:024d}"), "the link of the column leads to the break"


async def test_a_free_session_has_no_chart_of_costs(tmp_path: Path) -> None:
    _, page = await pages_of(tmp_path, {"model": "local"})
    assert page["cost_chart"].empty_text == "All requests were free."
    assert [(one.label, one.value, one.note) for one in page["figures"]][1] == ("Cost", "free", "of all requests")


async def test_the_time_of_tools_lies_between_a_reply_and_the_request_with_the_results(tmp_path: Path) -> None:
    """Each request takes 1.5 s."""
    calls: dict[str, Any] = {
        "tool_count": 3,
        "outcome": "tool_use",
        "blocks": [("tool call", "Bash", NOON + 1.0, 0), ("tool call", "Read", NOON + 1.1, 5), ("", "", NOON + 1.2, 9)],
    }
    results = {"tool_results": 2, "tool_count": 3}
    _, page = await pages_of(
        tmp_path,
        calls | {"started_at": NOON},
        calls | results | {"started_at": NOON + 4, "tool_times": [("Bash", 1.099), ("mcp__a__b", 0.022)]},
        FAILED | {"started_at": NOON + 6, "tool_results": 2, "tool_count": 3},
        results | {"started_at": NOON + 9},
        results | {"started_at": NOON + 9.1, "agent": "a1"},
        {"started_at": NOON + 20, "tool_count": 3},
    )
    assert [turn.tools for turn in page["turns"]] == [
        ToolWait(2_500_000, "Bash 1.10 s, mcp__a__b 22 ms"),
        ToolWait(500_000, "Bash, Read"),
        *[None] * 3,
    ]
    chart = page["time_chart"]
    assert [(one.name, one.total) for one in chart.series] == [("requests", "7.50 s"), ("tools", "3.00 s")]
    assert [row[1:] for row in chart.rows] == [
        ["1.50 s", "2.50 s"],
        ["1.50 s", "0.50 s"],
        ["1.50 s", "–"],
        ["1.50 s", "–"],
        ["1.50 s", "–"],
    ]


async def test_a_session_without_tools_has_no_chart_of_times(tmp_path: Path) -> None:
    _, page = await pages_of(tmp_path, {}, {"tool_results": 1})
    assert [turn.tools for turn in page["turns"]] == [ToolWait(7_500_000, ""), None]
    _, page = await pages_of(tmp_path / "other", {}, {})
    assert page["time_chart"].shapes == []
