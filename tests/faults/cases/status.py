"""Rejections by the provider: with a valid body, any other, or a text from which the kind of error is recognized."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.faults.call import HEALTHY, Act, Call, head
from tests.faults.cases.case import ask_chain, ask_with, fault_case
from tests.faults.expected import Case, Cases, Complete, Refused, both

GOOGLE = ("gemini", "vertex")
MEBIBYTE = 1 << 20
TOO_LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
OVERFLOW = Refused(400, "invalid_request_error", message="prompt is too long: 9000 tokens > 8192 maximum")
_SORRY = "Sorry, this did not work."
_OVERLOADED = "The model is overloaded."
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PIXEL}}
case = partial(fault_case, "status")


def refuse(status: int, *headers: str, message: str = _SORRY) -> Act:
    """Answer with a status and the provider's own error body."""
    return lambda call: answer(status, call.protocol.error(status, message), "application/json", *headers)(call)


def answer(status: int, body: bytes, kind: str = "application/json", *headers: str, missing: int = 0) -> Act:
    """Answer with a status and a body; so many bytes that were promised are `missing`."""

    def act(call: Call) -> None:
        head(status, f"content-type: {kind}", *headers, framing="length", length=len(body) + missing)(call)
        call.send_chunk(body)

    return act


def pour(status: int, mebibytes: int, *, announced: bool) -> Act:
    """Answer with a body of so many MiB of spaces, in chunks or with a length."""

    def act(call: Call) -> None:
        framing = "length" if announced else "chunked"
        head(status, "content-type: application/json", framing=framing, length=mebibytes * MEBIBYTE)(call)
        for _ in range(mebibytes):
            call.send_chunk(b" " * MEBIBYTE)
        call.finish()

    return act


def refuse_images(call: Call) -> None:
    """Refuse a request with an image, and answer any other."""
    acts = [refuse(400, message="This model does not support image inputs.")]
    for act in acts if _PIXEL in str(call.body) else HEALTHY[1:]:
        act(call)


