"""Upstreams that fail repeatedly, and more concurrent requests than allowed, as clients see them."""

import asyncio
import itertools
from typing import Any, ClassVar

import pytest
from msgspec import structs
from msgspec.json import encode

from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.routing.health import CircuitBreakers, RepetitionBudget
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import UpstreamUnreachable
from anthropic_proxy.plugins import Client
from tests.support.fake_upstream import KEYS, STREAM, FakeUpstream, error, reply
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.virtual_time import in_virtual_time


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


class Unread(RecordingSink):
    """A client that reads nothing until `reads` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = asyncio.Event()

    async def send_events(self, events: Any, *, is_last: bool = False) -> None:
        await self.reads.wait()
        await super().send_events(events, is_last=is_last)

    async def send_relayed_bytes(self, data: bytes, *others: Any, **more: Any) -> None:
        await self.reads.wait()
        await super().send_relayed_bytes(data, *others, **more)

    async def send_message(self, response: Any) -> None:  # behind an earlier response of the connection
        await self.reads.wait()
        await super().send_message(response)


RELAYED = {"ANTHROPIC_API_KEY": "sk-ant-0123456789"}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [],
    "stop_reason": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
EVENTS = (
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "well"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
)


@pytest.mark.parametrize(("settings", "stream"), [(KEYS, True), (KEYS, False), (RELAYED, True), (RELAYED, False)])
@in_virtual_time
async def test_replies_that_nobody_reads_leave_their_places_to_others(settings: dict[str, str], stream: bool) -> None:
    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        if settings is KEYS:
            return reply(stream)
        pieces = [b"event: %b\ndata: %b\n\n" % (str(each["type"]).encode(), encode(each)) for each in EVENTS]
        return FakeResponse(200, *pieces) if stream else FakeResponse(200, encode(MESSAGE))

    proxy = ProxyHarness(FakeUpstream(answer), **settings, MAX_UPSTREAM_CALLS="2")
    slow = [Unread() for _ in range(4)]
    mallory, ann = Client(key_id="key_mallory"), Client(key_id="key_ann")
    unread = [asyncio.create_task(proxy.post(stream=stream, sink=each, client=mallory)) for each in slow]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(15):
            assert (await proxy.post(stream=stream, client=ann)).error is None
    finally:
        for each in slow:
            each.reads.set()
    assert all(sink.error is None and (sink.stream or sink.body) for sink in await asyncio.gather(*unread))
    queue = proxy.services.queue
    assert queue is not None
    assert queue.count_before(ann.payer) == 0


class Stream(FakeResponse):
    """A reply that notes how many others have sent a piece within the same second."""

    sending: ClassVar["list[Stream]"] = []
    most = 0

    async def read(self) -> bytes:
        if self.chunks:
            Stream.sending.append(self)
            Stream.most = max(Stream.most, len(set(Stream.sending)))
            await asyncio.sleep(1)
            Stream.sending.remove(self)
        return await super().read()


def piece(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), encode(event))


TEXTS = [
    b'data: {"choices":[{"index":0,"delta":{"content":"well"},"finish_reason":%b}]}\n\n' % reason
    for reason in [b"null"] * 20 + [b'"stop"']
]
REPLIES: dict[str, tuple[dict[str, str], list[bytes]]] = {
    "translated": (KEYS, [*TEXTS, b"data: [DONE]\n\n"]),
    "relayed": (RELAYED, [*map(piece, EVENTS[:2]), *[piece(EVENTS[2])] * 20, *map(piece, EVENTS[3:])]),
}


@pytest.mark.parametrize("kind", REPLIES)
@in_virtual_time
async def test_replies_that_are_read_again_continue_within_the_limit(kind: str) -> None:
    settings, pieces = REPLIES[kind]
    proxy = ProxyHarness(lambda *_: Stream(200, *pieces), **settings, MAX_UPSTREAM_CALLS="2")
    Stream.sending, Stream.most = [], 0
    slow = [Unread() for _ in range(6)]
    mallory, ann = Client(key_id="key_mallory"), Client(key_id="key_ann")
    unread = [asyncio.create_task(proxy.post(stream=True, sink=each, client=mallory)) for each in slow]
    await asyncio.sleep(60)
    others = [asyncio.create_task(proxy.post(stream=True, client=ann)) for _ in range(4)]
    await asyncio.sleep(5)
    for each in slow[:3]:
        each.reads.set()
    unread[3].cancel()
    await asyncio.sleep(5)
    unread[0].cancel()  # while it waits for its place
    for each in slow:
        each.reads.set()
    done = await asyncio.gather(*unread, *others, return_exceptions=True)
    replies = [sink for sink in done if isinstance(sink, RecordingSink)]
    assert len(replies) == 8
    assert {(sink.error, sink.is_ended, sink.stream.count(b"well")) for sink in replies} == {
        (None, True, 21 if kind == "translated" else 20)
    }
    assert Stream.most == 2
    queue = proxy.services.queue
    assert queue is not None
    assert queue.count_before(ann.payer) == 0


@in_virtual_time
async def test_a_request_waits_five_minutes_for_a_place_at_most() -> None:
    class Thinking(FakeResponse):
        async def read(self) -> bytes:
            await asyncio.sleep(400)
            return await super().read()

    proxy = ProxyHarness(lambda *_: Thinking(200, *STREAM), **KEYS, MAX_UPSTREAM_CALLS="1")
    first = asyncio.create_task(proxy.post())
    await asyncio.sleep(0)
    sink = await proxy.post()
    assert sink.error is not None
    assert (sink.error.status, sink.error.message) == (
        529,
        "This proxy makes at most 1 upstream calls at once (MAX_UPSTREAM_CALLS), and 1 requests are already queued. "
        "Try again in a moment.",
    )
    first.cancel()
