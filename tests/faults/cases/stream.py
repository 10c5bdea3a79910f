"""Faults in the content: no valid begin, no valid end, errors between, and odd characters and numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.faults.call import ENDED, HEALTHY, Act, Call, head, pause, send
from tests.faults.cases.case import FaultCase, fault_case
from tests.faults.cases.status import GOOGLE, OVERFLOW, TOO_LONG
from tests.faults.expected import Case, Cases, Complete, Cut, Passed, Refused, both, streamed
from tests.faults.protocols import PIECES, WHOLE, literal
from tests.support.replies import ABSENT

BROKEN = Case(Refused(502, "api_error"), 2)
OVERLOADED = Refused(529, "overloaded_error")
PASSED = {"relay": both(Passed())}
PASSED_STREAM = {"relay": streamed(Passed())}
BEGUN = (head(), Call.begin, Call.arrive)
REST = (Call.go_on, Call.end, Call.finish)
_SORRY = "The model is overloaded."
_MORE = Complete(WHOLE + PIECES[1] + PIECES[2], words="the complete reply and that content")
case = partial(fault_case, "content")


def reply(words: str, cases: Cases, build: Callable[[Call], bytes], **options: Any) -> FaultCase:
    """Return a fault in the bytes of a whole reply."""
    return case(words, cases, head(), send(build), Call.finish, **options)


def broken(message: str, *, overloaded: bool) -> Callable[[Call], bytes]:
    def error(call: Call) -> bytes:
        fault = call.protocol.fault(message, overloaded)
        return call.protocol.broken(fault) if call.streams else fault

    return error


def frame(data: bytes) -> Act:
    """Send one record; where nothing is streamed, nothing."""
    return lambda call: call.send_chunk(call.protocol.frame(data)) if call.streams else None


def ping_for_ever(call: Call) -> None:
    data = b'event: ping\ndata: {"type": "ping"}\n\n' if call.protocol.framing == "sse" else b"\n"
    while True:
        call.send_chunk(data)
        pause(0.02)(call)


def send_fillers(call: Call) -> None:
    if call.streams:
        is_sse = call.protocol.framing == "sse"
        call.send_chunk(b": hi\n\nid: 7\nretry: 5\n\n\n\n" if is_sse else b"\n\n")


def complete(call: Call) -> bytes:
    return call.begun + call.remaining + call.last


def saying(content: bytes) -> Callable[[Call], bytes]:
    def build(call: Call) -> bytes:
        protocol = call.protocol
        if not call.streams:
            return protocol.body(content)
        return protocol.opening + protocol.words(content) + protocol.ending()

    return build


def counting(count: Any) -> Callable[[Call], bytes]:
    """Return a whole reply with this in place of every number of tokens."""

    def build(call: Call) -> bytes:
        if not call.streams:
            return call.protocol.body(literal(WHOLE), count)
        return call.begun + call.remaining + call.protocol.ending(count)

    return build


def split_character(call: Call) -> bytes:
    """Two records with half of the first letter each."""
    first, other = literal(PIECES[0])[:2] + b'"', b'"' + literal(PIECES[0])[2:]
    words = call.protocol.words
    return call.protocol.opening + words(first) + words(other) + call.remaining + call.last


_ERROR = broken("Sorry.", overloaded=False)
_OVERLOAD = broken(_SORRY, overloaded=True)
_OVERFLOW_LINE = b'error: {"error": {"message": "%b", "type": "invalid_request_error"}}\n\n' % TOO_LONG.encode()


def _overload_alone(call: Call) -> bytes:
    return call.protocol.fault(_SORRY, True)


CASES = (
    reply("an overload in a 200, before the first content", both(OVERLOADED, 2), _OVERLOAD),
    case(
        "an overload in a 200, after the start event, before the first content",
        both(OVERLOADED, 2),
        *(head(), send(lambda call: call.protocol.opening if call.streams else b" "), send(_OVERLOAD), Call.finish),
        differ={"relay": Cases(Case(Cut("overloaded_error", text="")), Case(OVERLOADED, 2))},
        because="its start opens a block, which is content",
    ),
    reply("an error in a 200, before the first content", both(Refused(500, "api_error")), _ERROR),
    reply(
        "in a 200, before the first content: the input exceeds the context window",
        both(OVERFLOW),
        broken(TOO_LONG, overloaded=False),
        differ={"relay": both(Refused(400, "api_error"))},
        because="its own type and text",
    ),
    case(
        "an overload, then a reply to the retry",
        both(Complete(), 2),
        scripts=[[Call.receive, head(), send(_OVERLOAD), Call.finish], HEALTHY],
    ),
    case(
        "an overload after the first content",
        streamed(Cut("overloaded_error")),
        *(*BEGUN, send(_OVERLOAD), Call.finish),
    ),
    case("an error after the first content", streamed(Cut()), *BEGUN, send(_ERROR), Call.finish),
    case(
        "an error after the end",
        streamed(Complete()),
        *(head(), *ENDED, send(_ERROR), Call.finish),
        differ=PASSED_STREAM,
    ),
    case(
        "an incomplete event, then a regular end of the body",
        Cases(Case(Cut(text=PIECES[0] + PIECES[1])), BROKEN),
        *(*BEGUN, send(lambda call: call.remaining[:-10] if call.streams else b""), Call.finish),
    ),
    case(
        "no end event after the last content",
        streamed(Cut(text=WHOLE)),
        *(head(), Call.begin, Call.go_on, Call.finish),
    ),
    case("two end events", streamed(Complete()), head(), *ENDED, Call.end, Call.finish, differ=PASSED_STREAM),
    case(
        "content after the end",
        streamed(Complete()),
        *(head(), *ENDED, Call.go_on, Call.finish),
        differ={**PASSED_STREAM, **dict.fromkeys(GOOGLE, streamed(_MORE))},
        because="Google marks no record as the last",
    ),
    case(
        "invalid bytes after the end",
        streamed(Complete()),
        *(head(), *ENDED, frame(b"\x00\xff{hello"), Call.finish),
        differ=PASSED_STREAM,
    ),
    case("endless pings after the end", streamed(Complete()), head(), *ENDED, ping_for_ever, differ=PASSED_STREAM),
    case(
        "a text instead of the first event",
        Cases(Case(Refused(500, "api_error"), 2), None),
        *(head(), frame(b"hello"), *ENDED, Call.finish),
        differ={**PASSED_STREAM, "ollama": streamed(Complete())},
        because="Ollama's lines have no mark, so it is a line that is no event",
    ),
    *(
        case(words, streamed(Cut()), *BEGUN, frame(data), *REST, differ={**PASSED_STREAM, **differ}, because=because)
        for words, data, differ, because in (
            ("invalid bytes after the first content", b'{"a":', {}, ""),
            (
                "JSON that is not an object, after the first content",
                b"[17]",
                {"ollama": streamed(Complete())},
                "as above",
            ),
            ("an event with 100,000 levels of nesting", b'{"x":' * 100_000 + b"1" + b"}" * 100_000, {}, ""),
        )
    ),
    case(
        "in a line that is no event, before the first content: the input exceeds the context window",
        both(OVERFLOW),
        *(head(), send(lambda call: call.protocol.opening if call.streams else b""), send(_OVERFLOW_LINE), Call.finish),
        differ={"relay": Cases(Case(Cut(text="")), BROKEN)},
        because="not read",
    ),
    case(
        "a text in place of a reply",
        both(Refused(500, "api_error"), 2),
        *(head(), send(b"upstream connect error"), Call.finish),
        differ={"relay": both(BROKEN.expected, 2)},
        because="not read",
    ),
    case(
        "white space and a byte order mark, each in a packet, then an overload",
        both(OVERLOADED, 2),
        *(head(), send(b" \n"), send(b"\xef\xbb"), send(b"\xbf"), send(_overload_alone), Call.finish),
        differ={"relay": Cases(BROKEN, BROKEN)},
        because="not read",
    ),
    *(
        case(
            words, streamed(Cut()), *BEGUN, send(lines), *rest, differ={"relay": streamed(Passed())}, because="not read"
        )
        for words, lines, rest in (
            ("a line `error:` after the first content", b"error: worker lost\n\n", REST),
            ("an error without `data:` after the first content", b'{"error": "worker lost"}\n\n', REST),
            ("a web page after the first content", b"<html>\n<title>503 Sorry</title>\n</html>\n", (Call.finish,)),
            ("a text after the first content, and no end", b"upstream connect error\n\n", (Call.finish,)),
        )
    ),
    case(
        "lines that are no event and state nothing",
        streamed(Complete()),
        *(head(), send(b"ping\n\n"), Call.begin, send(b"1f\r\nbusy: 3\n\n"), *REST),
        differ=PASSED_STREAM,
    ),
    case(
        "a line `error:` after the end",
        streamed(Complete()),
        *(head(), *ENDED, send(b"error: worker lost\n\n"), Call.finish),
        differ=PASSED_STREAM,
    ),
    case(
        "an event of an unknown type",
        streamed(Complete()),
        *(head(), Call.begin, frame(b'{"type":"hologram","mystery":[1,null]}'), *REST),
        differ=PASSED_STREAM,
    ),
    case(
        "comments, ids and empty lines between events",
        streamed(Complete()),
        *(head(), Call.begin, send_fillers, *REST),
    ),
    reply("lines that end with CR LF", both(Complete()), lambda call: complete(call).replace(b"\n", b"\r\n")),
    case(
        "a byte order mark",
        both(Complete()),
        *(head(), send(b"\xef\xbb\xbf"), *ENDED, Call.finish),
        differ={"relay": Cases(Case(Passed()), Case(Complete()))},
    ),
    reply("invalid UTF-8 in the content", both(Complete("a\ufffdb")), saying(b'"a\xffb"'), differ=PASSED),
    reply("a UTF-8 character split between two packets", streamed(Complete()), split_character, differ=PASSED_STREAM),
    reply("one half of a surrogate pair", both(Complete("a\ufffdb")), saying(b'"a\\ud83db"'), differ=PASSED),
    reply(
        "U+2028, NUL and escapes",
        both(Complete("\u2028\u2029\x00\x1b/")),
        saying(b'"\\u2028\xe2\x80\xa9\\u0000\\u001b\\/"'),
    ),
    reply(
        "NaN as token count",
        both(Complete()),
        counting(float("nan")),
        differ={"relay": both(Passed("forwarded with null in its place"))},
    ),
    *(
        reply(words, both(Complete()), counting(count), differ=PASSED)
        for words, count in (
            ("no token counts", ABSENT),
            ("null as token count", None),
            ("a negative token count", -7),
            ("a fractional token count", 7.5),
            ("token counts as strings", "7"),
            ("a token count with 30 digits", 10**30 - 1),
        )
    ),
    reply("a duplicate key", both(Complete()), lambda call: complete(call).replace(b'{"', b'{"twice":1,"twice":2,"')),
)
