"""Refusals of OpenAI: bodies and headers by kind, and the texts of refusals that a good request can meet."""

import json
from dataclasses import dataclass, field
from typing import Any

from messages_conformance.backends.openai.errors import fail
from messages_conformance.backends.reply import Failure
from tests.support.fakes.model_scripts import Fault
from tests.support.fakes.openai_chat.models import Model
from tests.support.fakes.server import ContractViolation


@dataclass(frozen=True)
class ErrorResponse:
    """An answer that is no reply."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def refuse(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> ErrorResponse:
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    return ErrorResponse(status, json.dumps({"error": error}, indent=2).encode(), headers or {})


def refuse_breach(breach: ContractViolation) -> ErrorResponse:
    return refuse(400, breach.message, param=breach.param, code=breach.code)


def refuse_key(key: str | None) -> ErrorResponse:
    if not key:
        text = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're "
            "accessing the API from your browser and are prompted for a username and password."
        )
        return refuse(401, text)
    shown = key if len(key) < 12 else f"{key[:8]}{'*' * (len(key) - 12)}{key[-4:]}"
    text = f"Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com/account/api-keys."
    return refuse(401, text, code="invalid_api_key")


def refuse_model(name: str, model: Model | None) -> ErrorResponse | None:
    """Return the refusal of a model that is unknown, or known to another API only."""
    if model is None:
        text = f"The model `{name}` does not exist or you do not have access to it."
        return refuse(404, text, code="model_not_found")
    if not model.chat:
        text = "This model is only supported in v1/responses and not in v1/chat/completions."
        return refuse(404, text, param="model")
    return None


def refuse_overflow(model: Model, messages: int, functions: int, output: int = 0) -> ErrorResponse:
    """Return the refusal of a prompt that is larger than the window, in the words of its three cases."""
    start = f"This model's maximum context length is {model.window} tokens. However, "
    if messages + functions <= model.window:
        text = (
            f"{start}you requested {messages + functions + output} tokens ({messages} in the messages, "
            f"{f'{functions} in the functions, and ' if functions else ''}{output} in the completion). "
            "Please reduce the length of the messages or completion."
        )
    elif functions:
        text = (
            f"{start}your messages resulted in {messages + functions} tokens ({messages} in the messages, "
            f"{functions} in the functions). Please reduce the length of the messages or functions."
        )
    else:
        text = f"{start}your messages resulted in {messages} tokens. Please reduce the length of the messages."
    return refuse(400, text, param="messages", code="context_length_exceeded")


_PLANNED = {
    "rate": "rate_limit",
    "missing": "not_found",
    "forbidden": "permission",
    "quota": "quota",
    "server": "server",
    "overloaded": "overloaded",
    "gateway": "gateway",
}
"""Kind of a fault → that of the scripted upstreams, which write it."""


def refuse_by_plan(fault: Fault, name: str, model: Model) -> ErrorResponse | None:
    """Return the refusal that a fault asks for; None where it is none of those that come instead of a reply."""
    if kind := _PLANNED.get(fault.kind):
        seconds = fault.figure("after", 1) if fault.kind == "rate" else None
        answer = fail(Failure(kind, retry_after=seconds), name)
        headers = dict(answer.headers)
        if seconds is not None:
            headers["x-ratelimit-reset-tokens"] = f"{seconds:g}s"
        return ErrorResponse(answer.status, answer.body, headers)
    refusals = {
        "overflow": refuse_overflow(model, model.window + 4_321, 0),
        "unauthorized": refuse_key("sk-refused-by-plan-0000"),
        "unavailable": ErrorResponse(
            503, b"upstream connect error or disconnect/reset before headers", {}, "text/plain"
        ),
        "policy": refuse(
            400,
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            code="invalid_prompt",
        ),
    }
    return refusals.get(fault.kind)
