"""Requests that are changed after an error: the number of calls, the stored adaptations, no repeated rejection."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink

WINDOW = 32_768
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
REPLY = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
Rule = Callable[[dict[str, Any]], "tuple[int, Any] | None"]
Wording = Callable[[int, int, int, int], tuple[int, Any]]
"""Output, input, characters of the input, window → the error of a server."""


class Server:
    """A server that answers with an error as long as its rule returns one."""

    def __init__(self, rule: Rule, reply: Any = REPLY) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self._rule, self._reply = rule, reply

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        self.bodies.append(body)
        self.keys.append(credential.value if credential else "")
        if (error := self._rule(body)) is not None:
            return FakeResponse(error[0], error[1] if isinstance(error[1], bytes) else json.dumps(error[1]).encode())
        reply = self._reply(body) if callable(self._reply) else self._reply
        return FakeResponse(200, json.dumps(reply).encode())


def local(server: Server, **settings: str) -> ProxyHarness:
    base = {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1", "OPENAI_API_KEY": "sk-test-0123456789"}
    return ProxyHarness(server, BIG_MODEL="openai/Qwen/Qwen3-Coder", **base, **settings)


def vllm(message: str, parameter: str | None = None) -> tuple[int, Any]:
    return 400, {"error": {"message": message, "type": "BadRequestError", "param": parameter, "code": 400}}


def size_of(body: dict[str, Any], characters: float = 4 / 1.15) -> int:
    return round(len(json.dumps(body["messages"])) / characters) + 20


def output_of(body: dict[str, Any]) -> int:
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)


def vllm_0_15(output: int, tokens: int, characters: int, window: int) -> tuple[int, Any]:
    """vllm/entrypoints/openai/serving_engine.py of the versions 0.11 to 0.15, which count the complete input."""
    if tokens >= window:
        return vllm(
            f"This model's maximum context length is {window} tokens. However, your request has {tokens} input tokens. "
            "Please reduce the length of the input messages."
        )
    return vllm(
        f"'max_tokens' or 'max_completion_tokens' is too large: {output}. This model's maximum context length is "
        f"{window} tokens and your request has {tokens} input tokens ({output} > {window} - {tokens}). None"
    )


def vllm_0_16(output: int, tokens: int, characters: int, window: int) -> tuple[int, Any]:
    """vllm/renderers/params.py: characters first, then tokens up to the first that does not fit."""
    max_input = window - output
    if max_input < 0:
        text = f"max_tokens={output}cannot be greater than max_model_len=max_total_tokens={window}. "
        return echo(f"{text}Please request fewer output tokens.", "max_tokens", output)
    maximum = f"resulting in a maximum input length of {max_input} tokens"
    context = f"However, the model's context length is only {window} tokens, {maximum}"
    if characters > max_input * 6:
        text = f"You passed {characters} input characters and requested {output} output tokens. {context} (at most "
        text += f"{max_input * 6} characters). Please reduce the length of the input prompt."
        return echo(text, "input_text", characters)
    counted = min(tokens, max_input + 1)
    text = f"You passed {counted} input tokens and requested {output} output tokens. {context}. Please reduce the "
    return echo(f"{text}length of the input prompt.", "input_tokens", counted)


def vllm_0_18(output: int, tokens: int, characters: int, window: int) -> tuple[int, Any]:
    max_input = window - output
    if max_input < 0:
        return vllm_0_16(output, tokens, characters, window)
    text = f"This model's maximum context length is {window} tokens. However, you requested {output} output tokens and "
    advice = "Please reduce the length of the input prompt or the number of requested output tokens."
    if characters > max_input * 6:
        text += f"your prompt contains {characters} characters (more than {max_input * 6} characters, which is the "
        return echo(f"{text}upper bound for {max_input} input tokens). {advice}", "input_text", characters)
    counted = min(tokens, max_input + 1)
    text += f"your prompt contains at least {counted} input tokens, for a total of at least {counted + output} tokens."
    return echo(f"{text} {advice}", "input_tokens", counted)


def sglang(output: int, tokens: int, characters: int, window: int) -> tuple[int, Any]:
    if tokens >= window:
        return vllm(f"The input ({tokens} tokens) is longer than the model's context length ({window} tokens).")
    return vllm(
        f"Requested token count exceeds the model's maximum context length of {window} tokens. You requested a total "
        f"of {tokens + output} tokens: {tokens} tokens from the input messages and {output} tokens for the completion. "
        "Please reduce the number of tokens in the input messages or the completion to fit within the limit."
    )


def echo(text: str, parameter: str, value: int) -> tuple[int, Any]:
    return vllm(f"{text} (parameter={parameter}, value={value})", parameter)


WORDINGS = (vllm_0_15, vllm_0_16, vllm_0_18, sglang)


def window_of(words: Wording, window: int = WINDOW, characters: float = 4 / 1.15) -> Rule:
    """Return the rule of a server that rejects input and output if both together exceed its window."""

    def check(body: dict[str, Any]) -> tuple[int, Any] | None:
        output, tokens = output_of(body), size_of(body, characters)
        if tokens + output <= window:
            return None
        return words(output, tokens, len(json.dumps(body["messages"])), window)

    return check


TEXTS = {"prose": ("Look at the wide sea. ", 3.95), "code": ("for (i = 0; i < n; i++) { a[i] = b[i] + 1; }\n", 2.07)}
"""Text, and characters in one token by the proxy's estimate."""


