"""Token counts of providers that count a request in their own format, as the client of `count_tokens` gets them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.forwarding import COUNT_TIMEOUT_SECONDS, PROVIDER_COUNT_SECONDS, count_tokens
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.providers.model_observations import COUNT_PAUSE_SECONDS
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import STALL, FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.virtual_time import in_virtual_time

LOCAL = {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": "http://localhost:8000/v1", "BIG_MODEL": "openai/qwen3"}
LM_STUDIO = b'{"error":"Unexpected endpoint or method. (POST /v1/chat/completions/input_tokens)"}'
TOOL = {"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}
ASKED = {
    "model": "claude-sonnet-4-5",
    "system": "Be brief.",
    "tools": [TOOL],
    "messages": [{"role": "user", "content": "hello"}],
}
CHAT_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "read", "description": "Reads.", "parameters": TOOL["input_schema"]},
}
RESPONSES_TOOL = {"type": "function", "strict": False, **CHAT_TOOL["function"]}  # type: ignore[dict-item]


class Server:
    """A server that answers by a function of the path, and keeps the requests."""

    def __init__(self, answer: Callable[[str], FakeResponse]) -> None:
        self.sent: list[tuple[str, Any]] = []
        self._answer = answer

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.sent.append((base_url + request.path, json.loads(request.body)))
        return self._answer(request.path)

    @property
    def paths(self) -> list[str]:
        return [url.partition("//")[2].partition("/")[2] for url, _ in self.sent]


async def ask_count(proxy: ProxyHarness, asked: dict[str, Any] = ASKED) -> int:
    incoming = new_client_request(json.dumps(asked).encode(), path="/v1/messages/count_tokens")
    reply = await count_tokens(proxy.services, incoming, RecordingSink().wait_disconnected)
    return int(json.loads(reply.body)["input_tokens"])


def answer(**fields: object) -> Callable[[str], FakeResponse]:
    return lambda _: FakeResponse(200, json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("settings", "counted"),
    [
        ({"OPENAI_API_KEY": "sk-0123456789", "BIG_MODEL": "gpt-5.5"}, "input_tokens"),
        ({"OPENAI_API_KEY": "sk-0123456789", "BIG_MODEL": "gpt-4.1"}, "input_tokens"),
        ({"GEMINI_API_KEY": "AIza-0123456789", "PREFERRED_PROVIDER": "google"}, "totalTokens"),
        ({"ANTHROPIC_API_KEY": "sk-ant-0123456789", "PREFERRED_PROVIDER": "anthropic"}, "input_tokens"),
    ],
)
async def test_a_count_is_the_provider_s_own(settings: dict[str, str], counted: str) -> None:
    server = Server(answer(**{counted: 4_711}))
    assert await ask_count(ProxyHarness(server, **settings)) == 4_711
    assert len(server.sent) == 1


async def test_openai_counts_over_responses() -> None:
    server = Server(answer(object="response.input_tokens", input_tokens=4_711))
    assert await ask_count(ProxyHarness(server, OPENAI_API_KEY="sk-0123456789", BIG_MODEL="gpt-5.5")) == 4_711
    (sent,) = server.sent
    assert sent == (
        "https://api.openai.com/v1/responses/input_tokens",
        {
            "model": "gpt-5.5",
            "instructions": "Be brief.",
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
            "tools": [RESPONSES_TOOL],
            "reasoning": {"summary": "auto"},
            "truncation": "disabled",
        },
    )


async def test_a_model_of_openai_with_chat_completions_is_counted_over_responses() -> None:
    server = Server(answer(object="response.input_tokens", input_tokens=12))
    assert await ask_count(ProxyHarness(server, OPENAI_API_KEY="sk-0123456789")) == 12
    (sent,) = server.sent
    assert (sent[0], sent[1]["model"]) == ("https://api.openai.com/v1/responses/input_tokens", "gpt-4.1")


async def test_gemini_counts_the_whole_request() -> None:
    server = Server(answer(totalTokens=77, promptTokensDetails=[]))
    assert await ask_count(ProxyHarness(server, GEMINI_API_KEY="AIza-0123456789", PREFERRED_PROVIDER="google")) == 77
    ((url, sent),) = server.sent
    assert url.endswith("/v1beta/models/gemini-2.5-pro-preview-03-25:countTokens")
    whole = sent.pop("generateContentRequest")
    assert sent == {}
    assert whole["model"] == "models/gemini-2.5-pro-preview-03-25"
    assert whole["contents"] == [{"role": "user", "parts": [{"text": "hello"}]}]
    assert whole["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert [tool["functionDeclarations"][0]["name"] for tool in whole["tools"]] == ["read"]


async def test_llama_cpp_counts_a_request_of_chat_completions() -> None:
    server = Server(answer(object="response.input_tokens", input_tokens=391))
    assert await ask_count(ProxyHarness(server, **LOCAL)) == 391
    assert server.sent == [
        (
            "http://localhost:8000/v1/chat/completions/input_tokens",
            {"model": "qwen3", "messages": CHAT_MESSAGES, "tools": [CHAT_TOOL]},
        )
    ]


async def test_vllm_counts_beside_its_api_and_the_missing_path_is_asked_once_a_day() -> None:
    counted, missing = FakeResponse(200, b'{"count":391,"max_model_len":4096,"tokens":[1]}'), b'{"detail":"Not Found"}'
    server = Server(lambda path: counted if path == "/tokenize" else FakeResponse(404, missing))
    proxy, now = ProxyHarness(server, **LOCAL), [0.0]
    proxy.services.observations.store = MemoryValues(clock=lambda: now[0])
    for at in (0, 10, 86_399, 86_401):
        now[0], counted.chunks = at, [b'{"count":391,"max_model_len":4096,"tokens":[1]}']
        assert await ask_count(proxy) == 391
    first, second = "v1/chat/completions/input_tokens", "tokenize"
    assert server.paths == [first, second, second, second, first, second]
    assert server.sent[1] == (
        "http://localhost:8000/tokenize",
        {"model": "qwen3", "messages": CHAT_MESSAGES, "tools": [CHAT_TOOL]},
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"404 page not found"), (404, b'{"detail":"Not Found"}'), (200, LM_STUDIO), (200, b"<html>")],
)
async def test_a_server_without_counts_is_asked_once_and_then_estimated(status: int, body: bytes) -> None:
    server = Server(lambda path: FakeResponse(status, body))
    proxy = ProxyHarness(server, **LOCAL)
    estimates = [await ask_count(proxy) for _ in range(3)]
    assert estimates == [estimates[0]] * 3
    assert server.paths == ["v1/chat/completions/input_tokens", "tokenize"]


@pytest.mark.parametrize(
    ("first", "sent"),
    [
        (FakeResponse(404, b'{"detail":"Not Found"}'), ["v1/chat/completions/input_tokens", "tokenize"]),
        (FakeResponse(200, b'{"input_tokens":7}'), ["v1/chat/completions/input_tokens"] * 5),
    ],
)
async def test_counts_at_the_same_time_ask_for_a_path_once_and_of_all_models(
    first: FakeResponse, sent: list[str]
) -> None:
    server = Server(lambda path: FakeResponse(first.status, b"".join(first.chunks)))
    proxy = ProxyHarness(server, **LOCAL, SMALL_MODEL="openai/other")
    models = ["claude-sonnet-4-5"] * 3 + ["claude-haiku-4-5"] * 2
    counts = await asyncio.gather(*(ask_count(proxy, {**ASKED, "model": model}) for model in models))
    assert min(counts) > 0
    assert server.paths == sent


async def test_a_404_for_a_model_says_nothing_about_the_other_models() -> None:
    missing = FakeResponse(404, b'{"error":{"message":"The model `qwen3` does not exist"}}')
    server = Server(lambda path: missing if len(server.sent) < 2 else FakeResponse(200, b'{"input_tokens":7}'))
    proxy = ProxyHarness(server, **LOCAL, SMALL_MODEL="openai/other")
    await ask_count(proxy)
    assert await ask_count(proxy, {**ASKED, "model": "claude-haiku-4-5"}) == 7


@pytest.mark.parametrize("count", ["-1", "0", "1e99", '"3"', "true", "null", "[" * 5_000, "9" * 400])
async def test_an_impossible_count_is_replaced_by_the_estimate(count: str) -> None:
    estimate = await ask_count(ProxyHarness(Server(lambda path: FakeResponse(404)), **LOCAL))
    server = Server(lambda path: FakeResponse(200, b'{"input_tokens":%b}' % count.encode()))
    assert await ask_count(ProxyHarness(server, **LOCAL)) == estimate


async def test_a_failed_count_is_estimated_and_asked_again() -> None:
    server = Server(lambda path: FakeResponse(500, b'{"error":{"message":"out of memory"}}'))
    proxy = ProxyHarness(server, **LOCAL)
    assert await ask_count(proxy) == await ask_count(proxy) > 0
    assert server.paths == ["v1/chat/completions/input_tokens"] * 2
    assert "count_tokens: estimated by the proxy, because openai: out of memory" in proxy.log.getvalue()


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [(LOCAL, PROVIDER_COUNT_SECONDS), ({"ANTHROPIC_API_KEY": "sk-ant-0123456789"}, COUNT_TIMEOUT_SECONDS)],
)
@in_virtual_time
async def test_a_server_that_does_not_count_in_time_is_not_asked_again_for_a_while(
    settings: dict[str, str], seconds: float
) -> None:
    server = Server(lambda path: FakeResponse(200, STALL))
    proxy, now = ProxyHarness(server, **settings), [0.0]
    proxy.services.observations.store = MemoryValues(clock=lambda: now[0])
    first = await ask_count(proxy)
    assert asyncio.get_running_loop().time() == pytest.approx(seconds)
    assert await ask_count(proxy) == first > 0
    assert asyncio.get_running_loop().time() == pytest.approx(seconds)
    now[0] += COUNT_PAUSE_SECONDS
    assert await ask_count(proxy) == first
    assert asyncio.get_running_loop().time() == pytest.approx(2 * seconds)
    assert len(server.sent) == 2


@in_virtual_time
async def test_a_count_that_waits_for_one_without_a_reply_does_not_ask_the_server_too() -> None:
    server = Server(lambda path: FakeResponse(200, STALL))
    proxy = ProxyHarness(server, **LOCAL)

    async def ask_later() -> int:
        await asyncio.sleep(1)
        return await ask_count(proxy)

    first, second = await asyncio.gather(ask_count(proxy), ask_later())
    assert first == second > 0
    assert asyncio.get_running_loop().time() == pytest.approx(PROVIDER_COUNT_SECONDS)
    assert len(server.sent) == 1


async def test_a_count_corrects_later_estimates_of_the_model() -> None:
    text = {**ASKED, "messages": [{"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 600}]}
    estimate = await ask_count(ProxyHarness(Server(lambda path: FakeResponse(500)), **LOCAL), text)
    replies = [FakeResponse(200, b'{"input_tokens":%d}' % round(estimate * 1.3)), FakeResponse(500)]
    proxy = ProxyHarness(Server(lambda path: replies.pop(0)), **LOCAL)
    assert await ask_count(proxy, text) == round(estimate * 1.3)
    assert await ask_count(proxy, text) == pytest.approx(estimate * 1.3, rel=0.01)
