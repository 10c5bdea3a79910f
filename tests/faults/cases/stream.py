"""The bytes arrive, and their content has no right beginning, no right end or errors between."""

from collections.abc import Callable

from tests.faults.call import HEALTHY, Act, Call, head, pause, send
from tests.faults.cases.case import FaultCase, answers
from tests.faults.cases.kinds import OVERFLOW, TOO_LONG
from tests.faults.cases.status import GOOGLE
from tests.faults.expected import Case, Cases, Complete, Cut, Passed, Refused, both, streamed
from tests.faults.protocols import PIECES, WHOLE

PHASE = "content"
BROKEN = Refused(502, "api_error")
TORN = Cases(Case(Cut()), Case(BROKEN, 2))
_ENDED = (Call.begin, Call.go_on, Call.end)


def reply(build: Callable[[Call], bytes]) -> tuple[Act, ...]:
    """Return the acts of a good head with this body."""
    return (head(), send(build), Call.finish)


def broken(message: str, *, overloaded: bool) -> Callable[[Call], bytes]:
    """Return an error inside of what begins as a success."""

    def error(call: Call) -> bytes:
        build = call.protocol.broken if call.streams else call.protocol.fault
        return build(message, overloaded=overloaded)

    return error


def frame(data: bytes) -> Act:
    """Send one record; where nothing is streamed, nothing."""
    return lambda call: call.send_chunk(call.protocol.frame(data)) if call.streams else None


def ping_for_ever(call: Call) -> None:
    """Keep the connection busy behind the end, until it is closed."""
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
        fault="an overload in a 200, before the first words",
        scripts=answers(*reply(broken(SORRY, overloaded=True))),
        cases=both(OVERLOADED, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="an overload in a 200, behind the beginning, before the first words",
        scripts=answers(
            head(),
            send(lambda call: call.protocol.opening() if call.streams else b" "),
            *reply(broken(SORRY, overloaded=True))[1:],
        ),
        cases=both(OVERLOADED, 2),
        differ={"relay": Cases(Case(Cut("overloaded_error", text="")), Case(OVERLOADED, 2))},
        because="its own beginning has passed",
    ),
    FaultCase(
        phase=PHASE,
        fault="an error in a 200, before the first words",
        scripts=answers(*reply(broken("Sorry.", overloaded=False))),
        cases=both(Refused(500, "api_error")),
    ),
    FaultCase(
        phase=PHASE,
        fault="in a 200, before the first words: the input is longer than the window",
        scripts=answers(*reply(broken(TOO_LONG, overloaded=False))),
        cases=both(OVERFLOW),
        differ={"relay": both(Refused(400, "api_error"))},
        because="its own type and text",
    ),
    FaultCase(
        phase=PHASE,
        fault="an overload, then on the second try the reply",
        scripts=[[Call.hear, *reply(broken(SORRY, overloaded=True))], HEALTHY],
        cases=both(Complete(), 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="an overload behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, send(broken(SORRY, overloaded=True)), Call.finish),
        cases=streamed(Cut("overloaded_error")),
    ),
    FaultCase(
        phase=PHASE,
        fault="an error behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, send(broken("Sorry.", overloaded=False)), Call.finish),
        cases=streamed(Cut()),
    ),
    FaultCase(
        phase=PHASE,
        fault="an error behind the end",
        scripts=answers(head(), *_ENDED, send(broken("Sorry.", overloaded=False)), Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="half a record, and the body ends as it should",
        scripts=answers(
            head(), Call.begin, Call.arrive, send(lambda call: call.rest[:-10] if call.streams else b""), Call.finish
        ),
        cases=Cases(Case(Cut(text=PIECES[0] + PIECES[1])), Case(BROKEN, 2)),
    ),
    FaultCase(
        phase=PHASE,
        fault="no end: the body stops behind the last words",
        scripts=answers(head(), Call.begin, Call.go_on, Call.finish),
        cases=streamed(Cut(text=WHOLE)),
    ),
    FaultCase(
        phase=PHASE,
        fault="the end twice",
        scripts=answers(head(), *_ENDED, Call.end, Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="words behind the end",
        scripts=answers(head(), *_ENDED, Call.go_on, Call.finish),
        cases=streamed(Complete()),
        differ={
            "relay": streamed(Passed()),
            **dict.fromkeys(GOOGLE, streamed(Complete(_MORE, words="the whole reply and those words"))),
        },
        because="Google marks no record as the last",
    ),
    FaultCase(
        phase=PHASE,
        fault="garbage behind the end",
        scripts=answers(head(), *_ENDED, frame(b"\x00\xff{hello"), Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="pings behind the end, for ever",
        scripts=answers(head(), *_ENDED, ping_for_ever),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="garbage in place of the first record",
        scripts=answers(head(), frame(b"hello"), *_ENDED, Call.finish),
        cases=streamed(BROKEN, 2),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="garbage behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, frame(b'{"a":'), Call.go_on, Call.end, Call.finish),
        cases=streamed(Cut()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="JSON that is no object behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, frame(b"[17]"), Call.go_on, Call.end, Call.finish),
        cases=streamed(Cut()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="a record of an unknown kind",
        scripts=answers(
            head(), Call.begin, frame(b'{"type":"hologram","mystery":[1,null]}'), Call.go_on, Call.end, Call.finish
        ),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="a record 100,000 levels deep",
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
        fault="comments, ids and empty lines between records",
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