@pytest.mark.parametrize("words", WORDINGS)
@pytest.mark.parametrize("window", [8_192, 32_768])
@pytest.mark.parametrize(("text", "characters"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("excess", [0.7, 0.9, 1.1, 1.4])
async def test_each_later_turn_of_a_growing_conversation_needs_one_call(
    words: Wording, window: int, text: str, characters: float, excess: float
) -> None:
    characters /= excess

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        return {**REPLY, "usage": {"prompt_tokens": size_of(body, characters), "completion_tokens": 1}}

    server = Server(window_of(words, window, characters), reply)
    proxy = local(server)
    messages: list[dict[str, Any]] = []
    calls, length = [], round(window * characters / 13)
    for _ in range(11):
        messages.append({"role": "user", "content": (text * (length // len(text) + 1))[:length]})
        before = len(server.bodies)
        sink = await proxy.post(messages=messages, max_tokens=128_000)
        assert sink.error is None
        calls.append(len(server.bodies) - before)
        messages.append({"role": "assistant", "content": "well"})
    assert calls[1:] == [1] * 10
    assert calls[0] <= 3
    remaining = window - size_of(server.bodies[-1], characters)
    assert remaining < window // 5
    assert output_of(server.bodies[-1]) > remaining // 3


async def test_a_prompt_above_the_window_is_too_long_with_the_numbers_of_the_text() -> None:
    server = Server(window_of(vllm_0_15))
    sink = await local(server).post("sea " * 40_000, max_tokens=32_000)
    tokens = size_of(server.bodies[0])
    assert sink.error.message == f"prompt is too long: {tokens} tokens > {WINDOW} maximum"
    assert len(server.bodies) == 1


ALWAYS = [
    vllm(f"max_tokens=1 cannot be greater than max_model_len={WINDOW}"),
    vllm("max_tokens must be less than 8192"),
    vllm(f"This model's maximum context length is {WINDOW} tokens. However, you requested 20000 output tokens and your "
         "prompt contains at least 12769 input tokens"),
    vllm("qwen is not a multimodal model"),
    (429, {"error": {"message": "on tokens per minute (TPM): Limit 8000, Requested 30000"}}),
    (404, {"error": {"message": "No endpoints found that support image input", "code": 404}}),
    (400, {"error": {"message": "reasoning_effort must be one of none or default"}}),
    (500, {"error": {"message": "image input is not supported - hint: you may need to provide the mmproj"}}),
]  # fmt: skip


@pytest.mark.parametrize("error", ALWAYS)
async def test_an_error_that_no_change_removes_causes_no_more_than_three_calls(error: tuple[int, Any]) -> None:
    server = Server(lambda body: error)
    proxy = local(server)
    message = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]}
    sink = await proxy.post(messages=[message], max_tokens=28_000, output_config={"effort": "high"})
    assert sink.error.status == 400
    assert len(server.bodies) <= 3
    bodies = [json.dumps(body) for body in server.bodies]
    assert len(set(bodies)) == len(bodies)
    before = len(bodies)
    await proxy.post(messages=[message], max_tokens=28_000, output_config={"effort": "high"})
    assert server.bodies[before] == server.bodies[0]  # what did not help is not remembered


def rejects_images(status: int, message: str, **fields: Any) -> Rule:
    return lambda body: (status, {"error": {"message": message, **fields}}) if "image_url" in json.dumps(body) else None


PLACES = {
    "history": [
        {"role": "user", "content": [PICTURE]},
        {"role": "assistant", "content": "A hill."},
        {"role": "user", "content": "And now?"},
    ],
    "pasted": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]}],
    "result": [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [PICTURE]}]},
    ],
}
REJECTIONS = [
    (400, "qwen3 is not a multimodal model", {}),
    (400, "At most 0 image(s) may be provided in one prompt.", {}),
    (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", {}),
    (400, "Model does not support images. Please use a model that does.", {}),
    (404, "No endpoints found that support image input", {"code": 404}),
    (400, "Invalid content type. image_url is only supported by certain models.", {"param": "messages"}),
    (400, "Invalid API parameter, please check the documentation.", {"code": "1210"}),
    (422, "This deployment is text-only; it cannot see pictures", {}),
    (404, "Only 'text' content type is supported.", {}),
    (400, "This model doesn't support the image field for user messages. Remove image and try again.", {}),
    (422, "messages[2].content: unknown variant `image_url`, expected `text` in a tool message", {}),
]


@pytest.mark.parametrize("messages", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("status", "text", "fields"), REJECTIONS)
async def test_a_model_without_images_gets_a_text_in_their_place_from_then_on(
    messages: list[Any], status: int, text: str, fields: dict[str, Any]
) -> None:
    server = Server(rejects_images(status, text, **fields))
    proxy = local(server)
    tools = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    sink = await proxy.post(messages=messages, tools=tools)
    assert sink.error is None
    assert len(server.bodies) == 2
    assert "[image omitted: image/png]" in json.dumps(server.bodies[1])
    notes = proxy.receipts[0].notes
    assert any((note.handling, note.reason) == ("kept", "openai refused it: images none") for note in notes)
    assert any((note.handling, note.field) == ("dropped", "messages.image") for note in notes)
    assert (await proxy.post(messages=messages, tools=tools)).error is None
    assert len(server.bodies) == 3


RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "well"}]}],
}


