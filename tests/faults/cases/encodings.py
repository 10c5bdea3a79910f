"""Faults in the characters and numbers of a reply."""

from collections.abc import Callable

from tests.faults.call import Call, head, send
from tests.faults.cases.case import FaultCase, answers
from tests.faults.cases.stream import BROKEN, PHASE, reply
from tests.faults.expected import Case, Cases, Complete, Cut, Passed, both, streamed
from tests.faults.protocols import PIECES, WHOLE, literal

PASSED = both(Complete())
_ENDED = (Call.begin, Call.go_on, Call.end)


def saying(content: bytes) -> Callable[[Call], bytes]:
    def build(call: Call) -> bytes:
        if not call.streams:
            return call.protocol.body(content)
        return call.protocol.opening() + call.protocol.words(content) + call.protocol.ending()

    return build


def counting(count: bytes | None) -> Callable[[Call], bytes]:
    """Return a whole reply with this in place of every number of tokens."""

    def build(call: Call) -> bytes:
        protocol = call.protocol
        return (
            call.begun + call.remaining + protocol.ending(count)
            if call.streams
            else protocol.body(literal(WHOLE), count)
        )

    return build


def split_character(call: Call) -> bytes:
    """Two records with half of the first letter each."""
    first, other = literal(PIECES[0])[:2] + b'"', b'"' + literal(PIECES[0])[2:]
    if not call.streams:
        return call.protocol.body(literal(WHOLE))
    return (
        call.protocol.opening() + call.protocol.words(first) + call.protocol.words(other) + call.remaining + call.last
    )


def lines_end_with(end: bytes) -> Callable[[Call], bytes]:
    return lambda call: (call.begun + call.remaining + call.last).replace(b"\n", end)


CASES = (
    FaultCase(
        phase=PHASE, fault="lines that end with CR LF", scripts=answers(*reply(lines_end_with(b"\r\n"))), cases=PASSED
    ),
    FaultCase(
        phase=PHASE,
        fault="a byte order mark",
        scripts=answers(head(), send(b"\xef\xbb\xbf"), *_ENDED, Call.finish),
        cases=PASSED,
        differ={"relay": Cases(Case(Passed()), Case(Complete()))},
    ),
    FaultCase(
        phase=PHASE,
        fault="invalid UTF-8 in the content",
        scripts=answers(*reply(saying(b'"a\xffb"'))),
        cases=both(Complete("a\ufffdb")),
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="a UTF-8 character split between two packets",
        scripts=answers(*reply(split_character)),
        cases=streamed(Complete()),
        differ={"relay": streamed(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="one half of a surrogate pair",
        scripts=answers(*reply(saying(b'"a\\ud83db"'))),
        cases=both(Complete("a\ufffdb")),
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="U+2028, NUL and escapes",
        scripts=answers(*reply(saying(b'"\\u2028\xe2\x80\xa9\\u0000\\u001b\\/"'))),
        cases=both(Complete("\u2028\u2029\x00\x1b/")),
    ),
    FaultCase(
        phase=PHASE,
        fault="NaN as token count",
        scripts=answers(*reply(counting(b"NaN"))),
        cases=Cases(Case(Cut(text=WHOLE)), Case(BROKEN, 2)),
        differ={"chat": Cases(Case(Complete()), Case(BROKEN, 2)), "relay": Cases(Case(Passed()), Case(BROKEN, 2))},
        because="chat counts behind its reason",
    ),
    FaultCase(
        phase=PHASE,
        fault="no token counts",
        scripts=answers(*reply(counting(None))),
        cases=PASSED,
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="null as token count",
        scripts=answers(*reply(counting(b"null"))),
        cases=PASSED,
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="a negative token count",
        scripts=answers(*reply(counting(b"-7"))),
        cases=PASSED,
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="a fractional token count",
        scripts=answers(*reply(counting(b"7.5"))),
        cases=PASSED,
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="token counts as strings",
        scripts=answers(*reply(counting(b'"7"'))),
        cases=PASSED,
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="a token count with 30 digits",
        scripts=answers(*reply(counting(b"9" * 30))),
        cases=PASSED,
        differ={"relay": both(Passed())},
    ),
    FaultCase(
        phase=PHASE,
        fault="a duplicate key",
        scripts=answers(
            *reply(lambda call: (call.begun + call.remaining + call.last).replace(b'{"', b'{"twice":1,"twice":2,"'))
        ),
        cases=PASSED,
    ),
)
