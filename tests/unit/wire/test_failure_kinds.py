"""Kinds of provider errors: unknown wordings of each kind, and similar texts of other kinds."""

from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.wires.failures import (
    build_upstream_error,
    decode_error_body,
    find_rejected_parameter,
    find_replacement_effort,
    find_reply_end,
    rejects_developer_role,
    rejects_tool_result_content,
)
from anthropic_proxy.engine.wires.failures.classification import is_policy_refusal
from anthropic_proxy.errors import UnreadableReply, UpstreamErrorCause

ASKED, ESTIMATE = 64_000, 20_000


def refused(
    message: str, status: int = 400, asked: int = ASKED, **fields: Any
) -> tuple[int, str, UpstreamErrorCause | None]:
    """Return status, text without the provider's prefix, and cause of an error for a request of a known size."""
    body = msgspec.json.encode({"error": {"message": message, **fields}})
    error = build_upstream_error(
        decode_error_body(status, {}, body),
        "p",
        context_window=None,
        estimate_input=lambda: ESTIMATE,
        output_limit=asked,
    )
    return error.status, error.message.removeprefix("p: "), error.cause


def too_long(tokens: int, limit: int) -> str:
    return f"prompt is too long: {tokens} tokens > {limit} maximum"


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
    found = build_upstream_error(fault, "p", context_window=None, estimate_input=lambda: ESTIMATE, output_limit=ASKED)
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


USER_WROTE = "error parsing tool call: insufficient"


@pytest.mark.parametrize(
    ("error", "text", "parameter"),
    [
        (
            {"message": f'Invalid value for messages[0].content: "why {USER_WROTE}"', "param": "messages"},
            f'Invalid value for messages[0].content: "why {USER_WROTE}"',
            "messages",
        ),
        ({"message": f"Invalid content: {USER_WROTE}"}, f"Invalid content: {USER_WROTE}", None),
        ({"message": "Invalid content", "body": {"content": USER_WROTE}}, "Invalid content", None),
        (
            {"message": f'Invalid content: {{"error": "{USER_WROTE}"}}'},
            f'Invalid content: {{"error": "{USER_WROTE}"}}',
            None,
        ),
        (
            {"message": "Provider returned error", "code": 400, "metadata": {"raw": f"Invalid content: {USER_WROTE}"}},
            f"Provider returned error: Invalid content: {USER_WROTE}",
            None,
        ),
        (
            {"message": f"{USER_WROTE} is no valid content", "param": "messages[0].content"},
            f"{USER_WROTE} is no valid content",
            "messages[0].content",
        ),
        (
            {"message": f"{USER_WROTE} is no valid content", "code": "invalid_value"},
            f"{USER_WROTE} is no valid content",
            None,
        ),
        (
            {"message": {"message": f"{USER_WROTE} is no valid content", "type": "invalid_request_error"}},
            f"{USER_WROTE} is no valid content",
            None,
        ),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_text_of_the_user_in_a_rejection_is_not_a_failure_of_the_model(
    error: dict[str, Any], text: str, parameter: str | None, status: int
) -> None:
    found = build_upstream_error(decode_error_body(status, {}, msgspec.json.encode({"error": error})), "p")
    assert not isinstance(found, UnreadableReply)
    assert (found.status, found.error_type, found.message) == (400, "invalid_request_error", f"p: {text}")
    assert (found.parameter, found.retryable, found.cause) == (parameter, False, None)


OVERFLOWS = [
    # public issues of clients and servers, restated where the text was cut
    ("prompt has 210,432 tokens, but the configured context size is 131,072 tokens", 210_432, 131_072),
    ("Context size has been exceeded: n_ctx = 8192, prompt tokens = 9120", 9_120, 8_192),
    ("The conversation needs 210,432 tokens but only 131,072 fit into the context", 210_432, 131_072),
    ("Your input of 250k tokens is over the 200k token window", 250_000, 200_000),
    ("Prompt length (41002) is greater than max_position_embeddings (40960)", 41_002, 40_960),
    ("input_tokens: 270000, limit: 262144 - the prompt does not fit", 270_000, 262_144),
    ("Sequence of 70001 prompt tokens exceeds the model limit of 65536", 70_001, 65_536),
    ("The context window (272000 tokens) was exceeded", 272_001, 272_000),
    ("Too many tokens in the prompt: got 9000, maximum 8192.", 9_000, 8_192),
    ("This prompt is 5000 tokens over the context window of 200000", 205_000, 200_000),
    ("Chat history too large: it holds 33,000 tokens; this model accepts at most 32,768 input tokens", 33_000, 32_768),
    ("The request is too long for this model. Maximum input: 128000 tokens, received: 131500 tokens", 131_500, 128_000),
    ("`prompt` is too long. Maximum number of tokens is 65536, and your prompt contained 70000 tokens", 70_000, 65_536),
    # TGI rejects inputs above the number, not of the number (router/src/validation.rs, `validate_input`)
    ("Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", 5_000, 4_096),
    # vLLM, SGLang, TabbyAPI, LM Studio: texts of their sources and of public issues
    (
        "You passed 131073 input tokens and requested 0 output tokens. However, the model's context length is only "
        "131072 tokens, resulting in a maximum input length of 131072 tokens. Please reduce the length of the input "
        "prompt. (parameter=input_tokens, value=131073)",
        131_073,
        131_072,
    ),
    ("Input length (9000 tokens) exceeds the maximum allowed length (8186 tokens). Use a shorter input.", 9_000, 8_186),
    ("The sum of prompt length (40000.0), query length (0) should not exceed max_num_tokens (8192)", 40_000, 8_192),
    ("Reached context length of 4096 tokens with a model that cannot shift its context", ESTIMATE, 4_096),
    ("Input length 140001 exceeds maximum allowed token size 131072", 140_001, 131_072),
    ("tokens in prompt: 45000; n_ctx_slot: 32768", 45_000, 32_768),
    ("failed: prompt tokens: 45000, context slot: 32768", 45_000, 32_768),
    ("cannot decode: n_prompt_tokens=45000 n_ctx_slot=32768", 45_000, 32_768),
    ("prompt_tokens 45000, ctx_size 32768", 45_000, 32_768),
    ("context_tokens: 45000, context_limit: 32768", 45_000, 32_768),
]


@pytest.mark.parametrize(("text", "tokens", "limit"), OVERFLOWS)
@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 429, 451, 500])
def test_an_overflow_in_unseen_words_states_the_numbers_of_its_text(
    text: str, tokens: int, limit: int, status: int
) -> None:
    assert refused(text, status) == (400, too_long(tokens, limit), UpstreamErrorCause(kind="overflow"))


