"""All tokens that a reply states are counted, by the model that has used them: advisors, fallbacks, compactions."""

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from anthropic_proxy.console.ledger.costs import CostCalculator
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.plugins import ModelUsage, Receipt
from tests.support.harness import FakeResponse, ProxyHarness

HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-4-5"
PRICES = {
    HAIKU: {"input": "1", "read": "0.1", "short": "1.25", "long": "2", "output": "5"},
    OPUS: {"input": "5", "read": "0.5", "short": "6.25", "long": "10", "output": "25"},
}
"""Dollars per million tokens (platform.claude.com, "Pricing", read 2026-11)."""
KINDS = ("input", "read", "short", "long", "output")


def counts(incoming: int, output: int, read: int = 0, short: int = 0, long: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "input_tokens": incoming,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": output,
        **fields,
    }


def entry(kind: str, *numbers: int, model: str | None = None) -> dict[str, Any]:
    return counts(*numbers, type=kind, model=model)


Row = tuple[str, str, tuple[int, ...]]
"""Model, kind, and numbers of tokens in the order of `KINDS`."""
ADVISED = counts(
    412,
    531,
    iterations=[
        entry("message", 412, 89),
        entry("advisor_message", 823, 1_612, model=OPUS),
        entry("message", 1_348, 442, 412),
    ],
)
"""The example of platform.claude.com, "Advisor tool"."""
FELL_BACK = counts(
    412,
    264,
    iterations=[entry("message", 535, 0, model=HAIKU), entry("fallback_message", 412, 264, model=OPUS)],
)
"""The example of platform.claude.com, "Refusals and fallback"."""
CASES: dict[str, tuple[dict[str, Any], list[Row]]] = {
    "no iterations": (counts(10, 20, 300, 40, 50), [(HAIKU, "", (10, 300, 40, 50, 20))]),
    "an advisor": (ADVISED, [(HAIKU, "", (1_760, 412, 0, 0, 531)), (OPUS, "advisor_message", (823, 0, 0, 0, 1_612))]),
    "a fallback": (FELL_BACK, [(HAIKU, "", (535, 0, 0, 0, 0)), (OPUS, "fallback_message", (412, 0, 0, 0, 264))]),
    "a compaction": (
        counts(45, 1_234, iterations=[entry("compaction", 180_000, 3_500), entry("message", 23_000, 1_000)]),
        [(HAIKU, "", (23_000, 0, 0, 0, 1_234)), (HAIKU, "compaction", (180_000, 0, 0, 0, 3_500))],
    ),
    "an advisor that writes to its cache for both durations": (
        counts(10, 20, iterations=[entry("message", 10, 20), entry("advisor_message", 1, 2, 3, 4, 5, model=OPUS)]),
        [(HAIKU, "", (10, 0, 0, 0, 20)), (OPUS, "advisor_message", (1, 3, 4, 5, 2))],
    ),
    "a kind of later versions, with a model of its own": (
        counts(10, 20, iterations=[entry("message", 10, 20), entry("review", 7, 8, model=OPUS)]),
        [(HAIKU, "", (10, 0, 0, 0, 20)), (OPUS, "review", (7, 0, 0, 0, 8))],
    ),
    "a kind of later versions, without a model": (
        counts(10, 20, iterations=[entry("message", 10, 20), entry("review", 7, 8)]),
        [(HAIKU, "", (10, 0, 0, 0, 20)), (HAIKU, "review", (7, 0, 0, 0, 8))],
    ),
    "no entry of the reply itself": (
        counts(10, 20, iterations=[entry("advisor_message", 7, 8, model=OPUS)]),
        [(HAIKU, "", (10, 0, 0, 0, 20)), (OPUS, "advisor_message", (7, 0, 0, 0, 8))],
    ),
    "more in the counts of the reply than in its entries": (
        counts(100, 200, 30, iterations=[entry("message", 10, 200), entry("advisor_message", 7, 8, model=OPUS)]),
        [(HAIKU, "", (100, 30, 0, 0, 200)), (OPUS, "advisor_message", (7, 0, 0, 0, 8))],
    ),
    "writes for an hour that only the reply states": (
        counts(
            1,
            2,
            0,
            30,
            70,
            iterations=[{**entry("message", 1, 2), "cache_creation_input_tokens": 100, "cache_creation": None}],
        ),
        [(HAIKU, "", (1, 0, 30, 70, 2))],
    ),
    "writes by duration without their sum": (
        {**counts(1, 2, 0, 30, 70), "cache_creation_input_tokens": 0},
        [(HAIKU, "", (1, 0, 30, 70, 2))],
    ),
    "the id of the called model with a date": (
        counts(10, 20, iterations=[entry("message", 10, 20, model=f"{HAIKU}-20251001"), entry("compaction", 1, 2)]),
        [(HAIKU, "", (10, 0, 0, 0, 20)), (HAIKU, "compaction", (1, 0, 0, 0, 2))],
    ),
    "entries of other types": (
        counts(
            10, 20, iterations=[7, None, "x", [], {"type": 5, "model": 6, "input_tokens": "3", "output_tokens": True}]
        ),
        [(HAIKU, "", (13, 0, 0, 0, 20))],
    ),
    "no list": (counts(10, 20, iterations={"type": "message"}), [(HAIKU, "", (10, 0, 0, 0, 20))]),
    "null": (counts(10, 20, iterations=None), [(HAIKU, "", (10, 0, 0, 0, 20))]),
    "an empty list": (counts(10, 20, iterations=[]), [(HAIKU, "", (10, 0, 0, 0, 20))]),
    "negative counts": (
        counts(10, 20, iterations=[entry("advisor_message", -7, -8, model=OPUS)]),
        [(HAIKU, "", (10, 0, 0, 0, 20))],
    ),
    "hundreds of entries": (
        counts(
            300, 300, iterations=[entry("message", 1, 1)] * 300 + [entry("advisor_message", 1, 1, model=OPUS)] * 300
        ),
        [(HAIKU, "", (300, 0, 0, 0, 300)), (OPUS, "advisor_message", (300, 0, 0, 0, 300))],
    ),
}


