"""Rejections by the provider, with a valid body or any other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tests.faults.call import Act, Call, head
from tests.faults.cases.case import FaultCase, answers
from tests.faults.expected import Case, Cases, Refused, both

PHASE = "status"
SORRY = "Sorry, this did not work."
OVERLOADED = "The model is overloaded."
GOOGLE = ("gemini", "vertex")
MEBIBYTE = 1 << 20
_HTML = b"<html><head><title>Oops</title></head><body><h1>Oops</h1></body></html>"


def refuse(status: int, *headers: str, message: str = SORRY) -> Act:
    """Answer with a status and the provider's own error body."""

    def act(call: Call) -> None:
        body = call.protocol.error(status, message)
        head(status, "content-type: application/json", *headers, framing="length", length=len(body))(call)
        call.send_chunk(body)

    return act


def answer(status: int, body: bytes, kind: str = "application/json", *, missing: int = 0) -> Act:
    """Answer with a status and a body; so many bytes that were promised are `missing`."""

    def act(call: Call) -> None:
        head(status, f"content-type: {kind}", framing="length", length=len(body) + missing)(call)
        call.send_chunk(body)

    return act


def pour(status: int, kind: str, mebibytes: int, *, announced: bool) -> Act:
    """Answer with a body of so many MiB of spaces, in chunks or with a length."""

    def act(call: Call) -> None:
        if announced:
            head(status, f"content-type: {kind}", framing="length", length=mebibytes * MEBIBYTE)(call)
        else:
            head(status, f"content-type: {kind}")(call)
        for _ in range(mebibytes):
            call.send_chunk(b" " * MEBIBYTE)
        call.finish()

    return act


def at(protocols: Iterable[str], cases: Cases) -> Mapping[str, Cases]:
    return dict.fromkeys(protocols, cases)


def _twice_at_first(expected: Refused) -> Cases:
    return Cases(Case(expected, 2), Case(expected, 1))


def _plain() -> Iterator[FaultCase]:
    """Every status with the body that belongs to it."""
    api, invalid = "api_error", "invalid_request_error"
    overloaded = both(Refused(529, "overloaded_error"), 2)
    rows: tuple[tuple[int, Cases, Mapping[str, Cases], str], ...] = (
        (400, both(Refused(400, invalid)), {}, ""),
        (
            401,
            both(Refused(401, "authentication_error", final=True)),
            {"vertex": _twice_at_first(Refused(401, "authentication_error", final=True))},
            "once more with another token, not again within a minute",
        ),
        (402, both(Refused(402, "billing_error", final=True)), {}, ""),
        (403, both(Refused(403, "permission_error")), {}, ""),
        (404, both(Refused(404, "not_found_error")), {}, ""),
        (408, both(Refused(504, "timeout_error")), {"relay": both(Refused(408, invalid))}, "its own status"),
        (409, both(Refused(409, "conflict_error")), {"relay": both(Refused(409, invalid))}, "its own status"),
        (413, both(Refused(413, "request_too_large")), {}, ""),
        (422, both(Refused(400, invalid)), {"relay": both(Refused(422, invalid))}, "its own status"),
        (429, both(Refused(429, "rate_limit_error")), {}, ""),
        (500, both(Refused(500, api)), {}, ""),
        (502, both(Refused(500, api), 2), {"relay": both(Refused(502, api), 2)}, "its own status"),
        (503, both(Refused(503, api, wait=2), 2), at(GOOGLE, overloaded), "Google calls every 503 UNAVAILABLE"),
        (504, both(Refused(504, "timeout_error")), {}, ""),
        (529, overloaded, {}, ""),
        (799, both(Refused(502, api, final=True)), {}, ""),
    )
    for status, cases, differ, because in rows:
        yield FaultCase(
            phase=PHASE, fault=f"{status}", scripts=answers(refuse(status)), cases=cases, differ=differ, because=because
        )


def _overloads() -> Iterator[FaultCase]:
    overloaded = both(Refused(529, "overloaded_error"), 2)
    yield FaultCase(
        phase=PHASE,
        fault="503 with a text on overload",
        scripts=answers(refuse(503, message=OVERLOADED)),
        cases=overloaded,
        differ={"relay": both(Refused(503, "api_error"), 2)},
        because="its own status",
    )
    yield FaultCase(
        phase=PHASE,
        fault="500 with a text on overload",
        scripts=answers(refuse(500, message=OVERLOADED)),
        cases=both(Refused(500, "api_error")),
    )