@pytest.mark.parametrize(
    "text",
    [
        *("The prompt is larger than the context of this model.", "Conversation too long, start a new one"),
        "We ran out of context: the input cannot fit",
        "The total length of the input overflows the model's window and context",
        *("request exceeds the maximum prompt length", "invalid params, context window exceeds limit (2013)"),
        *(
            "Prompt 超长",
            "输入文本过长，请减少输入",
            "Total tokens of image and text exceed max message tokens. Request id: 0217",
        ),
    ],
)
def test_an_overflow_without_numbers_states_what_is_known(text: str) -> None:
    assert refused(text) == (400, too_long(128_001, 128_000), UpstreamErrorCause(kind="overflow"))


OUTPUT_LIMITS = [
    ("max_tokens: 128000 > 8192, which is the maximum allowed number of output tokens", 8_192),
    ("Parameter max_tokens out of range: allowed values lie between 1 and 16384", 16_384),
    ("The model can generate at most 4,096 tokens per reply (max_tokens)", 4_096),
    ("max_completion_tokens must be smaller than 32769", 32_768),
    ("maxOutputTokens should not be greater than 8192", 8_192),
    ("Model max output is 8k tokens; 64k were requested", 8_000),
    ("max_tokens: Input should be less than or equal to 4096", 4_096),
    ("The requested 64000 output tokens exceed the 8192 output token limit", 8_192),
    ("completion length is capped at 2048 tokens", 2_048),
    ("max_new_tokens (64000) is above the maximum of 4096", 4_096),
    ("Too many output tokens requested. Reduce max_tokens to 8192 or less.", 8_192),
    ("This model only supports 8,192 output tokens", 8_192),
    ("The requested max_tokens is beyond the limit of the model.", 8_192),
    ("max_tokens is invalid: must be 1-8192", 8_192),
    ("Invalid max_tokens. Valid values are 1 to 8192.", 8_192),
]


