"""The bytes arrive, and their content has no right beginning, no right end or errors between."""

from collections.abc import Callable

from tests.faults.call import HEALTHY, Act, Call, head, pause, say
from tests.faults.expected import Case, Cases, Complete, Cut, Passed, Refused, both, streamed
from tests.faults.rows.kinds import OVERFLOW, TOO_LONG
from tests.faults.rows.row import Row, answers
from tests.faults.rows.status import GOOGLE
from tests.faults.voices import PIECES, WHOLE

PHASE = "content"
BROKEN = Refused(502, "api_error")
TORN = Cases(Case(Cut()), Case(BROKEN, 2))
_ENDED = (Call.begin, Call.go_on, Call.end)


def reply(build: Callable[[Call], bytes]) -> tuple[Act, ...]:
    """Return the acts of a good head with this body."""
    return (head(), say(build), Call.finish)


def broken(message: str, *, overloaded: bool) -> Callable[[Call], bytes]:
    """Return an error inside of what begins as a success."""

    def error(call: Call) -> bytes:
        build = call.voice.broken if call.streams else call.voice.fault
        return build(message, overloaded=overloaded)

    return error


def frame(data: bytes) -> Act:
    """Send one record; where nothing is streamed, nothing."""
    return lambda call: call.say(call.voice.frame(data)) if call.streams else None


def ping_for_ever(call: Call) -> None:
    """Keep the connection busy behind the end, until it is closed."""
    data = b'event: ping\ndata: {"type": "ping"}\n\n' if call.voice.framing == "sse" else b"\n"
    while True:
        call.say(data)
        pause(0.02)(call)


OVERLOADED = Refused(529, "overloaded_error")
_MORE = WHOLE + PIECES[1] + PIECES[2]
SORRY = "The model is overloaded."

ROWS = (
    Row(
        phase=PHASE,
        fault="an overload in a 200, before the first words",
        scripts=answers(*reply(broken(SORRY, overloaded=True))),
        cases=both(OVERLOADED, 2),
    ),
    Row(
        phase=PHASE,
        fault="an overload in a 200, behind the beginning, before the first words",
        scripts=answers(
            head(),
            say(lambda call: call.voice.opening() if call.streams else b" "),
            *reply(broken(SORRY, overloaded=True))[1:],
        ),
        cases=both(OVERLOADED, 2),
        differ={"relay": Cases(Case(Cut("overloaded_error", text="")), Case(OVERLOADED, 2))},
        because="its own beginning has passed",
    ),
    Row(
        phase=PHASE,
        fault="an error in a 200, before the first words",
        scripts=answers(*reply(broken("Sorry.", overloaded=False))),
        cases=both(Refused(500, "api_error")),
    ),
    Row(
        phase=PHASE,
        fault="in a 200, before the first words: the input is longer than the window",
        scripts=answers(*reply(broken(TOO_LONG, overloaded=False))),
        cases=both(OVERFLOW),
        differ={"relay": both(Refused(400, "api_error"))},
        because="its own type and text",
    ),
    Row(
        phase=PHASE,
        fault="an overload, then on the second try the reply",
        scripts=[[Call.hear, *reply(broken(SORRY, overloaded=True))], HEALTHY],
        cases=both(Complete(), 2),
    ),
    Row(
        phase=PHASE,
        fault="an overload behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, say(broken(SORRY, overloaded=True)), Call.finish),
        cases=streamed(Cut("overloaded_error")),
    ),
    Row(
        phase=PHASE,
        fault="an error behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, say(broken("Sorry.", overloaded=False)), Call.finish),
        cases=streamed(Cut()),
    ),
    Row(
        phase=PHASE,
        fault="an error behind the end",
        scripts=answers(head(), *_ENDED, say(broken("Sorry.", overloaded=False)), Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    Row(
        phase=PHASE,
        fault="half a record, and the body ends as it should",
        scripts=answers(
            head(), Call.begin, Call.arrive, say(lambda call: call.rest[:-10] if call.streams else b""), Call.finish
        ),
        cases=Cases(Case(Cut(text=PIECES[0] + PIECES[1])), Case(BROKEN, 2)),
    ),
    Row(
        phase=PHASE,
        fault="no end: the body stops behind the last words",
        scripts=answers(head(), Call.begin, Call.go_on, Call.finish),
        cases=streamed(Cut(text=WHOLE)),
    ),
    Row(
        phase=PHASE,
        fault="the end twice",
        scripts=answers(head(), *_ENDED, Call.end, Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    Row(
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
    Row(
        phase=PHASE,
        fault="garbage behind the end",
        scripts=answers(head(), *_ENDED, frame(b"\x00\xff{hello"), Call.finish),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    Row(
        phase=PHASE,
        fault="pings behind the end, for ever",
        scripts=answers(head(), *_ENDED, ping_for_ever),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    Row(
        phase=PHASE,
        fault="garbage in place of the first record",
        scripts=answers(head(), frame(b"hello"), *_ENDED, Call.finish),
        cases=streamed(BROKEN, 2),
        differ={"relay": streamed(Passed())},
    ),
    Row(
        phase=PHASE,
        fault="garbage behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, frame(b'{"a":'), Call.go_on, Call.end, Call.finish),
        cases=streamed(Cut()),
        differ={"relay": streamed(Passed())},
    ),
    Row(
        phase=PHASE,
        fault="JSON that is no object behind the first words",
        scripts=answers(head(), Call.begin, Call.arrive, frame(b"[17]"), Call.go_on, Call.end, Call.finish),
        cases=streamed(Cut()),
        differ={"relay": streamed(Passed())},
    ),
    Row(
        phase=PHASE,
        fault="a record of an unknown kind",
        scripts=answers(
            head(), Call.begin, frame(b'{"type":"hologram","mystery":[1,null]}'), Call.go_on, Call.end, Call.finish
        ),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    Row(
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
    Row(
        phase=PHASE,
        fault="comments, ids and empty lines between records",
        scripts=answers(
            head(),
            Call.begin,
            lambda call: (
                call.say(b": hi\n\nid: 7\nretry: 5\n\n\n\n" if call.voice.framing == "sse" else b"\n\n \n"[:2])
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