def message(usage: dict[str, Any]) -> bytes:
    content = [{"type": "text", "text": "Cold."}]
    return json.dumps({"type": "message", "stop_reason": "end_turn", "content": content, "usage": usage}).encode()


def stream(usage: dict[str, Any], *, is_cut: bool = False) -> bytes:
    """`is_cut`: the connection ends after the last count."""
    start = {name: number for name, number in usage.items() if name != "iterations"}
    events = [
        {
            "type": "message_start",
            "message": {"type": "message", "content": [], "usage": {**start, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Cold."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        *([] if is_cut else [{"type": "message_stop"}]),
    ]
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


async def receive(body: bytes, *, is_streamed: bool, **fields: Any) -> tuple[Receipt, CostCalculator]:
    """`fields`: of the request."""
    chunks = body.splitlines(keepends=True) if is_streamed else [body]
    built = ProxyHarness(lambda *_: FakeResponse(200, *chunks), ANTHROPIC_API_KEY="k")
    await built.post(model=HAIKU, stream=is_streamed, **fields)
    (receipt,) = built.receipts
    return receipt, CostCalculator(built.services.settings)


def price(model: str, numbers: tuple[int, ...]) -> int:
    dollars = sum(Decimal(PRICES[model][kind]) * number for kind, number in zip(KINDS, numbers, strict=True))
    return round(dollars * 1_000)


def list_numbers(used: TokenCounts) -> tuple[int, ...]:
    short = used.cache_write_tokens - used.cache_write_1h_tokens
    return used.input_tokens, used.cache_read_tokens, short, used.cache_write_1h_tokens, used.output_tokens


def list_rows(parts: tuple[ModelUsage, ...]) -> list[Row]:
    return [(one.model, one.kind, list_numbers(one)) for one in parts]


@pytest.mark.parametrize("form", ["whole", "streamed", "cut"])
@pytest.mark.parametrize("case", CASES)
async def test_each_model_has_the_tokens_that_the_reply_states(case: str, form: str) -> None:
    usage, expected = CASES[case]
    body = message(usage) if form == "whole" else stream(usage, is_cut=form == "cut")
    receipt, calculator = await receive(body, is_streamed=form != "whole")
    cost = calculator.calculate(receipt)
    whole = tuple(map(sum, zip(*(numbers for _, _, numbers in expected), strict=True)))
    (attempt,) = receipt.attempts
    assert list_numbers(receipt) == list_numbers(attempt) == whole
    assert cost.cost == sum(price(model, numbers) for model, _, numbers in expected)
    assert sorted(list_rows(cost.parts)) == (sorted(expected) if len(expected) > 1 else [])
    assert [part.cost for part in cost.parts] == [price(model, numbers) for model, _, numbers in list_rows(cost.parts)]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (counts(0, 0), (100, 1_000, 200, 0, 1)),
        (counts(0, 20), (100, 1_000, 200, 0, 20)),
        (counts(30, 0), (30, 0, 0, 0, 1)),
        (counts(0, 20, 1_300), (0, 1_300, 0, 0, 20)),
    ],
)
async def test_zeros_at_the_end_of_a_stream_replace_no_counts(last: dict[str, Any], expected: tuple[int, ...]) -> None:
    receipt, _ = await receive(cut_stream(HAIKU, TEXT) + ending(last), is_streamed=True)
    assert list_numbers(receipt) == expected


def ending(*last: dict[str, Any]) -> bytes:
    """The end of a stream that states its usage once or several times."""
    events = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage} for usage in last]
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in (*events, {"type": "message_stop"})
    )