async def test_images_that_results_may_not_hold_follow_in_a_user_message_from_then_on() -> None:
    def reject(body: dict[str, Any]) -> tuple[int, Any] | None:
        results = [item for item in body["input"] if item["type"] == "function_call_output"]
        refused = any(not isinstance(item["output"], str) for item in results)
        return vllm("image not supported in tool messages") if refused else None

    server = Server(reject, RESPONSE)
    proxy = ProxyHarness(
        server, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="responses", BIG_MODEL="openai/gpt-5.5"
    )
    tools = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    for messages in (PLACES["result"], PLACES["pasted"], PLACES["result"]):
        assert (await proxy.post(messages=messages, tools=tools)).error is None
    assert ["input_image" in json.dumps(body) for body in server.bodies] == [True] * 4
    assert [reject(body) is None for body in server.bodies] == [False, True, True, True]


async def test_strict_fidelity_loses_no_image() -> None:
    server = Server(rejects_images(400, "Model does not support images."))
    sink = await local(server, FIDELITY="strict").post(messages=PLACES["pasted"])
    assert (sink.error.status, len(server.bodies)) == (400, 1)
    assert "messages.image" in sink.error.message


async def test_a_server_of_ollama_at_v1_is_asked_without_a_level_that_it_rejects() -> None:
    text = 'think value "high" is not supported for this model'
    server = Server(lambda body: (400, {"error": {"message": text}}) if "reasoning_effort" in body else None)
    proxy = ProxyHarness(server, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat", BIG_MODEL="openai/gpt-5")
    for _ in range(2):
        assert (await proxy.post(output_config={"effort": "high"})).error is None
    assert ["reasoning_effort" in body for body in server.bodies] == [True, False, False]


XAI = "Content violates usage guidelines. Team: t, API key ID: k, Model: m, Failed check: SAFETY_CHECK_TYPE_BIO"
POLICY: dict[str, tuple[int, Any]] = {
    "xai": (403, {"code": "The caller does not have permission", "error": XAI}),
    "openai": (400, {"error": {"message": "This request has been flagged for possible cybersecurity risk.",
                               "code": "cyber_policy_violation", "param": "safety_identifier"}}),
    "deepseek": (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error",
                                 "param": None, "code": "invalid_request_error"}}),
    "dashscope": (400, {"error": {"message": "Input data may contain inappropriate content.",
                                  "code": "data_inspection_failed"}}),
    "zai": (400, {"contentFilter": [{"level": 1, "role": "user"}], "error": {"code": "1301", "message": "unsafe"}}),
    "openrouter": (403, {"error": {"message": "m requires moderation on x. Your input was flagged for \"violence\".",
                                   "code": 403, "metadata": {"reasons": ["violence"]}}}),
    "stepfun": (451, {"error": {"message": "The content you provided or machine outputted is blocked.",
                                "type": "censorship_blocked"}}),
    "azure": (400, {"error": {"message": "The response was filtered", "code": "content_filter"}}),
}  # fmt: skip


