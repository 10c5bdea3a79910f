"""Rows of the table: input that a client controls. Schemas have a module of their own."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.growth.exchange import request, with_headers
from tests.growth.table import EVERY, TRANSLATED, Row

Block = dict[str, Any]
Fields = dict[str, Any]

TOOL: Block = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
SEARCH: Block = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
CACHED: Block = {"cache_control": {"type": "ephemeral"}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def tool(name: str, **more: Any) -> Block:
    return {"name": name, "description": "d", "input_schema": {"type": "object"}, **more}


def text(words: str = "t", **more: Any) -> Block:
    return {"type": "text", "text": words, **more}


def call(call_id: str, name: str = "Read", **values: Any) -> Block:
    return {"type": "tool_use", "id": call_id, "name": name, "input": values}


def result(call_id: str, content: Any = "r", **more: Any) -> Block:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def thinking(number: int, signature: str) -> Block:
    return {"type": "thinking", "thinking": f"t{number}", "signature": signature}


def user(*blocks: Block) -> Block:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Block) -> Block:
    return {"role": "assistant", "content": list(blocks)}


def many(make: Callable[[int], Block], n: int) -> list[Block]:
    return [make(number) for number in range(n)]


def one_message(make: Callable[[int], Block]) -> Callable[[int], Fields]:
    return lambda n: {"messages": [user(text("x"), *many(make, n))]}


def steps(ids: Callable[[int], Sequence[str]], name: str = "Read") -> Callable[[int], Fields]:
    """Return fields with one step, a call and its result, for each id."""

    def fields(n: int) -> Fields:
        messages = [user(text())]
        for call_id in ids(n):
            messages += [assistant(call(call_id, name)), user(result(call_id))]
        return {"messages": messages, "tools": [TOOL]}

    return fields


def one_step(
    calls: Callable[[int], Iterable[Block]], results: Callable[[int], Iterable[Block]]
) -> Callable[[int], Fields]:
    return lambda n: {"messages": [user(text()), assistant(*calls(n)), user(*results(n), text())], "tools": [TOOL]}


def numbered(n: int) -> list[str]:
    return [f"toolu_{number}" for number in range(n)]


def one_result(content: Callable[[int], Any], **more: Any) -> Callable[[int], Fields]:
    return one_step(lambda n: [call("toolu_1")], lambda n: [result("toolu_1", content(n), **more)])


def turns(make: Callable[[int], list[Block]]) -> Callable[[int], Fields]:
    return lambda n: {"messages": [user(text()), *(m for i in range(n) for m in (assistant(*make(i)), user(text())))]}


def one_tool(**values: Callable[[int], Any]) -> Callable[[int], Fields]:
    return lambda n: {"tools": [{**TOOL, **{key: value(n) for key, value in values.items()}}]}


def tools(make: Callable[[int], Block], *others: Block, **more: Any) -> Callable[[int], Fields]:
    return lambda n: {"tools": [*({**made, "description": f"of {n}"} for made in many(make, n)), *others], **more}


def image(number: int) -> Block:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}


def document(number: int) -> Block:
    return {
        "type": "document",
        "title": f"d{number}",
        "source": {"type": "text", "media_type": "text/plain", "data": "d"},
    }


def found(number: int) -> Block:
    return {"type": "search_result", "source": f"s{number}", "title": "t", "content": [text("r")]}


def nested(n: int) -> Any:
    value: Any = "x"
    for _ in range(n):
        value = {"a": value}
    return value


LONG = 20_000
ROWS = [
    Row(
        "messages",
        EVERY,
        request(lambda n: {"messages": [m for i in range(n) for m in (user(text()), assistant(text()))]}),
    ),
    Row("messages of one role", EVERY, request(lambda n: {"messages": [user(text(f"m{i}")) for i in range(n)]})),
    Row("messages with plain strings", EVERY, request(lambda n: {"messages": [{"role": "user", "content": "m"}] * n})),
    Row("text blocks", EVERY, request(one_message(lambda i: text(f"b{i}")))),
    Row("empty text blocks", EVERY, request(one_message(lambda i: text("")))),
    Row("unknown blocks", EVERY, request(one_message(lambda i: {"type": f"new_{i}", "value": i}))),
    Row("system blocks", EVERY, request(lambda n: {"system": many(lambda i: text(f"s{i}"), n)})),
    Row(
        "system messages after user messages",
        EVERY,
        request(
            lambda n: {
                "messages": [m for i in range(n) for m in (user(text()), {"role": "system", "content": f"s{i}"})]
            }
        ),
    ),
    Row(
        "system messages after calls",
        EVERY,
        request(
            lambda n: {
                "messages": [
                    user(text()),
                    *(
                        m
                        for i in range(n)
                        for m in (assistant(call(f"c{i}")), {"role": "system", "content": "s"}, user(result(f"c{i}")))
                    ),
                ],
                "tools": [TOOL],
            }
        ),
    ),
    Row("cache markers", EVERY, request(one_message(lambda i: text(f"b{i}", **CACHED)))),
    Row("cache markers on tools", EVERY, request(tools(lambda i: tool(f"t{i}", **CACHED)))),
    Row("length of a text", EVERY, request(lambda n: {"messages": [user(text("word " * n))]}), LONG),
    Row("length of a text without spaces", EVERY, request(lambda n: {"messages": [user(text("a" * n))]}), LONG),
    Row("digits in a text", EVERY, request(lambda n: {"messages": [user(text("7" * n))]}), LONG),
    Row("escapes in a text", EVERY, request(lambda n: {"messages": [user(text('\\"\n\u2028\x01' * n))]}), 5_000),
    Row("lone surrogates", EVERY, request(one_message(lambda i: text(f"\ud83d{i}")))),
    Row(
        "citations in the history",
        EVERY,
        request(
            turns(
                lambda i: [
                    text(
                        "x",
                        citations=[
                            {
                                "type": "char_location",
                                "cited_text": "c",
                                "document_index": 0,
                                "document_title": None,
                                "start_char_index": 0,
                                "end_char_index": 1,
                            }
                        ],
                    )
                ]
            )
        ),
    ),
    Row("thinking blocks, foreign signatures", EVERY, request(turns(lambda i: [thinking(i, "abcd" * 20), text()]))),
    Row("thinking blocks, own signatures", EVERY, request(turns(lambda i: [thinking(i, "px1.openai.e30"), text()]))),
    Row(
        "thinking blocks in one message",
        EVERY,
        request(
            lambda n: {
                "messages": [user(text()), assistant(*many(lambda i: thinking(i, "s"), n), text()), user(text())]
            }
        ),
    ),
    Row(
        "length of a signature",
        EVERY,
        request(
            lambda n: {
                "messages": [user(text()), assistant(thinking(0, "px1.openai." + "A" * n), text()), user(text())]
            }
        ),
        LONG,
    ),
    Row("images", EVERY, request(one_message(image))),
    Row(
        "length of an image",
        EVERY,
        request(
            lambda n: {
                "messages": [
                    user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA" * n}})
                ]
            }
        ),
        LONG,
    ),
    Row(
        "length of a data URL without data",
        EVERY,
        request(lambda n: {"messages": [user({"type": "image", "source": {"type": "url", "url": "data:" + "a" * n}})]}),
        LONG,
    ),
    Row("documents", EVERY, request(one_message(document))),
    Row("search results", EVERY, request(one_message(found))),
    Row("tools", EVERY, request(tools(lambda i: tool(f"tool_{i}")))),
    Row("tools whose names need aliases", EVERY, request(tools(lambda i: tool(f"mcp.tool {i}")))),
    Row("long tool names with one beginning", EVERY, request(tools(lambda i: tool("x" * 100 + str(i))))),
    Row(
        "tools with a loss each",
        EVERY,
        request(tools(lambda i: {**tool(f"tool_{i}"), "input_schema": {"type": "object", "if": {"not": {}}}})),
    ),
    Row("unknown tools", EVERY, request(tools(lambda i: {"type": f"new_{i}", "name": f"tool_{i}"}))),
    Row("length of a tool name", EVERY, request(one_tool(name=lambda n: "x" * n)), LONG),
    Row("tools of one name", EVERY, request(tools(lambda i: tool("same")))),
    Row("deferred tools", EVERY, request(tools(lambda i: tool(f"tool_{i}", defer_loading=True), SEARCH))),
    Row("length of a tool description", EVERY, request(one_tool(description=lambda n: "word " * n)), LONG),
    Row("examples of a tool", EVERY, request(one_tool(input_examples=lambda n: [{"path": str(i)} for i in range(n)]))),
    Row(
        "a forced tool among many",
        EVERY,
        request(tools(lambda i: tool(f"mcp tool {i}"), TOOL, tool_choice={"type": "tool", "name": "Read"})),
    ),
    Row("steps", EVERY, request(steps(numbered))),
    Row("steps with one call id", EVERY, request(steps(lambda n: ["toolu_1"] * n))),
    Row("steps with two call ids in turn", EVERY, request(steps(lambda n: [f"toolu_{i % 2}" for i in range(n)]))),
    Row("steps with empty call ids", EVERY, request(steps(lambda n: [""] * n))),
    Row("steps with ids that look numbered", EVERY, request(steps(lambda n: ["a"] * n + [f"a_{i}" for i in range(n)]))),
    Row("steps with a name that needs an alias", EVERY, request(steps(numbered, "mcp tool"))),
    Row(
        "parallel calls", EVERY, request(one_step(lambda n: map(call, numbered(n)), lambda n: map(result, numbered(n))))
    ),
    Row(
        "parallel calls with one id",
        EVERY,
        request(one_step(lambda n: [call("a")] * n, lambda n: [result("a", f"r{i}") for i in range(n)])),
    ),
    Row(
        "parallel calls of many names",
        EVERY,
        request(one_step(lambda n: [call(i, f"mcp {i}") for i in numbered(n)], lambda n: map(result, numbered(n)))),
    ),
    Row("calls without results", EVERY, request(one_step(lambda n: map(call, numbered(n)), lambda n: []))),
    Row("results without calls", EVERY, request(one_step(lambda n: [text()], lambda n: map(result, numbered(n))))),
    Row(
        "results in reverse order",
        EVERY,
        request(one_step(lambda n: map(call, numbered(n)), lambda n: map(result, reversed(numbered(n))))),
    ),
    Row(
        "results for one call",
        EVERY,
        request(one_step(lambda n: [call("a")], lambda n: [result("a", f"r{i}") for i in range(n)])),
    ),
    Row("blocks in a result", EVERY, request(one_result(lambda n: many(lambda i: text(f"r{i}"), n)))),
    Row(
        "blocks in a failed result",
        EVERY,
        request(one_result(lambda n: many(lambda i: text(f"r{i}"), n), is_error=True)),
    ),
    Row("images in a result", EVERY, request(one_result(lambda n: many(image, n)))),
    Row(
        "images in many results",
        EVERY,
        request(one_step(lambda n: map(call, numbered(n)), lambda n: [result(i, [image(0)]) for i in numbered(n)])),
    ),
    Row(
        "depth of a call's arguments",
        EVERY,
        request(lambda n: {"messages": [user(text()), assistant(call("a", value=nested(n))), user(result("a"))]}),
        200,
    ),
    Row(
        "fields of a call's arguments",
        EVERY,
        request(one_step(lambda n: [call("a", **{f"k{i}": i for i in range(n)})], lambda n: [result("a")])),
    ),
    Row("stop sequences", TRANSLATED, request(lambda n: {"stop_sequences": [f"stop{i}" for i in range(n)]})),
    Row("unknown fields of a request", EVERY, request(lambda n: {f"field_{i}": i for i in range(n)})),
    Row(
        "MCP servers",
        EVERY,
        request(
            lambda n: {
                "mcp_servers": [{"type": "url", "name": f"m{i}", "url": f"https://m{i}.example/mcp"} for i in range(n)]
            }
        ),
    ),
    Row("length of the user id", EVERY, request(lambda n: {"metadata": {"user_id": "u_session_" * n}}), 2_000),
    Row("depth of a JSON body", EVERY, request(lambda n: {"metadata": {"user_id": "u", "x": nested(n)}}), 200),
    Row("length of a model name", TRANSLATED, request(lambda n: {"model": "openai/" + "m-" * n}), 2_000),
    Row("headers", EVERY, with_headers(lambda n: [(b"x-h%d" % i, b"v") for i in range(n)])),
    Row("length of the beta header", EVERY, with_headers(lambda n: [(b"anthropic-beta", b"beta-2025-01-01," * n)])),
    Row(
        "counting tokens of messages",
        TRANSLATED,
        request(lambda n: {"messages": [user(text("some words"))] * n}, "/v1/messages/count_tokens"),
    ),
    Row("counting tokens of tools", TRANSLATED, request(tools(lambda i: tool(f"t{i}")), "/v1/messages/count_tokens")),
]
"""One line per dimension."""