WITH_ADVISOR = {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": OPUS}]}
WITH_FALLBACKS = {"fallbacks": [{"model": OPUS}]}
WITH_COMPACTION = {"context_management": {"edits": [{"type": "compact_20260112"}]}}
WITH_TOOL = {"tools": [{"name": "advise", "input_schema": {"type": "object"}}]}
CUT_BYTES = 400
"""Length of each text in a cut stream: 100 tokens."""


def cut_stream(model: str, *blocks: dict[str, Any], begun: Sequence[dict[str, Any]] = ()) -> bytes:
    """A stream that ends without its usage. A block of text has its text in deltas. `begun`: the iterations that the
    beginning states.
    """
    usage = counts(100, 1, 1_000, 200, **({"iterations": begun} if begun else {}))
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": model, "content": [], "usage": usage}}
    ]
    for index, block in enumerate(blocks):
        is_text = block["type"] == "text"
        events.append(
            {"type": "content_block_start", "index": index, "content_block": block | ({"text": ""} if is_text else {})}
        )
        if is_text:
            delta = {"type": "text_delta", "text": block["text"]}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    return b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one, separators=(',', ':'))}\n\n".encode() for one in events
    )


TEXT = {"type": "text", "text": "x" * CUT_BYTES}
CALL = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "advisor", "input": {}}
ADVICE = {
    "type": "advisor_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {"type": "advisor_result", "text": "y" * (CUT_BYTES - len('{"type":"advisor_result","text":""}'))},
}
HOP = {"type": "fallback", "from": {"model": HAIKU}, "to": {"model": OPUS}, "trigger": {"type": "refusal"}}
COMPACTED = {"type": "compaction", "content": None}
READ = 1_300
BEGUN = entry("message", 100, 1, 1_000, 200)
CUT_CASES: dict[str, tuple[dict[str, Any], bytes, list[Row]]] = {
    "advice": (
        WITH_ADVISOR,
        cut_stream(HAIKU, TEXT, CALL, ADVICE),
        [(HAIKU, "", (100, 1_000, 200, 0, 100)), (OPUS, "advisor_message", (READ, 0, 0, 0, 100))],
    ),
    "two pieces of advice": (
        WITH_ADVISOR,
        cut_stream(HAIKU, TEXT, CALL, ADVICE, CALL, ADVICE),
        [(HAIKU, "", (100, 1_000, 200, 0, 100)), (OPUS, "advisor_message", (2 * READ, 0, 0, 0, 200))],
    ),
    "an advisor that was not called": (WITH_ADVISOR, cut_stream(HAIKU, TEXT), [(HAIKU, "", (100, 1_000, 200, 0, 100))]),
    "the words of an advisor in a text": (
        WITH_ADVISOR,
        cut_stream(
            HAIKU, {"type": "text", "text": 'content_block_start "fallback" advisor_tool_result'.ljust(CUT_BYTES - 2)}
        ),
        [(HAIKU, "", (100, 1_000, 200, 0, 100))],
    ),
    "a tool of the client": (WITH_TOOL, cut_stream(HAIKU, TEXT), [(HAIKU, "", (100, 1_000, 200, 0, 100))]),
    "a fallback from the beginning": (
        WITH_FALLBACKS,
        cut_stream(OPUS, TEXT),
        [(OPUS, "fallback_message", (100, 1_000, 200, 0, 100))],
    ),
    "a fallback in the middle": (
        WITH_FALLBACKS,
        cut_stream(HAIKU, TEXT, HOP, TEXT, TEXT),
        [(HAIKU, "", (100, 1_000, 200, 0, 100)), (OPUS, "fallback_message", (READ, 0, 0, 0, 200))],
    ),
    "a model with a date": (
        WITH_FALLBACKS,
        cut_stream(f"{HAIKU}-20251001", TEXT),
        [(HAIKU, "", (100, 1_000, 200, 0, 100))],
    ),
    "a compaction": (
        WITH_COMPACTION,
        cut_stream(HAIKU, COMPACTED, TEXT),
        [(HAIKU, "", (100, 1_000, 200, 0, 100)), (HAIKU, "compaction", (READ, 0, 0, 0, 0))],
    ),
    "advice after the beginning has stated the first call": (
        WITH_ADVISOR,
        cut_stream(HAIKU, TEXT, CALL, ADVICE, begun=[BEGUN]),
        [(HAIKU, "", (100, 1_000, 200, 0, 100)), (OPUS, "advisor_message", (READ, 0, 0, 0, 100))],
    ),
    "a compaction that the beginning has stated, and advice": (
        WITH_ADVISOR | WITH_COMPACTION,
        cut_stream(HAIKU, COMPACTED, TEXT, CALL, ADVICE, begun=[entry("compaction", 50_000, 300), BEGUN]),
        [
            (HAIKU, "", (100, 1_000, 200, 0, 100)),
            (HAIKU, "compaction", (50_000, 0, 0, 0, 300)),
            (OPUS, "advisor_message", (READ, 0, 0, 0, 100)),
        ],
    ),
    "a fallback after the beginning has stated the first call": (
        WITH_FALLBACKS,
        cut_stream(HAIKU, TEXT, HOP, TEXT, TEXT, begun=[BEGUN]),
        [(HAIKU, "", (100, 1_000, 200, 0, 100)), (OPUS, "fallback_message", (READ, 0, 0, 0, 200))],
    ),
    "a fallback that the beginning has stated": (
        WITH_FALLBACKS,
        cut_stream(
            OPUS,
            TEXT,
            begun=[entry("message", 90, 0, model=HAIKU), entry("fallback_message", 100, 1, 1_000, 200, model=OPUS)],
        ),
        [(HAIKU, "", (90, 0, 0, 0, 0)), (OPUS, "fallback_message", (100, 1_000, 200, 0, 100))],
    ),
}


