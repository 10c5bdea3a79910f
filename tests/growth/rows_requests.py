"""Rows of the table: input that a client controls. Schemas have a module of their own."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anthropic_proxy.engine.messages.call_states import CallState, HiddenThought, encode_state_id
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX, STATE_ID_PREFIX
from tests.growth.measure import Row
from tests.growth.operations import request, with_headers
from tests.growth.rows_replies import EVERY, TOOL, TRANSLATED

Block = dict[str, Any]
Fields = dict[str, Any]

SEARCH: Block = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
CACHED: Block = {"cache_control": {"type": "ephemeral"}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CITATION: Block = {
    "type": "char_location",
    "cited_text": "c",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
}
CITED: Block = {"citations": {"enabled": True}}
LONG = 20_000


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


def image(number: int, data: str = PIXEL) -> Block:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def document(number: int, data: str = "d", **more: Any) -> Block:
    source = {"type": "text", "media_type": "text/plain", "data": data}
    return {"type": "document", "title": f"d{number}", "source": source, **more}


def found(number: int, **more: Any) -> Block:
    return {"type": "search_result", "source": f"s{number}", "title": "t", "content": [text("r")], **more}


def user(*blocks: Block) -> Block:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Block) -> Block:
    return {"role": "assistant", "content": list(blocks)}


def many(make: Callable[[int], Block], n: int) -> list[Block]:
    return [make(number) for number in range(n)]


def numbered(n: int) -> list[str]:
    return [f"toolu_{number}" for number in range(n)]


def nested(n: int) -> Any:
    value: Any = "x"
    for _ in range(n):
        value = {"a": value}
    return value


# Fields of a request by its size


def messages(make: Callable[[int], list[Block]], *first: Block, **more: Any) -> Callable[[int], Fields]:
    """Return fields with some messages for each number below n."""
    return lambda n: {"messages": [*first, *(message for number in range(n) for message in make(number))], **more}


def content(make: Callable[[int], Iterable[Block]]) -> Callable[[int], Fields]:
    """Return fields with one message of a user."""
    return lambda n: {"messages": [user(*make(n))]}


def blocks(make: Callable[[int], Block]) -> Callable[[int], Fields]:
    return content(lambda n: [text("x"), *many(make, n)])


def replied(make: Callable[[int], list[Block]]) -> Callable[[int], Fields]:
    """Return fields with one reply of the assistant."""
    return lambda n: {"messages": [user(text()), assistant(*make(n)), user(text())]}


def turns(make: Callable[[int], Block]) -> Callable[[int], Fields]:
    return messages(lambda i: [assistant(make(i), text()), user(text())], user(text()))


def steps(ids: Callable[[int], Sequence[str]], name: str = "Read") -> Callable[[int], Fields]:
    """Return fields with one step, a call and its result, for each id."""

    def fields(n: int) -> Fields:
        pairs = [(assistant(call(id_, name)), user(result(id_))) for id_ in ids(n)]
        return {"messages": [user(text()), *(message for pair in pairs for message in pair)], "tools": [TOOL]}

    return fields


def state_id(call_id: str, size: int = 40) -> str:
    """Return the id of a call with a signature of Gemini of this length."""
    thought = HiddenThought(0, "gem", json.dumps({"s": "abcd" * (size // 4)}))
    return encode_state_id(CallState(call_id, [thought]))


def one_step(
    calls: Callable[[int], Iterable[Block]], results: Callable[[int], Iterable[Block]]
) -> Callable[[int], Fields]:
    return lambda n: {"messages": [user(text()), assistant(*calls(n)), user(*results(n), text())], "tools": [TOOL]}


def calls(name: Callable[[str], str] = lambda i: "Read") -> Callable[[int], Iterable[Block]]:
    return lambda n: [call(i, name(i)) for i in numbered(n)]


def results(make: Callable[[str], Any] = lambda i: "r") -> Callable[[int], list[Block]]:
    return lambda n: [result(i, make(i)) for i in numbered(n)]


def one_result(make: Callable[[int], Block], **more: Any) -> Callable[[int], Fields]:
    return one_step(lambda n: [call("toolu_1")], lambda n: [result("toolu_1", many(make, n), **more)])


def one_tool(**values: Callable[[int], Any]) -> Callable[[int], Fields]:
    return lambda n: {"tools": [{**TOOL, **{key: value(n) for key, value in values.items()}}]}


def tools(make: Callable[[int], Block], *others: Block, **more: Any) -> Callable[[int], Fields]:
    return lambda n: {"tools": [*({**made, "description": f"of {n}"} for made in many(make, n)), *others], **more}


def mcp_server(number: int) -> Block:
    return {"type": "url", "name": f"m{number}", "url": f"https://m{number}.example/mcp"}


FIELDS: dict[str, Callable[[int], Fields]] = {
    "messages": messages(lambda i: [user(text()), assistant(text())]),
    "messages of one role": messages(lambda i: [user(text(f"m{i}"))]),
    "messages with plain strings": messages(lambda i: [{"role": "user", "content": "m"}]),
    "text blocks": blocks(lambda i: text(f"b{i}")),
    "empty text blocks": blocks(lambda i: text("")),
    "unknown blocks": blocks(lambda i: {"type": f"new_{i}", "value": i}),
    "system blocks": lambda n: {"system": many(lambda i: text(f"s{i}"), n)},
    "system messages after user messages": messages(lambda i: [user(text()), {"role": "system", "content": f"s{i}"}]),
    "system messages after calls": messages(
        lambda i: [assistant(call(f"c{i}")), {"role": "system", "content": "s"}, user(result(f"c{i}"))],
        user(text()),
        tools=[TOOL],
    ),
    "cache markers": blocks(lambda i: text(f"b{i}", **CACHED)),
    "cache markers on tools": tools(lambda i: tool(f"t{i}", **CACHED)),
    "lone surrogates": blocks(lambda i: text(f"\ud83d{i}")),
    "citations in the history": turns(lambda i: text("x", citations=[CITATION])),
    "thinking blocks, foreign signatures": turns(lambda i: thinking(i, "abcd" * 20)),
    "thinking blocks, own signatures": turns(lambda i: thinking(i, "px1.openai.e30")),
    "thinking blocks in one message": replied(lambda n: [*many(lambda i: thinking(i, "s"), n), text()]),
    "images": blocks(image),
    "documents": blocks(document),
    "search results": blocks(found),
    "documents with citations": blocks(lambda i: document(i, **CITED)),
    "search results with citations": blocks(lambda i: found(i, **CITED)),
    "tools": tools(lambda i: tool(f"tool_{i}")),
    "tools whose names need aliases": tools(lambda i: tool(f"mcp.tool {i}")),
    "long tool names with one beginning": tools(lambda i: tool("x" * 100 + str(i))),
    "tools with a loss each": tools(lambda i: tool(f"tool_{i}", input_schema={"type": "object", "if": {"not": {}}})),
    "unknown tools": tools(lambda i: {"type": f"new_{i}", "name": f"tool_{i}"}),
    "tools of one name": tools(lambda i: tool("same")),
    "deferred tools": tools(lambda i: tool(f"tool_{i}", defer_loading=True), SEARCH),
    "examples of a tool": one_tool(input_examples=lambda n: [{"path": str(i)} for i in range(n)]),
    "a forced tool among many": tools(
        lambda i: tool(f"mcp tool {i}"), TOOL, tool_choice={"type": "tool", "name": "Read"}
    ),
    "steps": steps(numbered),
    "steps with one call id": steps(lambda n: ["toolu_1"] * n),
    "steps with two call ids in turn": steps(lambda n: [f"toolu_{i % 2}" for i in range(n)]),
    "steps with empty call ids": steps(lambda n: [""] * n),
    "steps with ids that look numbered": steps(lambda n: ["a"] * n + [f"a_{i}" for i in range(n)]),
    "steps with states in call ids": steps(lambda n: [state_id(f"c{i}") for i in range(n)]),
    "steps with the same state in call ids": steps(lambda n: [state_id("c")] * n),
    "steps with damaged states in call ids": steps(lambda n: [f"{STATE_ID_PREFIX}{i:040d}" for i in range(n)]),
    "steps with kept states": steps(lambda n: [f"{KEPT_ID_PREFIX}{i:024d}" for i in range(n)]),
    "steps with a name that needs an alias": steps(numbered, "mcp tool"),
    "parallel calls": one_step(calls(), results()),
    "parallel calls with one id": one_step(
        lambda n: [call("a")] * n, lambda n: [result("a", f"r{i}") for i in range(n)]
    ),
    "parallel calls of many names": one_step(calls(lambda i: f"mcp {i}"), results()),
    "calls without results": one_step(calls(), lambda n: []),
    "results without calls": one_step(lambda n: [text()], results()),
    "results in reverse order": one_step(calls(), lambda n: results()(n)[::-1]),
    "results for one call": one_step(lambda n: [call("a")], lambda n: [result("a", f"r{i}") for i in range(n)]),
    "blocks in a result": one_result(lambda i: text(f"r{i}")),
    "blocks in a failed result": one_result(lambda i: text(f"r{i}"), is_error=True),
    "images in a result": one_result(image),
    "images in many results": one_step(calls(), results(lambda i: [image(0)])),
    "fields of a call's arguments": one_step(
        lambda n: [call("a", **{f"k{i}": i for i in range(n)})], lambda n: [result("a")]
    ),
    "unknown fields of a request": lambda n: {f"field_{i}": i for i in range(n)},
    "MCP servers": lambda n: {"mcp_servers": many(mcp_server, n)},
}
"""Dimension → fields of a request on every wire."""
MAX_STEPS = {"messages": 45.0, "tools": 170.0, "steps": 42.0}
"""Dimension → upper bound of steps for one more."""
SIZED: dict[str, tuple[Callable[[int], Fields], int]] = {
    "length of a text": (content(lambda n: [text("word " * n)]), LONG),
    "length of a text without spaces": (content(lambda n: [text("a" * n)]), LONG),
    "digits in a text": (content(lambda n: [text("7" * n)]), LONG),
    "escapes in a text": (content(lambda n: [text('\\"\n\u2028\x01' * n)]), 5_000),
    "sentences of a document with citations": (content(lambda n: [document(0, "It is so. " * n, **CITED)]), 2_000),
    "length of a sentence with citations": (content(lambda n: [document(0, "word " * n, **CITED)]), LONG),
    "length of a signature": (replied(lambda n: [thinking(0, "px1.openai." + "A" * n), text()]), LONG),
    "length of a state in a call id": (
        lambda n: {"messages": [user(text()), assistant(call(state_id("c", n))), user(result(state_id("c", n)))]},
        LONG,
    ),
    "length of an image": (content(lambda n: [image(0, "AAAA" * n)]), LONG),
    "length of a data URL without data": (
        content(lambda n: [{"type": "image", "source": {"type": "url", "url": "data:" + "a" * n}}]),
        LONG,
    ),
    "length of a tool name": (one_tool(name=lambda n: "x" * n), LONG),
    "length of a tool description": (one_tool(description=lambda n: "word " * n), LONG),
    "depth of a call's arguments": (
        lambda n: {"messages": [user(text()), assistant(call("a", value=nested(n))), user(result("a"))]},
        200,
    ),
    "length of the user id": (lambda n: {"metadata": {"user_id": "u_session_" * n}}, 2_000),
    "depth of a JSON body": (lambda n: {"metadata": {"user_id": "u", "x": nested(n)}}, 200),
}
"""Dimension → fields of a request on every wire, and n."""
COUNT = "/v1/messages/count_tokens"
CLOUD = ("bedrock",)
EDITING = (*TRANSLATED, "moonshot")
"""Wires for which the proxy edits conversations."""
"""A server that has other betas and tools than Anthropic's own."""


