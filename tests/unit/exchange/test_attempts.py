"""Keys, retries, fallbacks and broken replies as a client sees them: called provider, number of attempts, reply."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from msgspec import structs
from multidict import CIMultiDict

from anthropic_proxy.cli.lint_stream import check_bytes
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from anthropic_proxy.errors import UpstreamProtocolError, UpstreamUnreachable
from tests.support.fake_upstream import BODY, KEYS, STREAM, TEXT, FakeUpstream, error, frame, reply
from tests.support.harness import STALL, FakeResponse, ProxyHarness, RecordingSink
from tests.support.virtual_time import in_virtual_time

HTML = b"<html><body>Welcome</body></html>"


async def test_a_failure_that_may_heal_is_repeated_once() -> None:
    upstream = FakeUpstream(
        lambda self, body: error(503) if len(self.requests) == 1 else reply(bool(body.get("stream")))
    )
    proxy = ProxyHarness(upstream, **KEYS)
    sink = await proxy.post()
    assert sink.body["content"] == [{"type": "text", "text": "well"}]
    assert len(upstream.requests) == 2
    assert all(answer.closed for answer in upstream.answers)
    assert proxy.receipts[0].failed_attempts == ["openai 503"]


async def test_a_short_limit_is_waited_for_and_a_long_one_is_passed_on() -> None:
    upstream = FakeUpstream(lambda self, body: error(429, retry_after="3") if len(self.requests) == 1 else reply(False))
    proxy = ProxyHarness(upstream, **KEYS)
    assert (await proxy.post()).error is None
    assert proxy.sleeps == [3.0]
    limited = ProxyHarness(FakeUpstream(lambda self, body: error(429, retry_after="30")), **KEYS)
    sink = await limited.post()
    assert sink.error.retry_after == 30
    assert limited.sleeps == []


@in_virtual_time
async def test_a_pause_longer_than_the_first_byte_timeout_is_left_to_the_client() -> None:
    upstream = FakeUpstream(lambda self, body: error(429, "Slow down.", retry_after="3"))
    proxy = ProxyHarness(upstream, **KEYS, UPSTREAM_FIRST_BYTE_TIMEOUT="2")
    sink = await proxy.post()
    assert (sink.error.status, sink.error.error_type, sink.error.retry_after) == (429, "rate_limit_error", 3)
    assert sink.error.message == "openai: Slow down."
    assert (proxy.sleeps, len(upstream.requests)) == ([], 1)


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
    soon = datetime.now(UTC) + timedelta(seconds=50)
    headers = CIMultiDict({"Retry-After": format_datetime(soon, usegmt=True)})
    upstream = FakeUpstream(lambda self, body: FakeResponse(429, b"{}", headers=headers))
    sink = await ProxyHarness(upstream, **KEYS).post()
    assert 40 < (sink.error.retry_after or 0) <= 50


@pytest.mark.parametrize("status", [502, 503, 529])
async def test_a_permanent_failure_is_reported_after_one_repeat(status: int) -> None:
    upstream = FakeUpstream(lambda self, body: error(status))
    sink = await ProxyHarness(upstream, **KEYS).post()
    assert sink.error is not None
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 500])
async def test_what_does_not_heal_is_not_repeated(status: int) -> None:
    upstream = FakeUpstream(lambda self, body: error(status))
    sink = await ProxyHarness(upstream, **KEYS).post()
    assert sink.error.status == (400 if status == 404 else status)
    assert len(upstream.requests) == 1


OVERFLOW = {"message": "It does not fit.", "type": "invalid_request_error", "code": "context_length_exceeded"}


def overflow(model: str, status: int, *, stream: bool) -> FakeResponse:
    """A refusal without numbers: in an error answer, or in place of a reply."""
    if status == 400 or not stream:
        return FakeResponse(status, json.dumps({"error": OVERFLOW}).encode())
    events = {
        "o3": b'data: {"type": "response.created", "response": {}}\n\ndata: {"type": "error", "error": %b}\n\n',
        "llama3": b'{"error": %b}\n',
    }
    return FakeResponse(200, events.get(model, b'data: {"error": %b}\n\n') % json.dumps(OVERFLOW).encode())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 200])
@pytest.mark.parametrize(
    ("model", "window"), [("openai/unheard-of", 128_000), ("openai/o3", 200_000), ("ollama/llama3", 65_536)]
)
async def test_an_overflow_without_numbers_is_reported_with_the_known_ones(
    model: str, window: int, status: int, stream: bool
) -> None:
    name = model.partition("/")[2]

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if "/chat" not in request.path and request.path != "/responses":
            return FakeResponse(404, b"{}")  # what a server of models has is asked first
        return overflow(name, status, stream=stream)

    proxy = ProxyHarness(upstream, **KEYS)
    short = await proxy.post(model=model, stream=stream, max_tokens=1_000)
    assert short.error.message == f"prompt is too long: {window + 1} tokens > {window} maximum"
    long = await proxy.post("word " * 300_000, model=model, stream=stream, max_tokens=1_000)
    estimated = int(long.error.message.removeprefix("prompt is too long: ").split()[0])
    assert estimated > 250_000
    assert long.error.message.endswith(f"> {window} maximum")


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


@pytest.mark.parametrize("failure", [401, 402, 403, 404, 408, 429, 500, 503, "unreachable"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_target_answers_what_the_first_could_not(failure: int | str, stream: bool) -> None:
    def answer(self: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        if "groq" in self.requests[-1][0]:
            return reply(body.get("stream", False))
        if failure == "unreachable":
            raise UpstreamUnreachable("nothing answers")
        return error(int(failure))

    upstream = FakeUpstream(answer)
    proxy = ProxyHarness(upstream, FALLBACK_SONNET="groq/llama-3.3-70b-versatile", **KEYS)
    sink = await proxy.post(stream=stream)
    assert sink.error is None
    assert upstream.servers[-1] == "groq"
    receipt = proxy.receipts[0]
    assert receipt.provider == "groq"
    assert receipt.failed_attempts[0].startswith("openai ")
    assert "then groq" in proxy.log.getvalue()
    if stream:
        assert check_bytes(sink.stream) == []


@pytest.mark.parametrize("stream", [False, True])
@in_virtual_time
async def test_the_next_target_answers_for_an_unresponsive_one(stream: bool) -> None:
    upstream = FakeUpstream(
        lambda self, body: reply(stream) if "groq" in self.requests[-1][0] else FakeResponse(200, STALL)
    )
    limits = {"UPSTREAM_FIRST_BYTE_TIMEOUT": "0.05", "FALLBACK_SONNET": "groq/llama-3.3-70b-versatile"}
    proxy = ProxyHarness(upstream, **limits, **KEYS)
    sink = await proxy.post(stream=stream)
    assert sink.error is None
    assert proxy.receipts[0].failed_attempts == ["openai 504"]
    assert proxy.receipts[0].provider == "groq"
    assert upstream.answers[0].closed
    unresponsive = ProxyHarness(
        FakeUpstream(lambda self, body: FakeResponse(200, STALL)), UPSTREAM_FIRST_BYTE_TIMEOUT="0.05", **KEYS
    )
    sink = await unresponsive.post(stream=stream)
    assert (sink.error.status, sink.error.error_type) == (504, "timeout_error")
    assert "UPSTREAM_FIRST_BYTE_TIMEOUT" in sink.error.message


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_is_wrong_is_wrong_everywhere(status: int) -> None:
    upstream = FakeUpstream(lambda self, body: error(status))
    await ProxyHarness(upstream, FALLBACK_SONNET="groq/llama-3.3-70b-versatile", **KEYS).post()
    assert upstream.servers == ["openai"]


async def test_a_target_without_a_key_is_passed_over() -> None:
    upstream = FakeUpstream(lambda self, body: reply(False))
    proxy = ProxyHarness(
        upstream, OPENAI_API_KEY="sk-one-0123456789", MODEL_SONNET="groq/x", FALLBACK_SONNET="openai/gpt-4.1"
    )
    assert (await proxy.post()).error is None
    assert upstream.servers == ["openai"]


async def test_an_overload_hidden_in_a_stream_is_a_status_and_may_fall_back() -> None:
    hidden = b'data: {"error":{"message":"overloaded","type":"overloaded_error","code":503}}\n\n'
    upstream = FakeUpstream(
        lambda self, body: (
            reply(True) if "groq" in self.requests[-1][0] else FakeResponse(200, frame({"content": ""}), hidden)
        )
    )
    proxy = ProxyHarness(upstream, FALLBACK_SONNET="groq/llama-3.3-70b-versatile", **KEYS)
    assert b"message_stop" in (await proxy.post(stream=True)).stream
    alone = ProxyHarness(FakeUpstream(lambda self, body: FakeResponse(200, hidden)), **KEYS)
    sink = await alone.post(stream=True)
    assert sink.stream == b""
    assert sink.error.status in (503, 529)


async def test_after_the_first_delta_nothing_is_tried_again_and_what_came_is_kept() -> None:
    upstream = FakeUpstream(lambda self, body: FakeResponse(200, TEXT, UpstreamProtocolError("the reply broke off")))
    proxy = ProxyHarness(upstream, FALLBACK_SONNET="groq/llama-3.3-70b-versatile", **KEYS)
    sink = await proxy.post(stream=True)
    assert upstream.servers == ["openai"]
    assert b"well" in sink.stream
    assert sink.stream.count(b"event: error") == 1
    assert b"openai: the reply broke off" in sink.stream
    assert b"message_stop" not in sink.stream
    assert check_bytes(sink.stream) == []
    assert proxy.receipts[0].outcome == "error"


async def test_an_end_without_a_reason_is_no_success() -> None:
    upstream = FakeUpstream(lambda self, body: FakeResponse(200, TEXT))
    sink = await ProxyHarness(upstream, **KEYS).post(stream=True)
    assert sink.stream.count(b"event: error") == 1
    unstreamed = await ProxyHarness(FakeUpstream(lambda self, body: FakeResponse(200, b"")), **KEYS).post()
    assert unstreamed.error.status == 502


async def test_a_connection_that_breaks_after_the_reason_has_lost_nothing() -> None:
    broken = UpstreamProtocolError("reset")
    upstream = FakeUpstream(lambda self, body: FakeResponse(200, TEXT, frame({}, "stop"), broken))
    sink = await ProxyHarness(upstream, **KEYS).post(stream=True)
    assert b"message_stop" in sink.stream
    assert b"event: error" not in sink.stream


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
        complete = True

    upstream = FakeUpstream(lambda self, body: Received(200, TEXT + STREAM[1], *[TEXT] * 2000))
    proxy = ProxyHarness(upstream, **KEYS)
    sink = await proxy.post(stream=True)
    assert check_bytes(sink.stream) == []
    assert b"event: error" not in sink.stream
    assert proxy.receipts[0].outcome == "end_turn"


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


async def test_a_server_that_does_not_stream_is_understood_where_the_client_does() -> None:
    sink = await ProxyHarness(
        FakeUpstream(lambda self, body: FakeResponse(200, b" " + BODY[:20], BODY[20:])), **KEYS
    ).post(stream=True)
    assert b"well" in sink.stream
    assert b"message_stop" in sink.stream


async def test_a_server_that_streams_unasked_is_understood_where_the_client_does_not() -> None:
    sink = await ProxyHarness(FakeUpstream(lambda self, body: FakeResponse(200, *STREAM)), **KEYS).post()
    assert sink.body["content"] == [{"type": "text", "text": "well"}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "expected_text"),
    [
        (
            lambda: FakeResponse(301, b"", headers={"location": "https://elsewhere.example/v1?key=secret"}),
            "elsewhere.example",
        ),
        (lambda: FakeResponse(200, HTML, headers={"content-type": "text/html; charset=utf-8"}), "web page"),
        (
            lambda: FakeResponse(200, b"\x0b\x02\x80", headers={"content-encoding": "br"}),
            "compressed (content-encoding: br)",
        ),
    ],
)
async def test_a_wrong_address_is_reported_once(
    stream: bool, answer: Callable[[], FakeResponse], expected_text: str
) -> None:
    upstream = FakeUpstream(lambda self, body: answer())
    sink = await ProxyHarness(upstream, **KEYS).post(stream=stream)
    assert sink.error.status == 502
    assert sink.error.should_retry is False
    assert expected_text in sink.error.message
    assert "OPENAI_BASE_URL" in sink.error.message
    assert "secret" not in sink.error.message
    assert len(upstream.requests) == 1


async def test_a_key_that_is_refused_is_seen_in_what_was_tried_and_named_once_without_telling_it() -> None:
    first, second = "sk-one-0123456789abcd", "sk-two-0123456789wxyz"
    upstream = FakeUpstream(lambda self, body: error(401, "revoked") if first in self.requests[-1][1] else reply(False))
    proxy = ProxyHarness(upstream, OPENAI_API_KEY=f"{first},{second}")
    for _ in range(3):
        assert (await proxy.post()).error is None
    assert [receipt.failed_attempts for receipt in proxy.receipts] == [["openai 401"], [], []]
    assert proxy.log.getvalue().count("abcd is in cooldown, because of") == 1
    assert first not in proxy.log.getvalue()


async def test_a_provider_that_forbids_a_retry_is_not_called_again_and_the_client_is_notified() -> None:
    upstream = FakeUpstream(lambda self, body: error(503, "closed for today", x_should_retry="false"))
    sink = await ProxyHarness(upstream, **KEYS).post()
    assert sink.error.should_retry is False
    assert len(upstream.requests) == 1
