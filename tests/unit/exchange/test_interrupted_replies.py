"""Replies that break off while deltas are buffered: the client receives the buffered deltas, and then the error."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.fake_upstream import KEYS, frame
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.harness import STALL, FakeResponse, ProxyHarness, RecordingSink
from tests.support.paths import GOLDEN
from tests.support.virtual_time import in_virtual_time

TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {}}}
KEYS_OF_ALL = {
    "MOONSHOT_API_KEY": "sk-three-0123456789",
    "XAI_API_KEY": "xai-one-0123456789",
    "GEMINI_API_KEY": "AIza-one-0123456789",
    **KEYS,
}


def read_events(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]


def content_of(stream: bytes) -> str:
    deltas = [event["delta"] for event in read_events(stream) if event["type"] == "content_block_delta"]
    return "".join(delta.get("text", "") + delta.get("thinking", "") for delta in deltas)


def shapes(stream: bytes) -> list[str]:
    return [event["type"].removeprefix("content_block_") for event in read_events(stream)]


@pytest.mark.parametrize("breaks", ["silence", "reset", "end"])
@pytest.mark.parametrize("case", find_cases(name="broken_while_*"), ids=lambda case: str(case.relative_to(GOLDEN)))
@in_virtual_time
async def test_what_waited_comes_before_the_error_however_the_answer_breaks(case: Path, breaks: str) -> None:
    scenario = GoldenCase(case)
    row = scenario.provider
    settings = {**KEYS_OF_ALL, **scenario.fields.get("settings", {}), "UPSTREAM_IDLE_TIMEOUT": "0.1"}
    proxy = ProxyHarness(lambda *_: FakeResponse(200, scenario.upstream or b"", _breaking(breaks)), **settings)
    request = json.loads(scenario.posted)
    model = f"{row.prefix}/{scenario.fields['model']}"
    sink = await proxy.post(**{"thinking": {"type": "adaptive"}, **request, "model": model, "stream": True})
    expected = (case / "expected_events.sse").read_bytes()
    assert content_of(sink.stream) == content_of(expected)
    assert shapes(sink.stream) == shapes(expected)


def _breaking(how: str) -> bytes | bytearray | Exception:
    if how == "reset":
        return UpstreamProtocolError("the reply ended before it was complete")
    return STALL if how == "silence" else b""


@in_virtual_time
async def test_a_failure_in_the_read_that_brought_the_text() -> None:
    """One network read has a complete fragment, the beginning of a call, and invalid JSON."""
    chunk = frame({"content": "I look. "}) + frame({"content": "<tool_c"}) + b"data: {broken\n\n"
    proxy = ProxyHarness(lambda *_: FakeResponse(200, chunk), OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    sink = await proxy.post(model="openai/local", stream=True, tools=[TOOL])
    assert content_of(sink.stream) == "I look. <tool_c"
    assert shapes(sink.stream)[-1] == "error"


async def test_a_stream_without_end_is_ended() -> None:
    megabyte = b": " + b"x" * (1024 * 1024 - 4) + b"\n\n"
    proxy = ProxyHarness(lambda *_: FakeResponse(200, frame({"content": "hi"}), *[megabyte] * 129), **KEYS_OF_ALL)
    sink = await proxy.post(model="openai/gpt-4.1", stream=True)
    assert content_of(sink.stream) == "hi"
    assert read_events(sink.stream)[-1]["error"]["message"] == "openai: the reply is larger than 128 MiB"


RELAYED = "anthropic/claude-sonnet-4-5"
MANY = b"[" + b"{}," * 250_000 + b"{}]"
CROWDED = {
    "openai/gpt-4.1": b'{"choices":' + MANY + b"}",
    "openai/gpt-5": b'{"output":' + MANY + b"}",
    "gemini/gemini-3-pro-preview": b'{"candidates":[{"content":{"parts":' + MANY + b"}}]}",
    "ollama/qwen3": b'{"message":{"tool_calls":' + MANY + b"}}",
    RELAYED: b'{"type":"message","content":' + MANY + b"}",
}
"""Model → a reply whose parts would need some hundred times its size."""
TOO_MANY = "the reply has more than 250,000 objects and lists"


@pytest.mark.parametrize(
    ("model", "stream"),
    [(model, stream) for model in CROWDED for stream in (False, True)],
)
async def test_a_reply_with_too_many_parts_is_refused(model: str, stream: bool) -> None:
    body = CROWDED[model]
    if stream and model == RELAYED:
        body = b'event: message_start\ndata: {"type":"message_start","message":' + body + b"}\n\n"
    elif stream:
        body = body + b"\n" if model.startswith("ollama") else b"data: " + body + b"\n\n"
    keys = {**KEYS_OF_ALL, "ANTHROPIC_API_KEY": "sk-ant-one-0123456789", "PREFERRED_PROVIDER": "anthropic"}
    proxy = ProxyHarness(lambda *_: FakeResponse(200, body), **keys)
    sink = await proxy.post(model=model, stream=stream, max_tokens=100)
    assert sink.error is not None
    assert sink.error.message == f"{model.partition('/')[0]}: {TOO_MANY}"


def gemini(part: Any) -> Any:
    return lambda n: {"candidates": [{"content": {"parts": [part] * n}, "finishReason": "STOP"}]}


def chat(**message: Any) -> Any:
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


CALL = {"function": {"name": "Read"}}
USE = {"recipient_name": "Read"}
CALLS: dict[str, Callable[[int], Any]] = {
    "openai/gpt-4.1": lambda n: chat(tool_calls=[CALL] * n),
    "openai/gpt-5": lambda n: {"status": "completed", "output": [{"type": "function_call", "name": "Read"}] * n},
    "gemini/gemini-3-pro-preview": gemini({"functionCall": {"name": "Read"}}),
    "gemini/runs-code": gemini({"executableCode": {"code": ""}}),
    "ollama/qwen3": lambda n: {"message": {"tool_calls": [CALL] * n}, "done": True},
    "ollama/calls-in-text": lambda n: {"message": {"content": "<function=Read></function>\n" * n}, "done": True},
    "xai/calls-in-a-call": lambda n: chat(
        tool_calls=[{"function": {"name": "parallel", "arguments": json.dumps({"tool_uses": [USE] * n})}}]
    ),
}
"""Model → a reply with so many calls, also in its text, in one call and by the provider."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", CALLS)
async def test_a_reply_with_too_many_calls_is_refused(model: str, stream: bool) -> None:
    def answer(*_: Any) -> FakeResponse:
        return FakeResponse(200, json.dumps(CALLS[model](calls)).encode())

    proxy = ProxyHarness(answer, **{**KEYS_OF_ALL, "XAI_WIRE": "chat"})
    calls = 10_000
    fields: dict[str, Any] = {"model": model, "max_tokens": 100_000, "tools": [TOOL], "stream": stream}
    assert (await proxy.post(**fields)).error is None
    calls = 10_001
    sink = await proxy.post(**fields)
    error = read_events(sink.stream)[-1].get("error") if sink.error is None else {"message": sink.error.message}
    assert error is not None
    assert error["message"] == f"{model.partition('/')[0]}: the reply has more than 10,000 tool calls"


