"""Rows of the table: input that a provider or a model controls."""

import json
from collections.abc import Callable
from typing import Any

from tests.growth.measure import Row
from tests.growth.operations import Operation, answer, reply
from tests.support.citations import find_word
from tests.support.replies import Reply

TRANSLATED = ("server", "responses", "gemini", "ollama")
"""Wires with translated requests and replies."""
OPENAI = ("server", "responses")
EVERY = (*TRANSLATED, "relay")
OPENAI = ("server", "responses")
"""One wire of each kind."""
RECOVERING = ("server", "ollama")
"""Wires with replies that are searched for tool calls in text."""
CHECKED = ("groq",)
"""A wire with structured replies that the proxy checks."""
TOOL: dict[str, Any] = {
    "name": "Read",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
}
LONG = 20_000
CITED_QUESTION = [
    {
        "role": "user",
        "content": [
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "It is so. " * 9},
                "citations": {"enabled": True},
            },
            {"type": "text", "text": "Is it?"},
        ],
    }
]
WORD = find_word(CITED_QUESTION)
"""Word of the marks in replies to it."""


def empty_sources(n: int) -> list[dict[str, Any]]:
    """Return `CITED_QUESTION` with n documents without a word between two that have some."""
    document = CITED_QUESTION[0]["content"][0]
    empty = {**document, "source": {"type": "text", "media_type": "text/plain", "data": " "}}
    return [{"role": "user", "content": [document, *[empty] * n, document, {"type": "text", "text": "Is it?"}]}]


def many_tools(n: int) -> list[dict[str, Any]]:
    return [{"name": f"t{i}", "input_schema": {"type": "object", "properties": {"path": {}}}} for i in range(n)]


def tool_of_many_fields(n: int) -> list[dict[str, Any]]:
    fields = {"path": {}, **{f"p{i}": {} for i in range(n)}}
    return [{"name": "Read", "input_schema": {"type": "object", "properties": fields}}]


FIELD_CALLS = {
    "functions": "<tool_call>\n<function=Read>\n<parameter=path>\na\n</parameter>\n</function>\n</tool_call>\n",
    "functions without parameters": "<tool_call>\n<function=Read>\n</function>\n</tool_call>\n",
    "braces": "<tool_call>call:Read{path:1}<tool_call|>\n",
    "keys and values": "<tool_call>Read\n<arg_key>path</arg_key><arg_value>1</arg_value></tool_call>\n",
    "invoke": '<invoke name="Read">\n<parameter name="path">a</parameter>\n</invoke>\n',
    "a start tag in a value": (
        "<tool_call>\n<function=Read>\n<parameter=path>\n<parameter=p1>\n</parameter>\n</function>\n</tool_call>\n"
    ),
}
"""Calls in text of a tool with a field `path`."""


def texts(make: Callable[[int], list[str]], mode: str = "stream", **fields: Any) -> Operation:
    return reply(lambda n: Reply(texts=make(n)), mode, **fields)


def repeated(unit: str, mode: str = "stream", **fields: Any) -> Operation:
    """Return a reply of one text: a unit again and again."""
    return texts(lambda n: [unit * n], mode, **fields)


def by_character(unit: str, **fields: Any) -> Operation:
    return texts(lambda n: [*(unit * n)], **fields)


def calls(
    call_id: Callable[[int], str], name: Callable[[int], str] = lambda i: "Read", mode: str = "stream", **fields: Any
) -> Operation:
    fields = {"tools": [TOOL], **fields}
    return reply(lambda n: Reply(calls=[(call_id(i), name(i), ['{"path":"a"}']) for i in range(n)]), mode, **fields)


def one_call(
    pieces: Callable[[int], list[str]], name: Callable[[int], str] = lambda n: "Read", **fields: Any
) -> Operation:
    return reply(lambda n: Reply(calls=[("c", name(n), pieces(n))]), tools=[TOOL], **fields)


def chat(*deltas: Callable[[int], list[dict[str, Any]]]) -> Operation:
    """Return a stream of Chat Completions with these deltas."""

    def chunks(n: int) -> list[bytes]:
        frames = [
            {"delta": {}, **delta} if "message" in delta else {"delta": delta} for make in deltas for delta in make(n)
        ]
        return [
            f"data: {json.dumps({'choices': [{'index': 0, **frame}]})}\n\n".encode()
            for frame in [*frames, {"delta": {}, "finish_reason": "stop"}]
        ]

    return answer(chunks)


