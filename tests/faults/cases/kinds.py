"""Errors of a kind that is recognized from their text: the client gets help, or the proxy changes the request."""

from tests.faults.call import HEALTHY, Call
from tests.faults.cases.case import FaultCase, answers, ask_with
from tests.faults.cases.status import GOOGLE, PHASE, at, refuse
from tests.faults.expected import Case, Cases, Complete, Refused, both

TOO_LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
OVERFLOW = Refused(400, "invalid_request_error", message="prompt is too long: 9000 tokens > 8192 maximum")
_ABOVE_RATE = "Request too large on tokens per minute (TPM): Limit 8000, Requested 30000."
_NEVER_FITS = Refused(400, "invalid_request_error", message="prompt is too long: 30000 tokens > 8000 maximum")
_NO_IMAGES = "This model does not support image inputs."
_POLICY = "Your request was rejected: the prompt violates our usage guidelines."
_NO_CREDIT = "Your prepayment credits are depleted. Please go to the billing page."
_HOURLY = "You have reached your hourly usage limit."
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PIXEL}}
_SHOWN = [{"role": "user", "content": [_IMAGE, {"type": "text", "text": "Sing."}]}]
_OWN = "its own error"


def refuse_images(call: Call) -> None:
    """Refuse a request with an image, and answer any other."""
    if _PIXEL in str(call.body):
        refuse(400, message=_NO_IMAGES)(call)
        return
    for act in HEALTHY[1:]:
        act(call)


CASES = (
    *(
        FaultCase(
            phase=PHASE,
            fault=f"{status}, the input exceeds the context window",
            scripts=answers(refuse(status, message=TOO_LONG)),
            cases=both(OVERFLOW),
            differ={"relay": both(Refused(status, kind))},
            because=_OWN,
        )
        for status, kind in ((400, "invalid_request_error"), (500, "api_error"))
    ),
    FaultCase(
        phase=PHASE,
        fault="400, images are not supported",
        scripts=answers(refuse_images),
        cases=Cases(Case(Complete(), 2), Case(Complete(), 1)),
        differ={**at(("ollama", "groq"), both(Complete())), "relay": both(Refused(400, "invalid_request_error"))},
        because="text models get no image; the relay passes errors",
        ask=ask_with(messages=_SHOWN),
    ),
    *(
        FaultCase(
            phase=PHASE,
            fault=f"{status}, the content violates a policy",
            scripts=answers(refuse(status, message=_POLICY)),
            cases=both(Complete("", "refusal", "a reply without content, `stop_reason: refusal`")),
            differ={"relay": both(Refused(status, kind))},
            because=_OWN,
        )
        for status, kind in ((400, "invalid_request_error"), (403, "permission_error"))
    ),
    FaultCase(
        phase=PHASE,
        fault="429, a limit per minute that the request alone exceeds",
        scripts=answers(refuse(429, message=_ABOVE_RATE)),
        cases=both(_NEVER_FITS),
        differ={"relay": both(Refused(429, "rate_limit_error"))},
        because=_OWN,
    ),
    FaultCase(
        phase=PHASE,
        fault="429, no credit is left",
        scripts=answers(refuse(429, message=_NO_CREDIT)),
        cases=both(Refused(402, "billing_error", final=True)),
        differ={"relay": both(Refused(429, "rate_limit_error"))},
        because=_OWN,
    ),
    FaultCase(
        phase=PHASE,
        fault="429, a quota is used up",
        scripts=answers(refuse(429, message=_HOURLY)),
        cases=both(Refused(429, "rate_limit_error", final=True)),
        differ={"relay": both(Refused(429, "rate_limit_error"))},
        because=_OWN,
    ),
    FaultCase(
        phase=PHASE,
        fault="503, `x-should-retry: false`",
        scripts=answers(refuse(503, "x-should-retry: false")),
        cases=both(Refused(503, "api_error", wait=2, final=True)),
        differ=at(GOOGLE, both(Refused(529, "overloaded_error", final=True))),
        because="Google calls every 503 UNAVAILABLE",
    ),
)
