"""A client that allows one tool call per reply receives one, also if the provider sends several."""

import json
from typing import Any

import pytest

from tests.support.event_grammar import check_bytes
from tests.support.harness import FakeResponse, ProxyHarness

TOOLS = [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("look", "walk")]


def thought(number: int) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": f"thought {number}"}]
    return {"type": "reasoning", "id": f"rs_{number}", "summary": summary, "encrypted_content": f"gAAA{number}"}


def call(name: str, number: int = 1) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{name}_{number}", "name": name, "arguments": "{}"}


def text(words: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": words}]}


def blocks_of(stream: bytes) -> list[str]:
    """Return the content of each block of a stream: its type, and the text or the name in it."""
    contents: list[str] = []
    for line in stream.decode().splitlines():
        event = json.loads(line[6:]) if line.startswith("data: ") else {}
        if event.get("type") == "content_block_start":
            contents.append(event["content_block"].get("name", event["content_block"]["type"]))
        elif (delta := event.get("delta", {})).get("type") in ("text_delta", "thinking_delta"):
            contents[-1] = delta.get("text") or delta["thinking"]
    return contents


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([thought(1), call("look"), thought(2), call("walk")], ["thought 1", "look"]),
        ([call("look"), call("walk"), thought(1), call("look", 2), text("So.")], ["look", "So."]),
        ([call("look"), thought(1), text("So."), thought(2), call("walk")], ["look", "thought 1", "So."]),
        ([text("So."), thought(1), call("look")], ["So.", "thought 1", "look"]),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_dropped_call_is_dropped_with_its_thinking(
    output: list[dict[str, Any]], expected: list[str], stream: bool
) -> None:
    done = [{"type": "response.output_item.done", "output_index": at, "item": item} for at, item in enumerate(output)]
    whole = {"status": "completed", "output": output, "usage": {"input_tokens": 1, "output_tokens": 1}}
    frames = [*done, {"type": "response.completed", "response": whole}]
    chunks = [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames]
    proxy = ProxyHarness(
        lambda *_: FakeResponse(200, *chunks) if stream else FakeResponse(200, json.dumps(whole).encode()),
        OPENAI_API_KEY="sk-test-0123456789",
    )
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    thinking = {"type": "adaptive"}
    sink = await proxy.post(model="openai/gpt-5.5", stream=stream, tools=TOOLS, tool_choice=choice, thinking=thinking)
    assert sink.error is None
    if stream:
        assert check_bytes(sink.stream) == []
        assert blocks_of(sink.stream) == expected
    else:
        content = sink.body["content"]
        assert [block.get("name") or block.get("thinking") or block.get("text") for block in content] == expected


@pytest.mark.parametrize("blank", ["\n", " ", "", None])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_blank_fragment_behind_the_end_of_a_call_adds_nothing(blank: str | None, stream: bool) -> None:
    function = {"name": "look", "arguments": "{}"}
    choices = [
        {"delta": {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}},
        {"delta": {}, "finish_reason": "tool_calls"},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": blank}}]}},
        {"delta": {"tool_calls": [{"function": {"arguments": blank}}]}, "finish_reason": "tool_calls"},
    ]
    chunks = [b"data: " + json.dumps({"choices": [{"index": 0, **one}]}).encode() + b"\n\n" for one in choices]
    proxy = ProxyHarness(
        lambda *_: FakeResponse(200, *chunks, b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"}),
        GROQ_API_KEY="gsk-test-0123456789",
    )
    sink = await proxy.post(model="groq/llama-3.3-70b-versatile", stream=stream, tools=TOOLS)
    assert sink.error is None
    if stream:
        assert check_bytes(sink.stream) == []
        assert blocks_of(sink.stream) == ["look"]
