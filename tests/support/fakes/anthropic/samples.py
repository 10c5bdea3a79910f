"""Requests to the Messages API: good ones, and for each rule of the stand-in ones that break it."""

import base64
from typing import Any

from tests.support.fakes.anthropic.rules import sign
from tests.support.fakes.openai_chat.samples import png

USER = {"role": "user", "content": "hello"}
READ: dict[str, Any] = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
CALL = {"type": "tool_use", "id": "toolu_a", "name": "Read", "input": {"path": "/a"}}
ASKS = {"role": "assistant", "content": [CALL]}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_a", "content": "text"}
TOOL_RESULT = {"role": "user", "content": [RESULT]}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": sign("hm")}
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(3, 2)).decode()},
}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_a", "name": "web_search", "input": {"query": "q"}}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": list(messages) or [USER], **fields}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return body(USER, {"role": "assistant", "content": list(blocks)}, USER)


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return body({"role": "user", "content": list(blocks)})


def found(encrypted: str) -> dict[str, Any]:
    page = {"type": "web_search_result", "url": "https://a.test", "title": "A", "encrypted_content": encrypted}
    return {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_a", "content": [page]}


TEXT = {"type": "text", "text": "well"}
MARKED = {**TEXT, "cache_control": {"type": "ephemeral"}}
CITED = {
    "type": "web_search_result_location",
    "url": "https://a.test",
    "title": "A",
    "cited_text": "a",
    "encrypted_index": "",
}

GOOD: tuple[dict[str, Any], ...] = (
    body(),
    body(stream=True, temperature=0.5, stop_sequences=["END"], metadata={"user_id": "u"}, service_tier="auto"),
    body(system=[{**TEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]),
    body(USER, ASKS, TOOL_RESULT, tools=[READ], tool_choice={"type": "any", "disable_parallel_tool_use": True}),
    body(
        USER,
        {"role": "assistant", "content": [THOUGHT, CALL]},
        TOOL_RESULT,
        tools=[READ],
        thinking={"type": "adaptive"},
    ),
    body({"role": "user", "content": [PICTURE, TEXT]}),
    body(USER, {"role": "system", "content": "be brief"}),
    body(output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}}),
    body(tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]),
    assistant(SEARCH, found("Eo8B"), TEXT),
    {**body(USER, {"role": "assistant", "content": "I say"}), "model": "claude-sonnet-4-5"},
    # official clients send these, observed 2026-11
    body(max_tokens=4_096, stream=True, thinking={"type": "enabled", "budget_tokens": 1_024})
    | {"model": "claude-sonnet-4-5"},
    body(
        USER,
        {"role": "assistant", "content": [TEXT, CALL, CALL | {"id": "toolu_b"}]},
        {"role": "user", "content": [RESULT | {"is_error": False}, RESULT | {"tool_use_id": "toolu_b"}]},
        system="be brief",
        stream=False,
        tools=[READ | {"description": "Reads."}],
        tool_choice={"type": "auto"},
    ),
)

BAD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unknown_field", "surprise: Extra inputs", body(surprise=1)),
    ("unknown_field", "messages.0.content.0.text.mood: Extra", user({**TEXT, "mood": "good"})),
    ("unknown_field", "mcp_servers: Extra", body(mcp_servers=[])),
    ("unknown_field", "betas: Extra", body(betas=["x"])),
    ("missing", "max_tokens: Field required", {"model": "claude-sonnet-5-5", "messages": [USER]}),
    ("missing", "messages.0.content.0.type", user({"text": "x"})),
    ("type", "max_tokens: Input should be a valid integer", body(max_tokens="9")),
    ("value", "Input tag 'noise'", user({"type": "noise"})),
    ("value", 'Unexpected role "robot"', body({"role": "robot", "content": "x"})),
    ("value", "Input should be 'auto' or 'standard_only'", body(service_tier="fast")),
    ("no_messages", "at least one message", {**body(), "messages": []}),
    ("first", "first message must use", body(ASKS, TOOL_RESULT, tools=[READ])),
    ("empty_content", "non-empty content", body({"role": "user", "content": ""})),
    ("empty_content", "non-empty content", assistant()),
    ("empty_text", "non-whitespace", user({"type": "text", "text": " "})),
    ("signature", "Invalid `signature`", assistant({**THOUGHT, "signature": "px1.oai.e30"}, TEXT)),
    ("signature", "Invalid `signature`", assistant({**THOUGHT, "signature": ""}, TEXT)),
    ("data", "Invalid `data`", assistant({"type": "redacted_thinking", "data": "px1.oai.e30"}, TEXT)),
    ("last_thinking", "cannot be `thinking`", assistant(THOUGHT)),
    ("id", "String should match pattern", body(USER, {"role": "assistant", "content": [{**CALL, "id": "a:0"}]})),
    ("encrypted", "Invalid `encrypted_content`", assistant(SEARCH, found(""), TEXT)),
    ("encrypted", "Invalid `encrypted_index`", assistant({**TEXT, "citations": [CITED]})),
    ("picture", "Invalid base64", user({**PICTURE, "source": {**PICTURE["source"], "data": "%"}})),
    ("picture", "does not appear", user({**PICTURE, "source": {**PICTURE["source"], "media_type": "image/jpeg"}})),
    ("unanswered", "without `tool_result`", body(USER, ASKS, USER, tools=[READ])),
    ("uncalled", "unexpected `tool_use_id`", body(TOOL_RESULT)),
    ("same_id", "must be unique", body(USER, ASKS, TOOL_RESULT, ASKS, TOOL_RESULT, tools=[READ])),
    ("tool_name", "should match pattern", body(tools=[{**READ, "name": "a.b"}])),
    ("schema", "Input should be 'object'", body(tools=[{**READ, "input_schema": {"type": "array"}}])),
    ("tool_twice", "must be unique", body(tools=[READ, READ])),
    ("choice", "only be specified while", body(tool_choice={"type": "auto"})),
    ("choice", "not found in provided", body(tools=[READ], tool_choice={"type": "tool", "name": "Write"})),
    ("output_limit", "128000, which is", body(max_tokens=200_000)),
    ("range", "greater than or equal to 0", body(max_tokens=-1)),
    ("range", "temperature", body(temperature=1.5)),
    ("budget", "1024", body(thinking={"type": "enabled", "budget_tokens": 10})),
    ("budget", "must be greater than", body(thinking={"type": "enabled", "budget_tokens": 2_000})),
    ("adaptive", "not supported", {**body(thinking={"type": "adaptive"}), "model": "claude-haiku-4-5"}),
    ("stop", "non-whitespace", body(stop_sequences=["\n"])),
    ("marks", "Found 5", user(*[MARKED] * 5)),
    ("prefill", "does not support assistant message prefill", body(USER, {"role": "assistant", "content": "I say"})),
)
