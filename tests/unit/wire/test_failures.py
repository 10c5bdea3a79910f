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
from tests.support.tables import in_one_test


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


@in_one_test
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


VERDICTS = (
    "insufficient funds",
    "Your credit balance is too low to access the Anthropic API.",
    "daily usage limit reached, try again in 20 hours",
    "Rate limit reached for requests. Please try again in 59 minutes.",
    "invalid api key",
    "The engine is currently overloaded",
    "This model's maximum context length is 16 tokens. However, you requested 900 tokens.",
    "This model does not support image input",
    "operation not allowed",
    "error parsing tool call: raw='x'",
    '{"error": {"message": "no", "code": "insufficient_quota", "type": "billing_error"}}',
    'litellm.RateLimitError: {"error": {"message": "no", "code": "rate_limit_exceeded", "status": 401}}',
)


@pytest.mark.parametrize("text", VERDICTS)
@pytest.mark.parametrize("status", [None, 400, 404, 405, 413, 415, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "shape",
    [
        "bad: @",
        {"message": "In context=('properties', '@'), 'x' is no object.", "code": "invalid_value"},
        {"message": "bad: @", "metadata": {"raw": "bad: @"}},
        {"message": {"message": "bad: @"}},
        {"detail": [{"loc": ["body", "tools"], "msg": "bad: @", "type": "value_error", "input": "@"}]},
        {"message": "bad", "code": "invalid_input", "details": [{"loc": [], "msg": "bad: @"}]},
    ],
)
def test_the_stated_status_and_delay_of_an_error_do_not_depend_on_its_texts(
    text: str, status: int | None, shape: Any
) -> None:
    def state(message: str) -> tuple[int, float | None]:
        body = msgspec.json.encode({"error": quote(message, shape)})
        error = build_upstream_error(decode_error_body(status, {}, body), "p", KnownTokenCounts(None, lambda: 99, 64))
        return error.stated_status, error.stated_retry_after

    assert state(text) == state("something else") == ({None: 500}.get(status, status), None)


@pytest.mark.parametrize(
    ("status", "error", "stated"),
    [
        (400, {"message": "x", "code": "Arrearage"}, 402),
        (400, {"message": "x", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}, 401),
        (403, {"message": "x", "metadata": {"raw": {"error": {"code": "insufficient_quota"}}}}, 402),
        (None, {"message": "x", "type": "rate_limit_error"}, 429),
        (None, {"message": "x", "code": 401}, 401),
        (
            400,
            {"message": "Incorrect API key provided: xa***9. You can obtain an API key from https://console.x.ai."},
            401,
        ),
        (400, {"message": "API key not valid. Please pass a valid API key."}, 401),
        (400, {"message": "Your credit balance is too low to access the Anthropic API."}, 402),
        (400, {"message": "Your credit balance is too low to access the Anthropic API. Add one."}, 400),
    ],
)
def test_codes_and_complete_messages_state_what_is_wrong(status: int | None, error: Any, stated: int) -> None:
    found = build_upstream_error(decode_error_body(status, {}, msgspec.json.encode({"error": error})), "p")
    assert found.stated_status == stated


@pytest.mark.parametrize(
    ("kind", "encoding", "text"),
    [
        ("application/json; charset=GBK", "gbk", "余额不足"),
        ('text/plain;charset="iso-8859-1"', "latin-1", "Clé refusée"),
        ("application/json", "latin-1", "Cl\ufffd refus\ufffde"),
    ],
)
def test_an_error_in_another_encoding_keeps_its_text_and_code(kind: str, encoding: str, text: str) -> None:
    sent = text.replace("\ufffd", "é")
    body = f'{{"error": {{"message": "{sent}", "code": "invalid_api_key"}}}}'.encode(encoding)
    fault = decode_error_body(400, {"content-type": kind}, body)
    assert (fault.message, fault.codes) == (text, {"invalid_api_key"})