def _limits() -> Iterator[FaultCase]:
    """Yield 429 with every way to give the time to wait."""
    again = "Please try again in 61s."
    date = ("date: Fri, 20 Nov 2026 10:00:00 GMT", "retry-after: Fri, 20 Nov 2026 10:01:01 GMT")
    past = ("date: Fri, 20 Nov 2026 10:00:00 GMT", "retry-after: Fri, 20 Nov 2026 09:00:00 GMT")
    rows: tuple[tuple[str, Sequence[str], str, int | None, int, int | str | None], ...] = (
        ("`retry-after: 61`", ("retry-after: 61",), SORRY, 61, 1, 61),
        ("`retry-after: 60.2`", ("retry-after: 60.2",), SORRY, 61, 1, "60.2"),
        ("`retry-after: 1`, short", ("retry-after: 1",), SORRY, 1, 2, 1),
        ("`retry-after: 99999`", ("retry-after: 99999",), SORRY, 3600, 1, 99999),
        ("`retry-after` with a date", date, SORRY, 61, 1, "Fri, 20 Nov 2026 10:01:01 GMT"),
        ("`retry-after` with a past date", past, SORRY, 1, 2, "Fri, 20 Nov 2026 09:00:00 GMT"),
        ("`retry-after: soon`", ("retry-after: soon",), SORRY, None, 1, "soon"),
        ("`retry-after: -5`", ("retry-after: -5",), SORRY, None, 1, "-5"),
        ("`retry-after-ms: 60500`", ("retry-after-ms: 60500",), SORRY, 61, 1, 61),
        ("`x-ratelimit-reset-requests: 1m1s`", ("x-ratelimit-reset-requests: 1m1s",), SORRY, 61, 1, 61),
        ("“try again in 61s” in its text", (), again, 61, 1, 61),
    )
    for words, headers, message, wait, calls, passed in rows:
        yield FaultCase(
            phase=PHASE,
            fault=f"429, {words}",
            scripts=answers(refuse(429, *headers, message=message)),
            cases=both(Refused(429, "rate_limit_error", wait=wait), calls),
            differ={} if passed == wait else {"relay": both(Refused(429, "rate_limit_error", wait=passed), calls)},
            because="" if passed == wait else "its own header",
        )


def _bodies() -> Iterator[FaultCase]:
    """Yield refusals with a body that is no error object."""
    client, server = both(Refused(400, "invalid_request_error")), both(Refused(500, "api_error"))
    cut = b'{"error":{"message":"Sor'
    for words, of_400, of_500, heavy in (
        ("an empty body", answer(400, b""), answer(500, b""), False),
        ("an HTML page", answer(400, _HTML, "text/html"), answer(500, _HTML, "text/html"), False),
        ("incomplete body, then closed", answer(400, cut, missing=99), answer(500, cut, missing=99), False),
        ("truncated JSON", answer(400, cut), answer(500, cut), False),
        ("invalid UTF-8", answer(400, b'{"error":"\xff\xfe"'), answer(500, b"\xff\xfe"), False),
        ("JSON that is not an object", answer(400, b"[[[1]]]"), answer(500, b"null"), False),
        ("JSON with 100,000 levels of nesting", answer(400, b"[" * 100_000), answer(500, b'{"a":' * 100_000), False),
        (
            "65 MiB in chunks",
            pour(400, "application/json", 65, announced=False),
            pour(500, "application/json", 65, announced=False),
            True,
        ),
        (
            "65 MiB announced",
            pour(400, "application/json", 65, announced=True),
            pour(500, "application/json", 65, announced=True),
            True,
        ),
    ):
        yield FaultCase(phase=PHASE, fault=f"400 with {words}", scripts=answers(of_400), cases=client, heavy=heavy)
        yield FaultCase(phase=PHASE, fault=f"500 with {words}", scripts=answers(of_500), cases=server, heavy=heavy)
    yield FaultCase(
        phase=PHASE,
        fault="400, then no data in the body",
        scripts=answers(answer(400, cut, missing=99), Call.wait),
        cases=client,
        settings={"UPSTREAM_IDLE_TIMEOUT": "1"},
    )


CASES = (*_plain(), *_overloads(), *_limits(), *_bodies())
