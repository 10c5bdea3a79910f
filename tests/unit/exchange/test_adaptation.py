"""Requests that are changed after an error: the number of calls, the stored adaptations, no repeated rejection."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

WINDOW = 32_768
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
@pytest.mark.sample(4)
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


PASSED_BACK = "The `reasoning_content` in the thinking mode must be passed back to the API."
"""DeepSeek; Xiaomi in `param` (QuantumNous/new-api issue 4827, read 2026-11-25)."""
REJECTED = {
    "deepseek": {"message": PASSED_BACK, "type": "invalid_request_error", "param": None},
    "xiaomi": {"code": "400", "message": "Param Incorrect", "param": PASSED_BACK, "type": ""},
    "kimi": {
        "message": "thinking is enabled but reasoning_content is missing in assistant tool call message at index 1"
    },
}


@pytest.mark.parametrize("error", REJECTED.values(), ids=REJECTED)
async def test_a_gateway_that_wants_the_reasoning_of_earlier_replies_gets_it_from_then_on(error: Any) -> None:
    def rule(body: dict[str, Any]) -> tuple[int, Any] | None:
        replies = [message for message in body["messages"] if message["role"] == "assistant"]
        return None if all("reasoning_content" in reply for reply in replies) else (400, {"error": error})

    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}]},
    ]
    server, tools = Server(rule), [{"name": "f", "input_schema": {"type": "object"}}]
    address = {"OPENAI_BASE_URL": "https://opencode.ai/zen/v1", "OPENAI_API_KEY": "sk-test-0123456789"}
    proxy = ProxyHarness(server, BIG_MODEL="openai/big-pickle", **address)
    for _ in range(2):
        assert (await proxy.post(messages=turns, tools=tools)).error is None
    assert [body["messages"][1].get("reasoning_content") for body in server.bodies] == [None, " ", " "]


SWITCHED_OFF = {"enable_thinking": False}


def reason_unless_switched_off(body: dict[str, Any]) -> dict[str, Any]:
    """Qwen 3 at llama.cpp and vLLM: its template reasons unless `enable_thinking` is false."""
    message = {"role": "assistant", "content": "hello"}
    if body.get("chat_template_kwargs") != SWITCHED_OFF:
        message["reasoning_content"] = "A greeting."
    return {**REPLY, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


async def test_a_local_model_that_reasons_although_the_client_disables_it_is_switched_off_from_then_on() -> None:
    server = Server(lambda body: None, reason_unless_switched_off)
    proxy = local(server)
    for thinking in ({"type": "disabled"}, {"type": "disabled"}, None, {"type": "adaptive"}):
        fields = {} if thinking is None else {"thinking": thinking}
        assert (await proxy.post(**fields)).error is None
    sent = [body.get("chat_template_kwargs") for body in server.bodies]
    assert sent == [None, SWITCHED_OFF, None, {"enable_thinking": True}]


async def test_a_server_that_rejects_the_switch_of_the_template_does_not_get_it_again() -> None:
    def rule(body: dict[str, Any]) -> tuple[int, Any] | None:
        return vllm("Unknown field: chat_template_kwargs") if "chat_template_kwargs" in body else None

    server = Server(rule, reason_unless_switched_off)
    proxy = local(server)
    for _ in range(4):
        assert (await proxy.post(thinking={"type": "disabled"})).error is None
    assert ["chat_template_kwargs" in body for body in server.bodies] == [False, True, False, False, False]


GONE = {"error": {"message": "The model `gpt-4.1` has been deprecated", "code": "model_not_found"}}
BEFORE, AFTER = (datetime(2027, 1, day, 12).timestamp() for day in (13, 15))


def default_of_openai(server: Server, now: float, **settings: str) -> ProxyHarness:
    proxy = ProxyHarness(server, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat", **settings)
    proxy.services = structs.replace(proxy.services, clock=lambda: now)
    return proxy


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


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("max_tokens is too large: 8000. This model supports at most 1 completion tokens", [8_000, 4_000, 4_000]),
        ("max_tokens must be less than or equal to 0", [8_000] * 3),
        ("max_tokens must be less than 200", [8_000] * 3),
    ],
)
async def test_a_limit_that_no_model_has_is_not_learned(text: str, outputs: list[int]) -> None:
    errors = [vllm(text)]
    server = Server(lambda _: errors.pop() if errors else None)
    proxy = local(server)
    for _ in range(2):
        assert (await proxy.post(max_tokens=8_000)).error is None
    assert [output_of(body) for body in server.bodies] == outputs


MESSAGES = [{"role": "user", "content": "hello"}]


def reject_value(body: dict[str, Any]) -> tuple[int, Any] | None:
    if body.get("temperature", 0) > 2:
        return vllm("Invalid 'temperature': decimal above maximum value. Expected a value <= 2.", "temperature")
    return None


async def test_a_rejected_value_changes_no_other_request() -> None:
    server = Server(reject_value)
    proxy = local(server)
    for key_id, temperature in (("key_a", 5), ("key_b", 0.5), ("key_a", 0.5)):
        body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "temperature": temperature, "messages": MESSAGES}
        incoming = new_client_request(json.dumps(body).encode(), client=Client(name="same", key_id=key_id))
        await Exchange(proxy.services, incoming, RecordingSink()).run()
    assert [body.get("temperature") for body in server.bodies] == [5, None, 0.5, 0.5]


def ask(kind: str, data: str, session: str, text: str = "What is this?") -> dict[str, Any]:
    media = {"image": "image/png", "document": "application/pdf"}[kind]
    block = {"type": kind, "source": {"type": "base64", "media_type": media, "data": data}}
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}, block]}],
        "metadata": {"user_id": f"user_{'a' * 64}_account__session_{session}"},
    }


BAD, GOOD = "aGFk", "Z29vZA=="
FIRST, SECOND = "0" * 8 + "-0000-4000-8000-" + "0" * 12, "1" * 8 + "-0000-4000-8000-" + "1" * 12


@pytest.mark.parametrize(
    ("kind", "model", "message", "extra", "status"),
    [
        ("image", "openai/gpt-4.1", "Please make sure your image is valid.", {"code": "image_parse_error"}, 400),
        ("image", "openai/gpt-4.1", "Unable to process image", {}, 400),
        ("image", "openai/gpt-4.1", "Images of this kind are not supported.", {}, 200),
        ("image", "openai/new", "Images of this kind are not supported.", {}, 200),
        ("image", "openai/new", "Unsupported value.", {"param": "messages[0].content[1].image_url"}, 200),
        ("document", "openai/gpt-4.1", "It has 500 pages; the maximum is 100", {"param": "file"}, 400),
        ("document", "openai/gpt-4.1", "invalid or password protected", {"param": "x.file_data"}, 400),
        ("document", "openai/gpt-4.1", "This model does not support file content types.", {}, 200),
    ],
)
async def test_a_file_that_is_refused_takes_no_file_from_another_conversation(
    kind: str, model: str, message: str, extra: dict[str, Any], status: int
) -> None:
    error = 400, {"error": {"message": message, "type": "invalid_request_error", **extra}}
    server = Server(lambda body: error if BAD in json.dumps(body) else None)
    harness = ProxyHarness(server, BIG_MODEL=model, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat")

    sink = await harness.post(**ask(kind, BAD, FIRST))
    assert (200 if sink.error is None else sink.error.status) == status
    calls = len(server.bodies)
    for session in (SECOND, ""):
        await harness.post(**ask(kind, GOOD, session))
    assert [GOOD in json.dumps(body) for body in server.bodies[calls:]] == [True, True]


@pytest.mark.parametrize(
    ("kind", "model", "message", "calls"),
    [
        ("image", "openai/new", "Images are not supported here.", 1),
        # the model is known to accept these, so each request asks again
        ("image", "openai/gpt-4.1", "Images are not supported here.", 2),
        ("document", "openai/gpt-4.1", "This model does not support file content types.", 2),
    ],
)
async def test_a_refused_kind_of_content_is_left_out_for_the_rest_of_a_conversation(
    kind: str, model: str, message: str, calls: int
) -> None:
    server = Server(lambda body: vllm(message) if GOOD in json.dumps(body) else None)
    harness = ProxyHarness(server, BIG_MODEL=model, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat")
    request = ask(kind, GOOD, FIRST)
    assert (await harness.post(**request)).error is None
    before = len(server.bodies)

    more = [{"role": "assistant", "content": "A form."}, {"role": "user", "content": "And now?"}]
    assert (await harness.post(**{**request, "messages": [*request["messages"], *more]})).error is None
    assert len(server.bodies) == before + calls
