"""`decode_exception`: converts an exception of the Python library LiteLLM to the provider's error that caused it.

The result is a `LiteLLMFailure`, with the fields of OpenAI's errors. `encode_error_body` encodes it as JSON. If the
provider could not be reached, the field `connection_error` of the result has the exception that the caller raises
instead.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import UpstreamUnreachable
from anthropic_proxy.platforms.os_errors import clean_error_text
from anthropic_proxy.upstream.public_addresses import is_public_address

_CODES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
    "UnsupportedParamsError": "unsupported_parameter",
}
"""Class name of an exception → error code of OpenAI. The HTTP status alone is ambiguous."""
_CONNECTION_ERRORS = {"APIConnectionError", "InternalServerError"}
"""Class names of exceptions that can mean a failed connection to the provider. They then have no response headers."""
_CLASSES = re.compile(r"(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception)(?::| -)\s+)+")
_REFUSED_BY = re.compile(r"connection refused by \[?([\w.:%]+?)\]?:\d+\b")
_UNSUPPORTED = re.compile(r"does not support parameters: \[?'(\w+)'")
_ADVICE = re.compile(
    r"\s*(?:\.?\s*To drop (?:these|it)\b|\n ?Pass model as\b|\nTraceback \(most recent call last\)).*", re.DOTALL
)
"""Pattern of text in error messages that is meant for programmers (options, functions, traceback) and is removed."""


class LiteLLMFailure(Struct, frozen=True, kw_only=True):
    """A failed call through LiteLLM: HTTP status, error object and headers of the provider's response."""

    status: int
    """HTTP status of the provider's response, as LiteLLM reports it."""
    error_object: dict[str, Any]
    """Error of the provider, with the fields `message`, `type`, `param` and `code` of OpenAI's errors."""
    headers: Mapping[str, str] = {}
    """Response headers of the provider, names in lower case."""
    connection_error: UpstreamUnreachable | None = None
    """Error to raise if the connection failed. None: the provider replied."""


def decode_exception(error: Exception) -> LiteLLMFailure:
    """Return the provider's error that caused a LiteLLM exception: its status, error object and headers.

    If the connection to the provider failed, `connection_error` is set too.
    """
    inner = getattr(error, "original_exception", None)  # errors within a stream are wrapped
    if isinstance(inner, Exception) and hasattr(inner, "status_code"):
        error = inner
    classes = {kind.__name__ for kind in type(error).__mro__}
    text = _ADVICE.sub("", _CLASSES.sub("", getattr(error, "message", "") or str(error), count=1)).strip()
    error_object = _find_body(error, text)
    unsupported = _UNSUPPORTED.search(text)
    code = next((code for name, code in _CODES.items() if name in classes), None)
    headers = _find_headers(error)
    unreachable = not headers and bool(classes & _CONNECTION_ERRORS)
    return LiteLLMFailure(
        status=_status_of(error),
        error_object={
            "message": "" if text.startswith("<") else error_object.get("message") or text,  # an HTML page of a gateway
            "type": error_object.get("type"),
            "param": unsupported[1] if unsupported else error_object.get("param"),
            "code": code or error_object.get("code"),
        },
        headers=headers,
        connection_error=_unreachable(text) if unreachable else None,
    )


def _unreachable(text: str) -> UpstreamUnreachable:
    text = clean_error_text(text)
    refused = _REFUSED_BY.search(text)
    return UpstreamUnreachable(text, should_retry=False if refused and not is_public_address(refused[1]) else None)


def encode_error_body(failure: LiteLLMFailure) -> bytes:
    """Return the error of a failed call as a JSON body in OpenAI's format.

    The additional field `status_code` has the HTTP status.
    """
    return msgspec.json.encode({"error": {**failure.error_object, "status_code": failure.status}})


def _status_of(error: Exception) -> int:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status < 600 else 500


def _find_headers(error: Exception) -> dict[str, str]:
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    return {str(name).lower(): str(value) for name, value in dict(headers).items()}


def _find_body(error: Exception, text: str) -> dict[str, Any]:
    """Return the provider's error object, from the exception's `body` or from JSON in its message. {}: none."""
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
    error_object = inner if isinstance(inner, dict) else body
    return error_object if isinstance(error_object.get("message"), str) else {}
