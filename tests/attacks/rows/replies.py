"""Replies of a model or provider with quadratic cost in a careless implementation."""

import json
from collections.abc import Callable

from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.rows.schemas import WIRES, as_tool
from tests.attacks.upstream import Reply, UpstreamCall, reply_text, respond
from tests.faults.client import Answer

_MODELS = [model for name, model in WIRES.items() if name not in ("demo", "relay")]
_TOOL = as_tool({"type": "object", "properties": {"a": {"type": "string"}}})
MARKS = (
    *("```json\n", "~~~\n", "```json\n~~~\n", "<tool_call>", "<function=probe>", "<|python_tag|>", "[TOOL_CALLS]"),
    *("<think>", "</think>", "<function_calls><invoke name=", "<|tool_calls_section_begin|>"),
    *('{"name": "probe", "arguments": ', "[{", "<", "`"),
)


def _reply(reply: Reply, streams: tuple[bool, ...] = (True, False)) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        attack.upstream.reply = reply
        return [attack.post(ordinary(model, tools=[_TOOL], stream=stream)) for model in _MODELS for stream in streams]

    return run


def _refused(text: str) -> Callable[[Attack], list[Answer]]:
    """Return an attack: a request with a text, and an error of the provider, which is compared with it."""

    def run(attack: Attack) -> list[Answer]:
        attack.upstream.reply = lambda call: respond(call.protocol.error(400, "the input is bad"), status=400)
        return [attack.post(ordinary(model, text, stream=True)) for model in _MODELS]

    return run


def _error(status: int, message: str) -> Callable[[Attack], list[Answer]]:
    def build(call: UpstreamCall) -> bytes:
        return respond(call.protocol.error(status, message), status=status)

    return _reply(build)


def _trailer(name: bytes, value: bytes, count: int) -> Callable[[Attack], list[Answer]]:
    def build(call: UpstreamCall) -> bytes:
        body = call.protocol.body(json.dumps("hi").encode())
        line = name + b": " + value + b"\r\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        return head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n" + line * count + b"\r\n"

    return _reply(build, (False,))


def _chunk_extension(size: int) -> Callable[[Attack], list[Answer]]:
    def build(call: UpstreamCall) -> bytes:
        body = call.protocol.body(json.dumps("hi").encode())
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        return head + b"%x;e=" % len(body) + b"x" * size + b"\r\n" + body + b"\r\n0\r\n\r\n"

    return _reply(build, (False,))


_HTTP = frozenset({200, 502})
_ANY = frozenset({200, 400, 401, 402, 403, 404, 413, 422, 429, 500, 502, 529})

REPLIES: tuple[Row, ...] = (
    *(
        Row(name=f"reply: {mark!r} × 60,000 in one piece", run=_reply(reply_text(mark * 60_000)), statuses=_HTTP)
        for mark in MARKS
    ),
    *(
        Row(
            name=f"reply: {mark!r} × 20,000 in 20,000 deltas",
            run=_reply(reply_text(mark * 20_000, 20_000), (True,)),
            statuses=_HTTP,
        )
        for mark in MARKS[:8]
    ),
    Row(name="reply: 5 MB of text", run=_reply(reply_text("word " * 1_000_000)), statuses=_HTTP),
    Row(
        name="reply: 60 MB of text",
        run=_reply(reply_text("word " * 12_000_000), (False,)),
        statuses=_HTTP,
        input_mib=60,
    ),
    Row(name="reply: 100,000 deltas", run=_reply(reply_text("ab" * 100_000, 100_000), (True,)), statuses=_HTTP),
    Row(name="provider: a trailer of 50 MB", run=_trailer(b"x", b"y" * 50_000_000, 1), statuses=_HTTP),
    Row(name="provider: 500,000 trailers", run=_trailer(b"x", b"y", 500_000), statuses=_HTTP),
    Row(name="provider: a chunk extension of 20 MB", run=_chunk_extension(20_000_000), statuses=_HTTP),
    *(
        Row(name=f"provider: {status} with 8 MB of {text!r}", run=_error(status, text * 100_000), statuses=_ANY)
        for status in (400, 429)
        for text in (
            "maximum context length is 8192 tokens, you requested about 1 tokens (",
            "image token limit 8 max_tokens ",
        )
    ),
    *(
        Row(
            name=f"provider: 400 about 7 MB of {part!r}",
            run=_refused(part * (7_000_000 // (len(json.dumps(part)) - 2))),
            statuses=_ANY,
            input_mib=7,
        )
        for part in ("é", "\ud83d", "\N{GRINNING FACE}", "a/é\n")
    ),
)
