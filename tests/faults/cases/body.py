"""Faults with a valid head and a body that differs from its announcement."""

import gzip
import zlib
from functools import cache

from tests.faults.call import Act, Call, head, pause, raw, send
from tests.faults.cases.case import FaultCase, answers, ask_with
from tests.faults.cases.status import MEBIBYTE
from tests.faults.expected import Case, Cases, Complete, Cut, Refused, both, streamed, whole
from tests.faults.protocols import literal

PHASE = "body"
BROKEN = Refused(502, "api_error")
FINAL = Refused(502, "api_error", final=True)
IDLE_TIMEOUT = Refused(504, "timeout_error")
TORN = Cases(Case(Cut()), Case(BROKEN, 2))
"""A stream ends with an error after its first words; a reply in one piece is asked for once more."""
SHORT = {"UPSTREAM_IDLE_TIMEOUT": "1"}
BY_LENGTH = head(framing="length")
_BOMB_MEBIBYTES = 512
_LONG = "a" * (7 * MEBIBYTE)


def complete(call: Call) -> bytes:
    return call.begun + call.remaining + call.last


def packed(encoding: str, pack: Act) -> tuple[Act, ...]:
    return (head(200, f"content-encoding: {encoding}"), pack, Call.finish)


def half_packed(call: Call) -> None:
    packer = zlib.compressobj(wbits=31)
    call.send_chunk(packer.compress(call.begun) + packer.flush(zlib.Z_SYNC_FLUSH))


