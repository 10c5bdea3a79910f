"""Receipts: the web searches that a provider bills, and the service tier that it reports."""

import json
from typing import Any

import pytest

from anthropic_proxy.plugins import Receipt
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.paths import GOLDEN
from tests.support.tool_loop import SEARCH, WEATHER, Script, Searcher, call, calls, gemini, proxy, reply, text

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


async def test_each_call_of_a_tool_loop_has_the_tier_that_the_provider_reported_for_it() -> None:
    search = {"functionCall": {"name": "web_search", "args": {"query": "a"}}}
    first, second = gemini(search), gemini({"text": "Cold."})
    flex = first[0].replace(b'"promptTokenCount"', b'"serviceTier": "flex", "promptTokenCount"')
    built = proxy(Script([flex], second), Searcher(), GEMINI_API_KEY="k")
    await built.post(model="gemini/gemini-2.5-pro", tools=[SEARCH, WEATHER], stream=True)
    (receipt,) = built.receipts
    assert ([one.service_tier for one in receipt.attempts], receipt.service_tier) == (["flex", ""], "")
