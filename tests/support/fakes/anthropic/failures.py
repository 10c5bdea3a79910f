"""Anthropic's error replies: bodies and headers by kind."""

import json
from dataclasses import dataclass, field
from typing import Any

from messages_conformance.backends.messages.wire import ERRORS
from tests.support.fakes.anthropic.models import Model
from tests.support.fakes.model_scripts import Fault


@dataclass(frozen=True)
class ErrorResponse:
    """An answer that is no reply; the request's id joins it when it is sent."""

    status: int
    kind: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    page: bytes | None = None
    """A body that is no JSON, as something between here and there gives it."""

    def body(self, request_id: str) -> bytes:
        error: dict[str, Any] = {"type": self.kind, "message": self.message}
        envelope = {"type": "error", "error": error, "request_id": request_id}
        return json.dumps(envelope, separators=(",", ":")).encode() if self.page is None else self.page


def refuse_request(message: str) -> ErrorResponse:
    return ErrorResponse(400, "invalid_request_error", message)


def refuse_key(key: str, token: str) -> ErrorResponse:
    text = "invalid x-api-key" if key else "Invalid bearer token" if token else "x-api-key header is required"
    return ErrorResponse(401, "authentication_error", text, {"x-should-retry": "false"})


def refuse_model(name: str) -> ErrorResponse:
    return ErrorResponse(404, "not_found_error", f"model: {name}")


def refuse_overflow(tokens: int, model: Model) -> ErrorResponse:
    return refuse_request(f"prompt is too long: {tokens} tokens > {model.window} maximum")


def refuse_by_plan(fault: Fault, name: str, model: Model) -> ErrorResponse | None:
    """Return the refusal that a fault asks for; None where it is none of those that come instead of a reply."""
    seconds = fault.figure("after", 1)
    limited = {
        "retry-after": f"{seconds:g}",
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-20T12:00:00Z",
    }
    refusals = {
        "unauthorized": ErrorResponse(
            401, "authentication_error", "invalid x-api-key sk-ant-api03-Planned0123456789abcd"
        ),
        "forbidden": ErrorResponse(403, *ERRORS["permission"]),
        "missing": refuse_model(name),
        "rate": ErrorResponse(429, *ERRORS["rate_limit"], limited),
        "server": ErrorResponse(500, *ERRORS["server"], {"x-should-retry": "true"}),
        "overloaded": ErrorResponse(529, *ERRORS["overloaded"]),
        "gateway": ErrorResponse(502, "", "", page=b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
        "large": ErrorResponse(413, *ERRORS["too_large"]),
        "overflow": refuse_overflow(model.window + 4_321, model),
    }
    return refusals.get(fault.kind)