def new_betas(n: int) -> list[bytes]:
    return [b"b%d-2027-01-01" % number for number in range(n)]


def in_results(n: int) -> Fields:
    """Return n results in each other around a long link."""
    value: Any = [{"type": "image", "source": {"type": "url", "url": "https://a.example/" + "a" * n * 500}}]
    for _ in range(n):
        value = [result("a", value)]
    return {"messages": [user(text()), assistant(call("a")), user(*value)], "tools": [TOOL]}


def made_up_tools(n: int) -> Fields:
    """Return tools with names of their own that the server does not have, and a result of another one for each."""
    kind, result_kind = "web_search_20260318", "web_search_tool_result"
    results = many(lambda i: {"type": f"a{i}_{result_kind}", "tool_use_id": "a", "content": []}, n)
    known = many(lambda i: {"type": result_kind, "tool_use_id": "a", "content": []}, n)
    return {
        "tools": many(lambda i: {"type": kind, "name": f"t{i}"}, n),
        "messages": [user(text()), assistant(*results, *known, text("x")), user(text())],
    }


EDITED = {
    "edits": [
        {"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 1}, "clear_tool_inputs": True},
        {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}},
    ]
}
"""Each edit but `compact_20260112`, which asks a model. What that costs is measured with `SUMMARIZE`."""