async def test_of_an_error_with_too_many_parts_only_the_status_is_read() -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(400, b'{"error":{"message":"no","details":' + MANY + b"}}"), **KEYS)
    sink = await proxy.post(model="openai/gpt-4.1")
    assert sink.error is not None
    assert sink.error.message == "openai returned HTTP 400"


CUT = "word " * 80
HELD: dict[str, tuple[bytes, dict[str, Any]]] = {
    "arguments": (
        frame({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "Read", "arguments": '{"p": "' + CUT}}]}),
        {"tools": [TOOL]},
    ),
    "a call as text": (
        frame({"content": '<tool_call>\n{"name": "Read", "arguments": {"p": "' + CUT}),
        {"tools": [TOOL]},
    ),
    "a fence": (
        frame({"content": '```json\n{"a": "' + CUT}),
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    ),
    "text": (frame({"content": CUT}), {}),
}


@pytest.mark.parametrize("name", HELD)
@in_virtual_time
async def test_what_is_held_back_when_the_client_disconnects_counts_as_received(name: str) -> None:
    chunk, fields = HELD[name]
    is_sent = asyncio.Event()

    class Upstream(FakeResponse):
        async def read(self) -> bytes:
            if self.chunks[0] is STALL:
                is_sent.set()
            return await super().read()

    class Gone(RecordingSink):
        async def wait_disconnected(self) -> None:
            await is_sent.wait()
            await asyncio.sleep(1)

    proxy = ProxyHarness(lambda *_: Upstream(200, chunk, STALL), OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    await proxy.post(sink=Gone(), model="openai/local", stream=True, **fields)
    (receipt,) = proxy.receipts
    assert receipt.outcome == "cancelled", receipt.error
    assert len(CUT) / 4 <= receipt.output_tokens <= len(CUT) / 4 + 15
