"""LiteLLM's exceptions → error bodies in OpenAI's shape, which the wire judges."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import UpstreamUnreachable

_CODES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
    "UnsupportedParamsError": "unsupported_parameter",
}
"""Classes that say more than their status, and OpenAI's word for it."""
_UNANSWERED = {"APIConnectionError", "InternalServerError"}
"""Classes that stand for a failed connection too; no headers of an answer come with them then."""
_CLASSES = re.compile(r"(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception)(?::| -)\s+)+")
_UNSUPPORTED = re.compile(r"does not support parameters: \[?'(\w+)'")
_ADVICE = re.compile(
    r"\s*(?:\.?\s*To drop (?:these|it)\b|\n ?Pass model as\b|\nTraceback \(most recent call last\)).*", re.DOTALL
)
"""What is meant for who programs with LiteLLM: its switches, its functions, its trace."""


class Failure(Struct, frozen=True, kw_only=True):
    """A call that failed."""

    status: int
    error: dict[str, Any]
    """`message`, `type`, `param` and `code`, as OpenAI has them."""
    headers: Mapping[str, str] = {}
    """Of the provider's answer, names in lower case."""
    unreachable: UpstreamUnreachable | None = None
    """Set where no provider answered."""


def read_failure(error: Exception) -> Failure:
    """Read one of LiteLLM's exceptions."""
    inner = getattr(error, "original_exception", None)  # a failure in the middle of a stream is wrapped
    if isinstance(inner, Exception) and hasattr(inner, "status_code"):
        error = inner
    classes = {kind.__name__ for kind in type(error).__mro__}
    text = _ADVICE.sub("", _CLASSES.sub("", getattr(error, "message", "") or str(error), count=1)).strip()
    said = _find_body(error, text)
    unsupported = _UNSUPPORTED.search(text)
    code = next((code for name, code in _CODES.items() if name in classes), None)
    headers = _find_headers(error)
    unreachable = not headers and bool(classes & _UNANSWERED)
    return Failure(
        status=_status_of(error),
        error={
            "message": ""
            if text.startswith("<")
            else said.get("message") or text,  # a page of some gateway says nothing
            "type": said.get("type"),
            "param": unsupported[1] if unsupported else said.get("param"),
            "code": code or said.get("code"),
        },
        headers=headers,
        unreachable=UpstreamUnreachable(text) if unreachable else None,
    )


def encode_failure(failure: Failure) -> bytes:
    """Return the body that OpenAI would have sent; inside a stream its `status_code` stands for the status."""
    return msgspec.json.encode({"error": {**failure.error, "status_code": failure.status}})


def _status_of(error: Exception) -> int:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status < 600 else 500


def _find_headers(error: Exception) -> dict[str, str]:
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    return {str(name).lower(): str(value) for name, value in dict(headers).items()}


def _find_body(error: Exception, text: str) -> dict[str, Any]:
    """Return the provider's own error object: beside the message, or as JSON inside it."""
    body = getattr(error, "body", None)
    start = text.find("{")
    if not isinstance(body, dict) and start >= 0:
        try:
            body = msgspec.json.decode(text[start : text.rfind("}") + 1])
        except (msgspec.DecodeError, RecursionError):
            body = None
    if not isinstance(body, dict):
        return {}
    inner = body.get("error")
    said = inner if isinstance(inner, dict) else body
    return said if isinstance(said.get("message"), str) else {}
