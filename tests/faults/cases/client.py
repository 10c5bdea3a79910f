"""Faults of the client."""

import gzip
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.faults.call import HEALTHY, Call, head
from tests.faults.cases.case import FaultCase, FaultContext, Observed, ask_with, fault_case
from tests.faults.cases.status import MEBIBYTE, refuse
from tests.faults.client import WORDS, Answer, Asking, encode_request, head_of, request_of
from tests.faults.expected import Cases, ClientDisconnected, Complete, Refused, both, streamed
from tests.faults.protocols import literal

MAX_BUFFERED_BYTES = MEBIBYTE
_FLOOD = 256
_PIECE = "a" * 65_536
_STILL_SECONDS = 1.0
_GONE, _NEVER = both(ClientDisconnected()), both(Refused(400, "invalid_request_error"), 0)
_TOO_LARGE = both(Refused(413, "request_too_large"), 0)
case = partial(fault_case, "client")


def leave(when: Callable[[FaultContext, Asking], bool]) -> Callable[[FaultContext], Observed]:
    """Return a client that leaves once something is so; its time is until the provider sees that."""

    def ask(context: FaultContext) -> Observed:
        asking = Asking(context.port)
        asking.send(encode_request(request_of(context.protocol, streams=context.streams)))
        observed = Observed(
            Answer(), problems=[] if when(context, asking) else ["what the client waited for did not come"]
        )
        left_at = time.monotonic()
        asking.close()
        upstream = context.upstream
        if not upstream.settle():
            observed.problems.append("the call to the provider goes on")
        observed.seconds = max((call.left_at or left_at for call in upstream.calls), default=left_at) - left_at
        return observed

    return ask


def asked(context: FaultContext, _: Asking) -> bool:
    return context.upstream.wait_for(lambda: context.upstream.asked > 0)


def refused(context: FaultContext, _: Asking) -> bool:
    calls = context.upstream.calls
    return context.upstream.wait_for(lambda: bool(calls) and not calls[0].open)


def words_came(context: FaultContext, asking: Asking) -> bool:
    return asking.read_until(WORDS) if context.streams else asked(context, asking)


def send(*pieces: bytes, then_leave: bool = False) -> Callable[[FaultContext], Observed]:
    """Return a client that sends these bytes in place of a request."""

    def ask(context: FaultContext) -> Observed:
        asking = Asking(context.port)
        asking.send(*pieces)
        answer = Answer() if then_leave else asking.read_answer()
        asking.close()
        return Observed(answer, answer.seconds)

    return ask


def ask_widely(context: FaultContext) -> Observed:
    body = json.dumps(request_of(context.protocol, streams=context.streams)).encode()
    return send(encode_request(body + b" " * (31 * MEBIBYTE)))(context)


def break_off(context: FaultContext) -> Observed:
    asking = Asking(context.port)
    asking.send(head_of("Content-Length: 1000"), b'{"model":')
    asking.reset()
    return Observed(Answer())


def flood(call: Call) -> None:
    call.send_chunk(call.protocol.opening)
    words = call.protocol.words(literal(_PIECE))
    for _ in range(_FLOOD):
        call.send_chunk(words)
    call.end()


def read_late(context: FaultContext) -> Observed:
    """Stop reading after the first text until the provider is blocked, then read all. Count the bytes in between."""
    asking = Asking(context.port, receive_bytes=65_536)
    asking.send(encode_request(request_of(context.protocol, streams=True)))
    asking.read_until(WORDS)
    call = context.upstream.calls[-1]
    sent, still_since = -1, time.monotonic()
    while time.monotonic() - still_since < _STILL_SECONDS:
        if call.sent != sent:
            sent, still_since = call.sent, time.monotonic()
        time.sleep(0.05)
    buffered = sent - asking.read_bytes
    answer = asking.read_answer()
    asking.close()
    problems = [f"{buffered:,} bytes were on the way"] if buffered > MAX_BUFFERED_BYTES else []
    return Observed(answer, answer.seconds, problems)


_BODY = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": []}).encode()
_BODY_LENGTH = f"Content-Length: {len(_BODY)}"
_CHUNK = b"%x\r\n%b\r\n" % (MEBIBYTE, b" " * MEBIBYTE)
_NESTED: list[Any] = []
for _ in range(201):
    _NESTED = [_NESTED]


def sending(words: str, cases: Cases, *pieces: bytes, **options: Any) -> FaultCase:
    """Return a client that sends these bytes in place of a request."""
    return case(words, cases, **{"scripts": [HEALTHY], "ask": send(*pieces), **options})


CASES = (
    case("disconnects before the first byte", _GONE, Call.wait, ask=leave(asked)),
    case("disconnects in the middle of the reply", _GONE, head(), Call.begin, Call.wait, ask=leave(words_came)),
    case("disconnects before the retry", _GONE, refuse(503), ask=leave(refused)),
    case(
        "disconnects without reading the reply",
        streamed(ClientDisconnected()),
        *(head(), flood, Call.finish),
        ask=leave(words_came),
    ),
    case(
        "stops reading for a while",
        streamed(Complete(_PIECE * _FLOOD, words="the complete reply; at most 1 MiB of it is buffered")),
        *(head(), flood, Call.finish),
        ask=read_late,
        heavy=True,
    ),
    *(
        sending(words, both(ClientDisconnected(), 0), ask=ask)
        for words, ask in (
            ("incomplete headers, then disconnects", send(head_of()[:60], then_leave=True)),
            (
                "incomplete body, then disconnects",
                send(head_of("Content-Length: 1000"), b'{"model":', then_leave=True),
            ),
            ("incomplete body, then resets the connection", break_off),
        )
    ),
    sending("a body of 31 MiB", both(Complete()), ask=ask_widely, heavy=True),
    sending("a body of 33 MiB, announced", _TOO_LARGE, head_of(f"Content-Length: {33 * MEBIBYTE}")),
    sending(
        "a body of 33 MiB in chunks",
        _TOO_LARGE,
        *(head_of("Transfer-Encoding: chunked"), *[_CHUNK] * 33, b"0\r\n\r\n"),
        heavy=True,
    ),
    sending(
        "headers of 70 KB",
        both(Refused(431, "request_too_large"), 0),
        head_of("x-a: " + "a" * 70_000, _BODY_LENGTH) + _BODY,
    ),
    sending("a body that is not JSON", _NEVER, encode_request(b"hello")),
    sending("no body", _NEVER, encode_request(b"")),
    sending("a body that is not UTF-8", _NEVER, encode_request(b'{"model":"\xff')),
    sending(
        "a tool schema with 201 levels of nesting",
        _NEVER,
        differ={"relay": both(Complete())},
        because="the API judges",
        ask=ask_with(tools=[{"name": "dig", "input_schema": {"type": "object", "deep": _NESTED}}]),
    ),
    sending("JSON with 100,000 levels of nesting", _NEVER, encode_request(b"[" * 100_000 + b"]" * 100_000)),
    sending(
        "a compressed body",
        both(Refused(415, "invalid_request_error"), 0),
        encode_request(gzip.compress(_BODY), ["Content-Encoding: gzip"]),
    ),
    sending("two different `content-length` headers", _NEVER, head_of(_BODY_LENGTH, "Content-Length: 3") + _BODY),
    sending(
        "both `content-length` and `transfer-encoding: chunked`",
        _NEVER,
        head_of("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    sending("TLS where HTTP is expected", _NEVER, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
)