def checked(
    context: Callable[[int], dict[str, Any]], count: Callable[[int], int] = lambda n: 1, **fields: Any
) -> Operation:
    """Return a reply with calls for a client that requests their check, and states these facts."""
    return reply(
        lambda n: Reply(calls=[(f"c{i}", "Read", ['{"file_path":"/x.sh"}']) for i in range(count(n))]),
        tools=[TOOL],
        safeguards=lambda n: [{"type": "dangerous_tool_use", "classifier_context": context(n)}],
        **fields,
    )


def checked_input(arguments: Callable[[int], str]) -> Operation:
    """Return a reply with one call for a client that requests its check."""
    return reply(
        lambda n: Reply(calls=[("c", "Bash", [json.dumps({"command": arguments(n)})])]),
        tools=[TOOL],
        safeguards=[{"type": "dangerous_tool_use", "classifier_context": {}}],
    )


def written(n: int, text: str) -> list[dict[str, Any]]:
    """Return a conversation with n calls that have written a text."""
    calls = [{"type": "tool_use", "id": f"t{i}", "name": "Write", "input": {"text": text}} for i in range(n)]
    results = [{"type": "tool_result", "tool_use_id": f"t{i}", "content": "ok"} for i in range(n)]
    start = {"role": "user", "content": "go"}
    return [start, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]


def rule(number: int) -> dict[str, Any]:
    return {"source": "projectSettings" if number % 2 else "userSettings", "rule": str(number)}


def events(*contents: dict[str, Any]) -> list[bytes]:
    return [b"data: " + json.dumps(content).encode() + b"\n\n" for content in contents]


def gemini(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, **fields}]}


def citing(n: int) -> dict[str, Any]:
    """Return a frame with n citations of passages that the reply does not have."""
    support = [{"segment": {"text": f"z{i}"}, "groundingChunkIndices": [0]} for i in range(n)]
    chunk = {"web": {"uri": "https://a.test", "title": "a.test"}}
    found = {"webSearchQueries": ["q"], "groundingChunks": [chunk], "groundingSupports": support}
    return gemini({"text": "a"}, groundingMetadata=found)


def grounded(frames: Callable[[int], list[dict[str, Any]]]) -> Operation:
    """Return a reply of Gemini to a request with web search."""
    end = gemini({"text": "."}, finishReason="STOP")
    return answer(lambda n: events(*frames(n), end), tools=[{"type": "web_search_20250305", "name": "web_search"}])


def responses(*contents: Callable[[int], list[dict[str, Any]]], end: Callable[[int], list[Any]]) -> Operation:
    """Return a reply of the Responses API whose last event has the items `end`."""

    def frames(n: int) -> list[bytes]:
        done = {"id": "r", "status": "completed", "output": end(n)}
        sent = [{"type": f"response.{kind}", **content} for make in contents for kind, content in _named(make(n))]
        return events(*sent, {"type": "response.completed", "response": done})

    return answer(frames)


def _named(contents: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(content.pop("kind"), content) for content in contents]


def function(arguments: str, name: str | None = "Read") -> dict[str, Any]:
    return {"arguments": arguments, **({"name": name} if name else {})}


def chat_call(arguments: str, name: str | None = "Read", **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **fields, "function": function(arguments, name)}]}


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()


def words(n: int) -> list[str]:
    return [f"w{i} " for i in range(n)]


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
    "braces": "<|tool_call>call:",
    "marked": "]<]minimax[>[<invoke name=",
    "words": "commentary to=functions.",
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


