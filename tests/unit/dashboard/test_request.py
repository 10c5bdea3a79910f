"""Page of one request: cost by kind of token, remedy, stored texts, and timeline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from anthropic_proxy.console.dashboard.request import (
    MAX_BLOCK_BARS,
    AttemptRow,
    Bar,
    TokenCost,
    build_request_page,
    build_timeline,
    list_attempts,
    list_client_events,
    sum_failed_attempt_time,
)
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.records import MAX_ATTEMPT_ERROR_CHARACTERS, StoredRequest, decode_attempt_times
from anthropic_proxy.console.ledger.request_queries import (
    list_stored_requests,
)
from anthropic_proxy.console.ledger.tables import requests
from anthropic_proxy.gateway.error_catalog import find_remedy
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Cost, InspectionRecord, UpstreamAttempt
from tests.support.ledger import NOON, UNKNOWN_COST, new_receipt, reading, store, store_checked_reply
from tests.support.page_context import build_context


async def build_page(settings: Settings, cost: Cost, billed_searches: int = 0) -> Mapping[str, Any]:
    """Return the page of a request to gpt-4.1."""
    receipt = new_receipt(
        provider="openai", prefix="openai", model="gpt-4.1", input_tokens=2_118, cache_read_tokens=41_472
    )
    receipt.output_tokens, receipt.thinking_tokens, receipt.billed_searches = 486, 86, billed_searches
    await store(settings, receipt, cost=cost)
    with reading(settings) as engine, engine.connect() as connection:
        path_parameters = {"id": receipt.request_id}
        page = build_request_page(
            build_context("/dashboard/requests/x", connection, settings, path_parameters=path_parameters)
        )
    assert page is not None
    return page


@pytest.mark.parametrize(
    ("cost", "figure"),
    [
        (Cost(None, 90_000_000, ""), ("unknown", "no price of openai/gpt-4.1 was known")),
        (Cost(None, None, "list, no price of tier scale"), ("unknown", "list, no price of tier scale")),
        (Cost(28_860_000, None, "list"), ("$0.029", "no price of claude-haiku-4-5 is known")),
        (Cost(28_860_000, 90_000_000, "list"), ("$0.029", "$0.090 at claude-haiku-4-5's price")),
    ],
)
async def test_an_unknown_cost_names_the_model_that_replied(
    tmp_path: Path, cost: Cost, figure: tuple[str, str]
) -> None:
    page = await build_page(Settings(data_directory=tmp_path / "data"), cost)
    (found,) = [one for one in page["figures"] if one.label == "Cost"]
    assert (found.value, found.note) == figure


async def test_the_counts_of_a_cancelled_request_are_marked_as_partly_estimated(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_receipt(outcome="cancelled", output_tokens=0, first_token_seconds=None))
    with reading(settings) as engine, engine.connect() as connection:
        page = build_request_page(
            build_context("/dashboard/requests/x", connection, settings, path_parameters={"id": f"req_{1:024d}"})
        )
    assert page is not None
    (found,) = [one for one in page["figures"] if one.label == "Output"]
    assert (found.value, found.note) == ("0", "cancelled, partly estimated")


@pytest.mark.parametrize("cost", [Cost(28_860_000, None, "genai-prices")])
async def test_the_cost_is_divided_by_kind_of_token(tmp_path: Path, cost: Cost) -> None:
    assert (await build_page(Settings(data_directory=tmp_path / "data"), cost))["tokens"] == [
        TokenCost("cache read", "cache-read", "41,472", "$0.50", "$0.021"),
        TokenCost("input", "input", "2,118", "$2.00", "$0.004"),
        TokenCost("output", "output", "400", "$8.00", "$0.003"),
        TokenCost("thinking", "thinking", "86", "$8.00", "<$0.001"),
    ]


@pytest.mark.parametrize(
    ("cost", "count", "found"),
    [
        (
            Cost(48_860_000, None, "genai-prices, 2 web searches"),
            2,
            ["$0.50", "$2.00", "$8.00", "$8.00", "$10.00 per 1,000"],
        ),
        # half of each price, and the searches at their normal price
        (
            Cost(24_430_000, None, "genai-prices, tier flex, 1 web search"),
            1,
            ["$0.25", "$1.00", "$4.00", "$4.00", "$10.00 per 1,000"],
        ),
        # the price of searches was higher at that time
        (Cost(5_000_000, None, "genai-prices, 1 web search"), 1, ["", "", "", "", "$10.00 per 1,000"]),
        # the price of the tier is unknown, that of the searches is not
        (
            Cost(None, None, "genai-prices, no price of tier scale, 2 web searches"),
            2,
            ["", "", "", "", "$10.00 per 1,000"],
        ),
    ],
)
async def test_billed_searches_have_their_own_cost(tmp_path: Path, cost: Cost, count: int, found: list[str]) -> None:
    tokens = (await build_page(Settings(data_directory=tmp_path / "data"), cost, count))["tokens"]
    assert [one.price for one in tokens] == found
    assert (tokens[-1].name, tokens[-1].tokens) == ("web search", str(count))
    assert (
        tokens[-1].cost == {48_860_000: "$0.020", 24_430_000: "$0.010", 5_000_000: "$0.005", None: "$0.020"}[cost.cost]
    )


@pytest.mark.parametrize("cost", [UNKNOWN_COST, Cost(0, 0, "local")])
async def test_an_unknown_or_free_request_has_no_prices(tmp_path: Path, cost: Cost) -> None:
    tokens = (await build_page(Settings(data_directory=tmp_path / "data"), cost))["tokens"]
    assert [(one.price, one.cost) for one in tokens] == [("", "")] * 4


@pytest.mark.parametrize("code", ["no-server", ""])
async def test_the_remedy_of_an_error_is_that_of_the_catalog(tmp_path: Path, code: str) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    failed = {"outcome": "error", "status": 502, "error_type": "api_error", "error": "groq: no server responds"}
    await store(settings, new_receipt(**failed, error_code=code))
    with reading(settings) as engine, engine.connect() as connection:
        (row,) = list_stored_requests(connection, RequestSelection(), 1)
    remedy = find_remedy(row.error_code)
    assert ("" if remedy is None else remedy.entry) == code


KEY = "sk-secret-key-of-this-test-1234567890"
FAILED = UpstreamAttempt(
    provider="groq",
    model="llama",
    offset_seconds=0.01,
    duration_seconds=0.2,
    status=429,
    error_type="rate_limit_error",
    error="12,000 tokens per minute",
)
SERVED = UpstreamAttempt(provider="openai", model="gpt-4.1", offset_seconds=0.3, duration_seconds=8.0, status=200)


async def test_a_request_without_tokens_has_no_figures(settings: Settings) -> None:
    receipt = new_receipt(outcome="error", status=429, input_tokens=0, output_tokens=0)
    await store(settings, receipt)
    with reading(settings) as engine, engine.connect() as connection:
        parameters = {"id": receipt.request_id}
        page = build_request_page(
            build_context("/dashboard/requests/x", connection, settings, path_parameters=parameters)
        )
    assert page is not None
    assert [figure.value for figure in page["figures"][2:]] == ["–", "–", "–"]
    assert [one.tokens for one in page["tokens"]] == ["–", "–"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_directory=tmp_path / "data")


async def stored(settings: Settings, **fields: object) -> StoredRequest:
    """Return a request as the ledger returns it."""
    await store(settings, new_receipt(**fields))
    with reading(settings) as engine, engine.connect() as connection:
        return StoredRequest(*connection.execute(select(requests)).one())


async def test_each_attempt_is_a_bar_and_the_reply_begins_at_the_first_token(settings: Settings) -> None:
    times = {"duration_seconds": 8.3, "first_token_seconds": 0.8, "output_tokens": 486}
    row = await stored(settings, attempts=[FAILED, SERVED], **times)
    found = build_timeline(row)
    assert found.ticks == ["0 s", "2 s", "4 s", "6 s", "8 s"]
    assert found.first_token == pytest.approx(0.08)
    assert found.bars[0] == Bar("attempt 1", "bad", 0.001, 0.02, "10 ms", "0.20 s", "groq: 429")
    assert [(bar.name, bar.role, round(bar.start, 3), round(bar.share, 3), bar.text) for bar in found.bars[1:]] == [
        ("wait", "wait", 0.021, 0.009, "before attempt 2"),
        ("attempt 2", "wait", 0.03, 0.05, "openai: wait for the first token"),
        ("reply", "text", 0.08, 0.75, "486 tokens"),
    ]
    assert sum_failed_attempt_time(row) == 290_000
    assert list_attempts(row) == [
        AttemptRow("groq", "llama", "429 after 0.20 s", "12,000 tokens per minute"),
        AttemptRow("openai", "gpt-4.1", "", ""),
    ]


async def test_each_content_block_is_a_bar_and_an_event(settings: Settings) -> None:
    blocks = [
        ("thinking", "", NOON + 0.8, 0),
        ("text", "", NOON + 2.0, 900),
        ("tool call", "Read", NOON + 3.0, 1_000),
        ("", "", NOON + 8.3, 1_084),
    ]
    times = {"duration_seconds": 8.3, "first_token_seconds": 0.8, "output_tokens": 486, "stream": True}
    row = await stored(settings, started_at=NOON, attempts=[SERVED], blocks=blocks, **times)
    bars = build_timeline(row).bars
    assert [(bar.name, bar.role, round(bar.start, 3), round(bar.share, 3), bar.text) for bar in bars] == [
        ("attempt 1", "wait", 0.03, 0.05, "openai: wait for the first token"),
        ("thinking", "thinking", 0.08, 0.12, "900 characters"),
        ("text", "text", 0.2, 0.1, "100 characters"),
        ("Read", "tool", 0.3, 0.53, "84 characters"),
    ]
    assert list_client_events(row) == [
        ("0.800 s", "message_start", "model claude-haiku-4-5"),
        ("0.800 s", "content_block_start", "0 thinking"),
        ("2.000 s", "content_block_stop", "0, 900 characters"),
        ("2.000 s", "content_block_start", "1 text"),
        ("3.000 s", "content_block_stop", "1, 100 characters"),
        ("3.000 s", "content_block_start", "2 tool_use Read"),
        ("8.300 s", "content_block_stop", "2, 84 characters"),
        ("8.300 s", "message_delta", "stop reason end_turn, 486 output tokens"),
        ("8.300 s", "message_stop", ""),
    ]


async def test_a_reply_with_many_blocks_has_a_limited_number_of_bars(settings: Settings) -> None:
    count = MAX_BLOCK_BARS + 5
    blocks = [("text", "", NOON + number, number) for number in range(count)]
    row = await stored(settings, started_at=NOON, blocks=blocks, duration_seconds=60.0, first_token_seconds=0.5)
    bars = build_timeline(row).bars
    assert len(bars) == 1 + MAX_BLOCK_BARS + 1
    assert (bars[-1].name, bars[-1].text) == ("more", "5 blocks")


async def test_a_request_of_an_earlier_version_has_phases(settings: Settings) -> None:
    row = await stored(settings, duration_seconds=2.0, first_token_seconds=0.5, failed_attempts=["groq 429"])
    found = build_timeline(row)
    assert [(bar.name, bar.start, bar.share, bar.text) for bar in found.bars] == [
        ("failed attempts and wait", 0.0, 0.25, "groq 429"),
        ("reply", 0.25, 0.75, "20 tokens"),
    ]


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (0.0, ["0 ms"]),
        (0.0231, ["0 ms", "5 ms", "10 ms", "15 ms", "20 ms"]),
        (0.2, ["0 s", "0.05 s", "0.10 s", "0.15 s"]),
        (301.0, ["0 s", "100 s", "200 s", "300 s"]),
    ],
)
async def test_the_scale_has_round_times(settings: Settings, seconds: float, ticks: list[str]) -> None:
    found = build_timeline(await stored(settings, duration_seconds=seconds, first_token_seconds=None))
    assert found.ticks == ticks
    assert all(0 <= bar.start <= 1 and bar.start + bar.share <= 1 for bar in found.bars)


async def test_errors_of_attempts_are_short_and_contain_no_key(settings: Settings) -> None:
    long = UpstreamAttempt(
        provider="groq", model="m", offset_seconds=0.0, error_type="api_error", error="x" * 290 + f" {KEY} " + "y" * 900
    )
    row = await stored(settings, attempts=[long, SERVED], duration_seconds=9.0)
    first, second = decode_attempt_times(row.attempt_times)
    assert len(first.error) == MAX_ATTEMPT_ERROR_CHARACTERS
    assert "sk-secret" not in row.attempt_times
    assert (second.provider, second.duration) == ("openai", 8_000_000)


async def test_what_inspectors_did_is_a_table(settings: Settings) -> None:
    records = [
        InspectionRecord("secrets", "request", "redacted", {"key": 2, "card number": 1}, 0.004),
        InspectionRecord("guard", "reply", "failed", seconds=2.0, failure="timeout"),
        InspectionRecord("guard", "request", "passed", seconds=0.1),
    ]
    row = await stored(settings, inspections=records)
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard/requests/x", connection, settings, path_parameters={"id": row.id})
        page = build_request_page(context)
    assert page is not None
    assert [(one.inspector, one.part, tag.text, found, time) for tag, one, found, time in page["inspections"]] == [
        ("secrets", "request", "redacted", "2 × key, 1 × card number", "4.0 ms"),
        ("guard", "reply", "failed", "timeout", "2.00 s"),
        ("guard", "request", "passed", "", "0.10 s"),
    ]


async def test_a_reply_and_the_checks_of_its_calls_link_to_each_other(settings: Settings) -> None:
    reply, check, second = await store_checked_reply(settings)
    with reading(settings) as engine, engine.connect() as connection:
        page, other = (
            build_request_page(
                build_context("/dashboard/requests/x", connection, settings, path_parameters={"id": one})
            )
            for one in (reply, check)
        )
    assert page is not None
    rows = [
        (one.tool, one.verdict.text, one.verdict.detail, one.request, one.model, one.tokens, one.cost, one.time)
        for one in page["checks"]
    ]
    none, numbers = ("–", "–", "–"), "2,000 in, 40 out"
    disagree = "the two checking models disagree"
    assert rows == [
        ("Bash", "flagged", "Deletes data that cannot be restored.", check, "gpt-4.1", numbers, "$0.004", "0.80 s"),
        ("mcp__shop__sell", "unavailable", disagree, "", "", *none),
        ("mcp__shop__sell", "unavailable", disagree, "req_gone", "", *none),
        ("mcp__shop__sell", "flagged", "Sells.", second, "pro", numbers, "unknown", "0.90 s"),
        ("Read", "harmless", "reads inside the directories: Read", "", "", *none),
        ("Write", "not flagged by the provider", "", "", "", *none),
        ("WebFetch", "unavailable", "timeout", "", "", *none),
    ]
    assert page["check_note"] == "1 flagged, 2 unavailable, 1 not flagged, 1 harmless · ≥ $0.004"
    assert other is not None
    assert (other["row"].parent, [one.verdict.text for one in other["checks"]]) == (reply, ["flagged"])
