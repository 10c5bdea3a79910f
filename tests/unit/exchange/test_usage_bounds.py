"""Counts that no call can have are not believed, whatever wire states them, and the own estimate counts."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from anthropic_proxy.engine.hooks import Receipt
from tests.support.harness import FakeResponse, ProxyHarness

STATED = [10**18, 2**63, 10**30, 10**9, -5, 1e300, True, "NaN", "1000000000000000000"]
TEXT = "Well, this is a reply of some words."
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
OUTPUT = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}


def _chat(count: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": count, "completion_tokens": count}}


def _responses(count: Any) -> dict[str, Any]:
    usage = {"input_tokens": count, "output_tokens": count}
    whole = {"id": "r", "object": "response", "status": "completed", "output": [OUTPUT], "usage": usage}
    return {"type": "response.completed", "response": whole}


def _gemini(count: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": TEXT}], "role": "model"}, "index": 0, "finishReason": "STOP"}
    return {"candidates": [candidate], "usageMetadata": {"promptTokenCount": count, "candidatesTokenCount": count}}


def _ollama(count: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": TEXT}
    return {"message": message, "done": True, "done_reason": "stop", "prompt_eval_count": count, "eval_count": count}


def _messages(count: Any) -> dict[str, Any]:
    usage = {"input_tokens": count, "output_tokens": count}
    return {**MESSAGE, "content": [{"type": "text", "text": TEXT}], "stop_sequence": None, "usage": usage}


WIRES = {
    "chat": (_chat, {"OPENAI_API_KEY": "key", "OPENAI_WIRE": "chat"}),
    "responses": (_responses, {"OPENAI_API_KEY": "key", "OPENAI_WIRE": "responses"}),
    "gemini": (_gemini, {"GEMINI_API_KEY": "key", "PREFERRED_PROVIDER": "google"}),
    "ollama": (_ollama, {"OLLAMA_BASE_URL": "http://127.0.0.1:11434", "PREFERRED_PROVIDER": "ollama"}),
    "messages": (_messages, {"ANTHROPIC_API_KEY": "key", "PREFERRED_PROVIDER": "anthropic"}),
}


async def ask(
    wire: str, count: Any, others: Mapping[str, Any] = {}, counts: Mapping[str, int] = {}, **fields: Any
) -> Receipt:
    """`others`: further members of the reply. `counts`: further counts."""
    build, settings = WIRES[wire]
    built = build(count)
    if counts:
        built["usage"] |= counts
    body, kind = json.dumps({**others, **built}).encode(), "application/json"
    if wire == "responses":
        body, kind = b"data: " + body + b"\n\n", "text/event-stream"

    def reply(base_url: str, request: Any, credential: Any) -> FakeResponse:
        if "/api/chat" not in request.path and wire == "ollama":
            return FakeResponse(404, b"{}")
        return FakeResponse(200, body, headers={"content-type": kind})

    models = {} if wire == "messages" else {"BIG_MODEL": "m", "SMALL_MODEL": "m", "MIDDLE_MODEL": "m"}
    proxy = ProxyHarness(reply, **settings, **(models if wire == "ollama" else {}))
    sink = await proxy.post(text="Say something. " * 40, **{"max_tokens": 1_000, **fields})
    assert sink.error is None, sink.error
    return proxy.receipts[-1]


@pytest.mark.parametrize("count", STATED, ids=repr)
@pytest.mark.parametrize("wire", WIRES)
async def test_a_count_that_the_call_cannot_have_is_estimated(wire: str, count: Any) -> None:
    receipt = await ask(wire, count)
    assert 100 <= receipt.all_input_tokens <= 400
    assert 5 <= receipt.output_tokens <= 100
    told = [note for note in receipt.notes if note.field.startswith("usage.")]
    if isinstance(count, bool | str) or (wire, count) == ("responses", 1e300):
        return  # no usual number: the count is missing
    assert [note.field for note in told] == ["usage.input_tokens", "usage.output_tokens"]
    shown = f"{max(-5, min(int(float(count)), 2**53 - 1)):,}"
    prefix = {"messages": "anthropic", "chat": "openai", "responses": "openai"}.get(wire, wire)
    assert {note.reason for note in told} == {f"{prefix} states {shown}, which this call cannot have; estimated"}


@pytest.mark.parametrize("wire", WIRES)
async def test_a_plausible_count_is_believed(wire: str) -> None:
    receipt = await ask(wire, 3_000)
    assert (receipt.all_input_tokens, receipt.output_tokens) == (3_000, 3_000)
    assert not any(note.field.startswith("usage.") for note in receipt.notes)


@pytest.mark.parametrize(("wire", "cached"), [("messages", "cache_read_input_tokens"), ("chat", "cached_tokens")])
async def test_a_negative_count_beside_cached_tokens_is_none(wire: str, cached: str) -> None:
    receipt = await ask(wire, -1, counts={cached: 40_012})
    assert (receipt.input_tokens, receipt.cache_read_tokens) == (0, 40_012)
    assert receipt.output_tokens > 1  # is estimated


async def test_only_a_provider_that_runs_tools_may_count_more_than_one_reply() -> None:
    relayed, translated = await ask("messages", 1_000_000), await ask("chat", 1_000_000)
    assert (relayed.all_input_tokens, relayed.output_tokens) == (1_000_000, 1_000_000)
    assert 5 <= translated.output_tokens <= 100


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_number_that_json_does_not_have_hides_no_count(wire: str, value: float) -> None:
    receipt = await ask(wire, 3_000, {"text": 'a "NaN" \\', "seconds": value, "list": [value, {"NaN": value}]})
    assert (receipt.all_input_tokens, receipt.output_tokens, receipt.outcome) == (3_000, 3_000, "end_turn")


async def test_an_earlier_plausible_count_stays() -> None:
    start = {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}}
    start["message"]["usage"] = {"input_tokens": 150, "output_tokens": 1}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 10**18}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}
    events = [start, block, text, {"type": "content_block_stop", "index": 0}, delta, {"type": "message_stop"}]
    stream = b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)
    settings = WIRES["messages"][1]
    proxy = ProxyHarness(
        lambda *_: FakeResponse(200, stream, headers={"content-type": "text/event-stream"}), **settings
    )
    await proxy.post(stream=True, max_tokens=1_000)
    receipt = proxy.receipts[-1]
    assert receipt.input_tokens == 150
    assert 5 <= receipt.output_tokens <= 100


@pytest.mark.parametrize("cached", [10**18, -(10**12)])
@pytest.mark.parametrize("count", [10**18, -5, 3_000])
async def test_a_cached_count_out_of_bounds_changes_no_estimate(count: int, cached: int) -> None:
    body = _messages(3_000)
    body["usage"] |= {"input_tokens": count, "cache_read_input_tokens": cached, "output_tokens": 10**18}
    reply = FakeResponse(200, json.dumps(body).encode(), headers={"content-type": "application/json"})
    proxy = ProxyHarness(lambda *_: reply, **WIRES["messages"][1])
    await proxy.post(text="Say something. " * 40, max_tokens=1_000)
    (receipt,) = proxy.receipts
    if count == 3_000:
        assert receipt.all_input_tokens == 3_000
    else:
        assert 100 <= receipt.all_input_tokens <= 400


@pytest.mark.parametrize(("dollars", "believed"), [(0.02, True), (5_000_000, False), (-1, False), (1e300, False)])
async def test_a_stated_cost_is_bounded_by_the_tokens(dollars: float, believed: bool) -> None:
    body = _chat(1_000)
    body["usage"]["cost"] = dollars
    proxy = ProxyHarness(
        lambda *_: FakeResponse(200, json.dumps(body).encode(), headers={"content-type": "application/json"}),
        OPENAI_API_KEY="key",
        OPENAI_BASE_URL="https://openrouter.ai/api/v1",
        BIG_MODEL="openai/z-ai/glm-5",
    )
    await proxy.post(max_tokens=1_000)
    assert proxy.receipts[-1].stated_cost == (20_000_000 if believed else 0)