@pytest.mark.parametrize(("text", "limit"), OUTPUT_LIMITS)
def test_an_output_limit_in_unseen_words_is_read(text: str, limit: int) -> None:
    assert refused(text) == (400, text, UpstreamErrorCause(kind="output_limit", max_output_tokens=limit))


def test_an_absent_model_is_not_found_even_if_its_error_mentions_images() -> None:
    text = "The model `acme-vision` does not exist. Image input needs it."
    error = build_upstream_error(decode_error_body(404, {}, msgspec.json.encode({"error": {"message": text}})), "p")
    assert (error.status, error.error_type, error.message, error.cause) == (404, "not_found_error", f"p: {text}", None)


LOWER_BOUNDS = [
    # vLLM since 0.16: the input is counted up to the first token that does not fit, or only its characters
    "This model's maximum context length is 65536 tokens. However, you requested 64000 output tokens and your prompt "
    "contains at least 1537 input tokens, for a total of at least 65537 tokens. Please reduce the length of the input "
    "prompt or the number of requested output tokens. (parameter=input_tokens, value=1537)",
    "You passed 1537 input tokens and requested 64000 output tokens. However, the model's context length is only 65536 "
    "tokens, resulting in a maximum input length of 1536 tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=1537)",
    "This model's maximum context length is 65536 tokens. However, you requested 64000 output tokens and your prompt "
    "contains 91800 characters (more than 9216 characters, which is the upper bound for 1536 input tokens). Please "
    "reduce the length of the input prompt or the number of requested output tokens. (parameter=input_text, "
    "value=91800)",
    "You passed 91800 input characters and requested 64000 output tokens. However, the model's context length is only "
    "65536 tokens, resulting in a maximum input length of 1536 tokens (at most 9216 characters). Please reduce the "
    "length of the input prompt. (parameter=input_text, value=91800)",
    # the same in the error of LiteLLM, and of a gateway that prints the error of OpenAI's SDK
    'litellm.BadRequestError: Hosted_vllmException - {"error":{"message":"You passed 1537 input tokens and requested '
    "64000 output tokens. However, the model's context length is only 65536 tokens, resulting in a maximum input "
    'length of 1536 tokens. (parameter=input_tokens, value=1537)","type":"BadRequestError","code":400}}',
    "Error code: 400 - {'error': {'message': 'You passed 1537 input tokens and requested 64000 output tokens. However, "
    "the context length is only 65536 tokens, resulting in a maximum input length of 1536 tokens.', 'code': 400}}",
    "max_tokens=128000cannot be greater than max_model_len=max_total_tokens=65536. Please request fewer output tokens. "
    "(parameter=max_tokens, value=128000)",
]


@pytest.mark.parametrize("text", LOWER_BOUNDS)
@pytest.mark.parametrize("parameter", ["input_tokens", "input_text", None])
def test_a_count_of_a_part_of_the_input_is_not_used_as_its_length(text: str, parameter: str | None) -> None:
    status, _, cause = refused(text, param=parameter)
    assert (status, cause) == (400, UpstreamErrorCause(kind="output_limit", max_tokens=40_472, context_window=65_536))


def test_a_total_that_must_be_less_than_the_window_is_lowered() -> None:
    """SiliconFlow, code 20015: the total is the input and `max_tokens`."""
    text = "max_total_tokens (84000) must be less than or equal to max_seq_len (65536)"
    cause = UpstreamErrorCause(kind="output_limit", max_tokens=45_472, context_window=65_536)
    assert refused(text, code=20_015)[::2] == (400, cause)


MESSAGE_SIZE = "total message size 2306631 exceeds limit 2097152"


@pytest.mark.parametrize("text", [MESSAGE_SIZE, f"Invalid request: {MESSAGE_SIZE}"])
def test_a_limit_of_the_bytes_of_all_messages_is_an_overflow_in_estimated_tokens(text: str) -> None:
    assert refused(text) == (400, too_long(20_000, 18_183), UpstreamErrorCause(kind="overflow"))


BOTH = [
    # text, input that it states, available
    ("Input (90000 tokens) plus max_tokens (64000) would be more than the context window of 131072", 90_000, 41_008),
    ("context window 131072: 90000 prompt tokens + 64000 completion tokens do not fit", 90_000, 41_008),
    ("Total of 154000 tokens (90000 input, 64000 output) exceeds the model's context length of 131072", 90_000, 41_008),
    ("You asked for 64000 completion tokens with a prompt of 90000 tokens, but max_seq_len is 131072", 90_000, 41_008),
    (
        "Request exceeds the maximum context length of 131072 tokens. You requested 154000 tokens (90000 in the input, "
        "64000 in the output).",
        90_000,
        41_008,
    ),
]


