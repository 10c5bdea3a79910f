"""Responses: OpenAI's own types, complete replies, reasoning in signatures, adaptations."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.messages.deltas import (
    Delta,
)
from anthropic_proxy.engine.wires import openai_responses
from anthropic_proxy.engine.wires.calls import TranslatedCall
from tests.support import decoding
from tests.support.decoding import decode_whole, new_limits
from tests.support.dialect_fields import changes_a_scenario, missing_proofs, proofs_of, scenarios_of
from tests.support.fakes.declared_types import understood
from tests.support.fakes.openai_chat.models import find_model
from tests.support.fakes.openai_responses.rules import check_body
from tests.support.fold import fold
from tests.support.golden_runner import read_fields

WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def new_call(**fields: Any) -> TranslatedCall:
    limits = new_limits(server_tools=("web_search",))
    return decoding.new_call(openai_responses, **{"provider": "openai", "limits": limits, **fields})


def encode(call: TranslatedCall) -> Any:
    return json.loads(openai_responses.WIRE.encode_request(call).body)


def decode_stream(body: bytes, call: TranslatedCall) -> list[Delta]:
    return decoding.decode_stream(openai_responses, body, call)


def frames(*events: Any) -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)


def content_of(deltas: list[Delta]) -> list[Any]:
    reply = fold(deltas, message_id="msg_1", model="claude", signature="px1.oai.e30", estimated_input_tokens=1)
    return [json.loads(bytes(block)) for block in reply.content]


# OpenAI's own types


def openai_bodies() -> Iterator[Any]:
    for folder in scenarios_of(openai_responses):
        path = folder / "expected_upstream_request.json"
        if read_fields(folder)["provider"] == "openai" and path.exists():
            yield pytest.param(json.loads(path.read_text(encoding="utf-8"))["body"], id=folder.name)


@pytest.mark.parametrize("body", list(openai_bodies()))
def test_openai_knows_every_field(body: Any) -> None:
    if (model := find_model(body["model"])) is not None:
        breaches = {breach.rule for breach in check_body(body, model, {})}
        assert breaches <= {"reasoning_foreign", "reasoning_alone", "reasoning_not_stored", "effort"}
    from openai.types.responses import ResponseInputItemParam, ToolParam, response_create_params
    from openai.types.responses.response_create_params import ToolChoice

    for item in body["input"]:
        assert understood(ResponseInputItemParam, item) == item
    for tool in body.get("tools", ()):
        assert understood(ToolParam, tool) == tool
    if "tool_choice" in body:
        assert understood(ToolChoice, body["tool_choice"]) == body["tool_choice"]
    kinds = response_create_params
    kind = kinds.ResponseCreateParamsStreaming if body.get("stream") else kinds.ResponseCreateParamsNonStreaming
    plain = {**body, "input": "read apart, because pydantic reads lists inside choices of types only once"}
    assert understood(kind, plain) == plain, "a field that OpenAI's types do not know is lost on the way through them"


# Quirks


@pytest.mark.parametrize("field", openai_responses.Dialect.__annotations__)
def test_every_quirk_changes_a_scenario(field: str) -> None:
    learned = all(name.startswith("tests/") for name in proofs_of(openai_responses)[field])
    assert learned or changes_a_scenario(openai_responses, field), f"nothing changes when {field} is reset"


def test_what_quirks_name_as_proof_exists() -> None:
    assert missing_proofs(openai_responses) == {}


# Which models speak it


# Complete replies of providers


# The carry


def test_reasoning_makes_two_turns_exactly() -> None:
    secret = "gAAAAABo" + "x" * 4_000 + "=="
    item = {"id": "rs_1", "type": "reasoning"}
    stream = frames(
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "summary": []}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "Ask "},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "“it”."},
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "encrypted_content": secret}},
        {
            "type": "response.output_item.done",
            "output_index": 1,
            "item": {"type": "function_call", "call_id": "call_9", "name": "weather", "arguments": '{"city":"Oslo"}'},
        },
        {"type": "response.completed", "response": {"status": "completed"}},
    )
    content = content_of(decode_stream(stream, new_call(tools=[WEATHER])))
    result = {"type": "tool_result", "tool_use_id": "call_9", "content": "4"}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": [result]},
    ]
    assert encode(new_call(tools=[WEATHER], messages=messages))["input"][1:] == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Ask “it”."}],
            "encrypted_content": secret,
        },
        {"type": "function_call", "call_id": "call_9", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "call_9", "output": "4"},
    ]


def reasoned(number: int, *texts: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text} for text in texts]
    return {"type": "reasoning", "id": f"rs_{number}", "summary": summary, "encrypted_content": f"g{number}"}


def test_reasoning_that_led_to_a_search_does_not_go_back_without_it() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "q"}}
    answer = {"type": "message", "content": [{"type": "output_text", "text": "So."}]}
    output = [reasoned(1), reasoned(2, "Look."), search, reasoned(3), answer]
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    decoder = openai_responses.WIRE.new_decoder(new_call(stream=False))  # with or without permission to search
    content = content_of(decode_whole(decoder, msgspec.json.encode({"status": "completed", "output": output})))
    assert [block["type"] for block in content] == [
        *("thinking", "server_tool_use", "web_search_tool_result"),
        *("thinking", "text"),
    ]
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    body = encode(new_call(tools=tools, messages=[*history, {"role": "user", "content": "More."}]))
    assert [item["id"] for item in body["input"] if item["type"] == "reasoning"] == ["rs_3"]


def test_reasoning_that_is_too_large_to_carry_is_shown_and_not_sent_back() -> None:
    item = {"id": "rs_1", "type": "reasoning", "summary": [{"text": "Long."}], "encrypted_content": "x" * 70_000}
    message = {"type": "message", "content": [{"type": "output_text", "text": "Ok."}]}
    body = msgspec.json.encode({"status": "completed", "output": [item, message]})
    content = content_of(decode_whole(openai_responses.WIRE.new_decoder(new_call(stream=False)), body))
    assert content[0]["thinking"] == "Long."
    assert len(content[0]["signature"]) < 100
    history = [{"role": "assistant", "content": content}, {"role": "user", "content": "Go on"}]
    assert [item["type"] for item in encode(new_call(messages=history))["input"]] == ["message", "message"]


# Healing