@pytest.mark.parametrize("case", CUT_CASES)
async def test_calls_of_other_models_count_in_a_stream_that_ends_before_its_usage(case: str) -> None:
    fields, body, expected = CUT_CASES[case]
    receipt, calculator = await receive(body, is_streamed=True, **fields)
    cost = calculator.calculate(receipt)
    rows = list_rows(cost.parts) or [(receipt.model, "", list_numbers(receipt))]
    assert sorted(rows) == sorted(expected)
    assert cost.cost == sum(price(model, numbers) for model, _, numbers in expected)


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_the_model_that_a_reply_names_has_its_tokens_after_a_fallback(is_streamed: bool) -> None:
    usage = counts(10, 20, 300, 40, 50)
    body = stream(usage).replace(b'"type": "message", ', b'"model": "%b", ' % OPUS.encode())
    if not is_streamed:
        body = json.dumps({**json.loads(message(usage)), "model": OPUS}).encode()
    receipt, calculator = await receive(body, is_streamed=is_streamed, **WITH_FALLBACKS)
    cost = calculator.calculate(receipt)
    assert list_rows(cost.parts) == [(OPUS, "fallback_message", (10, 300, 40, 50, 20))]
    assert cost.cost == price(OPUS, (10, 300, 40, 50, 20))


HUGE = 10**18


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (counts(-5, 20), (100, 0, 0, 0, 20)),
        (counts(HUGE, 20), (100, 0, 0, 0, 20)),
        (counts(math.nan, 20), (100, 0, 0, 0, 20)),
        (counts(math.inf, 20, 1_300), (100, 1_300, 0, 0, 20)),
        (counts(30, -5), (30, 0, 0, 0, 100)),
        (counts(30, HUGE), (30, 0, 0, 0, 100)),
        (counts(30, math.nan), (30, 0, 0, 0, 100)),
        (counts(30, 20, -7), (30, 1_000, 0, 0, 20)),
        (counts(30, 20, HUGE), (30, 1_000, 0, 0, 20)),
        ({"input_tokens": -5, "output_tokens": -5}, (100, 1_000, 200, 0, 100)),
        ({"input_tokens": -5, "x": math.nan, "output_tokens": 20}, (100, 1_000, 200, 0, 20)),
        ({"output_tokens": 20, "iterations": math.nan}, (100, 1_000, 200, 0, 20)),
    ],
)
async def test_an_invalid_count_at_the_end_of_a_stream_replaces_no_valid_one(
    last: dict[str, Any], expected: tuple[int, ...]
) -> None:
    receipt, _ = await receive(cut_stream(HAIKU, TEXT) + ending(last), is_streamed=True)
    assert list_numbers(receipt) == expected


