"""Errors of providers that are no line of text: very long ones, keys in them, and text of a model that they quote.

`tests/golden_texts/errors` has the others.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.failures import (
    KnownTokenCounts,
    build_upstream_error,
    decode_error_body,
    find_reply_end,
)
from anthropic_proxy.errors import UnreadableReply, UpstreamError
from anthropic_proxy.secrets import redact_secrets


def refused(status: int, body: bytes) -> UpstreamError:
    return build_upstream_error(decode_error_body(status, {}, body), "groq")


MODEL_WROTE = (
    "maximum context length is 10 tokens, but the prompt has 20 tokens",
    "You exceeded your current quota, insufficient_quota, check your billing details",
    "image input is not supported in tool messages",
    "violates the content policy",
    "max_tokens or model output limit was reached",
    '{"error": {"message": "Incorrect API key provided", "code": "invalid_api_key", "status": 401, "param": "tools"}}',
)


@pytest.mark.parametrize("status", [None, 500])
@pytest.mark.parametrize("text", MODEL_WROTE)
@pytest.mark.parametrize(
    ("quoting", "about"),
    [
        ("error parsing tool call: raw='{}', err=invalid character 'l'", "error parsing tool call"),
        ("Failed to parse input at pos 12: {}", "Failed to parse input at pos 12"),
    ],
)
@pytest.mark.parametrize(
    "shape",
    [
        "@",
        {"message": "@", "code": 500, "type": "server_error"},
        {"message": "litellm.InternalServerError: InternalServerError: OpenAIException - @", "code": "500"},
        # gateways: the error of the server in `metadata.raw`, as an object, or as JSON in the message
        {"message": "Provider returned error", "code": 500, "metadata": {"raw": "@"}},
        {"message": "Provider returned error", "code": 500, "metadata": {"raw": {"error": "@"}}},
        {"message": "Provider returned error", "metadata": {"raw": {"error": {"message": "@", "code": 500}}}},
        {"message": {"message": "@", "code": "insufficient_quota"}},
        {"message": {"error": {"message": "@", "code": "insufficient_quota", "type": "content_filter"}}},
        {"message": {"detail": {"message": {"error": "@"}}}},
        {"message": {"reason": "@"}},
        {"detail": [{"error": "@"}]},
        {"message": 'litellm.APIConnectionError: Ollama_chatException - {"error":"@"}'},
        {"message": "Error code: 500 - {'error': {'code': 500, 'message': '@', 'type': 'server_error'}}"},
    ],
)
def test_text_of_the_model_in_an_error_decides_nothing(
    quoting: str, about: str, text: str, status: int | None, shape: Any
) -> None:
    error = quote(quoting.replace("{}", text), shape)
    fault = decode_error_body(status, {}, msgspec.json.encode({"error": error}))
    assert find_reply_end(fault, "p", has_content=True) is None
    found = build_upstream_error(fault, "p", KnownTokenCounts(None, lambda: 20_000, 64_000))
    assert isinstance(found, UnreadableReply)
    assert (found.status, found.message) == (502, f"p: the model's reply could not be read ({about})")
    assert (found.cause, found.parameter, found.retryable) == (None, None, True)
    assert (fault.codes, fault.parameter) == (frozenset(), None)


def quote(message: str, shape: Any) -> Any:
    """Return a copy of an error with the text of a server at each `@`. An object in `raw` becomes JSON text."""
    if isinstance(shape, dict):
        copy = {name: quote(message, value) for name, value in shape.items()}
        if isinstance(copy.get("raw"), dict):
            copy["raw"] = msgspec.json.encode(copy["raw"]).decode()
        return copy
    if isinstance(shape, list):
        return [quote(message, value) for value in shape]
    if not isinstance(shape, str):
        return shape
    return shape.replace("@", msgspec.json.encode(message).decode()[1:-1] if '"@"' in shape else message)


def test_a_page_instead_of_an_error_is_cut() -> None:
    assert len(refused(500, b"<html>" + b"x" * 5_000).__notes__[0]) <= 200


def test_a_strange_key_that_shares_a_part_with_a_known_one_is_masked_whole() -> None:
    text = "no such key: sk-proj-AAAABBBBCCCC1234567890zzzz, nor AAAABBBBCCCCqqqq"
    assert redact_secrets(text, ["xx-AAAABBBBCCCCqqqqwwww"]) == "no such key: sk-…zzzz, nor …wwww"


def test_long_messages_are_cut() -> None:
    body = msgspec.json.encode({"error": {"message": "x" * 9_000}})
    assert len(refused(400, body).message) == 2_000
    assert len(refused(401, body).message) == 2_000


@pytest.mark.parametrize("field", ["code", "type", "param", "status"])
def test_long_codes_and_parameters_are_cut(field: str) -> None:
    body = msgspec.json.encode({"error": {"message": "x", field: "policy " * 1_000_000}})
    fault = decode_error_body(400, {}, body)
    assert sum(map(len, fault.codes)) <= 256
    assert len(fault.message) + len(fault.parameter or "") <= 4_200


@pytest.mark.parametrize(
    "error",
    [
        {"details": [{"reason": f"reason {number}"} for number in range(100_000)]},
        {"details": [{"violations": [{"quotaId": f"quota {number}"} for number in range(100_000)]}]},
    ],
)
def test_the_first_entries_of_a_long_list_are_read(error: dict[str, Any]) -> None:
    fault = decode_error_body(429, {}, msgspec.json.encode({"error": {"message": "x", **error}}))
    assert len(fault.codes) == 32


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "details", "type", "detail"]), inner)
    ),
)


@given(st.one_of(st.binary(), JSON.map(msgspec.json.encode)), st.integers(400, 599))
def test_any_body_gives_an_error(body: bytes, status: int) -> None:
    error = refused(status, body)
    assert 400 <= error.status < 600
    assert len(error.message) <= 2_000
