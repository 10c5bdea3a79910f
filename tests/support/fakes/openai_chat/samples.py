"""Requests to OpenAI's Chat Completions: good ones, and for each rule of the stand-in ones that break it."""

import base64
import struct
import zlib
from typing import Any


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + b"\x80" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pdf() -> bytes:
    """Return a document of one empty page."""
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>",
    )
    made, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(b"%010d 00000 n \n" % len(made))
        made += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"xref\n0 4\n0000000000 65535 f \n" + b"".join(places)
    return made + table + b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(made)


PNG_URL = "data:image/png;base64," + base64.b64encode(png(3, 2)).decode()
USER = {"role": "user", "content": "hello"}
READ = {
    "type": "function",
    "function": {
        "name": "Read",
        "parameters": {"type": "object", "properties": {"file_path": {"type": "string"}}, "required": ["file_path"]},
    },
}
CALL = {"id": "call_a", "type": "function", "function": {"name": "Read", "arguments": '{"file_path":"/a"}'}}
OTHER = CALL | {"id": "call_b"}
ASKS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ASKS_TWO = {"role": "assistant", "tool_calls": [CALL, OTHER]}
TOOL_RESULT = {"role": "tool", "tool_call_id": "call_a", "content": "text"}
OTHER_TOOL_RESULT = TOOL_RESULT | {"tool_call_id": "call_b"}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4.1", "messages": list(messages) or [USER]} | fields


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return body({"role": "user", "content": list(parts)})


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def function(name: str = "Read", strict: bool | None = None, **parameters: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": parameters} | ({"strict": strict} if strict else {}),
    }