@pytest.mark.parametrize("error", POLICY.values(), ids=POLICY)
@pytest.mark.parametrize("stream", [False, True])
async def test_refused_content_is_sent_once_and_ends_in_a_refusal(error: tuple[int, Any], stream: bool) -> None:
    server = Server(lambda body: error)
    proxy = ProxyHarness(
        server,
        OPENAI_API_KEY="sk-test-0123456789,sk-test-9876543210",
        GROQ_API_KEY="gsk_0123456789abcdefghij",
        OPENAI_WIRE="chat",
        BIG_MODEL="openai/gpt-5",
        FALLBACK_BIG="groq/openai/gpt-oss-120b",
    )
    sink = await proxy.post(metadata={"user_id": "u"}, stream=stream)
    assert sink.error is None
    assert reason_of(sink) == "refusal"
    assert len(server.bodies) == 1


def reason_of(sink: RecordingSink) -> str:
    if sink.body:
        return str(sink.body["stop_reason"])
    events = [json.loads(line[6:]) for line in sink.stream.decode().splitlines() if line.startswith("data: ")]
    return next(str(event["delta"]["stop_reason"]) for event in events if event["type"] == "message_delta")


@pytest.mark.parametrize(
    ("model", "frame"),
    [
        ("openai/gpt-4.1", {"error": {"message": XAI, "code": 403}}),
        ("openai/gpt-5", {"type": "error", "error": {"message": "flagged", "code": "cyber_policy_violation"}}),
        (
            "gemini/gemini-3-flash-preview",
            {"error": {"code": 400, "message": "The prompt violates our content policy."}},
        ),
        ("ollama/gemma4", {"error": "this prompt was blocked by the content safety policy"}),
    ],
)
async def test_a_refusal_as_the_first_event_of_a_stream_ends_in_a_refusal(model: str, frame: dict[str, Any]) -> None:
    keys = {"OPENAI_API_KEY": "sk-test-0123456789", "GEMINI_API_KEY": "AIza-test-0123456789"}
    calls: list[str] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path.startswith("/api/") and request.path != "/api/chat":
            return FakeResponse(404, b"")
        calls.append(request.path)
        data = json.dumps(frame).encode()
        return FakeResponse(200, data + b"\n" if "ollama" in model else b"data: " + data + b"\n\n")

    sink = await ProxyHarness(upstream, **keys, BIG_MODEL=model).post(stream=True)
    assert sink.error is None
    assert reason_of(sink) == "refusal"
    assert len(calls) == 1