@pytest.mark.parametrize(("text", "tokens", "available"), BOTH)
def test_input_and_output_that_fit_only_without_each_other_give_an_output_limit(
    text: str, tokens: int, available: int
) -> None:
    message = (
        f"input length and `max_tokens` exceed context limit: {tokens} + 64000 > 131072, decrease input length or "
        "`max_tokens` and try again"
    )
    assert refused(text) == (
        400,
        message,
        UpstreamErrorCause(kind="output_limit", max_tokens=available, context_window=131_072),
    )


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens (64000) must not exceed the maximum context length of 32768 tokens",
        "Requested max_tokens 64000 is larger than the context window (32768)",
        "max_tokens=64000 cannot be greater than max_model_len=32768",
    ],
)
def test_an_output_limit_above_the_window_leaves_what_the_estimate_leaves(text: str) -> None:
    status, _, cause = refused(text)
    assert (status, cause) == (400, UpstreamErrorCause(kind="output_limit", max_tokens=7_704, context_window=32_768))


NO_SIZES = [
    (400, "Invalid 'input[3].id': string too long. Expected a string with maximum length 64, but got length 70"),
    (429, "Rate limit reached on tokens per minute (TPM): Limit 30000, Used 29000, Requested 2000"),
    (429, "You may send 30000 tokens per minute"),
    (400, "image too large: 9000000 bytes, the maximum is 5242880"),
    (400, "tools: at most 128 functions are allowed, got 200"),
    (400, "Too many stop sequences: maximum 4"),
    (400, "max_tokens must be at least 1, got 0"),
    (404, "The model gpt-9-0613 does not exist"),
    (400, "temperature must be less than or equal to 2"),
    (400, "The prompt_cache_key is too long: maximum length is 64"),
    (400, "file exceeds the limit of 20 MB"),
    (500, "Internal error 12345: try again in 30 seconds"),
    (400, "messages: at most 2048 items are allowed, got 3000"),
    (400, "thinking.budget_tokens must be at least 1024"),
    (400, "thinking.budget_tokens (32000) must be less than max_tokens (16000)"),
    (500, "context deadline exceeded"),
    (500, "loaded with n_ctx=32768, temperature 7 is invalid"),
    (400, "the model (context window: 131072 tokens) does not have tools"),
    (500, "n_ctx: 8192; failed to parse the grammar"),
    (400, "Invalid input: number of messages 600 exceeds limit of 500"),
]


@pytest.mark.parametrize(("status", "text"), NO_SIZES)
def test_other_limits_are_no_size_of_the_request(status: int, text: str) -> None:
    found = refused(text, status)
    assert found[1:] == (text, None)


LONG_PERIODS = [
    "You exceeded your input tokens per day quota of 2,000,000.",
    "Your account reached its quota of 2,000,000 input tokens per day. This request has 2,100,000 tokens",
    "Quota exceeded for quota metric 'input tokens per day' with limit 2000000 (2003456 used)",
    "Number of input tokens per day has exceeded your quota of 2,000,000 (requested so far: 2,012,345)",
    "The input token count exceeds the daily quota of 2000000",
    "Exceeded daily quota: 2000000 input tokens, limit is 2000000 input tokens a day",
    "Number of request tokens has exceeded your daily rate limit",
    "Rate limit reached on tokens per day (TPD): Limit 100000, Used 99000, Requested 120000.",
    "Monthly limit of 5,000,000 prompt tokens exceeded: 5,000,120",
]


@pytest.mark.parametrize("text", LONG_PERIODS)
def test_a_quota_of_a_day_or_longer_is_no_overflow(text: str) -> None:
    assert refused(text, 429) == (429, text, UpstreamErrorCause(kind="quota"))


NEVER_FIT = [
    (429, "Request too large for gpt-9 on tokens per min (TPM): Limit 30000, Requested 342389."),
    (413, "This request needs 342,389 tokens but your TPM limit is 30,000"),
    (429, "342389 tokens requested, more than the 30000 tokens per minute that your tier allows"),
    (429, "Rate limit: request of 342389 tokens exceeds the limit of 30000 tokens per minute"),
    (500, "tokens per minute: limit 30000, requested: 342389"),
]


