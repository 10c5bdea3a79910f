"""Rows of `test_loop.py`: bodies of almost the size that the event loop decodes, with the most parts that fit."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.growth.rows_replies import TOOL
from tests.growth.rows_requests import (
    CITED,
    FIELDS,
    Fields,
    assistant,
    call,
    content,
    definition,
    document,
    edited_steps,
    found,
    made_up_tools,
    many,
    messages,
    one_result,
    one_tool,
    replied,
    result,
    searches,
    text,
    thinking,
    user,
)

BYTES = 19 * 1024 * 1024 // 10
"""Size of each body."""
_CLEARED = {"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 1}}
_ALL_CLEARED = {"keep": {"type": "tool_uses", "value": 0}, "clear_at_least": {"type": "input_tokens", "value": 1}}
_COMPACT = {"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}


def source(sentence: str) -> Callable[[int], Fields]:
    """Return fields with a document of n sentences, which the client wants cited."""
    return content(lambda n: [document(0, sentence * n, **CITED)])


def encoded_document(data: str) -> Fields:
    return {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": data}}


def edited(*edits: Mapping[str, Any]) -> Callable[[int], Fields]:
    return messages(
        lambda i: [assistant(call(str(i))), user(result(str(i)))],
        user(text()),
        tools=[TOOL],
        context_management={"edits": edits},
    )


def schema(make: Callable[[int], Any]) -> Callable[[int], Fields]:
    return one_tool(input_schema=lambda n: {"type": "object", "properties": make(n)})


ROWS: Mapping[str, Callable[[int], Fields]] = {
    **FIELDS,
    "sentences of two characters": source(". "),
    "sentences of one character": source("。"),
    "sentences of prose": source("The grass is green. "),
    "lines of a source": source("a\n"),
    "numbers in a source": source("\n[1"),
    "white space in a source": source(" \t"),
    "words of a source": source("word "),
    "documents in base64": content(lambda n: many(lambda i: encoded_document("YQ=="), n)),
    "document in base64 of the most pieces": content(lambda n: [encoded_document(f"{'YWFh' * 8}=" * n)]),
    "document in base64 of too many pieces": content(lambda n: [encoded_document("Q=" * n)]),
    "result in base64 of too many pieces": one_result(lambda i: encoded_document("Q=" * i)),
    "blocks of a source": content(
        lambda n: [{"type": "document", "source": {"type": "content", "content": [text()] * n}, **CITED}]
    ),
    "search results in a result": one_result(lambda i: found(i, **CITED)),
    "blocks of a search result": content(
        lambda n: [{"type": "search_result", "source": "s", "title": "t", "content": [text()] * n, **CITED}]
    ),
    "white space": content(lambda n: [text(" \n" * n)]),
    "tags": content(lambda n: [text("<a>" * n)]),
    "lone surrogates in one text": content(lambda n: [text("\ud83d" * n)]),
    "empty messages": messages(lambda i: [{"role": "user", "content": ""}]),
    "messages without blocks": messages(lambda i: [{"role": "user", "content": []}]),
    "references to tools": one_result(lambda i: {"type": "tool_reference", "tool_name": "Read"}),
    "tools of a server that are made up": made_up_tools,
    "additions of tools": messages(
        lambda i: [user(text()), {"role": "system", "content": [{"type": "tool_addition", "tool": definition(i)}]}],
        user(text()),
        tools=[TOOL],
    ),
    "fields of a tool": schema(lambda n: {f"p{i}": {} for i in range(n)}),
    "values of a tool's field": schema(lambda n: {"a": {"enum": ["a"] * n}}),
    "alternatives of a tool's field": schema(lambda n: {"a": {"anyOf": [{}] * n}}),
    "fields of a reply": lambda n: {
        "output_config": {
            "format": {
                "type": "json_schema",
                "schema": {"type": "object", "properties": {f"p{i}": {} for i in range(n)}},
            }
        }
    },
    "lists in arguments": replied(lambda n: [call("a", v=[[]] * n)]),
    "values of an unknown field": lambda n: {"field": [[]] * n},
    "uses that are cleared": edited({**_CLEARED, **_ALL_CLEARED}),
    "long uses that are cleared": edited_steps(0),
    "searches that are cleared": searches,
    "thinking that is cleared": messages(
        lambda i: [assistant(thinking(i, "s"), text()), user(text())],
        user(text()),
        context_management={"edits": [{"type": "clear_thinking_20251015"}]},
    ),
    "messages to summarize": messages(
        lambda i: [user(text()), assistant(text())], user(text()), compaction={"type": "summarize"}
    ),
    "uses before an edit that summarizes": edited({**_CLEARED, **_ALL_CLEARED}, _COMPACT),
    "summaries": messages(
        lambda i: [user(text()), assistant({"type": "compaction", "content": f"s{i}"})], user(text())
    ),
    "beginnings of marks in a summary": replied(lambda n: [{"type": "compaction", "content": "<" * n}]),
    "stop sequences": lambda n: {"stop_sequences": [f"s{i}" for i in range(n)]},
    "betas in the body": lambda n: {"anthropic_beta": [f"b{i}-2027-01-01" for i in range(n)]},
}
"""What there is as much of as fits → fields of a request with n of it."""


def fill(fields: Callable[[int], Fields]) -> Fields:
    """Return fields with as many parts as fit into a body of `BYTES`."""

    def measure(n: int) -> int:
        return len(json.dumps(fields(n)))

    first, second = measure(50), measure(150)
    n = round(50 + 100 * (BYTES - first) / (second - first))
    while measure(n) > BYTES:
        n = n * 49 // 50
    return fields(n)
