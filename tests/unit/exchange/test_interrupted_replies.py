"""Replies that break off while deltas are buffered: the client receives the buffered deltas, and then the error."""

import json
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.fake_upstream import KEYS, frame
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.harness import STALL, FakeResponse, ProxyHarness
from tests.support.paths import GOLDEN
from tests.support.virtual_time import in_virtual_time

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
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
    sink = await proxy.post(**{**request, "model": f"{row.prefix}/{scenario.fields['model']}", "stream": True})
    expected = (case / "expected_events.sse").read_bytes()
    assert content_of(sink.stream) == content_of(expected)
    assert shapes(sink.stream) == shapes(expected)


def _breaking(how: str) -> bytes | bytearray | Exception:
    if how == "reset":
        return UpstreamProtocolError("the reply ended before it was complete")
    return STALL if how == "silence" else b""


def broken(*deltas: dict[str, Any], by: Any = STALL) -> ProxyHarness:
    frames = [frame(delta) for delta in deltas]
    return ProxyHarness(
        lambda *_: FakeResponse(200, *frames, by), **KEYS, UPSTREAM_IDLE_TIMEOUT="0.1", SEARCH_URL="http://127.0.0.1:9"
    )


@in_virtual_time
async def test_a_reply_that_waits_to_be_checked() -> None:
    proxy = broken({"reasoning_content": "Hm."}, {"content": '{"a": "b'})
    sink = await proxy.post(
        model="groq/some-model", stream=True, output_config={"format": {"type": "json_schema", "schema": SCHEMA}}
    )
    assert content_of(sink.stream) == 'Hm.{"a": "b'
    assert shapes(sink.stream)[-1] == "error"


@in_virtual_time
async def test_a_call_of_ours_is_written_and_not_run() -> None:
    call = {"index": 0, "id": "call_1", "function": {"name": "web_search", "arguments": '{"query": "wea'}}
    proxy = broken({"content": "I look."}, {"tool_calls": [call]})
    sink = await proxy.post(model="groq/some-model", stream=True, tools=[SEARCH])
    starts = [event["content_block"] for event in read_events(sink.stream) if event["type"] == "content_block_start"]
    assert [start["type"] for start in starts] == ["text", "server_tool_use"]
    assert content_of(sink.stream) == "I look."
    assert shapes(sink.stream)[-1] == "error"


@in_virtual_time
async def test_text_that_may_become_a_stop_sequence() -> None:
    sink = await broken({"content": "All is well. EN"}).post(stream=True, stop_sequences=["END"])
    assert content_of(sink.stream) == "All is well. EN"
    assert shapes(sink.stream)[-1] == "error"


@in_virtual_time
async def test_thinking_after_the_only_call() -> None:
    call = {"index": 0, "id": "call_1", "function": {"name": "Read", "arguments": "{}"}}
    proxy = broken({"tool_calls": [call]}, {"content": "x"}, {"reasoning_content": "Hm."})
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    sink = await proxy.post(stream=True, tools=[TOOL], tool_choice=choice, model="groq/some-model")
    assert content_of(sink.stream) == "xHm."
    assert shapes(sink.stream)[-1] == "error"


@in_virtual_time
async def test_a_failure_in_the_read_that_brought_the_text() -> None:
    """One network read has a complete fragment, the beginning of a call, and invalid JSON."""
    chunk = frame({"content": "I look. "}) + frame({"content": "<tool_c"}) + b"data: {broken\n\n"
    proxy = ProxyHarness(lambda *_: FakeResponse(200, chunk), OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    sink = await proxy.post(model="openai/local", stream=True, tools=[TOOL])
    assert content_of(sink.stream) == "I look. <tool_c"
    assert shapes(sink.stream)[-1] == "error"