def definition(number: int) -> Fields:
    tool = {"name": f"t{number}", "input_schema": {"type": "object"}}
    return {"type": "tool_definition", "definition": tool}


def edited_steps(at_least: int) -> Callable[[int], Fields]:
    """Return fields with steps that are cleared. `at_least`: tokens that each moved boundary has to win."""
    uses = EDITED["edits"][0] | {"clear_at_least": {"type": "input_tokens", "value": at_least}}
    return messages(
        lambda i: [
            assistant(thinking(i, "s"), text(), call(f"c{i}")),
            user(result(f"c{i}", "word " * 40)),
            assistant(text()),
            user(text()),
        ],
        user(text()),
        tools=[TOOL],
        context_management={"edits": [uses, *EDITED["edits"][1:]]},
    )


def searches(n: int) -> Fields:
    """Return a reply with searches whose results are cleared."""
    page = {"type": "web_search_result", "url": "https://a.test", "title": "word " * 40, "encrypted_content": ""}
    blocks = many(lambda i: {"type": "server_tool_use", "id": f"s{i}", "name": "web_search", "input": {}}, n)
    found = many(lambda i: {"type": "web_search_tool_result", "tool_use_id": f"s{i}", "content": [page]}, n)
    pairs = [block for pair in zip(blocks, found, strict=True) for block in pair]
    return {"messages": [user(text()), assistant(*pairs, text()), user(text())], "context_management": EDITED}