def stream_of_messages(*pieces: Callable[[int], list[dict[str, Any]]]) -> Operation:
    """Return a stream of the Messages API with these events behind its start, and no last event."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    begin = {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "usage": usage}}

    def chunks(n: int) -> list[bytes]:
        sent = [begin, *(event for make in pieces for event in make(n))]
        return [b"event: %b\n%b" % (event["type"].encode(), events(event)[0]) for event in sent]

    return answer(chunks, tools=[TOOL])


def cut_call(n: int) -> list[dict[str, Any]]:
    """Return a call with incomplete arguments of length n."""
    call = {"type": "tool_use", "id": "c", "name": "Read", "input": {}}
    return [
        {"type": "content_block_start", "index": 0, "content_block": call},
        delta_of_block(0, {"type": "input_json_delta", "partial_json": '{"path":"' + "a" * 100 * n}),
    ]


def delta_of_block(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def ending(**fields: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 1}, **fields}


TEXT_START = {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
BLANK = delta_of_block(0, {"type": "text_delta", "text": " " * 100})
SIGNED = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    delta_of_block(0, {"type": "signature_delta", "signature": "s" * 100}),
]
ROWS = [
    Row("text deltas", EVERY, texts(words), max_steps=25),
    Row("text deltas in one read", EVERY, texts(words, "burst"), max_steps=17),
    Row("length of a reply's text", EVERY, repeated("word ", "whole"), LONG),
    Row("length of one text delta", EVERY, repeated("word "), LONG),
    Row("thinking deltas", EVERY, reply(lambda n: Reply(thoughts=words(n), texts=["x"])), max_steps=28),
    Row(
        "length of a reply's thinking",
        EVERY,
        reply(lambda n: Reply(thoughts=["word " * n], texts=["x"]), "whole"),
        LONG,
    ),
    Row("tool calls", EVERY, calls(lambda i: f"c{i}")),
    Row("tool calls in a whole reply", EVERY, calls(lambda i: f"c{i}", mode="whole")),
    Row("tool calls with one id", EVERY, calls(lambda i: "c")),
    Row("tool calls without ids", EVERY, calls(lambda i: "")),
    Row("tool calls of unknown names", EVERY, calls(lambda i: f"c{i}", lambda i: f"x.y:{i}")),
    Row("length of a called name", EVERY, one_call(lambda n: ['{"path":"a"}'], lambda n: "a." * n), 2_000),
    Row("pieces of tool arguments", EVERY, one_call(lambda n: ['{"path":"', *["a"] * n, '"}']), max_steps=26),
    *(
        Row(f"calls joined to one: {unit}", OPENAI, one_call(lambda n, unit=unit: [unit * n]), 500)
        for unit in ('{"path":"a"}', '{"path":"a"}{}')
    ),
    Row(
        "objects in arguments",
        ("server", "responses", "relay"),
        one_call(lambda n: ['{"path":[', *['{"path":[1]}', ","] * n, "1]}"]),
    ),
    Row("empty objects before arguments", ("server", "responses", "ollama"), one_call(lambda n: ["{}" * n]), 500, 1),
    *(
        Row(f"arguments without an end: {unit}", OPENAI, one_call(lambda n, unit=unit: ['{"a":[' + unit * n]), 500, 8)
        for unit in ("[", "0,", '"a",')
    ),
    Row(
        "complete messages between calls",
        ("server",),
        chat(
            lambda n: [
                delta
                for i in range(n)
                for delta in (
                    {"message": chat_call('{"path":"a"}', index=i, id=f"c{i}")},
                    chat_call('{"path":', index=i, id=f"c{i}"),
                )
            ]
        ),
    ),
    Row(
        "objects of announced calls",
        ("server",),
        chat(
            lambda n: [chat_call("", ("Read", "Bash")[i % 2], id=f"c{i}") for i in range(n)],
            lambda n: [chat_call('{"a":1}', None)] * n,
        ),
    ),
    Row(
        "text behind open calls",
        ("server",),
        chat(lambda n: [chat_call('{"a":{}', index=i, id=f"c{i}") for i in range(n)], lambda n: [{"content": "a"}] * n),
    ),
    Row(
        "text between pieces of arguments",
        ("server",),
        chat(
            lambda n: [chat_call('{"a":[', id="c")],
            lambda n: [delta for _ in range(n) for delta in (chat_call("{},", None), {"content": "a"})],
        ),
    ),
    *(
        Row(f"pieces of {name}, each with its name", ("server",), chat(make))
        for name, make in (
            ("the deprecated function_call", lambda n: [{"function_call": function('{"a":{}')}] * n),
            ("a call without an id", lambda n: [chat_call('{"a":{}')] * n),
            ("a call without id and index", lambda n: [chat_call('{"a":{}', index=None)] * n),
        )
    ),
    Row("length of tool arguments", EVERY, one_call(lambda n: ['{"path":"' + "a" * n + '"}']), LONG),
    *(
        Row(f"Gemini, web search: {name}", ("gemini",), grounded(frames), n)
        for name, frames, n in (
            ("texts", lambda n: [gemini({"text": "word "})] * n, 500),
            ("texts and thinking", lambda n: [gemini({"text": "a"}, {"text": "b", "thought": True})] * n, 200),
            ("passages that are missing", lambda n: [gemini({"text": "a " * 9 * n}), citing(n)], 1_000),
            (
                "passages that are missing in each text",
                lambda n: [citing(n), *[gemini({"text": "a"}, {"text": "b", "thought": True})] * n],
                500,
            ),
        )
    ),
    Row(
        "Gemini: calls that stay open",
        ("gemini",),
        answer(
            lambda n: events(
                *(gemini({"functionCall": {"name": "Read", "id": f"c{i}", "willContinue": True}}) for i in range(n)),
                gemini(finishReason="STOP"),
            )
        ),
        500,
    ),
    Row(
        "pieces of a refusal",
        ("responses",),
        responses(lambda n: [{"kind": "refusal.delta", "delta": "a" * 8} for _ in range(n)], end=lambda n: []),
    ),
    Row(
        "reasoning in the last event only",
        ("responses",),
        responses(
            lambda n: [{"kind": "output_text.delta", "output_index": i, "delta": "a"} for i in range(n)],
            end=lambda n: [{"type": "reasoning", "id": "rs", "summary": []}] * (n + 1),
        ),
    ),
    Row(
        "white space behind an empty object",
        ("server",),
        chat(lambda n: [chat_call("{}", id="c")], lambda n: [chat_call("        ", None)] * n),
    ),
    *(
        Row(f"checks of calls: {name}", ("server", "relay"), operation, n)
        for name, operation, n in (
            ("rules", checked(lambda n: {"rules": {"allow": [rule(i) for i in range(n)]}}), 500),
            ("length of a fact", checked(lambda n: {"git_state": "\u200b" * n}), 20_000),
            ("fields", checked(lambda n: {f"f{i}": i for i in range(n)}), 500),
            ("sentences", checked(lambda n: {"auto_mode": {"allow": ["a"] * n}}), 500),
            ("calls of a reply", checked(lambda n: {}, lambda n: n), 60),
            ("calls, and earlier calls", checked(lambda n: {}, lambda n: n, messages=lambda n: written(n, "> x")), 60),
            ("earlier calls", checked(lambda n: {}, messages=lambda n: written(n, "cat > x.sh")), 300),
            ("length of an earlier call", checked(lambda n: {}, messages=lambda n: written(1, "> x.sh " * n)), 4_000),
            ("words of an input", checked_input(lambda n: "a.sh 'b.sh' >c " * n), 2_000),
            ("equal lines of an input", checked_input(lambda n: "y\n" * n), 20_000),
            (
                "directories, and a call for each",
                checked(lambda n: {"trusted_directories": {"additional": [f"/d{i}" for i in range(n)]}}, lambda n: n),
                60,
            ),
        )
    ),
    *(
        Row(f"{name}, {mode}", RECOVERING, repeated(unit, kind, tools=[TOOL]), 1_000)
        for name, unit in FENCES.items()
        for mode, kind in (("whole", "whole"), ("one delta", "stream"))
    ),
    *(Row(f"{name}, by character", RECOVERING, by_character(unit, tools=[TOOL]), 60) for name, unit in FENCES.items()),
    *(
        Row(f"calls in text: {name}, whole", RECOVERING, repeated(unit, "whole", tools=[TOOL]), 1_600)
        for name, unit in MARKERS.items()
    ),
    *(
        Row(f"calls in text: {name}, by character", RECOVERING, by_character(unit, tools=[TOOL]), 30)
        for name, unit in MARKERS.items()
    ),
    *(Row(f"thinking tags: {name}", RECOVERING, repeated(unit, "whole"), 1_000) for name, unit in THINKING.items()),
    *(
        Row(f"thinking tags: {name}, by character", RECOVERING, by_character(unit), 60)
        for name, unit in THINKING.items()
    ),
    *(
        Row(name, TRANSLATED, by_character("a", stop_sequences=sequences))
        for name, sequences in (
            ("stop sequences with one beginning", lambda n: ["a" * 10 + str(i) for i in range(n)]),
            ("length of a stop sequence", lambda n: ["a" * n + "b"]),
            ("stop sequences at every length", lambda n: ["a" * i + "b" for i in range(n // 10)]),
        )
    ),
    *(
        Row(f"citations: {name}", TRANSLATED, by_character(unit, messages=CITED_QUESTION), n)
        for name, unit, n in (
            ("marks", f"<{WORD} 1>a</{WORD}>", 60),
            ("marks of many numbers", f"<{WORD} 1-9,1-9,1-9>a</{WORD}>", 40),
            ("beginnings of marks", f"<{WORD} 1", 60),
            ("words of marks", f"<{WORD}", 60),
            ("signs that begin a mark", "<", 500),
        )
    ),
    *(
        Row(
            f"citations: {name} in arguments",
            TRANSLATED,
            one_call(lambda n, unit=unit: ['{"path":"', *(unit * n), '"}'], messages=CITED_QUESTION),
            n,
        )
        for name, unit, n in (
            ("marks", f"<{WORD} 1>a</{WORD}>", 60),
            ("escaped marks", rf"\u003c{WORD} 1\u003e", 60),
            ("beginnings of marks", f"<{WORD} 1", 60),
            ("escapes", r"\n", 500),
        )
    ),
    # what follows grows in the request and in the reply, so that work for each pair of both is quadratic
    Row(
        "citations: marks, and sources without passages",
        TRANSLATED,
        repeated(f"<{WORD} 1-99>a</{WORD}>", messages=empty_sources),
        100,
    ),
    *(
        Row(f"calls in text, and fields of their tool: {name}", RECOVERING, repeated(unit, tools=tool_of_many_fields))
        for name, unit in FIELD_CALLS.items()
    ),
    Row("calls, and tools", EVERY, calls(lambda i: f"c{i}", lambda i: f"t{i}", tools=many_tools)),
    Row("calls of unknown names, and tools", EVERY, calls(lambda i: f"c{i}", lambda i: f"x.y:{i}", tools=many_tools)),
    Row("calls without a name, and tools", TRANSLATED, calls(lambda i: f"c{i}", lambda i: "", tools=many_tools), 500),
    Row(
        "calls, and fields of their tool",
        EVERY,
        calls(lambda i: f"c{i}", tools=tool_of_many_fields),
    ),
    Row("text deltas, and messages", EVERY, texts(words, messages=lambda n: written(n, "a"))),
    Row(
        "events of unknown types",
        ("server", "responses", "gemini"),
        answer(lambda n: [b'event: ping\ndata: {"type":"ping"}\n\n'] * n),
    ),
    Row("comments in a stream", EVERY, answer(lambda n: [b": comment\n\n"] * n)),
    *(
        Row(name, TRANSLATED, answer(lambda n, lines=lines: [b": hi\n\n", *lines(n), b"error: overloaded\n\n"]))
        for name, lines in (
            ("lines outside of events", lambda n: [b"ping\n\n"] * n),
            ("lines outside of events, all in one read", lambda n: [b"ping\n\n" * n]),
            ("lines of one event that are no field", lambda n: [b"ping\n" * n + b"\n"]),
            ("lines of an open object outside of events", lambda n: [b"[\n\n", *[b",[]\n\n"] * n]),
        )
    ),
    *(
        Row(f"stream of messages: {name}", ("relay",), stream_of_messages(*pieces))
        for name, pieces in (
            ("white space outside of blocks", [lambda n: [BLANK] * n]),
            ("one block begins again in a cut call", [cut_call, lambda n: [TEXT_START] * n]),
            ("ends of a cut call", [cut_call, lambda n: [{"type": "content_block_stop", "index": 0}] * n]),
            ("pings in a cut call", [cut_call, lambda n: [{"type": "ping"}] * n]),
            ("pings behind a signature", [lambda n: SIGNED, lambda n: [{"type": "ping"}] * n]),
            ("endings", [lambda n: [ending(**{f"f{i}": 1}) for i in range(n)]]),
            ("counts of endings", [lambda n: [ending(usage={"output_tokens": 1, f"f{i}": 1}) for i in range(n)]]),
        )
    ),
    Row(
        "length of one line of a stream",
        ("server", "responses", "gemini", "relay"),
        answer(lambda n: [b"data: {"] + [b"a"] * n),
        2_000,
    ),
    Row("length of one line of NDJSON", ("ollama",), answer(lambda n: [b"{"] + [b"a"] * n), 2_000),
    Row(
        "data lines of one event",
        ("server", "responses", "gemini", "relay"),
        answer(lambda n: [b"data: {\n"] + [b"data: a\n"] * n),
        1_000,
    ),
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