def tools(*offered: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return body(tools=list(offered), **fields)


OBJECT = {"type": "object", "properties": {}}
LONG = "c" * 41


def with_property(**schema: Any) -> dict[str, Any]:
    return tools(function(type="object", properties={"a": schema}))


def strict(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Offer a strict function with one argument of that schema. `more` replaces the keywords that make it valid."""
    fields = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return tools(function(strict=True, **fields | more))


def asks(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


FORMAT = {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "array"}}}
BAD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unknown_field", "supplied: top_k", body(top_k=3)),
    ("unknown_field", "messages[0].cache_control", body(USER | {"cache_control": {}})),
    ("unknown_field", "content[0].cache_control", user({"type": "text", "text": "a", "cache_control": {}})),
    (
        "unknown_field",
        "function.input_schema",
        tools({"type": "function", "function": {"name": "a", "input_schema": {}}}),
    ),
    ("unknown_field", "tools[0].defer_loading", tools(READ | {"defer_loading": True})),
    ("missing", "'messages[0].tool_call_id'", body({"role": "tool", "content": "a"})),
    ("missing", "'messages[0].tool_calls[0].id'", body(asks({"type": "function", "function": {}}))),
    ("missing", "'messages[0].tool_calls[0].type'", body(asks({"id": "call_a", "function": {}}))),
    ("missing", "'model'", {"messages": [USER]}),
    ("missing", "'messages[0].role'", body({"content": "a"})),
    ("type", "'messages[0].content'", body({"role": "user", "content": 3})),
    ("type", "'temperature': expected a number, but got a boolean", body(temperature=True)),
    ("type", "'max_tokens': expected an integer", body(max_tokens=1.5)),
    ("type", "function.arguments'", body(USER, asks(CALL | {"function": {"name": "Read", "arguments": {}}}))),
    ("type", ".tool_calls'", body({"role": "assistant", "content": "a", "tool_calls": None})),
    ("value", "'assistent'", body({"role": "assistent", "content": "a"})),
    ("value", "'any'. Supported values are: 'none', 'auto', 'required'", tools(READ, tool_choice="any")),
    ("value", "content[0].type", user({"type": "image", "source": {}})),
    ("range", "'temperature'", body(temperature=2.1)),
    ("range", "integer below minimum", body(max_tokens=0)),
    ("unsupported", "Use 'max_completion_tokens' instead", body(model="o3", max_tokens=5)),
    ("unsupported", "'parallel_tool_calls'", tools(READ, model="o3", parallel_tool_calls=False)),
    ("unsupported", "'stop'", body(model="gpt-5", stop=["a"])),
    ("unsupported", "supplied: reasoning_effort", body(reasoning_effort="low")),
    ("two_limits", "at the same time", body(max_tokens=5, max_completion_tokens=5)),
    ("output_limit", "supports at most 32768 completion tokens", body(max_tokens=128_000)),
    ("effort", "does not support 'max'", body(model="gpt-5", reasoning_effort="max")),
    ("forced_effort_with_tools", "/v1/responses", tools(READ, model="gpt-5.5", reasoning_effort="low")),
    ("sampling", "Only the default (1) value", body(model="o3", temperature=0)),
    ("needs_tools", "'tool_choice' is only allowed when 'tools'", body(tool_choice="auto")),
    ("needs_tools", "'parallel_tool_calls' is only allowed when 'tools'", body(parallel_tool_calls=False)),
    ("tools_empty", "'tools': empty array", body(tools=[])),
    ("tools_many", "maximum length 128", tools(*(function(f"t{number}", **OBJECT) for number in range(129)))),
    ("tool_name", "does not match pattern", tools(function("a.b", **OBJECT))),
    ("too_long", "maximum length 64, but got a string with length 65", tools(function("a" * 65, **OBJECT))),
    ("too_long", "tool_calls[0].id", body(USER, asks(CALL | {"id": LONG}), TOOL_RESULT | {"tool_call_id": LONG})),
    ("too_long", "'user'", body(user="u" * 65)),
    ("too_long", "metadata.a", body(store=True, metadata={"a": "v" * 513})),
    ("tool_twice", "must be unique", tools(READ, READ)),
    ("schema", "got 'type: \"None\"'", tools(function())),
    ("schema", "got 'type: \"array\"'", tools(function(type="array", items={}))),
    ("schema", "object schema missing properties", tools(function(type="object"))),
    ("schema", "not have 'anyOf' at the top level", tools(function(**OBJECT, anyOf=[{}]))),
    ("schema", "array schema missing items", with_property(type="array")),
    ("schema", "'strng' is not valid", with_property(type="strng")),
    ("schema", "is not of type 'object', 'boolean'", tools(function(type="object", properties={"a": "string"}))),
    ("schema", "('required')", tools(function(**OBJECT, required="a"))),
    ("schema", "('enum')", with_property(enum=[])),
    ("schema", "('anyOf')", with_property(anyOf={})),
    ("schema", "('minLength')", with_property(minLength="1")),
    ("schema", "('maximum')", with_property(maximum=True)),
    ("schema", "('description')", tools(function(**OBJECT, description=None))),
    ("schema", "is not a 'regex'", with_property(pattern="(")),
    ("schema", "which was not found", with_property(**{"$ref": "#/$defs/a"})),
    ("schema", "additionalProperties", tools(function(strict=True, **OBJECT))),
    ("schema", "Missing 'a'", strict({"type": "string"}, required=[])),
    ("schema", "must have a 'type' key", strict({})),
    ("schema", "'allOf' is not permitted", strict({"allOf": [{}], "type": "string"})),
    ("choice", "'function Write' not found", tools(READ, tool_choice=named("Write"))),
    ("format_schema", "response_format 'output'", body(response_format=FORMAT)),
    ("format_word", "the word 'json'", body(response_format={"type": "json_object"})),
    ("stream_options", "when 'stream' is enabled", body(stream_options={"include_usage": True})),
    ("stops", "maximum length 4", body(stop=list("abcde"))),
    ("metadata_store", "when 'store' is enabled", body(metadata={"a": "b"})),
    ("metadata_many", "at most 16", body(store=True, metadata={str(number): "v" for number in range(17)})),
    ("messages_empty", "'messages': empty array", body() | {"messages": []}),
    ("message_name", "messages[0].name", body(USER | {"name": "a b"})),
    ("content_empty", "empty array", user()),
    ("content_empty", "got null", body({"role": "assistant", "content": None})),
    ("calls_empty", "tool_calls", body({"role": "assistant", "content": "a", "tool_calls": []})),
    ("value", "content[0].type", body(USER, ASKS, TOOL_RESULT | {"content": [image(PNG_URL)]})),
    ("value", "content[0].type", body({"role": "system", "content": [image(PNG_URL)]})),
    ("image_url", "image_url.url", user(image("iVBORw0KGgo="))),
    ("image_url", "image_url.url", user(image("data:image/png;base64,***"))),
    ("image_format", "unsupported image", user(image(PNG_URL.replace("image/png", "image/jpeg")))),
    ("image_format", "unsupported image", user(image("data:image/bmp;base64,Qk0="))),
    ("image_model", "certain models", user(image(PNG_URL)) | {"model": "gpt-4"}),
    ("file", "file.filename", user({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}})),
    ("file", "application/pdf", user({"type": "file", "file": {"filename": "a", "file_data": "JVBERi0="}})),
    ("id", "empty string", body(USER, asks(CALL | {"id": ""}), TOOL_RESULT | {"tool_call_id": ""})),
    ("id_twice", "'call_a'", body(USER, asks(CALL, CALL), TOOL_RESULT)),
    (
        "arguments",
        "JSON text",
        body(USER, asks(CALL | {"function": {"name": "Read", "arguments": "{'a': 1}"}}), TOOL_RESULT),
    ),
    ("tool_order", "did not have response messages: call_b", body(USER, ASKS_TWO, TOOL_RESULT)),
    ("tool_order", "did not have response messages: call_a", body(USER, ASKS, USER, TOOL_RESULT)),
    (
        "tool_order",
        "did not have response messages: call_b",
        body(USER, ASKS_TWO, TOOL_RESULT, USER, OTHER_TOOL_RESULT),
    ),
    ("tool_answer_twice", "Duplicate value", body(USER, ASKS, TOOL_RESULT, TOOL_RESULT)),
    ("tool_unknown_id", "'call_b' not found", body(USER, ASKS, TOOL_RESULT, OTHER_TOOL_RESULT)),
    ("tool_without_call", "preceeding message", body(USER, TOOL_RESULT)),
)