@pytest.mark.parametrize(("status", "text"), NEVER_FIT)
def test_a_request_above_a_rate_limit_can_never_fit(status: int, text: str) -> None:
    assert refused(text, status) == (400, too_long(342_389, 30_000), UpstreamErrorCause(kind="overflow"))


def test_less_output_makes_a_request_fit_below_a_rate_limit() -> None:
    text = "Request too large on tokens per minute (TPM): Limit 70000, Requested 84000"
    cause = UpstreamErrorCause(kind="output_limit", max_tokens=49_936, context_window=70_000)
    assert refused(text, 429)[2] == cause


IMAGES = [
    (400, "this model does not support image input (ref: b8bd630e)"),
    (404, "No provider for this model accepts images"),
    (422, "Vision is not enabled for this deployment"),
    (500, "multimodal input is not supported by the loaded model"),
    (400, "The model cannot process images. Choose a vision model."),
    (400, "Image inputs are only available for multimodal models"),
    (400, "qwen3-coder is a text-only model; remove image_url parts"),
    (400, "Failed to deserialize: messages[0]: unknown variant `image_url`, expected `text`"),
    (501, "pictures unsupported"),
    (400, "glm-5.3 is not a vision model"),
    (500, "Failed to load image: model has no vision encoder"),
    (400, "Invalid value: 'image_url'. Supported values are: 'text'."),
    (400, "Invalid value: 'input_image'. Supported values are: 'input_text', 'output_text', and 'refusal'."),
    (400, 'Cannot read "image.png" (this model does not support image input)'),
    (400, "messages.0.content.1: Invalid content type 'image_url'. Only 'text' is allowed."),
    (400, "ContentPart type 'image_url' not in ['text']"),
    (400, "content.1.type: Input should be 'text' (input_value='image_url')"),
    (400, "Image support is turned off for this model"),
    (400, "You passed photo.png (image/png) but the model has no vision capability"),
    (400, "This model only supports text input. Remove screenshot.png."),
    (400, "Message content type image_url is not recognized"),
    (400, "当前模型不支持图片输入"),
    (404, "Only 'text' content type is supported."),  # mlx_lm/server.py, process_message_content
]


@pytest.mark.parametrize(("status", "text"), IMAGES)
def test_a_rejection_of_images_in_unseen_words_is_recognized(status: int, text: str) -> None:
    assert refused(text, status) == (400, text, UpstreamErrorCause(kind="images"))


@pytest.mark.parametrize(
    "text",
    [
        "messages[3].content[1].type: must be 'text'",
        "body.messages.0.content.1.type: Input should be 'text'",
        "content[0].type must be one of: text, tool_result",
        "unknown content part type: image_url",
        "'content' must be a string",
        # Bedrock: also sent by models that accept images, if the image is in a tool result
        "This model doesn't support the image field. Remove image and try again.",
        "Validation error: This model doesn't support the image field for user messages. Remove image and try again.",
    ],
)
def test_a_rejection_that_may_be_about_images_is_uncertain(text: str) -> None:
    assert refused(text) == (400, text, UpstreamErrorCause(kind="images", is_certain=False))