@pytest.mark.parametrize("status", [400, 413, 422, 500])
@pytest.mark.parametrize("model", ["openai/gpt-4.1", "openai/gpt-5", "gemini/gemini-9-flash", "groq/llama-9"])
async def test_an_output_limit_is_lowered_on_every_wire(model: str, status: int) -> None:
    keys = {
        "OPENAI_API_KEY": "sk-test-01234567",
        "GEMINI_API_KEY": "AIza-test-01234567",
        "GROQ_API_KEY": "gsk_0123456789",
    }
    limits: list[int] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        config = body.get("generationConfig") or {}
        fields = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
        limit = next(int(value) for name in fields for value in (body.get(name), config.get(name)) if value)
        limits.append(limit)
        text = f"The output limit of {limit} tokens is too large, the deployment generates up to 4096 tokens"
        return FakeResponse(status, json.dumps({"error": {"message": text, "code": status}}).encode())

    sink = await ProxyHarness(upstream, **keys, BIG_MODEL=model).post(max_tokens=20_000)
    assert limits == [20_000, 4_096]
    assert sink.error.status in (400, 413, 500)


QUOTAS = [
    (429, {"error": {"code": "1308", "message": "Usage limit reached for 5 hour. Your limit will reset at 18:00"}}),
    (429, {"error": "you've reached your hourly usage limit, please upgrade to continue"}),
    (400, {"error": {"code": 429, "message": "Your prepayment credits are depleted."}}),
]  # fmt: skip


@pytest.mark.parametrize("error", QUOTAS)
async def test_a_spent_quota_is_marked_as_not_retryable(error: tuple[int, Any]) -> None:
    server = Server(lambda body: error)
    sink = await local(server).post()
    assert (sink.error.should_retry, len(server.bodies)) == (False, 1)


async def test_a_relayed_limit_passes_as_it_came() -> None:
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "Weekly usage limit reached"}}

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(429, json.dumps(body).encode())

    sink = await ProxyHarness(
        upstream, ANTHROPIC_API_KEY="sk-ant-test-0123456789", PREFERRED_PROVIDER="anthropic"
    ).post()
    assert (sink.error.status, sink.error.should_retry) == (429, None)
    assert json.loads(getattr(sink.error, "body", b"")) == body


GONE = {"error": {"message": "The model `gpt-4.1` has been deprecated", "code": "model_not_found"}}
BEFORE, AFTER = (datetime(2027, 1, day, 12).timestamp() for day in (13, 15))


