"""Receipts: the web searches that a provider bills, and the service tier that it reports."""

import json
from typing import Any

import pytest

from anthropic_proxy.plugins import Receipt
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.paths import GOLDEN
from tests.support.provider_replies.messages import block, event, message_start
from tests.support.tool_loop import SEARCH, WEATHER, Script, Searcher, call, calls, frame, gemini, proxy, reply, text

TEXT = {"type": "text", "text": "Cold."}


async def receipt_of(body: bytes, model: str, *, stream: bool = True, **settings: str) -> Receipt:
    built = ProxyHarness(lambda *_: FakeResponse(200, body), **settings)
    sink = await built.post(model=model, tools=[SEARCH], stream=stream, max_tokens=2_000)
    assert sink.error is None
    (receipt,) = built.receipts
    (attempt,) = receipt.attempts
    assert (attempt.billed_searches, attempt.service_tier) == (receipt.billed_searches, receipt.service_tier)
    return receipt


@pytest.mark.parametrize(
    ("case", "model", "settings", "searches"),
    [
        ("openai_responses/server_tools/web_search/upstream.sse", "openai/gpt-5.5", {"OPENAI_API_KEY": "k"}, 1),
        ("openai_responses/server_tools/searches_in_turn/upstream.sse", "openai/gpt-5.5", {"OPENAI_API_KEY": "k"}, 2),
        ("openai_responses/server_tools/xai_search/upstream.sse", "xai/grok-4.5", {"XAI_API_KEY": "k"}, 1),
        ("gemini/server_tools/web_search/upstream.sse", "gemini/gemini-3.6-flash", {"GEMINI_API_KEY": "k"}, 2),
        # Google bills a reply of earlier models once, for all of its queries
        ("gemini/server_tools/web_search/upstream.sse", "gemini/gemini-2.5-flash", {"GEMINI_API_KEY": "k"}, 1),
        (
            "openai_chat/server_tools/openrouter_search/upstream.sse",
            "openai/deepseek/deepseek-chat",
            {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "https://openrouter.ai/api/v1"},
            1,
        ),
    ],
)
async def test_searches_of_the_provider_are_counted(
    case: str, model: str, settings: dict[str, str], searches: int
) -> None:
    receipt = await receipt_of((GOLDEN / case).read_bytes(), model, **settings)
    assert receipt.billed_searches == searches


async def test_a_search_of_groq_is_counted() -> None:
    body = (GOLDEN / "openai_chat/server_tools/groq_search/upstream.json").read_bytes()
    receipt = await receipt_of(body, "groq/openai/gpt-oss-120b", stream=False, GROQ_API_KEY="k")
    assert receipt.billed_searches == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_search_of_the_proxy_is_not_billed_by_the_provider(stream: bool) -> None:
    script = Script(calls(call("web_search", query="Oslo")), reply(text("Cold.")))
    built = proxy(script, Searcher())
    await built.post(tools=[SEARCH, WEATHER], stream=stream)
    assert [built.receipts[0].billed_searches, *(one.billed_searches for one in built.receipts[0].attempts)] == [0] * 3


def message(**usage: Any) -> bytes:
    counts = {"input_tokens": 7, "output_tokens": 9, **usage}
    return json.dumps({"type": "message", "stop_reason": "end_turn", "content": [TEXT], "usage": counts}).encode()


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({}, (0, "")),
        ({"service_tier": "standard"}, (0, "standard")),
        ({"service_tier": "priority", "server_tool_use": {"web_search_requests": 3}}, (3, "priority")),
        ({"service_tier": "standard", "speed": "fast"}, (0, "fast")),
        ({"service_tier": "standard", "speed": "standard"}, (0, "standard")),
        ({"service_tier": 4, "speed": [], "server_tool_use": {"web_search_requests": -3}}, (0, "")),
    ],
)
async def test_anthropic_reports_searches_tier_and_speed(usage: dict[str, Any], found: tuple[int, str]) -> None:
    receipt = await receipt_of(
        message(**usage), "claude-opus-5-5", stream=False, ANTHROPIC_API_KEY="k", PREFERRED_PROVIDER="anthropic"
    )
    assert (receipt.billed_searches, receipt.service_tier) == found


STANDARD, FAST = {"service_tier": "standard"}, {"service_tier": "standard", "speed": "fast"}


