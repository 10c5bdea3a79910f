"""The client fails."""

import gzip
import json
import time
from collections.abc import Callable

from tests.faults.call import HEALTHY, Call, head
from tests.faults.client import WORDS, Answer, Asking, encode_request, head_of, request_of
from tests.faults.expected import Complete, Gone, Refused, both, streamed
from tests.faults.rows.row import Row, Scene, Seen, answers, ask_with
from tests.faults.rows.status import MEBIBYTE, refuse
from tests.faults.voices import literal

PHASE = "client"
MOST_BUFFERED = MEBIBYTE
_FLOOD = 256
_PIECE = "a" * 65_536
_STILL_SECONDS = 1.0
_NEVER = Refused(400, "invalid_request_error")


def leave(when: Callable[[Scene, Asking], bool]) -> Callable[[Scene], Seen]:
    """Return a client that leaves once something is so; its time is until the provider sees that."""

    def ask(scene: Scene) -> Seen:
        asking = Asking(scene.port)
        asking.send(encode_request(request_of(scene.voice, streams=scene.streams)))
        seen = Seen(Answer(), problems=[] if when(scene, asking) else ["what the client waited for did not come"])
        left_at = time.monotonic()
        asking.close()
        upstream = scene.upstream
        if not upstream.settle():
            seen.problems.append("the call to the provider goes on")
        seen.seconds = max((call.left_at or left_at for call in upstream.calls), default=left_at) - left_at
        return seen

    return ask


def asked(scene: Scene, _: Asking) -> bool:
    return scene.upstream.wait_for(lambda: scene.upstream.asked > 0)


def refused(scene: Scene, _: Asking) -> bool:
    calls = scene.upstream.calls
    return scene.upstream.wait_for(lambda: bool(calls) and not calls[0].open)


def words_came(scene: Scene, asking: Asking) -> bool:
    return asking.read_until(WORDS) if scene.streams else asked(scene, asking)


def send(*pieces: bytes, then_leave: bool = False) -> Callable[[Scene], Seen]:
    """Return a client that sends these bytes in place of a request."""

    def ask(scene: Scene) -> Seen:
        asking = Asking(scene.port)
        asking.send(*pieces)
        answer = Answer() if then_leave else asking.read_answer()
        asking.close()
        return Seen(answer, answer.seconds)

    return ask


def ask_widely(scene: Scene) -> Seen:
    """Ask with 31 MiB of spaces around the request."""
    body = json.dumps(request_of(scene.voice, streams=scene.streams)).encode()
    return send(encode_request(body + b" " * (31 * MEBIBYTE)))(scene)


def break_off(scene: Scene) -> Seen:
    """Send half a body, then reset the connection."""
    asking = Asking(scene.port)
    asking.send(head_of("Content-Length: 1000"), b'{"model":')
    asking.reset()
    return Seen(Answer())


def flood(call: Call) -> None:
    """Send 16 MiB."""
    call.say(call.voice.opening())
    words = call.voice.words(literal(_PIECE))
    for _ in range(_FLOOD):
        call.say(words)
    call.end()


def read_late(scene: Scene) -> Seen:
    """Stop reading after the first words until the provider cannot go on, then read all; count what was between."""
    asking = Asking(scene.port, receive_bytes=65_536)
    asking.send(encode_request(request_of(scene.voice, streams=True)))
    asking.read_until(WORDS)
    call = scene.upstream.calls[-1]
    sent, still_since = -1, time.monotonic()
    while time.monotonic() - still_since < _STILL_SECONDS:
        if call.sent != sent:
            sent, still_since = call.sent, time.monotonic()
        time.sleep(0.05)
    buffered = sent - asking.read_bytes
    answer = asking.read_answer()
    asking.close()
    problems = [f"{buffered:,} bytes were on the way"] if buffered > MOST_BUFFERED else []
    return Seen(answer, answer.seconds, problems)


def stop_reading(scene: Scene) -> Seen:
    return leave(lambda scene, asking: asking.read_until(WORDS))(scene)


_BODY = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": []}).encode()
_LARGE = 33 * MEBIBYTE
_CHUNK = b"%x\r\n%b\r\n" % (MEBIBYTE, b" " * MEBIBYTE)


def _nested(levels: int) -> list[object]:
    deep: list[object] = []
    for _ in range(levels):
        deep = [deep]
    return deep


_NOT_ASKED = both(Gone(), 0)


