"""Rows of the table: input that a provider or a model controls."""

import json
from collections.abc import Callable

from tests.growth.exchange import answer, reply
from tests.growth.replies import Reply
from tests.growth.rows_requests import TOOL
from tests.growth.table import EVERY, RECOVERING, TRANSLATED, Row

OFFERED = {"tools": [TOOL]}
LONG = 20_000
ARGUMENTS = ['{"path":"a"}']


def texts(make: Callable[[int], list[str]]) -> Callable[[int], Reply]:
    return lambda n: Reply(texts=make(n))


def repeated(unit: str) -> Callable[[int], Reply]:
    """Return a reply of one text: a unit again and again."""
    return lambda n: Reply(texts=[unit * n])


def by_character(unit: str) -> Callable[[int], Reply]:
    return lambda n: Reply(texts=[*(unit * n)])


def calls(call_id: Callable[[int], str], name: Callable[[int], str] = lambda i: "Read") -> Callable[[int], Reply]:
    return lambda n: Reply(calls=[(call_id(i), name(i), ARGUMENTS) for i in range(n)])


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()


FENCES = {
    "fences of ```": "```json\n",
    "fences of ~~~": "~~~json\n",
    "fences of both kinds": "```a\n~~~b\n",
    "indented fences": "   ```\n",
    "fences that end in their line": "```a```\n",
    "backticks": "`",
    "line breaks": "\n",
    "spaces": " ",
}
MARKERS = {
    "hermes": "<tool_call>",
    "functions": "<function=",
    "python_tag": "<|python_tag|>",
    "listed": "[TOOL_CALLS]",
    "section": "<|tool_calls_section_begin|><|tool_call_begin|>",
    "barred": "<｜tool▁calls▁begin｜>",
    "tool_code": "```tool_code\n",
    "channel": "<|channel|>commentary to=",
    "invoke": "<function_calls><invoke name=",
    "minimax": "<minimax:tool_call>",
    "bare_json": '{"name": ',
    "bare_python": "[Read(",
    "partial": "<tool_<function<|pyth",
    "read and no call": '<tool_call>{"name": "Read", "arguments": </tool_call>',
    "calls": '<tool_call>{"name": "Read", "arguments": {"path": "a"}}</tool_call>',
}
THINKING = {
    "think": "<think>",
    "think ends": "</think>",
    "brackets": "[THINK]",
    "channel": "<|channel|>analysis<|message|>",
}

ROWS = [
    Row("text deltas", EVERY, reply(texts(lambda n: [f"w{i} " for i in range(n)]))),
    Row("text deltas in one read", EVERY, reply(texts(lambda n: [f"w{i} " for i in range(n)]), "burst")),
    Row("length of a reply's text", EVERY, reply(repeated("word "), "whole"), LONG),
    Row("length of one text delta", EVERY, reply(repeated("word ")), LONG),
    Row("thinking deltas", EVERY, reply(lambda n: Reply(thoughts=[f"w{i} " for i in range(n)], texts=["x"]))),
    Row(
        "length of a reply's thinking",
        EVERY,
        reply(lambda n: Reply(thoughts=["word " * n], texts=["x"]), "whole"),
        LONG,
    ),
    Row("tool calls", EVERY, reply(calls(lambda i: f"c{i}"), **OFFERED)),
    Row("tool calls in a whole reply", EVERY, reply(calls(lambda i: f"c{i}"), "whole", **OFFERED)),
    Row("tool calls with one id", EVERY, reply(calls(lambda i: "c"), **OFFERED)),
    Row("tool calls without ids", EVERY, reply(calls(lambda i: ""), **OFFERED)),
    Row("tool calls of unknown names", EVERY, reply(calls(lambda i: f"c{i}", lambda i: f"x.y:{i}"), **OFFERED)),
    Row("length of a called name", EVERY, reply(lambda n: Reply(calls=[("c", "a." * n, ARGUMENTS)]), **OFFERED), 2_000),
    Row(
        "pieces of tool arguments",
        EVERY,
        reply(lambda n: Reply(calls=[("c", "Read", ['{"path":"', *["a"] * n, '"}'])]), **OFFERED),
    ),
    Row(
        "length of tool arguments",
        EVERY,
        reply(lambda n: Reply(calls=[("c", "Read", ['{"path":"' + "a" * n + '"}'])]), **OFFERED),
        LONG,
    ),
    *(
        Row(f"{name}, whole", RECOVERING, reply(repeated(unit), "whole", **OFFERED), 1_000)
        for name, unit in FENCES.items()
    ),
    *(Row(f"{name}, one delta", RECOVERING, reply(repeated(unit), **OFFERED), 1_000) for name, unit in FENCES.items()),
    *(
        Row(f"{name}, by character", RECOVERING, reply(by_character(unit), **OFFERED), 60)
        for name, unit in FENCES.items()
    ),
    *(
        Row(f"calls in text: {name}, whole", RECOVERING, reply(repeated(unit), "whole", **OFFERED), 1_600)
        for name, unit in MARKERS.items()
    ),
    *(
        Row(f"calls in text: {name}, by character", RECOVERING, reply(by_character(unit), **OFFERED), 30)
        for name, unit in MARKERS.items()
    ),
    *(
        Row(f"thinking tags: {name}", RECOVERING, reply(repeated(unit), "whole"), 1_000)
        for name, unit in THINKING.items()
    ),
    *(
        Row(f"thinking tags: {name}, by character", RECOVERING, reply(by_character(unit)), 60)
        for name, unit in THINKING.items()
    ),
    Row(
        "stop sequences with one beginning",
        TRANSLATED,
        reply(by_character("a"), stop_sequences=lambda n: ["a" * 10 + str(i) for i in range(n)]),
    ),
    Row("length of a stop sequence", TRANSLATED, reply(by_character("a"), stop_sequences=lambda n: ["a" * n + "b"])),
    Row(
        "stop sequences at every length",
        TRANSLATED,
        reply(by_character("a"), stop_sequences=lambda n: ["a" * i + "b" for i in range(n // 10)]),
    ),
    Row("events of unknown types", TRANSLATED, answer(lambda n: [b'event: ping\ndata: {"type":"ping"}\n\n'] * n)),
    Row("comments in a stream", EVERY, answer(lambda n: [b": comment\n\n"] * n)),
    Row("length of one line of a stream", EVERY, answer(lambda n: [b"data: "] + [b"a"] * n), 2_000),
    Row("data lines of one event", EVERY, answer(lambda n: [b"data: a\n"] * n), 1_000),
    Row("length of an error", EVERY, answer(lambda n: [error("maximum context length is 10 " * n)], 400), 1_000),
    Row("length of an error without spaces", EVERY, answer(lambda n: [error("a" * n)], 400), LONG),
    Row("key-like texts in an error", EVERY, answer(lambda n: [error("sk-a- Bearer x " * n)], 401), 1_000),
    Row("length of an error that is no JSON", EVERY, answer(lambda n: [b"<html>" * n], 503), 1_000),
    Row("chunks of an error", EVERY, answer(lambda n: [b'{"error":{"message":"', *[b"a "] * n, b'"}}'], 400), 1_000),
    Row(
        "length of a retry hint",
        EVERY,
        answer(lambda n: [error("try again in 1." * n)], 429, lambda n: {"retry-after": "9" * n}),
        300,
    ),
    Row("headers of a reply", EVERY, answer(lambda n: [error("x")], 400, lambda n: {f"x-h{i}": "v" for i in range(n)})),
]
"""One line per dimension."""