@pytest.mark.parametrize(
    "text",
    [
        *("image too large: the maximum is 5 MB", "image exceeds 8000 pixels"),
        *("Unsupported image media type: image/bmp", "Could not process image"),
        *("At most 5 image(s) may be provided in one prompt.", "Image URLs are not supported, send base64 data"),
        *("image generation is not supported by this model", "This model does not support generating images"),
        *("This model cannot return images", "The model does not support image editing"),
        *("Failed to download image from the remote host", "tools are not supported by this model"),
        *("Invalid base64 image_url", "The model does not support image outputs"),
        *("This model does not support image URLs", "This model does not support images larger than 5 MB"),
        "The model only supports text and image inputs of up to 5 MB",
        "Invalid value: 'file'. Supported values are: 'text', 'image_url'.",
        "messages[0].content[0].type must be 'text' or 'image_url'",
        "Invalid value: 'image/bmp'. Supported values are: 'image/jpeg', 'image/png'.",
        "response_format.type must be 'text'",
        "The model `acme-vision` does not exist or you do not have access to it. Image input needs it.",
        "The model `acme-vision` does not exist. Use a vision model.",
        "model 'llava' not found, try pulling it first. Images need a vision model.",
        *(),
        *(
            "Unsupported content type: only 'application/json' content type is supported.",
            "This model doesn't support the image_size field. Remove image_size and try again.",
        ),
    ],
)
def test_a_rejection_of_one_image_is_no_rejection_of_images(text: str) -> None:
    assert refused(text)[1:] == (text, None)


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("image not supported in tool messages", None),
        ("Images in tool results are not supported by this model", None),
        ("this model does not support images in function responses", None),
        ("Invalid value: 'image_url'. Supported values are: 'text'. (messages with role 'tool')", None),
        ("Content type image_url is not supported in a tool_result", None),
        ("image_url is only supported for user messages, not for the tool role", None),
        ("Multimodal function_response is not supported", None),
        ("Invalid value: 'input_image'. Supported values are: 'input_text'.", "input[3].output[0]"),
    ],
)
def test_a_rejection_of_images_in_results_is_no_rejection_of_images(text: str, param: str | None) -> None:
    assert refused(text, param=param)[1:] == (text, None)
    assert rejects_tool_result_content(text, param)


@pytest.mark.parametrize(
    "text",
    ["image input is not supported", "tools are not supported", "The tool result is too long", "no tool messages"],
)
def test_other_rejections_do_not_concern_results(text: str) -> None:
    assert not rejects_tool_result_content(text, None)


REFUSALS: list[tuple[int, dict[str, Any]]] = [
    (403, {"message": "Content violates usage guidelines. Team: x. Failed check: SAFETY_CHECK_TYPE_BIO"}),
    (400, {"message": "Your prompt was flagged as potentially violating our usage policy."}),
    (400, {"message": "Output blocked by content filtering policy"}),
    (400, {"message": "The input was rejected because it goes against our safety guidelines"}),
    (403, {"message": 'm requires moderation on p. Your input was flagged for "violence". No credits were charged.'}),
    (400, {"message": "Request denied: harmful content detected in the prompt, see our policies"}),
    (451, {"message": "This query was blocked by the guardrail for unsafe content."}),
    (400, {"message": "x", "code": "data_inspection_failed"}),
    (400, {"message": "Content Exists Risk", "type": "invalid_request_error", "code": "invalid_request_error"}),
    (400, {"message": "This request has been flagged for cyber risk.", "code": "x", "param": "safety_identifier"}),
    (400, {"message": "no", "code": "image_content_policy_violation"}),
    (500, {"message": "x", "metadata": {"raw": '{"error":{"message":"y","code":"content_policy_violation"}}'}}),
    (400, {"message": "The response was filtered due to the prompt triggering our content management policy"}),
    (400, {"message": "Your request was rejected as a result of our safety system."}),
    (403, {"message": "This content may violate our usage policies."}),
    (403, {"message": "Sorry, that request violates our terms of service on dangerous weapons"}),
    (400, {"message": "The model refused to generate output because of our safety policies"}),
    (403, {"message": "Request contains prohibited words under local laws"}),
    (403, {"message": "The input contains content that is prohibited by our acceptable use policy."}),
    (403, {"message": "Your conversation was flagged for possible biological risk"}),
    (400, {"message": "This request was blocked due to safety concerns."}),
    (400, {"message": "We've limited access to this content for safety reasons. See our blog post."}),
    (400, {"message": "Your prompt contains words that are blocked by our policy"}),
    # StepFun, also through OpenRouter
    (451, {"message": "The content you provided or machine outputted is blocked.", "type": "censorship_blocked"}),
    (400, {"message": "The content you provided or machine outputted is blocked."}),
]