ADVISED_ONCE, ADVISED_AGAIN = entry("advisor_message", 7, 8, model=OPUS), entry("advisor_message", 90, 80, model=OPUS)
OF_HAIKU = (HAIKU, "", (100, 1_000, 200, 0, 20))
SHORTER_LISTS: dict[str, tuple[list[dict[str, Any]], list[Any] | None, list[Row]]] = {
    "the same": ([BEGUN, ADVISED_ONCE], [BEGUN, ADVISED_ONCE], [OF_HAIKU, (OPUS, "advisor_message", (7, 0, 0, 0, 8))]),
    "without the advisor": ([BEGUN, ADVISED_ONCE], [BEGUN], [OF_HAIKU, (OPUS, "advisor_message", (7, 0, 0, 0, 8))]),
    "without the first of two": (
        [BEGUN, ADVISED_ONCE, ADVISED_AGAIN],
        [BEGUN, ADVISED_AGAIN],
        [OF_HAIKU, (OPUS, "advisor_message", (97, 0, 0, 0, 88))],
    ),
    "with only the second call of another model": (
        [BEGUN, ADVISED_ONCE],
        [BEGUN, entry("advisor_message", 1, 2, model=HAIKU), ADVISED_ONCE],
        [OF_HAIKU, (OPUS, "advisor_message", (7, 0, 0, 0, 8)), (HAIKU, "advisor_message", (1, 0, 0, 0, 2))],
    ),
    "with more tokens of the same call": (
        [BEGUN, ADVISED_ONCE],
        [BEGUN, ADVISED_AGAIN],
        [OF_HAIKU, (OPUS, "advisor_message", (90, 0, 0, 0, 80))],
    ),
    "with the name of its model": (
        [BEGUN, entry("compaction", 50, 3)],
        [BEGUN | {"model": HAIKU}, entry("compaction", 50, 3, model=HAIKU)],
        [OF_HAIKU, (HAIKU, "compaction", (50, 0, 0, 0, 3))],
    ),
    "without the refused attempt": (
        [entry("message", 90, 1), BEGUN | {"type": "fallback_message", "model": OPUS}],
        [entry("fallback_message", 100, 20, 1_000, 200, model=OPUS)],
        [(HAIKU, "", (90, 0, 0, 0, 1)), (OPUS, "fallback_message", (100, 1_000, 200, 0, 20))],
    ),
    "with none": ([BEGUN, ADVISED_ONCE], [], [OF_HAIKU, (OPUS, "advisor_message", (7, 0, 0, 0, 8))]),
    "with odd entries only": ([BEGUN, ADVISED_ONCE], [7], [OF_HAIKU, (OPUS, "advisor_message", (7, 0, 0, 0, 8))]),
    "with calls that no reply has": (
        [BEGUN, ADVISED_ONCE],
        [BEGUN, entry("advisor_message", HUGE, 8, model=OPUS)],
        [OF_HAIKU, (OPUS, "advisor_message", (7, 0, 0, 0, 8))],
    ),
}


@pytest.mark.parametrize("case", SHORTER_LISTS)
async def test_a_call_that_a_stream_has_stated_stays_if_its_end_leaves_it_out(case: str) -> None:
    begun, last, expected = SHORTER_LISTS[case]
    usage = counts(100, 20, 1_000, 200, iterations=last)
    receipt, calculator = await receive(cut_stream(HAIKU, TEXT, begun=begun) + ending(usage), is_streamed=True)
    cost = calculator.calculate(receipt)
    assert sorted(list_rows(cost.parts)) == sorted(expected)
    assert cost.cost == sum(price(model, numbers) for model, _, numbers in expected)
    assert list_numbers(receipt) == tuple(map(sum, zip(*(numbers for _, _, numbers in expected), strict=True)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["message", "usage", "iterations", "a count"])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_reply_with_a_number_that_json_does_not_have_costs_what_it_states(
    place: str, value: float, *, is_streamed: bool
) -> None:
    usage, expected = CASES["an advisor"]
    usage = json.loads(json.dumps(usage))
    match place:
        case "usage":
            usage["seconds"] = value
        case "iterations":
            usage["iterations"][1]["seconds"] = value
        case "a count":
            usage["iterations"][1]["cache_read_input_tokens"] = value
    if is_streamed:
        body = stream(usage)
        if place == "message":
            body = body.replace(b'"type": "message_delta"', b'"seconds": %b, "type": "message_delta"' % shown(value))
    else:
        body = message(usage)
        if place == "message":
            body = body.replace(b"{", b'{"seconds": %b, ' % shown(value), 1)
    receipt, calculator = await receive(body, is_streamed=is_streamed)
    assert receipt.outcome == "end_turn"
    assert sorted(list_rows(calculator.calculate(receipt).parts)) == sorted(expected)


def shown(value: float) -> bytes:
    return json.dumps(value).encode()
