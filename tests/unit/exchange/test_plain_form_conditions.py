"""When a refused request is repeated in a plainer form, and what is never left out."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from anthropic_proxy.engine import clock
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.tables import in_one_test
from tests.unit.exchange.test_adaptations_of_clients import REPLIES
from tests.unit.exchange.test_plain_form import PICTURE, VENDORS, Server, has, post

CHAT = VENDORS["chat"]
REFUSAL = b'{"error": {"message": "?"}}'
ACCEPTED = json.dumps(REPLIES["chat/completions"]).encode()


@in_one_test
@pytest.mark.parametrize(("seconds", "calls"), [(0.0, 2), (4.9, 2), (5.1, 1), (60.0, 1)])
def test_only_a_refusal_within_five_seconds_is_one_of_the_form(seconds: float, calls: int) -> None:
    now = [1_000.0]

    def refuses(body: Any) -> bool:
        now[0] += seconds
        return "temperature" in body

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
        server = Server(refuses)
        asyncio.run(post(ProxyHarness(server, **CHAT.settings), CHAT, "hello"))
    assert len(server.requests) == calls


@in_one_test
@pytest.mark.parametrize("status", [402, 405, 406, 408, 409, 410, 411, 415, 418, 421, 426, 431, 451])
def test_another_status_of_the_client_is_no_refusal_of_the_form(status: int) -> None:
    server = Server(has("temperature"), status)
    asyncio.run(post(ProxyHarness(server, **CHAT.settings), CHAT, "hello"))
    assert all("temperature" in body for body in server.requests)


HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "hello"}, PICTURE]},
    {"role": "assistant", "content": "reply"},
    {"role": "user", "content": "go on"},
]


@pytest.mark.parametrize("status", [413, 415])
async def test_a_status_about_media_leaves_out_pictures_of_earlier_turns_only(status: int) -> None:
    server = Server(has("messages", "content", "image_url"), status)
    proxy = ProxyHarness(server, **CHAT.settings)
    assert (await post(proxy, CHAT, "", messages=HISTORY)).error is None
    first, second = server.requests
    assert {**first, "messages": None} == {**second, "messages": None}
    server.requests.clear()
    server.refuses = lambda body: True
    assert (await post(proxy, CHAT, "no picture")).error is not None
    assert len(server.requests) == 1


@pytest.mark.parametrize("hint", ["", "main", "auxiliary"])
async def test_a_check_of_auto_mode_keeps_its_content_whatever_the_client_calls_it(hint: str) -> None:
    server = Server(has("messages", "content", "image_url"), 413)
    proxy = ProxyHarness(server, **CHAT.settings)
    headers = {"x-claude-code-request-class": hint} if hint else {}
    question = {"tools": [], "stop_sequences": ["</block>"], "messages": HISTORY}
    error = (await post(proxy, CHAT, "", headers=headers, **question, tool_choice=None)).error
    assert (error is None, len(server.requests)) == (False, 1)


async def test_after_a_delivered_byte_nothing_is_repeated() -> None:
    begun = b'data: {"choices": [{"index": 0, "delta": {"content": "Yes"}}]}\n\n'
    bodies = list[Any]()

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return FakeResponse(200, begun, b'data: {"error": {"message": "?", "code": 400}}\n\n')

    await post(ProxyHarness(answer, **CHAT.settings), CHAT, "hello")
    assert len(bodies) == 1


async def test_the_plain_form_comes_before_the_next_target() -> None:
    calls: list[tuple[str, bool]] = []
    accepts_plain = True

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        host, has_temperature = base_url.split("/")[2], b'"temperature"' in request.body
        calls.append((host, has_temperature))
        is_refused = "openai" in host and (has_temperature or not accepts_plain)
        if is_refused:
            return FakeResponse(404, REFUSAL) if accepted else FakeResponse(400, REFUSAL)
        reply = REPLIES["generateContent"] if "google" in host else REPLIES["chat/completions"]
        return FakeResponse(200, json.dumps(reply).encode())

    accepted = False
    variables = {
        "GEMINI_API_KEY": "test-0123456789",
        "MODEL_OPUS": CHAT.model,
        "FALLBACK_OPUS": "gemini/gemini-2.5-pro",
    }
    proxy = ProxyHarness(answer, **CHAT.settings, **variables)
    fields = {"model": "claude-opus-4-1"}
    assert (await post(proxy, CHAT, "hello", **fields)).error is None
    openai = "api.openai.com"
    assert calls == [(openai, True), (openai, False)]
    calls.clear()
    accepted, accepts_plain = True, False
    assert (await post(proxy, CHAT, "another", "key_b", **fields)).error is None
    assert calls == [(openai, True), (openai, False), ("generativelanguage.googleapis.com", True)]


async def test_texts_of_other_versions_in_the_memory_change_no_request() -> None:
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **CHAT.settings)
    for number in range(20):
        assert (await post(proxy, CHAT, f"hello {number}")).error is None
    store = proxy.services.observations.store
    for text in ("", "{}", "[]", '[{"a":null}]', "9\nunknown part", "1\ndrop everything\ndrop nothing", "\0"):
        for key in [*store._entries]:  # there is no list of keys
            store.write(key, text, 3_600.0)
        server.requests.clear()
        for turn in range(2):
            assert (await post(proxy, CHAT, f"later {text}", replies=["reply"] * turn)).error is None
        assert has("tools", "function", "strict")(server.requests[0])


async def test_the_token_scale_of_a_form_is_not_that_of_another_one() -> None:
    usage = {"prompt_tokens": 7_000, "completion_tokens": 1, "total_tokens": 7_001}

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if "temperature" in json.loads(request.body):
            return FakeResponse(400, REFUSAL)
        return FakeResponse(200, json.dumps({**REPLIES["chat/completions"], "usage": usage}).encode())

    proxy = ProxyHarness(answer, **CHAT.settings)
    assert (await post(proxy, CHAT, "some words " * 2_500)).error is None
    model = CHAT.model.partition("/")[2]
    client = proxy.receipts[0].client.id
    scale = proxy.services.observations.find_token_scale("openai", model, client)
    assert scale.factor == 1.0