def default_of_openai(server: Server, now: float, **settings: str) -> ProxyHarness:
    proxy = ProxyHarness(server, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat", **settings)
    proxy.services = structs.replace(proxy.services, clock=lambda: now)
    return proxy


def without(model: str) -> Rule:
    return lambda body: (404, GONE) if body["model"] == model else None


async def test_a_default_model_that_its_provider_has_retired_is_replaced_by_its_successor() -> None:
    server = Server(without("gpt-4.1"))
    proxy = default_of_openai(server, AFTER)
    for _ in range(2):
        assert (await proxy.post()).error is None
    assert [body["model"] for body in server.bodies] == ["gpt-4.1", "gpt-6-luna", "gpt-6-luna"]
    assert [receipt.model for receipt in proxy.receipts] == ["gpt-6-luna", "gpt-6-luna"]
    expected = "openai/gpt-4.1: model gpt-6-luna, because of: openai: The model `gpt-4.1` has been deprecated"
    assert proxy.log.getvalue().count(expected) == 1


async def test_a_retired_default_model_that_its_provider_still_serves_is_kept() -> None:
    server = Server(lambda body: None)
    assert (await default_of_openai(server, AFTER).post()).error is None
    assert [body["model"] for body in server.bodies] == ["gpt-4.1"]


@pytest.mark.parametrize(
    ("now", "settings", "model"),
    [
        (BEFORE, {}, "claude-sonnet-4-5"),
        (AFTER, {"BIG_MODEL": "gpt-4.1"}, "claude-sonnet-4-5"),
        (AFTER, {}, "openai/gpt-4.1"),
        (AFTER, {"OPENAI_BASE_URL": "https://x.openai.azure.com/openai/v1"}, "claude-sonnet-4-5"),
    ],
)
async def test_no_other_model_is_replaced(now: float, settings: dict[str, str], model: str) -> None:
    server = Server(without("gpt-4.1"))
    sink = await default_of_openai(server, now, **settings).post(model=model)
    assert sink.error.status == (404 if model.startswith("openai/") else 400)
    assert [body["model"] for body in server.bodies] == ["gpt-4.1"]


async def test_what_the_successor_refuses_is_remembered_for_the_successor() -> None:
    def rule(body: dict[str, Any]) -> tuple[int, Any] | None:
        if body["model"] == "gpt-4.1":
            return 404, GONE
        if "parallel_tool_calls" in body:
            return 400, {"error": {"message": "Unknown parameter", "param": "parallel_tool_calls"}}
        return None

    server, tools = Server(rule), [{"name": "f", "input_schema": {"type": "object"}}]
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    proxy = default_of_openai(server, AFTER)
    for _ in range(2):
        assert (await proxy.post(tools=tools, tool_choice=choice)).error is None
    assert [body["model"] for body in server.bodies] == ["gpt-4.1", *["gpt-6-luna"] * 3]


async def test_the_successor_gets_its_own_adaptations_at_once_and_none_of_the_retired_model() -> None:
    refused = {"gpt-4.1": "temperature", "gpt-6-luna": "parallel_tool_calls"}
    retired = False

    def rule(body: dict[str, Any]) -> tuple[int, Any] | None:
        if retired and body["model"] == "gpt-4.1":
            return 404, GONE
        field = refused[body["model"]]
        return (400, {"error": {"message": "Unknown parameter", "param": field}}) if field in body else None

    server, tools = Server(rule), [{"name": "f", "input_schema": {"type": "object"}}]
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    fields: dict[str, Any] = {"tools": tools, "tool_choice": choice, "temperature": 0.5}
    proxy = default_of_openai(server, AFTER)
    for model in ("claude-sonnet-4-5", "openai/gpt-6-luna"):
        assert (await proxy.post(model=model, **fields)).error is None
    retired = True
    for _ in range(2):
        assert (await proxy.post(**fields)).error is None
    learned, luna = ["gpt-4.1", "gpt-4.1", "gpt-6-luna", "gpt-6-luna"], "gpt-6-luna"
    assert [body["model"] for body in server.bodies] == [*learned, "gpt-4.1", luna, luna]
    assert [receipt.adaptations for receipt in proxy.receipts] == [
        ["drop temperature"],
        ["drop parallel_tool_calls"],
        *[["model gpt-6-luna", "drop parallel_tool_calls"]] * 2,
    ]


ROLE_REFUSED = [
    (400, {"type": "error", "error": {"message": "unknown variant 'system', expected 'user' or 'assistant'"}}),
    (400, {"error": {"message": "Invalid discriminator value. Expected 'user' | 'assistant'"}}),
    (
        400,
        {
            "error": {
                "message": "1 validation error:\n  {'type': 'literal_error', 'loc': ('body', 'messages', 1, 'role'), "
                "'msg': \"Input should be 'user' or 'assistant'\", 'input': 'system'}",
                "type": "Bad Request",
            }
        },
    ),
    (
        422,
        {
            "detail": [
                {
                    "type": "literal_error",
                    "loc": ["body", "messages", 1, "role"],
                    "msg": "Input should be 'user' or 'assistant'",
                    "input": "system",
                }
            ]
        },
    ),
]


@pytest.mark.parametrize("refusal", ROLE_REFUSED)
async def test_system_messages_that_a_server_refuses_become_reminders_and_later_requests_need_one_call(
    refusal: tuple[int, Any],
) -> None:
    reply = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "well"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "output_tokens": 1},
    }

    def strict(body: dict[str, Any]) -> tuple[int, Any] | None:
        return refusal if any(message["role"] == "system" for message in body["messages"]) else None

    server = Server(strict, reply)
    proxy = local(server, OPENAI_WIRE="messages")
    messages = [{"role": "user", "content": "Hello"}, {"role": "system", "content": "Today is Monday."}]
    for _ in range(2):
        assert (await proxy.post(messages=messages)).error is None
    first, *later = (body["messages"] for body in server.bodies)
    text = {"type": "text", "text": "<system-reminder>\nToday is Monday.\n</system-reminder>"}
    assert first == messages
    assert later == [[{"role": "user", "content": [{"type": "text", "text": "Hello"}, text]}]] * 2