_INVALID, _API = Refused(400, "invalid_request_error"), Refused(500, "api_error")
_REPEATED = {
    **dict.fromkeys(("chat", "groq"), Cases(Case(_INVALID, 2), Case(_INVALID))),
    **dict.fromkeys(("responses", "gemini", "vertex"), both(_INVALID, 2)),
}
_PLAINER = "once more without the parts that a request can do without, if it has any"
_OVERLOAD = both(Refused(529, "overloaded_error"), 2)
_TOLD = Refused(424, "invalid_request_error", final=True)
_PLAIN: tuple[tuple[int, Cases, Mapping[str, Cases], str], ...] = (
    (400, both(_INVALID), _REPEATED, _PLAINER),
    (
        401,
        both(_TOLD),
        {"vertex": Cases(Case(_TOLD, 2), Case(_TOLD))},
        "once more with another token, not again within a minute",
    ),
    (402, both(Refused(402, "billing_error", final=True)), {}, ""),
    (403, both(_TOLD), {}, ""),
    (404, both(Refused(404, "not_found_error")), {}, ""),
    (407, both(_TOLD), {}, ""),
    (408, both(Refused(504, "timeout_error")), {"relay": both(Refused(408, _INVALID.kind))}, "its own status"),
    (409, both(Refused(409, "conflict_error")), {"relay": both(Refused(409, _INVALID.kind))}, "its own status"),
    (413, both(Refused(413, "request_too_large")), {}, ""),
    (
        422,
        both(_INVALID),
        {**_REPEATED, "relay": both(Refused(422, _INVALID.kind))},
        f"{_PLAINER}; the relay's own status",
    ),
    (425, both(_TOLD), {}, ""),
    (429, both(Refused(429, "rate_limit_error")), {}, ""),
    (451, both(_TOLD), {}, ""),
    (500, both(_API), {}, ""),
    (502, both(_API, 2), {"relay": both(Refused(502, _API.kind), 2)}, "its own status"),
    (
        503,
        both(Refused(503, "api_error", wait=2), 2),
        dict.fromkeys(GOOGLE, _OVERLOAD),
        "Google calls every 503 UNAVAILABLE",
    ),
    (504, both(Refused(504, "timeout_error")), {}, ""),
    (511, both(_TOLD), {}, ""),
    (529, _OVERLOAD, {}, ""),
    (799, both(Refused(502, "api_error", final=True)), {}, ""),
)
"""Status with the body that belongs to it → outcome; where it differs, and why."""
_LIMITS: tuple[tuple[str, list[str], int | None, int, int | str | None], ...] = (
    ("`retry-after: 61`", ["retry-after: 61"], 61, 1, 61),
    ("`retry-after: 60.2`", ["retry-after: 60.2"], 61, 1, "60.2"),
    ("`retry-after: 1`, short", ["retry-after: 1"], 1, 2, 1),
    ("`retry-after: 99999`", ["retry-after: 99999"], 3600, 1, 99999),
    (
        "`retry-after` with a date",
        ["date: Fri, 20 Nov 2026 10:00:00 GMT", "retry-after: Fri, 20 Nov 2026 10:01:01 GMT"],
        *(61, 1, "Fri, 20 Nov 2026 10:01:01 GMT"),
    ),
    (
        "`retry-after` with a past date",
        ["date: Fri, 20 Nov 2026 10:00:00 GMT", "retry-after: Fri, 20 Nov 2026 09:00:00 GMT"],
        *(1, 2, "Fri, 20 Nov 2026 09:00:00 GMT"),
    ),
    ("`retry-after: soon`", ["retry-after: soon"], None, 1, None),
    ("`retry-after: -5`", ["retry-after: -5"], None, 1, None),
    ("`retry-after-ms: 60500`", ["retry-after-ms: 60500"], 61, 1, 61),
    ("`x-ratelimit-reset-requests: 1m1s`", ["x-ratelimit-reset-requests: 1m1s"], 61, 1, 61),
    ("“try again in 61s” in its text", [], 61, 1, 61),
)
"""Way to give the time to wait, its headers → seconds for the client, calls; the header that a relay passes on."""
_CUT = b'{"error":{"message":"Sor'
_HTML = b"<html><head><title>Oops</title></head><body><h1>Oops</h1></body></html>"
_BODIES: tuple[tuple[str, bytes, bytes, dict[str, Any]], ...] = (
    ("an empty body", b"", b"", {}),
    ("an HTML page", _HTML, _HTML, {"kind": "text/html"}),
    ("incomplete body, then closed", _CUT, _CUT, {"missing": 99}),
    ("truncated JSON", _CUT, _CUT, {}),
    ("invalid UTF-8", b'{"error":"\xff\xfe"', b"\xff\xfe", {}),
    ("JSON that is not an object", b"[[[1]]]", b"null", {}),
    ("JSON with 100,000 levels of nesting", b"[" * 100_000, b'{"a":' * 100_000, {}),
)
"""A body that is no error object: of a 400, and of a 500."""
_REFUSED = Complete("", "refusal", "a reply without content, `stop_reason: refusal`")
_POLICY = "Your request was rejected: the prompt violates our usage guidelines."
_KINDS = (
    (400, "the input exceeds the context window", TOO_LONG, OVERFLOW, "invalid_request_error"),
    (500, "the input exceeds the context window", TOO_LONG, OVERFLOW, "api_error"),
    (400, "the content violates a policy", _POLICY, _REFUSED, "invalid_request_error"),
    (403, "the content violates a policy", _POLICY, _REFUSED, "permission_error"),
    (
        429,
        "a limit per minute that the request alone exceeds",
        "Request too large on tokens per minute (TPM): Limit 8000, Requested 30000.",
        Refused(400, "invalid_request_error", message="prompt is too long: 30000 tokens > 8000 maximum"),
        "rate_limit_error",
    ),
    (
        429,
        "no credit is left",
        "Your prepayment credits are depleted. Please go to the billing page.",
        Refused(402, "billing_error", final=True),
        "rate_limit_error",
    ),
    (
        429,
        "a quota is used up",
        "You have reached your hourly usage limit.",
        Refused(429, "rate_limit_error", final=True),
        "rate_limit_error",
    ),
)
"""Status and text from which a kind of error is recognized → outcome, and the kind that a relay passes on."""

