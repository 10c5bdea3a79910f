"""Refusals of Google: bodies by kind, and the texts of refusals that a good request can meet."""

import json
from dataclasses import dataclass, field
from typing import Any

from messages_conformance.backends.gemini.errors import TYPE, error_of, fail
from messages_conformance.backends.reply import Failure
from tests.support.fakes.gemini.models import Model
from tests.support.fakes.model_scripts import Fault
from tests.support.fakes.server import ContractViolation


@dataclass(frozen=True)
class ErrorResponse:
    """An answer that is no reply."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=UTF-8"


def refuse(status: int, message: str, details: list[dict[str, Any]] | None = None) -> ErrorResponse:
    return ErrorResponse(status, json.dumps(error_of(status, message, details), indent=2).encode())


def refuse_breach(breaches: list[ContractViolation]) -> ErrorResponse:
    """Return the refusal of the first breach; unknown fields are named all at once."""
    if breaches[0].rule != "unknown_field":
        return refuse(400, breaches[0].message)
    texts = [breach.message for breach in breaches if breach.rule == "unknown_field"]
    violations = [{"field": text.partition("at '")[2].partition("'")[0], "description": text} for text in texts]
    return refuse(400, "\n".join(texts), [{"@type": f"{TYPE}BadRequest", "fieldViolations": violations}])


def _reason(reason: str, service: str) -> list[dict[str, Any]]:
    metadata = {"service": service}
    return [{"@type": f"{TYPE}ErrorInfo", "reason": reason, "domain": "googleapis.com", "metadata": metadata}]


def refuse_key(key: str | None) -> ErrorResponse:
    """Return AI Studio's refusal of a key, or of none."""
    if not key:
        text = (
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API."
        )
        return refuse(403, text)
    text = "API key not valid. Please pass a valid API key."
    return refuse(400, text, _reason("API_KEY_INVALID", "generativelanguage.googleapis.com"))


def refuse_token() -> ErrorResponse:
    text = (
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
    )
    return refuse(401, text, _reason("ACCESS_TOKEN_EXPIRED", "aiplatform.googleapis.com"))


def refuse_project(place: str) -> ErrorResponse:
    text = (
        f"Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/{place}' "
        "(or it may not exist)."
    )
    return refuse(403, text, _reason("IAM_PERMISSION_DENIED", "aiplatform.googleapis.com"))


def refuse_model(name: str, place: str) -> ErrorResponse:
    """Return the refusal of a model that is not there; `place` is its path at Vertex AI."""
    if place:
        text = (
            f"Publisher Model `{place}` was not found or your project does not have access to it. Please ensure you "
            "are using a valid model version."
        )
        return refuse(404, text)
    text = (
        f"models/{name} is not found for API version v1beta, or is not supported for generateContent. Call "
        "ModelService.ListModels to see the list of available models and their supported methods."
    )
    return refuse(404, text)


def refuse_overflow(model: Model, tokens: int, *, vertex: bool = False) -> ErrorResponse:
    text = f"The input token count ({tokens}) exceeds the maximum number of tokens allowed ({model.window})."
    if vertex:
        text = (
            f"Unable to submit request because the input token count is {tokens} but model only supports up to "
            f"{model.window}. Reduce the input token count and try again. You can also use the CountTokens API to "
            "calculate prompt token count and billable characters. Learn more: "
            "https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/gemini"
        )
    return refuse(400, text)


_PLANNED = {
    "rate": "rate_limit",
    "forbidden": "permission",
    "missing": "not_found",
    "server": "server",
    "overloaded": "overloaded",
    "gateway": "gateway",
}
"""Kind of a fault → that of the scripted upstreams, which write it."""


def refuse_by_plan(fault: Fault, name: str, model: Model, *, vertex: bool) -> ErrorResponse | None:
    """Return the refusal that a fault asks for; None where it is none of those that come instead of a reply."""
    if kind := _PLANNED.get(fault.kind):
        seconds = fault.figure("after", 1) if fault.kind == "rate" else None
        answer = fail(Failure(kind, retry_after=seconds), name)
        return ErrorResponse(answer.status, answer.body, dict(answer.headers))
    refusals = {
        "overflow": refuse_overflow(model, model.window + 4_321, vertex=vertex),
        "unauthorized": refuse_token() if vertex else refuse_key("refused by plan"),
        "location": refuse(400, "User location is not supported for the API use."),
        "unavailable": ErrorResponse(
            503, b"upstream connect error or disconnect/reset before headers", {}, "text/plain"
        ),
    }
    return refusals.get(fault.kind)
