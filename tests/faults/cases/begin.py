"""Faults after the request: the answer begins late, wrong or never."""

from functools import partial

from tests.faults.call import ENDED, HEALTHY, Call, head, pause, raw, send_slowly
from tests.faults.cases.case import ask_twice, fault_case
from tests.faults.expected import Complete, Refused, both

BROKEN, FINAL = both(Refused(502, "api_error"), 2), both(Refused(502, "api_error", final=True))
SLOW, COMPLETE = both(Refused(504, "timeout_error")), both(Complete())
AFTER_RETRY = both(Complete(), 2)
IMPATIENT = {"UPSTREAM_FIRST_BYTE_TIMEOUT": "2"}
STATUS, HALF = raw(b"HTTP/1.1 200 OK\r\n"), raw(b"HTTP/1.1 200 OK\r\ncontent-ty")
KEPT = (Call.receive, head(keep=True), *HEALTHY[2:])
"""A healthy answer whose connection stays open."""
case = partial(fault_case, "before the head")

CASES = (
    case("closed", BROKEN, Call.shut),
    case("reset", BROKEN, Call.reset),
    case("silence", SLOW, Call.wait, settings=IMPATIENT),
    case("incomplete response headers, then closed", BROKEN, HALF),
    case("incomplete response headers, then no data", SLOW, HALF, Call.wait, settings=IMPATIENT),
    case(
        "response headers line by line, beyond the timeout",
        SLOW,
        *(STATUS, *(raw(b"x-a: 1\r\n"), pause(0.3)) * 40, Call.wait),
        settings=IMPATIENT,
    ),
    case(
        "the first connection closes, the second responds",
        AFTER_RETRY,
        scripts=[[Call.receive, Call.shut], HEALTHY],
    ),
    case("invalid bytes instead of a status line", BROKEN, raw(b"\x00\x01\x02 hello\r\n\r\n")),
    case("a status that is not a number", BROKEN, raw(b"HTTP/1.1 OK\r\n\r\n")),
    case("a header line of 70 KB", COMPLETE, head(200, "x-a: " + "a" * 70_000), *HEALTHY[2:]),
    case("a header line of 600 KB", BROKEN, head(200, "x-a: " + "a" * 600_000), *HEALTHY[2:]),
    case(
        "503 before the request is read",
        both(Refused(503, "api_error", wait=2), 2),
        scripts=((raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),),),
    ),
    case("endless headers", BROKEN, STATUS, *[raw(b"x-a: " + b"a" * 8_000 + b"\r\n")] * 400, Call.wait),
    case(
        "interim responses 100 and 103 before the final one",
        COMPLETE,
        raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
        *HEALTHY[1:],
    ),
    case(
        "101 Switching Protocols",
        FINAL,
        raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
    ),
    case(
        "a redirect",
        both(Refused(424, "invalid_request_error", final=True)),
        head(302, "location: http://127.0.0.1:1/elsewhere", framing="length", length=0),
    ),
    case("two different `content-length` headers", BROKEN, head(200, "content-length: 3", framing="length"), *ENDED),
    case(
        "both `content-length` and `transfer-encoding: chunked`", BROKEN, head(200, "content-length: 3"), *HEALTHY[2:]
    ),
    case("a negative `content-length`", BROKEN, head(framing="length", length=-1), *ENDED),
    case(
        "HTTP/1.0, body ended by closing the connection",
        COMPLETE,
        lambda call: call.send(f"HTTP/1.0 200 OK\r\ncontent-type: {call.content_type}\r\n\r\n".encode()),
        *ENDED,
    ),
    case(
        "response headers in packets of one byte",
        COMPLETE,
        send_slowly(b"HTTP/1.1 200 OK\r\nx-a: 1\r\n"),
        send_slowly(lambda call: f"content-type: {call.content_type}\r\n\r\n".encode()),
        *ENDED,
    ),
    *(
        case(f"a reused connection {words} before the response", AFTER_RETRY, scripts=[scripts, HEALTHY], ask=ask_twice)
        for words, scripts in (
            ("closes", [*KEPT, Call.receive, Call.shut]),
            ("is reset", [*KEPT, Call.receive, Call.reset]),
        )
    ),
    case("an idle connection that closes", COMPLETE, scripts=[KEPT, HEALTHY], ask=ask_twice),
)
