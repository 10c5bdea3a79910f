"""Requests to Ollama: good ones, and for each rule of the stand-in ones that break it."""

import base64
from typing import Any

from tests.support.fakes.openai_chat.samples import png

PICTURE = base64.b64encode(png(3, 2)).decode()
USER = {"role": "user", "content": "hello"}
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = {"type": "function", "function": {"name": "Read", "description": "Reads.", "parameters": PARAMETERS}}
CALL = {"id": "call_a", "function": {"index": 0, "name": "Read", "arguments": {"path": "/a"}}}
OTHER = {"id": "call_b", "function": {"index": 1, "name": "Read", "arguments": {"path": "/b"}}}
ASKS = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [CALL]}
ASKS_TWO = {"role": "assistant", "content": "", "tool_calls": [CALL, OTHER]}
TOOL_RESULT = {"role": "tool", "content": "text", "tool_name": "Read", "tool_call_id": "call_a"}
OTHER_TOOL_RESULT = TOOL_RESULT | {"tool_call_id": "call_b"}


def body(*messages: Any, options: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "model": "qwen3:8b",
        "messages": list(messages) or [USER],
        "truncate": False,
        "shift": False,
        "options": {"num_ctx": 8192, "num_predict": 10} if options is None else options,
    } | fields


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in body().items() if name not in names}


def tool(**function: Any) -> dict[str, Any]:
    return body(tools=[READ | {"function": READ["function"] | function}])


def prop(**schema: Any) -> dict[str, Any]:
    return tool(parameters={"type": "object", "properties": {"a": schema}})


BAD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unknown_field", "'max_tokens'", body(max_tokens=3)),
    ("unknown_field", "'cache_control'", body(USER | {"cache_control": {}})),
    (
        "unknown_field",
        "'type' in ChatRequest.messages.tool_calls",
        body(USER, ASKS | {"tool_calls": [CALL | {"type": "f"}]}, TOOL_RESULT),
    ),
    ("unknown_field", "'tfs_z'", body(options={"num_ctx": 1, "tfs_z": 1})),
    ("unknown_field", "'strict'", tool(strict=True)),
    ("unknown_field", "'additionalProperties'", tool(parameters=PARAMETERS | {"additionalProperties": False})),
    ("unknown_field", "'$ref'", prop(**{"$ref": "#/$defs/a"})),
    ("missing", "ChatRequest.model", without("model")),
    ("missing", ".content", body({"role": "user"})),
    ("missing", ".parameters", body(tools=[{"type": "function", "function": {"name": "a"}}])),
    (
        "type",
        "unmarshal array into Go struct field ChatRequest.messages.content of type string",
        body({"role": "user", "content": []}),
    ),
    (
        "type",
        "unmarshal string into Go struct field ChatRequest.messages.tool_calls.function.arguments",
        body(USER, ASKS | {"tool_calls": [{"function": CALL["function"] | {"arguments": "{}"}}]}, TOOL_RESULT),
    ),
    ("type", "unmarshal bool", prop(properties={"a": True})),
    ("type", "unmarshal null", body(stream=None)),
    ("type", "of type int", body(options={"num_ctx": 8192.5})),
    ("type", "of type map", tool(parameters={"type": "object", "properties": []})),
    ("think", 'invalid think value: "xhigh"', body(think="xhigh")),
    ("think", "must be a boolean", body(think=3)),
    ("think_level", "low, medium or high", body(model="gpt-oss:20b", think=True)),
    ("duration", 'invalid duration "300"', body(keep_alive="300")),
    ("duration", "Unsupported type", body(keep_alive=True)),
    ("no_chat", "does not support chat", body(model="nomic-embed-text")),
    ("no_tools", "does not support tools", tool() | {"model": "llama3"}),
    ("no_thinking", "does not support thinking", body(model="llama3", think=True)),
    ("no_vision", "image input", body(USER | {"images": [PICTURE]})),
    ("window", "num_ctx", body(options={})),
    ("window_in_cloud", "whole window", body(model="gpt-oss:120b-cloud")),
    ("silent_loss", "truncate", without("truncate")),
    ("silent_loss", "shift", body(shift=True)),
    ("tools_empty", "empty", body(tools=[])),
    ("tool_type", "parameters are an object", tool(parameters={"type": "array", "properties": {}})),
    ("tool_name", "no name", tool(name="")),
    ("tool_twice", "same name", body(tools=[READ, READ])),
    ("format", "expected", body(format="yaml")),
    ("format_with_tools", "no tool could be called", body(tools=[READ], format={})),
    ("messages_empty", "no messages", body() | {"messages": []}),
    ("no_user", "no user query", body({"role": "system", "content": "a"})),
    ("role", "'developer'", body({"role": "developer", "content": "a"}, USER)),
    ("mid_conversation_system", "messages[1]", body(USER, {"role": "system", "content": "a"})),
    ("unanswered", "before the results", body(USER, ASKS_TWO, TOOL_RESULT, USER)),
    ("unanswered", "are missing", body(USER, ASKS)),
    ("result_without_call", "answers no call", body(USER, TOOL_RESULT)),
    ("result_order", "waits", body(USER, ASKS_TWO, OTHER_TOOL_RESULT, TOOL_RESULT)),
    ("misplaced", "thinking", body(USER | {"thinking": "hm"})),
    ("content_empty", "says nothing", body({"role": "user", "content": ""})),
    ("image", "illegal base64", body(USER | {"images": [f"data:image/png;base64,{PICTURE}"]}, model="gemma3:4b")),
    ("image", "unknown format", body(USER | {"images": ["aGVsbG8="]}, model="gemma3:4b")),
    (
        "image",
        "user's pictures",
        body(USER, {"role": "assistant", "content": "", "images": [PICTURE]}, model="gemma3:4b"),
    ),
    ("prefill_thinking", "incompatible", body(USER, {"role": "assistant", "content": "go on"})),
)
