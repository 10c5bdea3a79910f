"""Errors of OpenAI, which Chat Completions and Responses share."""

from messages_conformance.backends.reply import STATUSES, Failure
from messages_conformance.backends.wire import (
    Answer,
    ContractViolation,
    Json,
    answer_gateway,
    answer_json,
    retry_header,
)

_INVALID = "invalid_request_error"
_ERRORS: dict[str, tuple[str, str | None, str]] = {
    "invalid_request": (_INVALID, "invalid_value", "Invalid value in the request."),
    "context_window": (
        _INVALID,
        "context_length_exceeded",
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 132321 tokens. "
        "Please reduce the length of the messages.",
    ),
    "authentication": (
        _INVALID,
        "invalid_api_key",
        "Incorrect API key provided: sk-refus**********0000. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
    ),
    "permission": (
        "request_forbidden",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    "not_found": (
        _INVALID,
        "model_not_found",
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    "too_large": (_INVALID, None, "The request is too large."),
    "rate_limit": (
        "tokens",
        "rate_limit_exceeded",
        "Rate limit reached for {model} in organization org-fake on tokens per min (TPM): Limit 30000, Used 29000, "
        "Requested 12000. Please try again in {seconds:g}s. "
        "Visit https://platform.openai.com/account/rate-limits to learn more.",
    ),
    "quota": (
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "server": (
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
    "overloaded": ("server_error", None, "The server is overloaded or not ready yet."),
}
"""Kind → type, code and usual text with the places `model` and `seconds`."""


def error_of(message: str, kind: str, param: str | None, code: str | None) -> Json:
    return {"message": message, "type": kind, "param": param, "code": code}


def failure_of(failure: Failure, model: str = "scripted") -> Json:
    kind, code, text = _ERRORS[failure.kind if failure.kind in _ERRORS else "server"]
    message = failure.message or text.format(model=model, seconds=failure.retry_after or 1)
    return error_of(message, kind, "messages" if failure.kind == "context_window" else None, code)


def fail(failure: Failure, model: str = "scripted") -> Answer:
    """Return an error as it comes instead of a reply of this model."""
    if failure.kind == "gateway":
        return answer_gateway(failure.status or 502)
    status = failure.status or STATUSES[failure.kind]
    return answer_json({"error": failure_of(failure, model)}, status, retry_header(failure))


def refuse(violation: ContractViolation) -> Answer:
    return answer_json({"error": error_of(violation.message, _INVALID, violation.param, violation.code)}, 400)


def refuse_key(authorization: str) -> Answer | None:
    """Return the refusal of a request without a key; every key is accepted."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() == "bearer" and key:
        return None
    text = (
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY)."
    )
    return answer_json({"error": error_of(text, _INVALID, None, None)}, 401)


def refuse_path(method: str, path: str) -> Answer:
    return answer_json({"error": error_of(f"Invalid URL ({method} {path})", _INVALID, None, None)}, 404)