SUMMARIZE = {"compaction": {"type": "summarize"}}
ROWS = [
    *(Row(name, EVERY, request(fields), max_steps=MAX_STEPS.get(name, 0.0)) for name, fields in FIELDS.items()),
    *(Row(name, EVERY, request(fields), n) for name, (fields, n) in SIZED.items()),
    Row(
        "messages to summarize",
        TRANSLATED,
        request(messages(lambda i: [user(text(f"m{i}")), assistant(text())], user(text()), **SUMMARIZE)),
    ),
    Row(
        "calls, results and changes of tools to summarize",
        TRANSLATED,
        request(
            messages(
                lambda i: [
                    assistant(call(f"c{i}")),
                    user(result(f"c{i}")),
                    {"role": "system", "content": [{"type": "tool_addition", "tool": definition(i)}]},
                ],
                user(text()),
                tools=[TOOL],
                **SUMMARIZE,
            )
        ),
    ),
    Row(
        "summaries in the messages",
        TRANSLATED,
        request(
            messages(lambda i: [user(text()), assistant({"type": "compaction", "content": f"s{i}"})], user(text()))
        ),
    ),
    Row("stop sequences", TRANSLATED, request(lambda n: {"stop_sequences": [f"stop{i}" for i in range(n)]})),
    Row("length of a model name", TRANSLATED, request(lambda n: {"model": "openai/" + "m-" * n}), 2_000),
    Row("headers", EVERY, with_headers(lambda n: [(b"x-h%d" % i, b"v") for i in range(n)])),
    Row("length of the beta header", EVERY, with_headers(lambda n: [(b"anthropic-beta", b"beta-2025-01-01," * n)])),
    Row("new betas in the header", CLOUD, with_headers(lambda n: [(b"anthropic-beta", b",".join(new_betas(n)))])),
    Row(
        "new betas in the body", CLOUD, request(lambda n: {"anthropic_beta": [name.decode() for name in new_betas(n)]})
    ),
    Row("results of made-up tools", CLOUD, request(made_up_tools)),
    Row("depth of results in results", CLOUD, request(in_results), 10),
    Row("counting tokens of messages", TRANSLATED, request(messages(lambda i: [user(text("some words"))]), COUNT)),
    Row("steps that are cleared", EDITING, request(edited_steps(0))),
    Row("steps that are never cleared", EDITING, request(edited_steps(1_000_000))),
    Row("results of server tools that are cleared", EDITING, request(searches)),
    Row("counting tokens of tools", TRANSLATED, request(tools(lambda i: tool(f"t{i}")), COUNT)),
]
"""One line per dimension."""