@cache
def _packed_letters(start: bytes, piece: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    block = piece * (MEBIBYTE // len(piece))
    pieces = [packer.compress(start)]
    pieces += [packer.compress(block) for _ in range(_BOMB_MEBIBYTES)]
    return b"".join([*pieces, packer.flush()])


def comment_bomb(call: Call) -> None:
    """The same of empty records."""
    filler = b"a" * 1_000
    nothing = b'{"a":"%b"}\n' % filler if call.streams and call.protocol.framing == "ndjson" else b": %b\n\n" % filler
    call.send_chunk(_packed_letters(b"", nothing))


def bomb(call: Call) -> None:
    """Half a gibibyte of one letter, a hundredth of it compressed, in one line or one string."""
    start = b"data: " if call.streams and call.protocol.framing == "sse" else b""
    call.send_chunk(_packed_letters(start + b'{"a":"', b"a"))


def swap(call: Call) -> None:
    """Answer in the form that was not asked for."""
    call.streams = not call.streams
    try:
        head()(call)
        call.send_chunk(complete(call))
        call.finish()
    finally:
        call.streams = not call.streams


_ENDED = (Call.begin, Call.go_on, Call.end)

CASES = (
    FaultCase(
        phase=PHASE,
        fault="a web page",
        scripts=answers(head(200, "content-type: text/html"), send(b"<html></html>"), Call.finish),
        cases=both(FINAL),
    ),
    FaultCase(
        phase=PHASE,
        fault="content-type: text/plain",
        scripts=answers(head(200, "content-type: text/plain"), *_ENDED, Call.finish),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="no content-type",
        scripts=answers(raw(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"), *_ENDED),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="empty body: `content-length: 0`",
        scripts=answers(head(framing="length", length=0)),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE, fault="empty body: status 204", scripts=answers(head(204, framing="close")), cases=both(BROKEN, 2)
    ),
    FaultCase(phase=PHASE, fault="no body, connection closed", scripts=answers(head()), cases=both(BROKEN, 2)),
    FaultCase(
        phase=PHASE, fault="no body, connection reset", scripts=answers(head(), Call.reset), cases=both(BROKEN, 2)
    ),
    FaultCase(
        phase=PHASE,
        fault="no body, then no data",
        scripts=answers(head(), Call.wait),
        cases=both(IDLE_TIMEOUT),
        settings={"UPSTREAM_FIRST_BYTE_TIMEOUT": "1"},
    ),
    FaultCase(
        phase=PHASE,
        fault="one JSON object instead of a stream, or a stream instead of an object",
        scripts=answers(swap),
        cases=both(Complete()),
        differ={"relay": Cases(Case(BROKEN), Case(BROKEN, 2)), "ollama": Cases(Case(Complete()), Case(BROKEN, 2))},
        because="bytes pass; a line of Ollama's is a body",
    ),
    FaultCase(
        phase=PHASE,
        fault="connection closed inside a chunk",
        scripts=answers(head(), Call.begin, Call.arrive, raw(b"40\r\n{")),
        cases=TORN,
    ),
    FaultCase(
        phase=PHASE,
        fault="connection closed between chunks",
        scripts=answers(head(), Call.begin, Call.arrive),
        cases=TORN,
    ),
    FaultCase(
        phase=PHASE,
        fault="a chunk size that is not a number",
        scripts=answers(head(), Call.begin, Call.arrive, raw(b"zz\r\n")),
        cases=TORN,
    ),
    FaultCase(
        phase=PHASE,
        fault="body shorter than `content-length`",
        scripts=answers(BY_LENGTH, Call.begin, Call.arrive),
        cases=TORN,
    ),
    FaultCase(
        phase=PHASE,
        fault="another response after it on the same connection",
        scripts=answers(
            head(framing="length", keep=True), *_ENDED, raw(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        ),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="body ended by closing the connection, too early",
        scripts=answers(head(framing="close"), Call.begin, Call.arrive),
        cases=TORN,
    ),
    FaultCase(
        phase=PHASE,
        fault="connection reset in the middle of the body",
        scripts=answers(head(), Call.begin, Call.arrive, Call.reset),
        cases=TORN,
    ),
    FaultCase(
        phase=PHASE,
        fault="connection reset in the arguments of a tool call",
        scripts=answers(
            head(), send(lambda call: call.protocol.opening() + call.protocol.calling()), Call.arrive, Call.reset
        ),
        cases=streamed(Cut(text="")),
        ask=ask_with(tools=[{"name": "dig", "input_schema": {"type": "object"}}]),
    ),
    FaultCase(
        phase=PHASE,
        fault="no data in the middle of the body",
        scripts=answers(head(), Call.begin, Call.arrive, Call.wait),
        cases=Cases(Case(Cut("timeout_error")), Case(IDLE_TIMEOUT)),
        settings=SHORT,
    ),
    FaultCase(
        phase=PHASE,
        fault="slow, but within the timeouts",
        scripts=answers(head(), Call.begin, pause(0.7), Call.go_on, pause(0.7), Call.end, Call.finish),
        cases=both(Complete()),
        settings={"UPSTREAM_IDLE_TIMEOUT": "2"},
    ),
    FaultCase(
        phase=PHASE,
        fault="an endless chunk extension",
        scripts=answers(head(), Call.begin, Call.arrive, raw(b"5;" + b"a" * 600_000), Call.wait),
        cases=TORN,
    ),
    FaultCase(
        phase=PHASE,
        fault="complete, then a trailer",
        scripts=answers(head(), *_ENDED, raw(b"0\r\nx-sum: 1\r\n\r\n")),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="complete, then endless trailers",
        scripts=answers(head(), *_ENDED, raw(b"0\r\n"), *[raw(b"x-a: " + b"a" * 8_000 + b"\r\n")] * 80, Call.wait),
        cases=Cases(Case(Complete()), Case(BROKEN, 2)),
    ),
    FaultCase(
        phase=PHASE,
        fault="complete, but without the last chunk",
        scripts=answers(head(), *_ENDED),
        cases=Cases(Case(Complete()), Case(BROKEN, 2)),
    ),
    FaultCase(
        phase=PHASE,
        fault="complete, then reset",
        scripts=answers(head(), *_ENDED, Call.reset),
        cases=Cases(Case(Complete()), Case(BROKEN, 2)),
    ),
    FaultCase(
        phase=PHASE,
        fault="complete, then no data",
        scripts=answers(head(), *_ENDED, Call.wait),
        cases=Cases(Case(Complete()), Case(IDLE_TIMEOUT)),
        settings={"UPSTREAM_IDLE_TIMEOUT": "3"},
    ),
    FaultCase(
        phase=PHASE,
        fault="unrequested gzip",
        scripts=answers(*packed("gzip", send(lambda call: gzip.compress(complete(call))))),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="compressed by deflate",
        scripts=answers(*packed("deflate", send(lambda call: zlib.compress(complete(call))))),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="an unknown content encoding",
        scripts=answers(*packed("rot13", send(complete))),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="compressed by gzip, 4 MiB after decompression",
        scripts=answers(*packed("gzip", send(lambda call: gzip.compress(complete(call) + b" " * (4 * MEBIBYTE))))),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="declared as gzip, but is not",
        scripts=answers(*packed("gzip", send(complete))),
        cases=both(BROKEN, 2),
    ),
    FaultCase(phase=PHASE, fault="truncated gzip", scripts=answers(*packed("gzip", half_packed)), cases=TORN),
    FaultCase(
        phase=PHASE,
        fault="a gzip bomb of 512 MiB",
        scripts=answers(*packed("gzip", bomb)),
        cases=both(BROKEN),
        heavy=True,
    ),
    FaultCase(
        phase=PHASE,
        fault="a gzip bomb of 512 MiB of empty records",
        scripts=answers(*packed("gzip", comment_bomb)),
        cases=streamed(BROKEN),
        heavy=True,
    ),
    FaultCase(
        phase=PHASE,
        fault="65 MiB in one piece",
        scripts=answers(head(), send(b'{"a":"'), *[send(b"a" * MEBIBYTE)] * 65, Call.finish),
        cases=whole(BROKEN),
        heavy=True,
    ),
    FaultCase(
        phase=PHASE,
        fault="a line of 7 MiB",
        scripts=answers(
            head(),
            send(lambda call: call.protocol.opening() + call.protocol.words(literal(_LONG))),
            Call.end,
            Call.finish,
        ),
        cases=streamed(Complete(_LONG)),
        heavy=True,
    ),
    FaultCase(
        phase=PHASE,
        fault="a line of 9 MiB",
        scripts=answers(head(), Call.begin, Call.arrive, send(b"data: "), *[send(b"a" * MEBIBYTE)] * 9, Call.wait),
        cases=streamed(Cut()),
        heavy=True,
    ),
    FaultCase(
        phase=PHASE,
        fault="packets of one byte",
        scripts=answers(
            head(), lambda call: [call.send_chunk(bytes((byte,))) for byte in complete(call)] and None, Call.finish
        ),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="headers and body in one packet",
        scripts=answers(
            lambda call: call.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (call.content_type.encode(), len(complete(call)), complete(call))
            )
        ),
        cases=both(Complete()),
    ),
)