@pytest.mark.parametrize(
    ("start", "end", "tier"),
    [
        (FAST, {}, "fast"),
        ({}, {}, ""),
        (FAST, STANDARD, "fast"),
        (FAST, {**STANDARD, "iterations": 1, "output_tokens_details": "unexpected"}, "fast"),
        (FAST, {**STANDARD, "speed": "standard"}, "standard"),
        (FAST, {"speed": "standard"}, "standard"),
        (FAST, {"speed": "standard", "service_tier": "priority"}, "priority"),
        ({"service_tier": "priority"}, {"speed": "standard"}, "priority"),
        (STANDARD, {"service_tier": "priority"}, "priority"),
        (STANDARD, FAST, "fast"),
    ],
)
async def test_a_stream_of_anthropic_reports_the_tier_first_and_the_searches_last(
    start: dict[str, Any], end: dict[str, Any], tier: str
) -> None:
    """A gateway may repeat the service tier without the speed."""
    usage = {"output_tokens": 9, "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}, **end}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    body = message_start(**start) + block(0, {"type": "text", "text": ""})
    body += event("message_delta", 0, delta=delta, usage=usage)
    body += event("message_stop", 0)
    receipt = await receipt_of(body, "claude-opus-5-5", ANTHROPIC_API_KEY="k", PREFERRED_PROVIDER="anthropic")
    assert (receipt.billed_searches, receipt.service_tier, receipt.output_tokens) == (2, tier, 9)


@pytest.mark.parametrize(
    ("reported", "tier"), [("flex", "flex"), ("default", "default"), (None, ""), (5, ""), ({}, "")]
)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_service_tier_of_chat_completions(stream: bool, reported: Any, tier: str) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    whole = {"choices": [{"index": 0, "message": {"content": "Cold."}, "finish_reason": "stop"}], "usage": usage}
    last = {"choices": [], "service_tier": reported, "usage": usage}
    body = b"".join(
        (frame({"content": "Cold."}, "stop"), b"data: ", json.dumps(last).encode(), b"\n\ndata: [DONE]\n\n")
    )
    if not stream:
        body = json.dumps(whole | {"service_tier": reported}).encode()
    built = ProxyHarness(lambda *_: FakeResponse(200, body), OPENAI_API_KEY="k", OPENAI_WIRE="chat")
    sink = await built.post(model="openai/gpt-4.1", stream=stream, max_tokens=2_000)
    assert built.receipts[0].service_tier == tier
    assert b'"flex"' not in sink.stream, "the client receives only tiers of the Messages API"
    assert sink.body.get("usage", {}).get("service_tier", "standard") == "standard"


@pytest.mark.parametrize(("reported", "tier"), [("priority", "priority"), (None, ""), (5, "")])
async def test_the_service_tier_of_responses(reported: Any, tier: str) -> None:
    body = json.dumps(
        {
            "status": "completed",
            "service_tier": reported,
            "output": [{"type": "message", "id": "m", "content": [{"type": "output_text", "text": "Cold."}]}],
            "usage": {"input_tokens": 7, "output_tokens": 9},
        }
    ).encode()
    receipt = await receipt_of(body, "openai/gpt-5.5", stream=False, OPENAI_API_KEY="k")
    assert (receipt.service_tier, receipt.input_tokens) == (tier, 7)


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, ""),
        ({"serviceTier": "standard"}, "standard"),
        ({"serviceTier": "flex"}, "flex"),
        ({"serviceTier": 5}, ""),
        ({"trafficType": "ON_DEMAND"}, "on_demand"),
        ({"trafficType": "ON_DEMAND_PRIORITY"}, "priority"),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, "provisioned_throughput"),
        ({"trafficType": "TRAFFIC_TYPE_UNSPECIFIED"}, ""),
    ],
)
async def test_the_service_tier_of_gemini(fields: dict[str, Any], tier: str) -> None:
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 9, **fields}
    candidate = {"content": {"parts": [{"text": "Cold."}]}, "finishReason": "STOP"}
    body = json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode()
    receipt = await receipt_of(body, "gemini/gemini-3.6-flash", stream=False, GEMINI_API_KEY="k")
    assert (receipt.service_tier, receipt.input_tokens) == (tier, 7)


async def test_each_call_of_a_tool_loop_has_the_tier_that_the_provider_reported_for_it() -> None:
    search = {"functionCall": {"name": "web_search", "args": {"query": "a"}}}
    first, second = gemini(search), gemini({"text": "Cold."})
    flex = first[0].replace(b'"promptTokenCount"', b'"serviceTier": "flex", "promptTokenCount"')
    built = proxy(Script([flex], second), Searcher(), GEMINI_API_KEY="k")
    await built.post(model="gemini/gemini-2.5-pro", tools=[SEARCH, WEATHER], stream=True)
    (receipt,) = built.receipts
    assert ([one.service_tier for one in receipt.attempts], receipt.service_tier) == (["flex", ""], "")
