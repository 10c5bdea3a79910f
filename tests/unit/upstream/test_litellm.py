"""The LiteLLM engine without a server: its input and output, its failures, a client that disconnects."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.litellm import (
    LiteLLMResponse,
    LiteLLMThread,
    LiteLLMTransport,
    ReplyConverter,
    decode_exception,
    encode_error_body,
    to_acompletion_arguments,
)
from anthropic_proxy.engine.wires.failures import KnownTokenCounts, build_upstream_error, decode_error_body
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import MissingExtra, UpstreamUnreachable
from anthropic_proxy.gateway.settings import load_settings
from tests.support.bound_requests import bound
from tests.support.fakes.openai_chat import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.golden_texts import Check
from tests.support.litellm import needs_litellm
from tests.support.threads import no_new_threads
from tests.support.waiting import WAIT_SECONDS, wait_for_async

NO_CHAT_OF_ITS_OWN = {"custom", "custom_openai", "openai_like", "anthropic_text"}


def failure(name: str, *bases: type[Exception], **fields: Any) -> Exception:
    """Return an exception as LiteLLM raises it: with the cause in its class and in attributes."""
    made = type(name, bases or (Exception,), {})(fields.get("message", ""))
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def judged(error: Exception) -> Any:
    found = decode_exception(error)
    return build_upstream_error(decode_error_body(found.status, found.headers, encode_error_body(found)), "litellm")


# Content


def test_arguments_are_the_body_and_nothing_that_a_client_could_set() -> None:
    body = {"model": "mistral/m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True}
    arguments = to_acompletion_arguments(json.dumps(body).encode(), 300.0)
    assert {name: arguments[name] for name in body} == body
    assert set(arguments) - set(body) == {"num_retries", "max_retries", "_skip_mcp_handler", "timeout"}
    assert (arguments["num_retries"], arguments["max_retries"], arguments["timeout"]) == (0, 0, 300.0)


def test_the_native_finish_reason_is_kept() -> None:
    fields = {"finish_reason": "tool_calls", "provider_specific_fields": {"native_finish_reason": "max_output_tokens"}}
    answer = SimpleNamespace(model_dump=lambda **_: {"choices": [fields]})
    (choice,) = ReplyConverter().convert_to_chat_completion(answer)["choices"]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("tool_calls", "max_output_tokens")


def test_signed_reasoning_goes_back_as_it_came() -> None:
    chunks = [
        {"type": "thinking", "thinking": "let me "},
        {"type": "thinking", "thinking": "see"},
        {"type": "thinking", "thinking": "", "signature": "sig-1"},
        {"type": "redacted_thinking", "data": "sealed"},
    ]
    speller, details = ReplyConverter(), []
    for block in chunks:
        answer = SimpleNamespace(
            model_dump=lambda block=block, **_: {"choices": [{"delta": {"thinking_blocks": [block]}}]}
        )
        details += speller.convert_to_chat_completion(answer)["choices"][0]["delta"]["reasoning_details"]
    assert [detail["index"] for detail in details] == [0, 0, 0, 1]
    whole = [
        {"index": 0, "type": "reasoning.text", "text": "let me see", "signature": "sig-1"},
        {"index": 1, "type": "reasoning.encrypted", "data": "sealed"},
    ]
    message = {"role": "assistant", "content": "x", "reasoning_details": whole}
    encoded_message = to_acompletion_arguments(json.dumps({"model": "m", "messages": [message]}).encode(), 1)[
        "messages"
    ][0]
    assert "reasoning_details" not in encoded_message
    assert encoded_message["thinking_blocks"] == [
        {"type": "thinking", "thinking": "let me see", "signature": "sig-1"},
        {"type": "redacted_thinking", "data": "sealed"},
    ]


def test_reasoning_without_a_signature_is_not_given_back_as_signed() -> None:
    message = {"role": "assistant", "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "hm"}]}
    encoded_message = to_acompletion_arguments(json.dumps({"model": "m", "messages": [message]}).encode(), 1)[
        "messages"
    ][0]
    assert encoded_message == {"role": "assistant"}


# Failures


def test_golden_failures(golden: Check) -> None:
    """`golden_texts/litellm_failures`: class and attributes of an exception, and the error of the client."""

    def show(given: str) -> str:
        kind, _, fields = given.partition(" ")
        error = failure(kind, **json.loads(fields))
        if unreachable := decode_exception(error).connection_error:
            return f"{type(unreachable).__name__}: {unreachable.message}"
        ours = judged(error)
        others = [f"{name} {value}" for name in ("retry_after", "parameter") if (value := getattr(ours, name))]
        return f"{ours.status} {' '.join([ours.error_type, *others])}: {ours.message}"

    golden("litellm_failures", show)


def test_a_full_window_is_the_error_that_makes_claude_code_compact() -> None:
    error = failure(
        "ContextWindowExceededError",
        message="litellm.ContextWindowExceededError: BedrockException - Input is too long for requested model.",
        status_code=400,
    )
    found = decode_exception(error)
    fault = decode_error_body(found.status, found.headers, encode_error_body(found))
    assert (
        build_upstream_error(fault, "litellm", KnownTokenCounts(1000, lambda: 2000)).message
        == "prompt is too long: 2000 tokens > 1000 maximum"
    )


def test_a_failure_in_the_middle_of_a_stream_is_unwrapped() -> None:
    inner = failure("RateLimitError", message="litellm.RateLimitError: slow down", status_code=429)
    outer = failure("MidStreamFallbackError", message="wrapped", status_code=503, original_exception=inner)
    assert judged(outer).status == 429


# The library


@pytest.mark.parametrize(
    ("model", "need"),
    [
        ("cohere/m", "cohere/m needs LiteLLM (for a model on your own server, use openai/cohere/m)"),
        (
            "mistral/m",
            "mistral/m needs the line [providers.mistral] in anthropic-proxy.toml and the key of Mistral in "
            "MISTRAL_API_KEY, or else LiteLLM",
        ),
        (
            "fireworks_ai/accounts/fireworks/models/m",
            "fireworks_ai/accounts/fireworks/models/m, here fireworks/accounts/fireworks/models/m, needs the line "
            "[providers.fireworks] in anthropic-proxy.toml and the key of Fireworks in FIREWORKS_API_KEY, or else "
            "LiteLLM",
        ),
    ],
)
async def test_without_the_library_the_error_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch, model: str, need: str
) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    upstream = LiteLLMTransport(LiteLLMThread(lambda: None), 5)
    with pytest.raises(MissingExtra) as caught:
        await upstream.send(bound("litellm:", encoded(model, "hi")))
    await upstream.close()
    assert (caught.value.status, caught.value.error_type, caught.value.should_retry) == (500, "api_error", False)
    assert caught.value.message == f"{need}, which is not installed. Install it:  anthropic-proxy add litellm"


@needs_litellm
def test_every_chat_provider_of_litellm_is_a_prefix_or_ours() -> None:
    from litellm import constants
    from litellm.types.utils import LlmProviders

    ours = {row.prefix for row in PROVIDERS}
    chat = set(constants.LITELLM_CHAT_PROVIDERS)
    prefixes = set(PROVIDERS.find("litellm").extra_prefixes)
    assert chat - ours - prefixes <= NO_CHAT_OF_ITS_OWN
    known = {provider.value for provider in LlmProviders}
    assert {"mistral", "bedrock", "deepseek", "openrouter", "azure", "together_ai", "cohere"} <= known
    assert len(prefixes & known) > 80


def encoded(model: str, text: str, **fields: Any) -> UpstreamRequest:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 400, **fields}
    return UpstreamRequest(path="/chat/completions", body=json.dumps(body).encode())


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def openai() -> Iterator[Running]:
    with serving(new_openai()) as running:
        yield running


@pytest.fixture
async def upstream(openai: Running) -> AsyncIterator[LiteLLMTransport]:
    settings = load_settings({}, PROVIDERS, env_file=None)
    own = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "NO_PROXY": "127.0.0.1"}
    with patch.dict(os.environ, own):
        upstream = LiteLLMTransport(LiteLLMThread(settings.export_to_litellm), 60)
        yield upstream
        await upstream.close()


async def read_all(response: LiteLLMResponse) -> list[Any]:
    """Return the frames of a stream, decoded; `[DONE]` as text."""
    frames: list[Any] = []
    while frame := await response.read():
        data = frame.removeprefix(b"data: ").strip()
        frames.append(data.decode() if data == b"[DONE]" else json.loads(data))
    return frames


@needs_litellm
async def test_a_stream_is_frames_of_the_wire(upstream: LiteLLMTransport) -> None:
    response = await upstream.send(bound("litellm:", encoded("openai/gpt-4.1", "Count to 5", **STREAM)))
    frames = await read_all(response)
    await response.close(wait_for_end=True)
    assert response.status == 200
    assert frames.pop() == "[DONE]"
    choices = [frame["choices"][0] for frame in frames if frame["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "1 2 3 4 5"
    assert [choice["finish_reason"] for choice in choices if choice.get("finish_reason")] == ["stop"]
    assert frames[-1]["usage"]["completion_tokens"] > 0
    assert await response.read() == b""


@needs_litellm
async def test_a_reply_that_is_no_stream_is_one_body(upstream: LiteLLMTransport) -> None:
    response = await upstream.send(bound("litellm:", encoded("openai/gpt-4.1", "Say exactly: hello")))
    body = json.loads(await response.read())
    assert body["choices"][0]["message"]["content"] == "hello"
    assert body["usage"]["prompt_tokens"] > 0
    assert await response.read() == b""
    await response.close(wait_for_end=True)


async def test_a_call_starts_the_thread_that_the_system_could_not_start_before() -> None:
    async def work() -> str:
        return threading.current_thread().name

    engine = LiteLLMThread(lambda: None)
    with no_new_threads(), pytest.raises(RuntimeError):
        await engine.run_coroutine(work())
    assert await asyncio.wait_for(engine.run_coroutine(work()), WAIT_SECONDS) == "litellm"
    await engine.close()


@needs_litellm
async def test_it_runs_in_a_thread_of_its_own(openai: Running) -> None:
    loaded_in: list[str] = []
    engine = LiteLLMThread(lambda: loaded_in.append(threading.current_thread().name))
    upstream = LiteLLMTransport(engine, 60)
    with patch.dict(os.environ, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1"}):
        for _ in range(2):
            response = await upstream.send(bound("litellm:", encoded("openai/gpt-4.1", "Say exactly: hello")))
            await response.close()
    await upstream.close()
    assert loaded_in == ["litellm"]
    assert threading.current_thread() is threading.main_thread()


@needs_litellm
@pytest.mark.parametrize("stream", [{}, STREAM], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("rate after=7", 429, None),
        ("overflow", 400, "context_length_exceeded"),
        ("unauthorized", 401, None),
        ("forbidden", 403, None),
        ("missing", 404, None),
        ("server", 500, None),
        ("overloaded", 503, None),
        ("policy", 400, "content_policy_violation"),
    ],
)
async def test_a_refusal_has_its_status_and_openai_s_body(
    upstream: LiteLLMTransport, openai: Running, stream: dict[str, Any], fault: str, status: int, code: str | None
) -> None:
    before = len(openai.journal.exchanges)
    response = await upstream.send(bound("litellm:", encoded("openai/gpt-4.1", f"[fault:{fault}] x", **stream)))
    error = json.loads(await response.read())["error"]
    await response.close()
    assert response.status == status
    assert code in (None, error["code"])
    assert "litellm" not in error["message"].lower()
    assert len(openai.journal.exchanges) == before + 1, "it asked again by itself"


@needs_litellm
async def test_no_connection_is_raised(upstream: LiteLLMTransport) -> None:
    for stream in ({}, STREAM):
        with pytest.raises(UpstreamUnreachable):
            await upstream.send(bound("litellm:", encoded("openai/gpt-4.1", "[fault:reset] x", **stream)))


@needs_litellm
async def test_a_stream_that_ends_without_a_reason_is_not_ended_by_litellm(upstream: LiteLLMTransport) -> None:
    request = encoded("openai/gpt-4.1", "[fault:torn pieces=3] Count to 9", **STREAM)
    frames = await read_all(await upstream.send(bound("litellm:", request)))
    assert "[DONE]" not in frames
    assert not any(choice.get("finish_reason") for frame in frames for choice in frame["choices"])


@needs_litellm
async def test_an_error_in_the_middle_of_a_stream_ends_it(upstream: LiteLLMTransport) -> None:
    request = encoded("openai/gpt-4.1", "[fault:error pieces=3] Count to 9", **STREAM)
    frames = await read_all(await upstream.send(bound("litellm:", request)))
    assert frames[0]["choices"]
    assert "server had an error" in frames[-1]["error"]["message"]


@needs_litellm
async def test_a_stream_that_is_cut_is_not_ended_by_litellm(upstream: LiteLLMTransport) -> None:
    request = encoded("openai/gpt-4.1", "[fault:cut pieces=3] Count to 9", **STREAM)
    frames = await read_all(await upstream.send(bound("litellm:", request)))
    assert frames[0]["choices"]
    assert "[DONE]" not in frames
    assert not any(choice.get("finish_reason") for frame in frames for choice in frame.get("choices", ()))


async def settled(openai: Running, number: int) -> str:
    """Return how the exchange with that number ended, once it has."""
    return await wait_for_async(lambda: openai.journal.exchanges[number].outcome, lambda outcome: outcome != "open")


@needs_litellm
async def test_closing_in_the_middle_cuts_the_provider_s_connection(
    upstream: LiteLLMTransport, openai: Running
) -> None:
    number = len(openai.journal.exchanges)
    request = encoded("openai/gpt-4.1", "[fault:stall pieces=3 seconds=60] Count to 9", **STREAM)
    response = await upstream.send(bound("litellm:", request))
    assert await response.read()
    await response.close()
    assert await settled(openai, number) == "cancelled"
    assert await response.read() == b""


@needs_litellm
@pytest.mark.parametrize("fault", ["late", "stall"])
@pytest.mark.parametrize("stream", [{}, STREAM], ids=["whole", "streamed"])
async def test_a_cancelled_caller_ends_the_call(
    upstream: LiteLLMTransport, openai: Running, fault: str, stream: dict[str, Any]
) -> None:
    number = len(openai.journal.exchanges)

    async def ask() -> None:
        text = f"[fault:{fault} pieces=1 seconds=60] Count to 9" if stream else "[fault:late seconds=60] Count to 9"
        response = await upstream.send(bound("litellm:", encoded("openai/gpt-4.1", text, **stream)))
        try:
            await read_all(response)
        finally:
            await response.close()

    asking = asyncio.create_task(ask())
    await wait_for_async(lambda: len(openai.journal.exchanges) > number)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await settled(openai, number) == "cancelled"
