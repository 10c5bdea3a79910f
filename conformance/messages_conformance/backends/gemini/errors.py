"""Errors of Google."""

from typing import Any

from messages_conformance.backends.reply import STATUSES, Failure
from messages_conformance.backends.wire import Answer, ContractViolation, Json, answer_gateway, answer_json

TYPE = "type.googleapis.com/google.rpc."
NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_requests, limit: 10, model: {model}\n"
    "Please retry in {seconds:g}s."
)
_TEXTS = {
    "invalid_request": "Request contains an invalid argument.",
    "context_window": "The input token count (1052897) exceeds the maximum number of tokens allowed (1048576).",
    "authentication": "API key not valid. Please pass a valid API key.",
    "permission": "The caller does not have permission",
    "not_found": (
        "models/{model} is not found for API version v1beta, or is not supported for generateContent. Call "
        "ModelService.ListModels to see the list of available models and their supported methods."
    ),
    "too_large": "Request payload size exceeds the limit: 20971520 bytes.",
    "rate_limit": _QUOTA,
    "quota": _QUOTA,
    "server": (
        "An internal error has occurred. Please retry or report in "
        "https://developers.generativeai.google/guide/troubleshooting"
    ),
    "overloaded": "The model is overloaded. Please try again later.",
}
"""Kind → usual text with the places `model` and `seconds`."""
_STATUSES = {"authentication": 400, "too_large": 400}
"""Kinds with another status than elsewhere: a wrong key is an invalid argument."""


def error_of(status: int, message: str, details: list[dict[str, Any]] | None = None) -> Json:
    error: Json = {"code": status, "message": message, "status": NAMES.get(status, "UNKNOWN")}
    return {"error": error | ({"details": details} if details else {})}


def failure_of(failure: Failure, model: str = "scripted") -> Json:
    status = failure.status or _STATUSES.get(failure.kind) or STATUSES[failure.kind]
    text = _TEXTS.get(failure.kind, _TEXTS["server"])
    message = failure.message or text.format(model=model, seconds=failure.retry_after or 1)
    details: list[dict[str, Any]] = []
    if failure.kind == "authentication":
        metadata = {"service": "generativelanguage.googleapis.com"}
        reason = {"reason": "API_KEY_INVALID", "domain": "googleapis.com", "metadata": metadata}
        details.append({"@type": f"{TYPE}ErrorInfo", **reason})
    if failure.kind in ("rate_limit", "quota"):
        period = "Minute" if failure.kind == "rate_limit" else "Day"
        quota = {"quotaId": f"GenerateRequestsPer{period}PerProjectPerModel", "quotaValue": "10"}
        details.append({"@type": f"{TYPE}QuotaFailure", "violations": [quota]})
    if failure.retry_after is not None:
        details.append({"@type": f"{TYPE}RetryInfo", "retryDelay": f"{failure.retry_after:g}s"})
    return error_of(status, message, details)


def fail(failure: Failure, model: str = "scripted") -> Answer:
    """Return an error as it comes instead of a reply of this model."""
    if failure.kind == "gateway":
        return answer_gateway(failure.status or 502)
    error = failure_of(failure, model)
    return answer_json(error, error["error"]["code"])


def refuse(violation: ContractViolation) -> Answer:
    return answer_json(error_of(400, violation.message), 400)


def refuse_path(path: str) -> Answer:
    return answer_json(error_of(404, f"The requested URL {path} was not found on this server."), 404)


def refuse_key(key: str | None) -> Answer | None:
    """Return the refusal of a request without a key; every key is accepted."""
    if key:
        return None
    text = (
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
        "other form of API consumer identity to call this API."
    )
    return answer_json(error_of(403, text), 403)
