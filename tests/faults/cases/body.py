"""Faults with a valid head and a body that differs from its announcement."""

import gzip
import zlib
from collections.abc import Callable
from functools import partial

from tests.faults.call import ENDED, Call, head, pause, raw, send, send_slowly
from tests.faults.cases.case import FaultCase, ask_with, fault_case
from tests.faults.cases.status import MEBIBYTE
from tests.faults.expected import Case, Cases, Complete, Cut, Refused, both, streamed, whole
from tests.faults.protocols import literal

BROKEN, COMPLETE = both(Refused(502, "api_error"), 2), both(Complete())
IDLE_TIMEOUT = Refused(504, "timeout_error")
TORN = Cases(Case(Cut()), BROKEN.whole)
"""A stream ends with an error after its first words; a reply in one piece is asked for once more."""
ENOUGH = Cases(Case(Complete()), BROKEN.whole)
"""A stream is complete at its end mark, whatever follows; a reply in one piece is not."""
BEGUN = (head(), Call.begin, Call.arrive)
"""The first words, which the client has received."""
_BOMB_MEBIBYTES = 512
_LONG = "a" * (7 * MEBIBYTE)
case = partial(fault_case, "body")


def complete(call: Call) -> bytes:
    return call.begun + call.remaining + call.last


def packed(words: str, cases: Cases, encoding: str, data: Callable[[Call], bytes], **options: bool) -> FaultCase:
    """Return a body that is declared to have an encoding."""
    return case(words, cases, head(200, f"content-encoding: {encoding}"), send(data), Call.finish, **options)


def half_packed(call: Call) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(call.begun) + packer.flush(zlib.Z_SYNC_FLUSH)