ROWS = (
    Row(
        phase=PHASE,
        fault="leaves before the first byte",
        scripts=answers(Call.wait),
        cases=both(Gone()),
        ask=leave(asked),
    ),
    Row(
        phase=PHASE,
        fault="leaves in the middle",
        scripts=answers(head(), Call.begin, Call.wait),
        cases=both(Gone()),
        ask=leave(words_came),
    ),
    Row(
        phase=PHASE,
        fault="leaves before the second try",
        scripts=answers(refuse(503)),
        cases=both(Gone()),
        ask=leave(refused),
    ),
    Row(
        phase=PHASE,
        fault="leaves without reading what comes",
        scripts=answers(head(), flood, Call.finish),
        cases=streamed(Gone()),
        ask=stop_reading,
    ),
    Row(
        phase=PHASE,
        fault="reads nothing for a while",
        scripts=answers(head(), flood, Call.finish),
        cases=streamed(Complete(_PIECE * _FLOOD, words="the whole reply; at most 1 MiB of it waits on the way")),
        ask=read_late,
        heavy=True,
    ),
    Row(
        phase=PHASE,
        fault="half a head, then leaves",
        scripts=[HEALTHY],
        cases=_NOT_ASKED,
        ask=send(head_of()[:60], then_leave=True),
    ),
    Row(
        phase=PHASE,
        fault="half a body, then leaves",
        scripts=[HEALTHY],
        cases=_NOT_ASKED,
        ask=send(head_of("Content-Length: 1000"), b'{"model":', then_leave=True),
    ),
    Row(
        phase=PHASE,
        fault="half a body, then resets the connection",
        scripts=[HEALTHY],
        cases=_NOT_ASKED,
        ask=break_off,
    ),
    Row(
        phase=PHASE,
        fault="a body of 31 MiB",
        scripts=[HEALTHY],
        cases=both(Complete()),
        ask=ask_widely,
        heavy=True,
    ),
    Row(
        phase=PHASE,
        fault="a body of 33 MiB, announced",
        scripts=[HEALTHY],
        cases=both(Refused(413, "request_too_large"), 0),
        ask=send(head_of(f"Content-Length: {_LARGE}")),
    ),
    Row(
        phase=PHASE,
        fault="a body of 33 MiB in chunks",
        scripts=[HEALTHY],
        cases=both(Refused(413, "request_too_large"), 0),
        ask=send(head_of("Transfer-Encoding: chunked"), *[_CHUNK] * 33, b"0\r\n\r\n"),
        heavy=True,
    ),
    Row(
        phase=PHASE,
        fault="headers of 70 KB",
        scripts=[HEALTHY],
        cases=both(Refused(431, "request_too_large"), 0),
        ask=send(head_of("x-a: " + "a" * 70_000, f"Content-Length: {len(_BODY)}") + _BODY),
    ),
    Row(phase=PHASE, fault="no JSON", scripts=[HEALTHY], cases=both(_NEVER, 0), ask=send(encode_request(b"hello"))),
    Row(phase=PHASE, fault="no body", scripts=[HEALTHY], cases=both(_NEVER, 0), ask=send(encode_request(b""))),
    Row(
        phase=PHASE,
        fault="no UTF-8",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(encode_request(b'{"model":"\xff')),
    ),
    Row(
        phase=PHASE,
        fault="a tool's schema 201 levels deep",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        differ={"relay": both(Complete())},
        because="the API judges",
        ask=ask_with(tools=[{"name": "dig", "input_schema": {"type": "object", "deep": _nested(201)}}]),
    ),
    Row(
        phase=PHASE,
        fault="JSON 100,000 levels deep",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(encode_request(b"[" * 100_000 + b"]" * 100_000)),
    ),
    Row(
        phase=PHASE,
        fault="a compressed body",
        scripts=[HEALTHY],
        cases=both(Refused(415, "invalid_request_error"), 0),
        ask=send(encode_request(gzip.compress(_BODY), ["Content-Encoding: gzip"])),
    ),
    Row(
        phase=PHASE,
        fault="two lengths that differ",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(head_of(f"Content-Length: {len(_BODY)}", "Content-Length: 3") + _BODY),
    ),
    Row(
        phase=PHASE,
        fault="length and chunks at once",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(head_of("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    ),
    Row(
        phase=PHASE,
        fault="TLS where HTTP is expected",
        scripts=[HEALTHY],
        cases=both(_NEVER, 0),
        ask=send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ),
)