CASES = (
    *(
        case(str(status), cases, refuse(status), differ=differ, because=because)
        for status, cases, differ, because in _PLAIN
    ),
    case(
        "503 with a text on overload",
        _OVERLOAD,
        refuse(503, message=_OVERLOADED),
        differ={"relay": both(Refused(503, "api_error"), 2)},
        because="its own status",
    ),
    case(
        "500 with a text on overload",
        _OVERLOAD,
        refuse(500, message=_OVERLOADED),
        differ={"relay": both(Refused(500, "api_error"), 2)},
        because="its own status",
    ),
    *(
        case(
            f"429, {words}",
            both(Refused(429, "rate_limit_error", wait=wait), calls),
            refuse(429, *headers, message=_SORRY if headers else "Please try again in 61s."),
            differ={} if passed == wait else {"relay": both(Refused(429, "rate_limit_error", wait=passed), calls)},
            because="" if passed == wait else "its own header",
        )
        for words, headers, wait, calls, passed in _LIMITS
    ),
    *(
        case(
            f"{expected.status} with {words}",
            both(expected),
            answer(expected.status, body, **options),
            differ=_REPEATED if expected is _INVALID else {},
            because=_PLAINER if expected is _INVALID else "",
        )
        for words, of_400, of_500, options in _BODIES
        for expected, body in ((_INVALID, of_400), (_API, of_500))
    ),
    *(case(f"{status} with an HTML page", both(_TOLD), answer(status, _HTML, "text/html")) for status in (401, 403)),
    *(
        case(
            f"{expected.status} with 65 MiB {'announced' if announced else 'in chunks'}",
            both(expected),
            pour(expected.status, 65, announced=announced),
            differ=_REPEATED if expected is _INVALID else {},
            because=_PLAINER if expected is _INVALID else "",
            heavy=True,
        )
        for announced in (False, True)
        for expected in (_INVALID, _API)
    ),
    case(
        "400, then no data in the body",
        both(_INVALID),
        *(answer(400, _CUT, missing=99), Call.wait),
        differ=_REPEATED,
        because=_PLAINER,
        settings={"UPSTREAM_IDLE_TIMEOUT": "2"},
    ),
    *(
        case(
            f"{status}, {words}",
            both(expected),
            refuse(status, message=message),
            differ={"relay": both(_TOLD if status == 403 else Refused(status, kind))},
            because="its own error",
        )
        for status, words, message, expected, kind in _KINDS
    ),
    case(
        "400, images are not supported",
        Cases(Case(Complete(), 2), Case(Complete(), 1)),
        refuse_images,
        differ={**dict.fromkeys(("ollama", "groq"), both(Complete())), "relay": both(_INVALID)},
        because="text models get no image; the relay passes errors",
        ask=ask_with(messages=[{"role": "user", "content": [_IMAGE, {"type": "text", "text": "Sing."}]}]),
    ),
    *(
        case(
            f"{status}, the model is not served, the route has another one",
            both(Complete(), 2),
            scripts=[(Call.receive, refuse(status, message=message)), HEALTHY],
            ask=ask_chain,
        )
        for status, message in ((404, "The model does not exist."), (400, "The provided model identifier is invalid."))
    ),
    case(
        "503, `x-should-retry: false`",
        both(Refused(503, "api_error", wait=2, final=True)),
        refuse(503, "x-should-retry: false"),
        differ=dict.fromkeys(GOOGLE, both(Refused(529, "overloaded_error", final=True))),
        because="Google calls every 503 UNAVAILABLE",
    ),
)
