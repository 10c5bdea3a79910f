"""Faults in the content of a stream: no valid begin, no valid end, or errors between."""

from collections.abc import Callable

from tests.faults.call import HEALTHY, Act, Call, head, pause, send
from tests.faults.cases.case import FaultCase, answers
from tests.faults.cases.kinds import OVERFLOW, TOO_LONG
from tests.faults.cases.status import GOOGLE
from tests.faults.expected import Case, Cases, Complete, Cut, Passed, Refused, both, streamed
from tests.faults.protocols import PIECES, WHOLE

PHASE = "content"
BROKEN = Refused(502, "api_error")
_ENDED = (Call.begin, Call.go_on, Call.end)


def reply(build: Callable[[Call], bytes]) -> tuple[Act, ...]:
    return (head(), send(build), Call.finish)


def broken(message: str, *, overloaded: bool) -> Callable[[Call], bytes]:
    def error(call: Call) -> bytes:
        build = call.protocol.broken if call.streams else call.protocol.fault
        return build(message, overloaded=overloaded)

    return error


def frame(data: bytes) -> Act:
    """Send one record; where nothing is streamed, nothing."""
    return lambda call: call.send_chunk(call.protocol.frame(data)) if call.streams else None


def ping_for_ever(call: Call) -> None:
    data = b'event: ping\ndata: {"type": "ping"}\n\n' if call.protocol.framing == "sse" else b"\n"
    while True:
        call.send_chunk(data)
        pause(0.02)(call)


OVERLOADED = Refused(529, "overloaded_error")
_MORE = WHOLE + PIECES[1] + PIECES[2]
SORRY = "The model is overloaded."

CASES = (
    FaultCase(
        phase=PHASE,
        fault="an overload in a 200, before the first content",
        scripts=answers(*reply(broken(SORRY, overloaded=True))),
        cases=both(OVERLOADED, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="an overload in a 200, after the start event, before the first content",
        scripts=answers(
            head(),
            send(lambda call: call.protocol.opening() if call.streams else b" "),
            *reply(broken(SORRY, overloaded=True))[1:],
        ),
        cases=both(OVERLOADED, 2),
        differ={"relay": Cases(Case(Cut("overloaded_error", text="")), Case(OVERLOADED, 2))},
        because="it has already forwarded the start event",
    ),
    FaultCase(
        phase=PHASE,
        fault="an error in a 200, before the first content",
        scripts=answers(*reply(broken("Sorry.", overloaded=False))),
        cases=both(Refused(500, "api_error")),
    ),
    FaultCase(
        phase=PHASE,
        fault="in a 200, before the first content: the input exceeds the context window",
        scripts=answers(*reply(broken(TOO_LONG, overloaded=False))),
        cases=both(OVERFLOW),
        differ={"relay": both(Refused(400, "api_error"))},
        because="its own type and text",
    ),
    FaultCase(
        phase=PHASE,
        fault="an overload, then a reply to the retry",
        scripts=[[Call.receive, *reply(broken(SORRY, overloaded=True))], HEALTHY],
        cases=both(Complete(), 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="an overload after the first content",
        scripts=answers(head(), Call.begin, Call.arrive, send(broken(SORRY, overloaded=True)), Call.finish),
        cases=streamed(Cut("overloaded_error")),
    ),
    FaultCase(
        phase=PHASE,
        fault="an error after the first content",
        scripts=answers(head(), Call.begin, Call.arrive, send(broken("Sorry.", overloaded=False)), Call.finish),
        cases=streamed(Cut()),
    ),
    FaultCase(
        phase=PHASE,
        fault="an error after the end",
        scripts=answers(head(), *_ENDED, send(broken("Sorry.", overloaded=False)), Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="an incomplete event, then a regular end of the body",
        scripts=answers(
            head(),
            Call.begin,
            Call.arrive,
            send(lambda call: call.remaining[:-10] if call.streams else b""),
            Call.finish,
        ),
        cases=Cases(Case(Cut(text=PIECES[0] + PIECES[1])), Case(BROKEN, 2)),
    ),
    FaultCase(
        phase=PHASE,
        fault="no end event after the last content",
        scripts=answers(head(), Call.begin, Call.go_on, Call.finish),
        cases=streamed(Cut(text=WHOLE)),
    ),
    FaultCase(
        phase=PHASE,
        fault="two end events",
        scripts=answers(head(), *_ENDED, Call.end, Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="content after the end",
        scripts=answers(head(), *_ENDED, Call.go_on, Call.finish),
        cases=streamed(Complete()),
        differ={
            "relay": streamed(Passed()),
            **dict.fromkeys(GOOGLE, streamed(Complete(_MORE, words="the complete reply and that content"))),
        },
        because="Google marks no record as the last",
    ),
    FaultCase(
        phase=PHASE,
        fault="invalid bytes after the end",
        scripts=answers(head(), *_ENDED, frame(b"\x00\xff{hello"), Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="endless pings after the end",
        scripts=answers(head(), *_ENDED, ping_for_ever),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="invalid bytes instead of the first event",
        scripts=answers(head(), frame(b"hello"), *_ENDED, Call.finish),
        cases=streamed(BROKEN, 2),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="invalid bytes after the first content",
        scripts=answers(head(), Call.begin, Call.arrive, frame(b'{"a":'), Call.go_on, Call.end, Call.finish),
        cases=streamed(Cut()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="JSON that is not an object, after the first content",
        scripts=answers(head(), Call.begin, Call.arrive, frame(b"[17]"), Call.go_on, Call.end, Call.finish),
        cases=streamed(Cut()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="an event of an unknown type",
        scripts=answers(
            head(), Call.begin, frame(b'{"type":"hologram","mystery":[1,null]}'), Call.go_on, Call.end, Call.finish
        ),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="an event with 100,000 levels of nesting",
        scripts=answers(
            head(),
            Call.begin,
            Call.arrive,
            frame(b'{"x":' * 100_000 + b"1" + b"}" * 100_000),
            Call.go_on,
            Call.end,
            Call.finish,
        ),
        cases=streamed(Cut()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="comments, ids and empty lines between events",
        scripts=answers(
            head(),
            Call.begin,
            lambda call: (
                call.send_chunk(
                    b": hi\n\nid: 7\nretry: 5\n\n\n\n" if call.protocol.framing == "sse" else b"\n\n \n"[:2]
                )
                if call.streams
                else None
            ),
            Call.go_on,
            Call.end,
            Call.finish,
        ),
        cases=streamed(Complete()),
    ),
)