@pytest.mark.parametrize(("status", "error"), REFUSALS)
def test_a_refusal_for_reasons_of_content_is_recognized(status: int, error: dict[str, Any]) -> None:
    assert is_policy_refusal(decode_error_body(status, {}, msgspec.json.encode({"error": error})))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, {"message": "Your account has been suspended for violating our usage policies."}),
        (404, {"message": "No endpoints found matching your data policy (Free model training)."}),
        (400, {"message": "Unrecognized request argument supplied: safety_identifier", "param": "safety_identifier"}),
        (400, {"message": "Unsupported parameter: 'safety_settings'"}),
        (415, {"message": "Content-Type not allowed"}),
        (401, {"message": "API key rejected by the security policy"}),
        (403, {"message": "Request blocked: your country is not supported under our terms"}),
        *(
            (403, {"message": text})
            for text in (
                "Request blocked by your administrator's security policy.",
                "This request was rejected: the project's compliance settings do not allow this model.",
                "Requests from this location are blocked in accordance with export laws.",
                "Your request was blocked by a security rule (policy 1020).",
                "The request was rejected by the gateway's usage policy: model gpt-6 not allowed for team blue.",
                "This message was rejected: budget policy exceeded for virtual key.",
                "Input rejected: max_tokens is against the gateway's policies.",
                "The service is not available in your territory; requests are denied under applicable laws.",
                "Request refused: this IP is on the blocklist.",
                "Response blocked: the CORS policy does not allow this origin.",
                "Your subscription does not include this model; requests are denied by plan terms.",
                "The request was blocked by the WAF: SQL injection safety rule.",
                "Request rejected: the tool policy of this workspace does not allow computer use.",
                "Your account has not accepted the terms: request refused.",
                "Access to the requested data is prohibited by policy for this user.",
                "The request was rejected because authentication violates the security policy.",
                "Sensitive data logging is disabled by policy; the request was refused.",
                "Messages: role 'system' is not allowed by the content guidelines for this endpoint.",
                "Request denied: your age verification is required by law.",
                "You must verify your organization to use this model; request denied under our safety policies.",
                "Request blocked: model deepseek is prohibited by company policy",
                "Guardrail policy not found: request rejected",
                "forbidden: request violates security policy 'no-external-egress'",
                "The request you sent is blocked.",
                "The content type you provided is blocked.",
            )
        ),
        (429, {"message": "Request rejected: rate limit policy exceeded"}),
        (400, {"message": "messages: text content blocks must be non-empty"}),
        (400, {"message": "prompt is too long: 5 tokens > 4 maximum"}),
    ],
)
def test_policies_on_other_things_are_no_refusals(status: int, error: dict[str, Any]) -> None:
    assert not is_policy_refusal(decode_error_body(status, {}, msgspec.json.encode({"error": error})))


QUOTAS = [
    (429, "Usage limit reached for 5 hour. Your limit will reset at 2026-11-20 18:00:00", "1308", 429),
    (429, "you have reached your weekly usage limit, upgrade to continue", None, 429),
    (429, "Your monthly quota is exhausted", None, 429),
    (429, "Daily limit exceeded for this plan", None, 429),
    (403, "You've reached your usage limit for this billing cycle", None, 429),
    (400, "Your prepayment credits are depleted. Please go to AI Studio to add more.", None, 402),
    (429, "Insufficient credits: add more credits to continue", None, 402),
    (403, "Your wallet balance is negative", None, 402),
    (400, "No funds left: your prepaid balance ran out", None, 402),
    (500, "account balance exhausted", None, 402),
    (429, "Your free tier quota has been exhausted", None, 429),
    (429, "Free tier limit reached. Upgrade your plan.", None, 429),
    (429, "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 requests", None, 429),
    (429, "API key quota has been consumed", None, 429),
    (429, "Quota exceeded for metric: generate_content_free_tier_requests, limit: 0, model: gemini-4", None, 429),
]


@pytest.mark.parametrize(("status", "text", "code", "expected"), QUOTAS)
def test_a_quota_that_is_used_up_is_not_retried(status: int, text: str, code: str | None, expected: int) -> None:
    body = msgspec.json.encode({"error": {"message": text, "code": code}})
    error = build_upstream_error(decode_error_body(status, {"date": "Fri, 20 Nov 2026 17:00:00 GMT"}, body), "p")
    found = (error.status, error.retryable, error.should_retry, error.retry_after, error.cause)
    assert found == (expected, False, False, None, UpstreamErrorCause(kind="quota"))


