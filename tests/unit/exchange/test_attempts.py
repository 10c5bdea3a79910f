"""Keys, retries, fallbacks and broken replies as a client sees them: called provider, number of attempts, reply."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from email.utils import format_datetime

import pytest
from msgspec import structs
from multidict import CIMultiDict

from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.routing.model_listing import list_tier_mappings
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.gateway.services import fetch_model_limits
from tests.support.clocks import RECORDED_AT
from tests.support.event_grammar import check_bytes
from tests.support.fake_upstream import KEYS, STREAM, TEXT, FakeUpstream, error, reply
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.virtual_time import in_virtual_time


@pytest.mark.parametrize("stream", [False, True])
@in_virtual_time
async def test_a_pause_is_no_silence_of_the_upstream(stream: bool) -> None:
    """The pause is as long as the first-byte timeout, and is not counted as time without bytes."""
    upstream = FakeUpstream(
        lambda self, body: error(503, retry_after="1") if len(self.requests) == 1 else reply(body.get("stream", False))
    )
    proxy = ProxyHarness(upstream, **KEYS, UPSTREAM_FIRST_BYTE_TIMEOUT="1")

    async def pause(seconds: float) -> None:
        waiting = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1.5, waiting.set_result, None)
        await waiting

    proxy.services = structs.replace(proxy.services, sleep=pause)
    sink = await proxy.post(stream=stream)
    assert sink.error is None
    assert b"error" not in sink.stream
    assert [receipt.outcome for receipt in proxy.receipts] == ["end_turn"]


async def test_a_retry_date_is_seconds_from_the_arrival_if_the_answer_has_no_date() -> None:
    soon = RECORDED_AT + timedelta(seconds=50)
    headers = CIMultiDict({"Retry-After": format_datetime(soon, usegmt=True)})
    upstream = FakeUpstream(lambda self, body: FakeResponse(429, b"{}", headers=headers))
    sink = await ProxyHarness(upstream, **KEYS).post()
    assert 40 < (sink.error.retry_after or 0) <= 50


async def test_each_of_several_keys_has_one_try_however_long_the_calls_last() -> None:
    upstream = FakeUpstream(lambda self, body: error(429, retry_after="20"))
    proxy = ProxyHarness(upstream, OPENAI_API_KEY="sk-a-0123456789,sk-b-0123456789,sk-c-0123456789")
    credentials = proxy.services.credentials
    moment = 0.0

    def later() -> float:
        nonlocal moment
        moment += 1_000.0
        return moment

    credentials._clock = later  # time passes between the calls, so that a key that rested is awake again
    sink = await proxy.post()
    assert sink.error.status == 429
    assert len(upstream.requests) == 3


class Counting(RecordingSink):
    """Counts the packets of a stream."""

    writes = 0

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        self.writes += 1
        await super().send_events(events, is_last=is_last)


@pytest.mark.parametrize(
    ("reads", "writes"), [([b"".join(STREAM)], 1), ([TEXT, b"".join(STREAM[1:])], 2), ([TEXT, TEXT + STREAM[1]], 3)]
)
async def test_what_comes_with_the_end_leaves_with_it(reads: list[bytes], writes: int) -> None:
    sink = Counting()
    await ProxyHarness(FakeUpstream(lambda self, body: FakeResponse(200, *reads)), **KEYS).post(stream=True, sink=sink)
    assert sink.writes == writes
    assert check_bytes(sink.stream) == []
    assert sink.stream.count(b'"text":"well"') == b"".join(reads).count(b'"well"')


@pytest.mark.parametrize("broken", [False, True])
async def test_a_stream_that_ends_with_its_body_leaves_at_once_where_that_has_come(broken: bool) -> None:
    class Received(FakeResponse):
        body_received = True

    end = [UpstreamProtocolError("reset")] if broken else []
    sink = Counting()
    upstream = FakeUpstream(lambda self, body: Received(200, TEXT + STREAM[1], *end))
    await ProxyHarness(upstream, **KEYS).post(stream=True, sink=sink)
    assert sink.writes == 1
    assert b"message_stop" in sink.stream
    assert b"event: error" not in sink.stream


async def test_any_number_of_pieces_may_come_behind_the_reason() -> None:
    class Received(FakeResponse):
        body_received = True

    upstream = FakeUpstream(lambda self, body: Received(200, TEXT + STREAM[1], *[TEXT] * 2000))
    proxy = ProxyHarness(upstream, **KEYS)
    sink = await proxy.post(stream=True)
    assert check_bytes(sink.stream) == []
    assert b"event: error" not in sink.stream
    assert proxy.receipts[0].outcome == "end_turn"


@in_virtual_time
async def test_after_a_slow_write_provider_and_client_have_their_full_times_again() -> None:
    class Slow(RecordingSink):
        async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
            await super().send_events(events, is_last=is_last)
            await asyncio.sleep(0 if is_last else 7)

    class Paused(FakeResponse):
        async def read(self) -> bytes:
            await asyncio.sleep(6)
            return await super().read()

    proxy = ProxyHarness(FakeUpstream(lambda self, body: Paused(200, *STREAM)), UPSTREAM_IDLE_TIMEOUT="7", **KEYS)
    sink = await proxy.post(stream=True, sink=Slow())
    assert proxy.receipts[0].outcome == "end_turn"
    assert sink.stream.count(b"event: ping") == 1  # that of the start


@in_virtual_time
async def test_a_client_that_reads_the_end_slowly_is_no_upstream_timeout() -> None:
    class Slow(RecordingSink):
        async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
            await asyncio.sleep(0.2 if is_last else 0)
            await super().send_events(events, is_last=is_last)

    proxy = ProxyHarness(
        FakeUpstream(lambda self, body: FakeResponse(200, *STREAM)), UPSTREAM_IDLE_TIMEOUT="0.05", **KEYS
    )
    sink = await proxy.post(stream=True, sink=Slow())
    assert b"message_stop" in sink.stream
    assert proxy.receipts[0].outcome == "end_turn"


async def test_the_remedy_for_a_missing_key_is_the_prefix_of_the_server_that_lists_the_name() -> None:
    listed = ["qwen/qwen3-coder", "google/gemini-2.5-pro"]

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.method == "GET":
            return FakeResponse(200, json.dumps({"data": [{"id": name} for name in listed]}).encode())
        return reply(stream=False)

    proxy = ProxyHarness(
        answer,
        OPENAI_API_KEY="sk-or-0123456789",
        OPENAI_BASE_URL="https://openrouter.ai/api/v1",
        BIG_MODEL="google/gemini-2.5-pro",
        SMALL_MODEL="openai/qwen/qwen3-coder",
        FALLBACK_OPUS="google/gemini-2.5-pro",
        MODEL_OPUS="xai/grok-4.3",
    )
    no_key = (
        "{0} has no key: {1} is not set. Set it in .env and reload the proxy, or in the environment and start it "
        "again. "
    )
    before = await proxy.post()
    assert before.error.message == no_key.format("gemini", "GEMINI_API_KEY") + (
        "Or, for the model of openrouter.ai:  BIG_MODEL=openai/google/gemini-2.5-pro"
    )
    await fetch_model_limits(proxy.services)
    after = await proxy.post()
    assert (after.error.status, after.error.message) == (
        401,
        'BIG_MODEL is "google/gemini-2.5-pro", a model of gemini, which has no key. openrouter.ai lists this name. '
        "Set in the environment. Did you mean:  BIG_MODEL=openai/google/gemini-2.5-pro",
    )
    mappings = list_tier_mappings(proxy.services.settings, proxy.services.catalog)
    rows = {row.tier: tuple(problem.text for problem in row.problems) for row in mappings}
    assert rows["sonnet"] == (after.error.message,)
    assert rows["opus"] == (
        no_key.format("xai", "XAI_API_KEY").strip(),  # the list does not have the name
        'FALLBACK_OPUS contains "google/gemini-2.5-pro", a model of gemini, which has no key. openrouter.ai lists this '
        "name. Set in the environment. Did you mean:  openai/google/gemini-2.5-pro",
    )


async def test_names_of_a_server_with_the_prefix_of_another_provider_get_the_line_for_that_server() -> None:
    """A prefix of our own is removed, and the log-in of the client is no key."""
    listed = ["openai/gpt-5", "openai/gpt-5-mini", "gpt-5-mini", "anthropic/claude-sonnet-4.5"]

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(200, json.dumps({"data": [{"id": name} for name in listed]}).encode())

    proxy = ProxyHarness(
        answer,
        OPENAI_API_KEY="sk-or-0123456789",
        OPENAI_BASE_URL="https://openrouter.ai/api/v1",
        BIG_MODEL="openai/gpt-5",
        SMALL_MODEL="openai/gpt-5-mini",
        MODEL_OPUS="anthropic/claude-sonnet-4.5",
        MODEL_FABLE="anthropic/claude-opus-5-5",
    )
    await fetch_model_limits(proxy.services)
    mappings = list_tier_mappings(proxy.services.settings, proxy.services.catalog)
    rows = {row.tier: tuple(problem.text for problem in row.problems) for row in mappings}
    assert rows == {
        "haiku": (),
        "sonnet": (
            'BIG_MODEL is "openai/gpt-5", of which the prefix is removed, so gpt-5 is requested. openrouter.ai lists '
            "this name. Set in the environment. Did you mean:  BIG_MODEL=openai/openai/gpt-5",
        ),
        "opus": (
            'MODEL_OPUS is "anthropic/claude-sonnet-4.5", a model of anthropic, which has no key. openrouter.ai lists '
            "this name. Set in the environment. Did you mean:  MODEL_OPUS=openai/anthropic/claude-sonnet-4.5",
        ),
        "fable": (),
    }


async def test_the_second_remedy_for_a_missing_key_is_left_out_if_the_server_has_other_models() -> None:
    """Also a list of installed models, and a name with `[1m]`, are compared."""

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(200, json.dumps({"models": [{"name": "google/gemini-2.5-pro"}]}).encode())

    proxy = ProxyHarness(
        answer,
        PREFERRED_PROVIDER="ollama",
        OLLAMA_API_BASE="http://ollama.example:11434",
        BIG_MODEL="google/gemini-2.5-flash",
        SMALL_MODEL="google/gemini-2.5-pro[1m]",
    )
    await proxy.services.catalog.refresh_listing("ollama")
    mappings = list_tier_mappings(proxy.services.settings, proxy.services.catalog)
    rows = {row.tier: tuple(problem.text for problem in row.problems) for row in mappings}
    assert rows["opus"] == (
        "gemini has no key: GEMINI_API_KEY is not set. Set it in .env and reload the proxy, or in the environment and "
        "start it again.",
    )
    assert rows["haiku"] == (
        'SMALL_MODEL is "google/gemini-2.5-pro[1m]", a model of gemini, which has no key. ollama.example:11434 lists '
        "this name. Set in the environment. Did you mean:  SMALL_MODEL=ollama/google/gemini-2.5-pro[1m]",
    )
