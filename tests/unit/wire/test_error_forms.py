"""One text of an error means the same in each form in which servers and gateways send it: forms × places."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.wires.failures import build_upstream_error, decode_error_body, find_reply_end

ERRORS = {
    "The model is overloaded. Please try again later.": (529, "overloaded_error"),
    "Incorrect API key provided": (401, "authentication_error"),
    "Insufficient balance": (402, "billing_error"),
    "Model Not Exist": (404, "not_found_error"),
    "Invalid model: gone": (404, "not_found_error"),
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens": (
        400,
        "invalid_request_error",
    ),
    "XML syntax error on line 8: element <function> closed by </parameter>": (502, "api_error"),
    "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO": "refusal",
}
"""Text → status and type for the client, or the stop reason of the reply."""


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


PLACES: dict[str, Callable[[str], Any]] = {
    "message": lambda text: {"error": {"message": text}},
    "error as a text": lambda text: {"error": text},
    "top level": lambda text: {"message": text},
    "detail": lambda text: {"detail": text},
    "msg": lambda text: {"msg": text, "success": False},
    "base_resp": lambda text: {"base_resp": {"status_code": 1000, "status_msg": text}},
    "JSON string": lambda text: text,
    "list": lambda text: [{"error": {"message": text}}],
    "raw text": lambda text: {"error": {"message": "Provider returned error", "metadata": {"raw": text}}},
    "raw object as text": lambda text: {
        "error": {"message": "Provider returned error", "metadata": {"raw": _json({"error": {"message": text}})}}
    },
    "raw object": lambda text: {
        "error": {"message": "Provider returned error", "metadata": {"raw": {"error": {"message": text}}}}
    },
    "raw error as a text": lambda text: {
        "error": {"message": "Provider returned error", "metadata": {"raw": _json({"error": text})}}
    },
    "Messages API": lambda text: {"type": "error", "error": {"type": "api_error", "message": text}},
}


def classify(body: bytes) -> Any:
    fault = decode_error_body(200, {}, body)
    if (end := find_reply_end(fault, "p")) is not None:
        return end.reason
    error = build_upstream_error(fault, "p")
    return error.status, error.error_type


@pytest.mark.parametrize("text", ERRORS)
@pytest.mark.parametrize("place", PLACES)
def test_a_text_means_the_same_in_every_form(text: str, place: str) -> None:
    assert classify(_json(PLACES[place](text)).encode()) == ERRORS[text]


@pytest.mark.parametrize("text", ERRORS)
def test_a_text_means_the_same_without_json(text: str) -> None:
    assert classify(text.encode()) == ERRORS[text]
