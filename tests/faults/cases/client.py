"""Faults of the client."""

import gzip
import json
import time
from collections.abc import Callable

from tests.faults.call import HEALTHY, Call, head
from tests.faults.cases.case import FaultCase, FaultContext, Observed, answers, ask_with
from tests.faults.cases.status import MEBIBYTE, refuse
from tests.faults.client import WORDS, Answer, Asking, encode_request, head_of, request_of
from tests.faults.expected import ClientDisconnected, Complete, Refused, both, streamed
from tests.faults.protocols import literal

PHASE = "client"
MAX_BUFFERED_BYTES = MEBIBYTE
_FLOOD = 256
_PIECE = "a" * 65_536
_STILL_SECONDS = 1.0
_NEVER = Refused(400, "invalid_request_error")


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
    call.send_chunk(call.protocol.opening())
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


def stop_reading(context: FaultContext) -> Observed:
    return leave(lambda context, asking: asking.read_until(WORDS))(context)


_BODY = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": []}).encode()
_LARGE = 33 * MEBIBYTE
_CHUNK = b"%x\r\n%b\r\n" % (MEBIBYTE, b" " * MEBIBYTE)


def _nested(levels: int) -> list[object]:
    deep: list[object] = []
    for _ in range(levels):
        deep = [deep]
    return deep


_NOT_ASKED = both(ClientDisconnected(), 0)


CASES = (
    FaultCase(
        phase=PHASE,
        fault="disconnects before the first byte",
        scripts=answers(Call.wait),
        cases=both(ClientDisconnected()),
        ask=leave(asked),
    ),
    FaultCase(
        phase=PHASE,
        fault="disconnects in the middle of the reply",
        scripts=answers(head(), Call.begin, Call.wait),
        cases=both(ClientDisconnected()),
        ask=leave(words_came),
    ),
    FaultCase(
        phase=PHASE,
        fault="disconnects before the retry",
        scripts=answers(refuse(503)),
        cases=both(ClientDisconnected()),
        ask=leave(refused),
    ),
    FaultCase(
        phase=PHASE,
        fault="disconnects without reading the reply",
        scripts=answers(head(), flood, Call.finish),
        cases=streamed(ClientDisconnected()),
        ask=stop_reading,
    ),
    FaultCase(
        phase=PHASE,
        fault="stops reading for a while",
        scripts=answers(head(), flood, Call.finish),
        cases=streamed(Complete(_PIECE * _FLOOD, words="the complete reply; at most 1 MiB of it is buffered")),
        ask=read_late,
        heavy=True,
    ),
    FaultCase(
        phase=PHASE,
        fault="incomplete headers, then disconnects",
        scripts=[HEALTHY],
        cases=_NOT_ASKED,
        ask=send(head_of()[:60], then_leave=True),
    ),
    FaultCase(
        phase=PHASE,
        fault="incomplete body, then disconnects",
        scripts=[HEALTHY],
        cases=_NOT_ASKED,
        ask=send(head_of("Content-Length: 1000"), b'{"model":', then_leave=True),
    ),
    FaultCase(
        phase=PHASE,
        fault="incomplete body, then resets the connection",
        scripts=[HEALTHY],
        cases=_NOT_ASKED,
        ask=break_off,
    ),
    FaultCase(
        phase=PHASE, fault="a body of 31 MiB", scripts=[HEALTHY], cases=both(Complete()), ask=ask_widely, heavy=True
    ),
    FaultCase(
        phase=PHASE,
        fault="a body of 33 MiB, announced",
        scripts=[HEALTHY],
        cases=both(Refused(413, "request_too_large"), 0),
        ask=send(head_of(f"Content-Length: {_LARGE}")),
    ),
    FaultCase(
        phase=PHASE,
        fault="a body of 33 MiB in chunks",
        scripts=[HEALTHY],
        cases=both(Refused(413, "request_too_large"), 0),
        ask=send(head_of("Transfer-Encoding: chunked"), *[_CHUNK] * 33, b"0\r\n\r\n"),
        heavy=True,
    ),
    FaultCase(
        phase=PHASE,
        fault="headers of 70 KB",
        scripts=[HEALTHY],
        cases=both(Refused(431, "request_too_large"), 0),
        ask=send(head_of("x-a: " + "a" * 70_000, f"Content-Length: {len(_BODY)}") + _BODY),
    ),
    FaultCase(
        phase=PHASE,
        fault="a body that is not JSON",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(encode_request(b"hello")),
    ),
    FaultCase(phase=PHASE, fault="no body", scripts=[HEALTHY], cases=both(_NEVER, 0), ask=send(encode_request(b""))),
    FaultCase(
        phase=PHASE,
        fault="a body that is not UTF-8",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(encode_request(b'{"model":"\xff')),
    ),
    FaultCase(
        phase=PHASE,
        fault="a tool schema with 201 levels of nesting",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        differ={"relay": both(Complete())},
        because="the API judges",
        ask=ask_with(tools=[{"name": "dig", "input_schema": {"type": "object", "deep": _nested(201)}}]),
    ),
    FaultCase(
        phase=PHASE,
        fault="JSON with 100,000 levels of nesting",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(encode_request(b"[" * 100_000 + b"]" * 100_000)),
    ),
    FaultCase(
        phase=PHASE,
        fault="a compressed body",
        scripts=[HEALTHY],
        cases=both(Refused(415, "invalid_request_error"), 0),
        ask=send(encode_request(gzip.compress(_BODY), ["Content-Encoding: gzip"])),
    ),
    FaultCase(
        phase=PHASE,
        fault="two different `content-length` headers",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(head_of(f"Content-Length: {len(_BODY)}", "Content-Length: 3") + _BODY),
    ),
    FaultCase(
        phase=PHASE,
        fault="both `content-length` and `transfer-encoding: chunked`",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(head_of("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    ),
    FaultCase(
        phase=PHASE,
        fault="TLS where HTTP is expected",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ),
)
