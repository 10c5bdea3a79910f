"""Faults after the request: the answer begins late, wrong or never."""

from tests.faults.call import HEALTHY, Call, head, pause, raw, send_slowly
from tests.faults.cases.case import FaultCase, answers, ask_twice
from tests.faults.expected import Complete, Refused, both

PHASE = "before the head"
BROKEN = Refused(502, "api_error")
FINAL = Refused(502, "api_error", final=True)
SLOW = Refused(504, "timeout_error")
IMPATIENT = {"UPSTREAM_FIRST_BYTE_TIMEOUT": "1"}
_WHOLE = HEALTHY[1:]

CASES = (
    FaultCase(phase=PHASE, fault="closed", scripts=answers(Call.shut), cases=both(BROKEN, 2)),
    FaultCase(phase=PHASE, fault="reset", scripts=answers(Call.reset), cases=both(BROKEN, 2)),
    FaultCase(phase=PHASE, fault="silence", scripts=answers(Call.wait), cases=both(SLOW), settings=IMPATIENT),
    FaultCase(
        phase=PHASE,
        fault="incomplete response headers, then closed",
        scripts=answers(raw(b"HTTP/1.1 200 OK\r\ncontent-ty")),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="incomplete response headers, then no data",
        scripts=answers(raw(b"HTTP/1.1 200 OK\r\ncontent-ty"), Call.wait),
        cases=both(SLOW),
        settings=IMPATIENT,
    ),
    FaultCase(
        phase=PHASE,
        fault="response headers line by line, beyond the timeout",
        scripts=answers(raw(b"HTTP/1.1 200 OK\r\n"), *(raw(b"x-a: 1\r\n"), pause(0.3)) * 40, Call.wait),
        cases=both(SLOW),
        settings=IMPATIENT,
    ),
    FaultCase(
        phase=PHASE,
        fault="the first connection closes, the second responds",
        scripts=[[Call.receive, Call.shut], HEALTHY],
        cases=both(Complete(), 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="invalid bytes instead of a status line",
        scripts=answers(raw(b"\x00\x01\x02 hello\r\n\r\n")),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="a status that is not a number",
        scripts=answers(raw(b"HTTP/1.1 OK\r\n\r\n")),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="a header line of 70 KB",
        scripts=answers(head(200, "x-a: " + "a" * 70_000), *_WHOLE[1:]),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="a header line of 600 KB",
        scripts=answers(head(200, "x-a: " + "a" * 600_000), *_WHOLE[1:]),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="503 before the request is read",
        scripts=((raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),),),
        cases=both(Refused(503, "api_error", wait=2), 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="endless headers",
        scripts=answers(raw(b"HTTP/1.1 200 OK\r\n"), *[raw(b"x-a: " + b"a" * 8_000 + b"\r\n")] * 400, Call.wait),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="interim responses 100 and 103 before the final one",
        scripts=answers(raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"), *_WHOLE),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="101 Switching Protocols",
        scripts=answers(raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n")),
        cases=both(FINAL),
    ),
    FaultCase(
        phase=PHASE,
        fault="a redirect",
        scripts=answers(head(302, "location: http://127.0.0.1:1/elsewhere", framing="length", length=0)),
        cases=both(FINAL),
    ),
    FaultCase(
        phase=PHASE,
        fault="two different `content-length` headers",
        scripts=answers(head(200, "content-length: 3", framing="length"), Call.begin, Call.go_on, Call.end),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="both `content-length` and `transfer-encoding: chunked`",
        scripts=answers(head(200, "content-length: 3"), *HEALTHY[2:]),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="a negative `content-length`",
        scripts=answers(head(framing="length", length=-1), Call.begin, Call.go_on, Call.end),
        cases=both(BROKEN, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="HTTP/1.0, body ended by closing the connection",
        scripts=answers(
            lambda call: call.send(f"HTTP/1.0 200 OK\r\ncontent-type: {call.content_type}\r\n\r\n".encode()),
            Call.begin,
            Call.go_on,
            Call.end,
        ),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="response headers in packets of one byte",
        scripts=answers(
            send_slowly(b"HTTP/1.1 200 OK\r\nx-a: 1\r\n"),
            lambda call: send_slowly(f"content-type: {call.content_type}\r\n\r\n".encode())(call),
            Call.begin,
            Call.go_on,
            Call.end,
        ),
        cases=both(Complete()),
    ),
    FaultCase(
        phase=PHASE,
        fault="a reused connection closes before the response",
        scripts=[[Call.receive, head(keep=True), *HEALTHY[2:], Call.receive, Call.shut], HEALTHY],
        cases=both(Complete(), 2),
        ask=ask_twice,
    ),
    FaultCase(
        phase=PHASE,
        fault="a reused connection is reset before the response",
        scripts=[[Call.receive, head(keep=True), *HEALTHY[2:], Call.receive, Call.reset], HEALTHY],
        cases=both(Complete(), 2),
        ask=ask_twice,
    ),
    FaultCase(
        phase=PHASE,
        fault="an idle connection that closes",
        scripts=[[Call.receive, head(keep=True), *HEALTHY[2:]], HEALTHY],
        cases=both(Complete(), 1),
        ask=ask_twice,
    ),
)
