"""Every form of a provider's rejection becomes an error that clients of Anthropic's API can handle."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.failures import build_upstream_error, decode_error_body, read_error_object
from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.secrets import redact_key_patterns, redact_secrets


def refused(
    status: int, body: Any, *, window: int | None = None, estimate: int = 0, asked: int = 0, **headers: str
) -> UpstreamError:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return build_upstream_error(
        decode_error_body(status, names, encoded),
        "groq",
        context_window=window,
        estimate_input=lambda: estimate,
        output_limit=asked,
    )


def openai(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, openai("No."), (400, "invalid_request_error", False, None)),
        (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, (400, "invalid_request_error", False, None)),
        (418, b"", (400, "invalid_request_error", False, None)),
        (401, openai("Incorrect API key provided"), (401, "authentication_error", False, False)),
        (400, {"code": "x", "error": "Incorrect API key provided"}, (401, "authentication_error", False, False)),
        (400, {"error": {"message": "API key not valid."}}, (401, "authentication_error", False, False)),
        (402, openai("Insufficient Balance"), (402, "billing_error", False, False)),
        (429, openai("quota", code="insufficient_quota"), (402, "billing_error", False, False)),
        (429, openai("x", type="exceeded_current_quota_error"), (402, "billing_error", False, False)),
        (400, openai("Your credit balance is too low"), (402, "billing_error", False, False)),
        (403, openai("Forbidden"), (403, "permission_error", False, None)),
        (404, openai("no", code="model_not_found"), (404, "not_found_error", False, None)),
        (400, openai("no", code="model_not_found"), (404, "not_found_error", False, None)),
        (404, {"error": 'model "llama9" not found, try pulling it first'}, (404, "not_found_error", False, None)),
        (413, openai("Request Entity Too Large"), (413, "request_too_large", False, None)),
        (
            400,
            {"error": {"code": 400, "message": "Request payload size exceeds the limit: 20971520 bytes."}},
            (413, "request_too_large", False, None),
        ),
        (
            413,
            openai("on tokens per minute (TPM): Limit 6000, Requested 9000"),
            (400, "invalid_request_error", False, None),
        ),
        (413, openai("Too much on tokens per minute (TPM): Limit 6000"), (429, "rate_limit_error", False, False)),
        (429, openai("Slow down"), (429, "rate_limit_error", False, None)),
        (500, openai("x", type="rate_limit_exceeded"), (429, "rate_limit_error", False, None)),
        (429, openai("x", type="engine_overloaded_error"), (529, "overloaded_error", True, None)),
        (498, openai("Flex tier capacity exceeded"), (529, "overloaded_error", True, None)),
        (529, b"", (529, "overloaded_error", True, None)),
        (503, openai("The server is overloaded"), (529, "overloaded_error", True, None)),
        (503, b"<html>Service Unavailable</html>", (503, "api_error", True, None)),
        (504, b"", (504, "timeout_error", False, None)),
        (408, b"", (504, "timeout_error", False, None)),
        (409, openai("Conflict"), (409, "conflict_error", False, None)),
        (500, openai("boom", type="server_error"), (500, "api_error", False, None)),
        (502, b"Bad gateway", (500, "api_error", True, None)),
        (500, b"\xff\x00", (500, "api_error", False, None)),
    ],
)
def test_statuses_and_kinds(status: int, body: Any, expected: tuple[int, str, bool, bool | None]) -> None:
    error = refused(status, body)
    assert (error.status, error.error_type, error.retryable, error.should_retry) == expected
    assert error.message.startswith(("groq", "prompt is too long: 9000 tokens > 6000 maximum"))
    assert error.provider == "groq"


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "two user messages 3 times in a row", "invalid-upstream-request"),
        (401, "no server responds to this key", "rejected-key"),
        (402, "no credit", "no-credit"),
        (403, "the project has no key with access", "no-access"),
        (404, "nothing is served at this id", "model-not-found"),
        (413, "too large", "body-too-large"),
        (429, "the same request 5 times in a row", "rate-limit"),
        (500, "needs a, which is not installed. Install it: pip b", "provider-failed"),
        (504, "cancelled before it was complete", "no-data"),
        (529, "Error in the proxy; the traceback is in its log.", "overloaded"),
    ],
)
def test_the_help_for_an_error_follows_from_its_status_not_from_its_text(status: int, message: str, code: str) -> None:
    assert refused(status, openai(message)).code == code


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "Provider returned error", "code": 429}, 429),
        ({"message": "Provider returned error", "code": "502"}, 500),
        ({"message": "bad", "status_code": 400}, 400),
        ({"message": "bad", "type": "invalid_request_error"}, 400),
        ({"message": "Overloaded", "type": "overloaded_error"}, 529),
        ({"message": "no idea"}, 500),
        ({"message": "no idea", "code": True}, 500),
        ("plain text", 500),
        ({}, 500),
    ],
)
def test_errors_inside_a_stream_find_their_status(error: Any, status: int) -> None:
    assert build_upstream_error(read_error_object({"error": error}, 200, {}), "openrouter").status == status


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (openai("Plain."), "groq: Plain."),
        ({"error": "text"}, "groq: text"),
        ([{"error": {"message": "in a list"}}], "groq: in a list"),
        ({"message": "bare"}, "groq: bare"),
        ({"detail": "from a framework"}, "groq: from a framework"),
        (
            {
                "detail": [
                    {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"},
                    {"type": "missing", "loc": ["body", "n", 0], "msg": "Field required", "input": "content of ours"},
                ]
            },
            "groq: seed: Extra inputs are not permitted; n.0: Field required",
        ),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": "slow"}}},
            "groq: Provider returned error: slow",
        ),
        ({"error": {"code": "odd"}}, "groq returned HTTP 400"),
        (b"<html>nginx</html>", "groq returned HTTP 400"),
        (b"", "groq returned HTTP 400"),
        (b"null", "groq returned HTTP 400"),
        (b"[[[[", "groq returned HTTP 400"),
    ],
)
def test_the_message_of_the_provider_is_kept(body: Any, message: str) -> None:
    assert refused(400, body).message == message


def test_a_page_instead_of_an_error_is_kept_for_the_log_only() -> None:
    error = refused(500, b"<html>Bearer abcdefghijklmnopqrstuvwxyz</html>" + b"x" * 5_000)
    assert error.message == "groq returned HTTP 500"
    assert error.__notes__[0].startswith("<html>Bearer …")
    assert len(error.__notes__[0]) <= 200


def test_a_wrong_key_is_masked() -> None:
    error = refused(401, openai("Incorrect API key provided: sk-proj-0123456789abcdef4f2a."))
    assert error.message == "groq: Incorrect API key provided: sk-…4f2a."


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("sk-" + "a" * 40, "sk-…aaaa"),
        ("key gsk_0123456789abcdefghij!", "key gsk_…ghij!"),
        ("xai-0123456789abcdefghij", "xai-…ghij"),
        ("AIzaSyD0123456789abcdefghij", "AIza…ghij"),
        ("Authorization: Bearer short12", "Authorization: Bearer …"),
        ("sk-1234567", "sk-…"),
        ("risk-free and ask-me", "risk-free and ask-me"),
    ],
)
def test_keys_are_masked(text: str, masked: str) -> None:
    assert redact_key_patterns(text) == masked


def test_a_strange_key_that_shares_a_part_with_a_known_one_is_masked_whole() -> None:
    text = "no such key: sk-proj-AAAABBBBCCCC1234567890zzzz, nor AAAABBBBCCCCqqqq"
    assert redact_secrets(text, ["xx-AAAABBBBCCCCqqqqwwww"]) == "no such key: sk-…zzzz, nor …wwww"


def test_long_messages_are_cut() -> None:
    assert len(refused(400, openai("x" * 9_000)).message) == 2_000
    assert len(refused(401, openai("x" * 9_000)).message) == 2_000


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry_after": "7"}, "", 7),
        ({"retry_after": "0.2"}, "", 1),
        ({"retry_after": "99999"}, "", 3600),
        ({"retry_after_ms": "1200", "retry_after": "9"}, "", 2),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:09 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, "", 9),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:09 GMT"}, "", None),
        ({"retry_after": "soon"}, "", None),
        ({"x_ratelimit_reset_tokens": "1m2.5s"}, "", 63),
        ({"x_ratelimit_reset_requests": "2ms", "x_ratelimit_reset_tokens": "30s"}, "", 30),
        (
            {
                "x_ratelimit_reset_requests": "40s",
                "x_ratelimit_remaining_requests": "9",
                "x_ratelimit_reset_tokens": "3s",
                "x_ratelimit_remaining_tokens": "0",
            },
            "",
            3,
        ),
        ({}, "Please try again in 1.2s.", 2),
        ({}, "Please try again in 1m2.5s. Need more?", 63),
        ({}, "Please try again in 250ms.", 1),
        ({}, "Please retry after 10 seconds.", 10),
        ({}, "no hint", None),
    ],
)
def test_when_to_try_again(headers: dict[str, str], message: str, seconds: float | None) -> None:
    assert refused(429, openai(message), **headers).retry_after == seconds


def test_googles_hints_are_read() -> None:
    quotas = [
        {"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier"},
        {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"},
    ]
    details = [{"@type": "QuotaFailure", "violations": quotas}, {"@type": "RetryInfo", "retryDelay": "12s"}]
    error = refused(429, {"error": {"code": 429, "message": "q", "status": "RESOURCE_EXHAUSTED", "details": details}})
    assert (error.status, error.retry_after, error.should_retry) == (429, 12, False)


def test_a_short_pause_is_worth_one_more_try_and_an_unavailable_server_names_a_time() -> None:
    for status in (429, 503, 529):
        assert refused(status, openai(""), retry_after="5").retryable
        assert not refused(status, openai(""), retry_after="6").retryable
    assert refused(503, b"").retry_after == 2


@pytest.mark.parametrize(
    ("body", "window", "estimate", "numbers"),
    [
        (
            openai("Please reduce the length of the messages", code="context_length_exceeded"),
            8192,
            9000,
            "9000 tokens > 8192",
        ),
        (openai("Please reduce the length of the messages"), 8192, 100, "8193 tokens > 8192"),
        (
            openai("The input token count exceeds the maximum number of tokens allowed 1000."),
            8192,
            1200,
            "1200 tokens > 1000",
        ),
        (
            openai("Please reduce the length of the messages. Yours resulted in 9,100 tokens"),
            8192,
            1,
            "9100 tokens > 8192",
        ),
        (openai("Input is too long for requested model."), 8192, 9000, "9000 tokens > 8192"),
        (openai("x", code="context_length_exceeded"), None, 500, "128001 tokens > 128000"),
        (openai("x", code="context_length_exceeded"), None, 200_000, "200000 tokens > 128000"),
        (
            {
                "error": {
                    "code": 400,
                    "message": "x",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 900,
                    "n_ctx": 256,
                }
            },
            None,
            0,
            "900 tokens > 256",
        ),
        ({"error": "prompt is longer than the context length"}, 4096, 0, "4097 tokens > 4096"),
        (openai("This model's maximum context length is 1000 tokens."), None, 0, "1001 tokens > 1000"),
    ],
)
def test_missing_numbers_come_from_what_is_known(body: Any, window: int | None, estimate: int, numbers: str) -> None:
    assert refused(400, body, window=window, estimate=estimate).message == f"prompt is too long: {numbers} maximum"


@pytest.mark.parametrize(
    ("error", "parameter"),
    [
        ({"message": "x", "param": "max_tokens"}, "max_tokens"),
        ({"message": "Unsupported parameter: 'max_tokens' is not supported with this model."}, "max_tokens"),
        ({"message": "'temperature' is not supported with this model"}, "temperature"),
        ({"message": 'Unknown name "top_k": Cannot find field.'}, "top_k"),
        ({"message": "Model grok does not support parameter stop."}, "stop"),
        ({"message": "invalid temperature: only 1 is allowed for temperature"}, "temperature"),
        ({"message": "body.tools[0].strict: Extra inputs are not permitted"}, "body.tools[0].strict"),
        ({"message": "invalid temperature: only 1 is allowed for this model"}, "temperature"),
        ({"message": "property 'store' is unsupported, did you mean 'stop'?"}, "store"),
        ({"message": "messages[2].reasoning: reasoning is not supported with this model"}, "reasoning"),
        ({"message": "Model grok-4.20 does not support parameter reasoningEffort."}, "reasoningEffort"),
        ({"message": "tool_choice 'required' is incompatible with thinking enabled"}, "tool_choice"),
        ({"message": "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"}, "max_tokens"),
        ({"message": "`max_tokens` must be less than or equal to `32768`"}, "max_tokens"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]}, "seed"),
        (
            {"message": {"detail": [{"loc": ["body", "stop"], "msg": "extra fields not permitted", "type": "value"}]}},
            "stop",
        ),
        (
            {
                "detail": [
                    {"type": "missing", "loc": ["query"], "msg": "Field required"},
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "tools", 0, "function", "strict"],
                        "msg": "Extra inputs are not permitted",
                        "input": True,
                    },
                ]
            },
            "tools.0.function.strict",
        ),
        (
            {
                "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are "
                "not permitted', 'input': {'include_usage': True}}]"
            },
            "stream_options",
        ),
        ({"message": "invalid temperature: only 0.6 is allowed for this model"}, "temperature"),
        ({"message": "invalid top_p: only 0.95 is allowed for this model"}, "top_p"),
        ({"message": "invalid thinking: only type=enabled is allowed for this model"}, "thinking"),
        (
            {"message": "Failed to read the JSON body: messages[0].role: unknown variant `developer`, expected `user`"},
            "messages[0].role",
        ),
        ({"message": "nothing named"}, None),
        ({"message": "The parameter max_tokens is fine, the key must be renewed"}, None),
    ],
)
def test_the_rejected_parameter_is_found(error: Any, parameter: str | None) -> None:
    assert build_upstream_error(read_error_object({"error": error}, 400, {}), "openai").parameter == parameter


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