def _packed_letters(start: bytes, piece: bytes) -> bytes:
    """Return half a gibibyte of a piece, compressed block by block: each block alone decides its bytes."""
    packer = zlib.compressobj(1, wbits=31)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(piece * (MEBIBYTE // len(piece))) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * _BOMB_MEBIBYTES


def bomb(call: Call) -> bytes:
    """Half a gibibyte of one letter, a hundredth of it compressed, in one line or one string."""
    start = b"data: " if call.streams and call.protocol.framing == "sse" else b""
    return _packed_letters(start + b'{"a":"', b"a")


def comment_bomb(call: Call) -> bytes:
    """The same of empty records."""
    filler = b"a" * 1_000
    nothing = b'{"a":"%b"}\n' % filler if call.streams and call.protocol.framing == "ndjson" else b": %b\n\n" % filler
    return _packed_letters(b"", nothing)


def swap(call: Call) -> None:
    """Answer in the form that was not asked for."""
    call.streams = not call.streams
    try:
        head()(call)
        call.send_chunk(complete(call))
        call.finish()
    finally:
        call.streams = not call.streams


CASES = (
    case(
        "a web page",
        both(Refused(424, "invalid_request_error", final=True)),
        *(head(200, "content-type: text/html"), send(b"<html></html>"), Call.finish),
    ),
    case("content-type: text/plain", COMPLETE, head(200, "content-type: text/plain"), *ENDED, Call.finish),
    case("no content-type", COMPLETE, raw(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"), *ENDED),
    case("empty body: `content-length: 0`", BROKEN, head(framing="length", length=0)),
    case("empty body: status 204", BROKEN, head(204, framing="close")),
    case("no body, connection closed", BROKEN, head()),
    case("no body, connection reset", BROKEN, head(), Call.reset),
    case(
        "no body, then no data",
        both(IDLE_TIMEOUT),
        *(head(), Call.wait),
        settings={"UPSTREAM_FIRST_BYTE_TIMEOUT": "2"},
    ),
    case(
        "one JSON object instead of a stream, or a stream instead of an object",
        COMPLETE,
        swap,
        differ={"ollama": ENOUGH},
        because="a line of Ollama's is a body",
    ),
    case("connection closed inside a chunk", TORN, *BEGUN, raw(b"40\r\n{")),
    case("connection closed between chunks", TORN, *BEGUN),
    case("a chunk size that is not a number", TORN, *BEGUN, raw(b"zz\r\n")),
    case("body shorter than `content-length`", TORN, head(framing="length"), *BEGUN[1:]),
    case(
        "another response after it on the same connection",
        COMPLETE,
        *(head(framing="length", keep=True), *ENDED, raw(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")),
    ),
    case("body ended by closing the connection, too early", TORN, head(framing="close"), *BEGUN[1:]),
    case("connection reset in the middle of the body", TORN, *BEGUN, Call.reset),
    case(
        "connection reset in the arguments of a tool call",
        streamed(Cut(text="")),
        *(head(), send(lambda call: call.protocol.calling), Call.arrive, Call.reset),
        ask=ask_with(tools=[{"name": "dig", "input_schema": {"type": "object"}}]),
    ),
    case(
        "no data in the middle of the body",
        Cases(Case(Cut("timeout_error")), Case(IDLE_TIMEOUT)),
        *(*BEGUN, Call.wait),
        settings={"UPSTREAM_IDLE_TIMEOUT": "2"},
    ),
    case(
        "slow, but within the timeouts",
        COMPLETE,
        *(head(), Call.begin, pause(0.7), Call.go_on, pause(0.7), Call.end, Call.finish),
        settings={"UPSTREAM_IDLE_TIMEOUT": "2"},
    ),
    case("an endless chunk extension", TORN, *BEGUN, raw(b"5;" + b"a" * 600_000), Call.wait),
    case("complete, then a trailer", COMPLETE, head(), *ENDED, raw(b"0\r\nx-sum: 1\r\n\r\n")),
    case(
        "complete, then endless trailers",
        ENOUGH,
        *(head(), *ENDED, raw(b"0\r\n"), *[raw(b"x-a: " + b"a" * 8_000 + b"\r\n")] * 80, Call.wait),
    ),
    case("complete, but without the last chunk", ENOUGH, head(), *ENDED),
    case("complete, then reset", ENOUGH, head(), *ENDED, Call.reset),
    case(
        "complete, then no data",
        Cases(Case(Complete()), Case(IDLE_TIMEOUT)),
        *(head(), *ENDED, Call.wait),
        settings={"UPSTREAM_IDLE_TIMEOUT": "3"},
    ),
    packed("unrequested gzip", COMPLETE, "gzip", lambda call: gzip.compress(complete(call))),
    packed("compressed by deflate", COMPLETE, "deflate", lambda call: zlib.compress(complete(call))),
    packed("an unknown content encoding", COMPLETE, "rot13", complete),
    packed(
        "compressed by gzip, 4 MiB after decompression",
        COMPLETE,
        "gzip",
        lambda call: gzip.compress(complete(call) + b" " * (4 * MEBIBYTE)),
    ),
    packed("declared as gzip, but is not", BROKEN, "gzip", complete),
    packed("truncated gzip", TORN, "gzip", half_packed),
    packed("a gzip bomb of 512 MiB", both(Refused(502, "api_error")), "gzip", bomb, heavy=True),
    packed(
        "a gzip bomb of 512 MiB of empty records",
        streamed(Refused(502, "api_error")),
        "gzip",
        comment_bomb,
        heavy=True,
    ),
    case(
        "65 MiB in one piece",
        whole(Refused(502, "api_error")),
        *(head(), send(b'{"a":"'), *[send(b"a" * MEBIBYTE)] * 65, Call.finish),
        heavy=True,
    ),
    case(
        "a line of 7 MiB",
        streamed(Complete(_LONG)),
        *(
            head(),
            send(lambda call: call.protocol.opening + call.protocol.words(literal(_LONG))),
            Call.end,
            Call.finish,
        ),
        heavy=True,
    ),
    case(
        "a line of 9 MiB",
        streamed(Cut()),
        *(*BEGUN, send(b"data: "), *[send(b"a" * MEBIBYTE)] * 9, Call.wait),
        heavy=True,
    ),
    case("packets of one byte", COMPLETE, head(), send_slowly(complete), Call.finish),
    case(
        "headers and body in one packet",
        COMPLETE,
        lambda call: call.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (call.content_type.encode(), len(complete(call)), complete(call))
        ),
    ),
)
