"""Upstreams that fail repeatedly, and more concurrent requests than allowed, as clients see them."""

import asyncio
import itertools
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.routing.health import CircuitBreakers, RepetitionBudget
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import UpstreamUnreachable
from tests.support.fake_upstream import KEYS, STREAM, FakeUpstream, error, reply
from tests.support.harness import FakeResponse, ProxyHarness


def refused_by_openai(upstream: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
    if upstream.servers[-1] == "openai":
        raise UpstreamUnreachable("connection refused")
    return reply(body.get("stream", False))


async def test_a_provider_that_is_down_is_soon_passed_over_and_every_request_answered() -> None:
    upstream = FakeUpstream(refused_by_openai)
    proxy = ProxyHarness(upstream, **KEYS, FALLBACK_SONNET="groq/llama-3.3-70b-versatile")
    replies = [await proxy.post() for _ in range(20)]
    assert all(sink.body["content"] == [{"type": "text", "text": "well"}] for sink in replies)
    assert upstream.servers.count("openai") == 5, "after five failures in a row it is left alone"
    assert {receipt.provider for receipt in proxy.receipts} == {"groq"}
    assert proxy.receipts[0].failed_attempts == ["openai no connection", "openai no connection"]
    assert proxy.receipts[-1].failed_attempts == ["openai circuit_open"]
    assert "openai circuit_open, then groq" in proxy.log.getvalue()


class CountingTokens:
    """Source of access tokens."""

    rejection_statuses = (401,)
    acquired = 0

    async def acquire_token(self, *, max_seconds: float | None = None) -> tuple[Credential, str | None]:
        self.acquired += 1
        return Credential("authorization", "Bearer token", "a test"), None

    def invalidate_token(self, credential: Credential) -> bool:
        return False


async def test_no_token_is_fetched_for_a_provider_that_is_passed_over() -> None:
    def answer(upstream: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        if upstream.servers[-1] == "googleapis":
            raise UpstreamUnreachable("connection refused")
        return reply(body.get("stream", False))

    upstream = FakeUpstream(answer)
    proxy = ProxyHarness(
        upstream, **KEYS, VERTEX_PROJECT="p", MODEL_SONNET="vertex_ai/gemini-2.5-pro", FALLBACK_SONNET="openai/gpt-4.1"
    )
    tokens = CountingTokens()
    proxy.services = structs.replace(
        proxy.services, credentials=Credentials(proxy.services.settings, {"google": tokens})
    )
    for _ in range(5):
        assert (await proxy.post()).error is None
    assert upstream.servers.count("googleapis") == 5
    assert proxy.receipts[-1].failed_attempts == ["vertex_ai circuit_open"]
    assert tokens.acquired == 5


async def test_the_only_provider_is_asked_however_often_it_failed() -> None:
    upstream = FakeUpstream(lambda self, body: error(503, "the server is on fire"))
    proxy = ProxyHarness(upstream, **KEYS)
    for _ in range(10):
        sink = await proxy.post()
        assert sink.error.message == "openai: the server is on fire"
    assert len(upstream.requests) == 20
    upstream._answer = lambda self, body: reply(False)
    assert (await proxy.post()).error is None


async def test_a_recovered_provider_is_called_after_the_cooldown() -> None:
    now = [1000.0]
    upstream = FakeUpstream(refused_by_openai)
    proxy = ProxyHarness(upstream, **KEYS, FALLBACK_SONNET="groq/llama-3.3-70b-versatile")
    proxy.services = structs.replace(proxy.services, circuit_breakers=CircuitBreakers(clock=lambda: now[0]))
    for _ in range(4):
        await proxy.post()
    upstream._answer = lambda self, body: reply(False)
    assert (await proxy.post()).error is None
    now[0] += 5
    for _ in range(2):
        await proxy.post()
    assert [receipt.provider for receipt in proxy.receipts[4:]] == ["groq", "openai", "openai"]


async def test_an_outage_is_not_made_worse_by_repeats() -> None:
    """There are fifty retries at first, one more for five requests, and five more per second."""
    now = [1000.0]
    upstream = FakeUpstream(lambda self, body: error(503))
    proxy = ProxyHarness(upstream, **KEYS)
    proxy.services = structs.replace(proxy.services, retry_budget=RepetitionBudget(clock=lambda: now[0]))
    for seconds, requests, retries in ((0, 300, 50 + 300 // 5 - 1), (2, 50, 2 * 5 + 50 // 5), (1_000, 100, 50 + 19)):
        now[0] += seconds
        upstream.requests.clear()
        for _ in range(requests):
            await proxy.post()
        assert len(upstream.requests) == requests + retries, seconds


async def test_places_in_front_of_the_upstreams_are_waited_for_and_given_back() -> None:
    active_calls = max_active = 0
    freed = asyncio.Event()

    class Slow(FakeResponse):
        async def read(self) -> bytes:
            await freed.wait()
            return await super().read()

        async def close(self, *, wait_for_end: bool = False) -> None:
            nonlocal active_calls
            active_calls -= not self.closed
            await super().close(wait_for_end=wait_for_end)

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        nonlocal active_calls, max_active
        active_calls += 1
        max_active = max(max_active, active_calls)
        return Slow(200, *STREAM)

    proxy = ProxyHarness(upstream, **KEYS, MAX_UPSTREAM_CALLS="2")
    exchanges = [asyncio.create_task(proxy.post(stream=True)) for _ in range(30)]
    sent_away = itertools.islice(asyncio.as_completed(exchanges), 12)  # two are under way, sixteen wait
    for sink in [await exchange for exchange in sent_away]:
        assert sink.error is not None
    full = (
        "This proxy makes at most 2 upstream calls at once (MAX_UPSTREAM_CALLS), and 16 requests are already queued. "
        "Try again in a moment."
    )
    refused = {(receipt.status, receipt.error_type, receipt.error, receipt.provider) for receipt in proxy.receipts}
    assert refused == {(529, "overloaded_error", full, "")}
    assert f"✕ {full}\n" in proxy.log.getvalue()
    freed.set()
    keepers = await asyncio.gather(*exchanges)
    assert max_active == 2
    assert sum(b"message_stop" in sink.stream for sink in keepers) == 18
    assert (await proxy.post(stream=True)).error is None