@pytest.mark.parametrize(
    "text",
    [
        "Rate limit reached for requests per minute. Please try again in 2s.",
        "You exceeded your current quota, please check your plan and billing details. Please retry in 12.5s.",
        *("Too many concurrent requests for your plan", "Slow down"),
        "Limit reached on requests per day (RPD): Limit 1000, Used 1000. Please try again in 1m26.4s.",
        *("Limit 30000 tokens per minute, used 29000", "Rate limit exceeded: free-models-per-min."),
        "Limit reached: 50000 input tokens per minute, see your limits per day",
        *("You exceeded your current quota, please check your plan and billing details.", "请求频率超过限制"),
    ],
)
def test_a_limit_of_a_short_period_is_an_ordinary_one(text: str) -> None:
    body = msgspec.json.encode({"error": {"message": text, "code": None}})
    error = build_upstream_error(decode_error_body(429, {}, body), "p")
    assert (error.status, error.should_retry, error.cause) == (429, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Hourly usage limit reached. It resets at 2026-11-20T17:20:00Z", 1_200),
        ("Daily quota exceeded, will reset at 2026-11-20 19:30:00 +02:00", 1_800),
        ("You hit your usage limit; it resets in 45 minutes", 2_700),
        ("Weekly limit reached, try again in 3 days", 3_600),
        ("Usage limit reached, available again in 1 hour and 10 minutes", 3_600),
        ("Usage limit reached. Your limit will reset at 2026-11-20 18:00:00", None),
    ],
)
def test_a_reset_is_a_pause_where_its_time_is_certain(text: str, seconds: float | None) -> None:
    body = msgspec.json.encode({"error": {"message": text}})
    error = build_upstream_error(decode_error_body(429, {"date": "Fri, 20 Nov 2026 17:00:00 GMT"}, body), "p")
    assert (error.retry_after, error.should_retry) == (seconds, False)


NAMES = frozenset(("temperature", "parallel_tool_calls", "reasoning_effort", "store", "strict", "stream_options"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Argument not implemented: parallel_tool_calls", "parallel_tool_calls"),
        ("Sorry, stream_options is something that we do not accept", "stream_options"),
        ("stream_options is not accepted by this backend", "stream_options"),
        ("'store' is an unexpected field", "store"),
        ("unknown option strict", None),
        ("the strict parameter is forbidden here", "strict"),
        ("this deployment has temperature disallowed", "temperature"),
        ("you can only use reasoningEffort with other models", "reasoning_effort"),
        ("could not store the request, invalid state", None),
        ("the temperature is fine", None),
    ],
)
def test_a_parameter_is_found_in_unseen_words(text: str, name: str | None) -> None:
    assert find_rejected_parameter(text, NAMES) == name


@pytest.mark.parametrize(
    ("text", "asked", "level"),
    [
        ("This model always engages in thinking and cannot be disabled; please use low, high, or max", "none", "low"),
        ("`reasoning_effort` must be one of `none` or `default`", "high", "default"),
        ("reasoning_effort: Input should be 'low', 'medium' or 'high'", "max", "high"),
        ("unknown variant `xhigh`, expected one of `none`, `low`, `high`", "xhigh", "high"),
        ("effort can be either low or high, but got medium", "medium", "low"),
        ("'minimal' is not valid here. Allowed values: low|medium|high.", "minimal", "low"),
        ("medium is not supported. Choose between low and max.", "medium", "low"),
        ("only high is accepted", "low", "high"),
        ("medium is not supported", "medium", None),
        ("use another model", "medium", None),
        ("must be one of: low, medium", "low", None),
        ("the maximum is 8192", "high", None),
        ("supported values are: 1 to 5", "high", None),
    ],
)
def test_the_nearest_level_is_read_from_a_list(text: str, asked: str, level: str | None) -> None:
    assert find_replacement_effort(text, asked, asked) == level


@pytest.mark.parametrize(
    ("text", "rejected"),
    [
        ("chat template rejected the request: Unexpected message role.", True),
        ("developer is not one of ['system', 'assistant', 'user'] - 'messages.[6].role'", True),
        ("messages.0.role: Input should be 'system', 'user', 'assistant', 'function' or 'tool'", True),
        ("Upstream request failed: [1214] Incorrect role information", True),
        ("Unsupported value: 'messages[0].role' does not support 'developer' with this model.", True),
        ("Conversation roles must alternate user/assistant/user/assistant/...", False),
        ("Expected last role User or Tool but got assistant", False),
        ("Unexpected role 'user' after role 'tool'", False),
        ("You have no permission for this role assignment", False),
        ("unsupported parameter: temperature", False),
    ],
)
def test_the_refused_role_is_recognized(text: str, rejected: bool) -> None:
    assert rejects_developer_role(text) is rejected


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
