"""Replies with much work in one piece leave the event loop to other tasks meanwhile."""

import asyncio
import threading
from collections.abc import Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.exchange.upstream_stream import UpstreamStream
from anthropic_proxy.engine.exchange.usage_bounds import UsageBounds
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.contract import Decoder
from tests.support.decoding import new_call
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.replies import MESSAGES, Reply

CALLS = 10_000
TOOLS = [{"name": "look", "input_schema": {"type": "object"}}]
ONE_CALL = {"id": "call_1", "function": {"name": "look", "arguments": "{}"}}
KEYS = {"OPENAI_API_KEY": "key", "OPENAI_WIRE": "chat"}
LOCAL = {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1", "BIG_MODEL": "qwen3", "MIDDLE_MODEL": "qwen3"}
RELAY = {"ANTHROPIC_API_KEY": "key", "PREFERRED_PROVIDER": "anthropic"}


class Turns:
    """Number of times that another task has had the event loop."""

    def __init__(self) -> None:
        self.count = 0

    async def take(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@asynccontextmanager
async def counting() -> Any:
    turns = Turns()
    task = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    try:
        yield turns
    finally:
        task.cancel()


class TurnSink(RecordingSink):
    """Notes the turn of each write, and its number of events."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self.writes = dict[int, int]()

    async def send_events(self, events: Iterable[Event], *, is_last: bool = False) -> None:
        listed = list(events)
        turn = self._turns.count
        self.writes[turn] = self.writes.get(turn, 0) + len(listed)
        await super().send_events(listed, is_last=is_last)


def chunk(delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"


CALLS_AS_TEXT = '<tool_call>{"name": "look", "arguments": {}}</tool_call>' * CALLS
FRAMES = {
    "calls": (KEYS, {"tool_calls": [{**ONE_CALL, "index": number, "id": f"c{number}"} for number in range(CALLS)]}),
    "calls as text": (KEYS | LOCAL, {"content": CALLS_AS_TEXT}),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_a_frame_with_many_calls_is_decoded_and_sent_between_turns_of_others(name: str) -> None:
    settings, delta = FRAMES[name]
    stream = [chunk(delta), chunk({}).replace(b"null", b'"tool_calls"')]
    proxy = ProxyHarness(
        lambda *_: FakeResponse(200, *stream, headers={"content-type": "text/event-stream"}), **settings
    )
    async with counting() as turns:
        sink = TurnSink(turns)
        await proxy.post(stream=True, tools=TOOLS, sink=sink)
    assert sink.error is None
    assert sink.stream.count(b'"type":"tool_use"') == CALLS
    assert max(sink.writes.values()) < 5_000
    first = next(iter(sink.writes))
    assert first > 100, "others had the loop while the frame was decoded"


async def post_behind_other_work(proxy: ProxyHarness, **fields: Any) -> RecordingSink:
    """Return the reply to a request. It needs the thread for large work, which has other work first."""
    begun, end = threading.Event(), threading.Event()

    def occupy() -> None:
        begun.set()
        end.wait()

    other = asyncio.create_task(proxy.services.background.of("key other").run_in_thread(occupy))
    await asyncio.to_thread(begun.wait)
    post = asyncio.create_task(proxy.post(**fields))
    for _ in range(1_000):
        await asyncio.sleep(0)
    is_done = post.done()
    end.set()
    assert not is_done, "the reply waits for the thread"
    sink = await post
    await other
    return sink


async def test_a_large_relayed_body_is_read_in_the_thread_for_large_work() -> None:
    whole = msgspec.json.decode(MESSAGES.whole(Reply(texts=["word"] * 100_000)))
    body = msgspec.json.encode(whole)
    assert len(body) > MAX_REPLY_BYTES_ON_LOOP
    proxy = ProxyHarness(lambda *_: FakeResponse(200, body, headers={"content-type": "application/json"}), **RELAY)
    sink = await post_behind_other_work(proxy, stream=False)
    assert (sink.error, sink.stream) == (None, body)


OLLAMA = {
    "PREFERRED_PROVIDER": "ollama",
    "OLLAMA_BASE_URL": "http://127.0.0.1:1",
    "BIG_MODEL": "m",
    "MIDDLE_MODEL": "m",
}
LONG = '{"a": "' + "word " * 4_000
HELD = {
    "listed calls": '[TOOL_CALLS]look[ARGS]{"a": 1}' * 500,
    "listed calls without an end": "[TOOL_CALLS]look[ARGS]{" * 500,
    "a long call": f'<tool_call>{{"name": "look", "arguments": {LONG}"}}}}</tool_call>',
    "a long call that is broken": f'<tool_call>{{"name": "look", "arguments": {LONG}</tool_call>',
    "a reply of one call": f'{{"name": "look", "parameters": {LONG}"}}}}',
}


@pytest.mark.parametrize("words", [1, 2_000], ids=["small request", "large request"])
@pytest.mark.parametrize("wire", ["chat", "ollama"])
@pytest.mark.parametrize("case", HELD)
async def test_a_long_text_that_may_be_calls_is_read_in_the_thread(case: str, wire: str, words: int) -> None:
    pieces = [HELD[case][start : start + 500] for start in range(0, len(HELD[case]), 500)]
    if wire == "chat":
        frames = [*map(chunk, [{"content": piece} for piece in pieces]), chunk({}).replace(b"null", b'"stop"')]
    else:
        lines: list[Any] = [{"message": {"role": "assistant", "content": piece}, "done": False} for piece in pieces]
        lines.append({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"})
        frames = [msgspec.json.encode(line) + b"\n" for line in lines]
    kind = "text/event-stream" if wire == "chat" else "application/x-ndjson"

    def answer(_: str, request: Any, __: Any) -> FakeResponse:
        if request.path == "/api/show":
            return FakeResponse(200, b'{"capabilities": ["completion", "tools"]}')
        return FakeResponse(200, *frames, headers={"content-type": kind})

    proxy = ProxyHarness(answer, **(KEYS | LOCAL if wire == "chat" else OLLAMA))
    sink = await post_behind_other_work(proxy, stream=True, tools=TOOLS, text="word " * words, max_tokens=50_000)
    assert sink.error is None


@pytest.mark.parametrize("stream", [True, False])
async def test_a_large_body_in_another_form_is_converted_between_turns_of_others(stream: bool) -> None:
    whole = msgspec.json.decode(MESSAGES.whole(Reply()))
    whole["content"] = [{"type": "text", "text": "word"}] * 10_000
    body = msgspec.json.encode(whole) if stream else b"".join(MESSAGES.stream(Reply(texts=["word"] * 10_000)))
    proxy = ProxyHarness(lambda *_: FakeResponse(200, body, headers={"content-type": "application/json"}), **RELAY)
    async with counting() as turns:
        before = turns.count
        sink = await proxy.post(stream=stream)
        taken = turns.count - before
    assert sink.error is None
    assert sink.stream.count(b"word") == 10_000
    assert taken > 20


BROKEN = "{" + ",".join(f"'k{i}': 'v'" for i in range(1_000)) + "}"
"""Arguments that have to be repaired, of 12 KB."""
BROKEN_PIECES = [
    chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "look", "arguments": ""}}]}),
    *(
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": BROKEN[place : place + 100]}}]})
        for place in range(0, len(BROKEN), 100)
    ),
]
SMALL_FRAMES = {
    "without a part of the reply": chunk({"content": "a"}) + b"data: {}\n\n" * 20_000,
    "with arguments to repair": b"".join(BROKEN_PIECES),
}


@pytest.mark.parametrize("events", SMALL_FRAMES.values(), ids=SMALL_FRAMES)
async def test_small_events_with_much_work_are_decoded_in_the_thread_for_large_work(events: bytes) -> None:
    end = chunk({}).replace(b"null", b'"tool_calls"') + b"data: [DONE]\n\n"
    proxy = ProxyHarness(lambda *_: FakeResponse(200, events + end), **KEYS | LOCAL)
    sink = await post_behind_other_work(proxy, stream=True, tools=TOOLS)
    assert sink.error is None


class HeldDecoder(Decoder):
    """It decodes its first frame until it is told to end, and notes what is called meanwhile."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.begun, self.end = threading.Event(), threading.Event()

    def decode_frame(self, frame: bytes) -> list[Delta]:
        self.calls.append("begin")
        self.begun.set()
        self.end.wait()
        self.calls.append("end")
        return []

    def decode_end(self) -> list[Delta]:
        return []

    def decode_body(self, body: bytes) -> list[Delta]:
        return []

    def flush_pending(self) -> list[Delta]:
        self.calls.append("flush")
        return []


async def test_a_cancelled_reply_leaves_its_decoder_to_the_thread() -> None:
    decoder, background = HeldDecoder(), BackgroundWork().of("key local")
    watchdog = Watchdog(wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=60, idle_seconds=60)
    wire: Any = SimpleNamespace(new_decoder=lambda _: decoder, framing="sse")
    stream = UpstreamStream(
        wire,
        new_call(openai_chat),
        FakeResponse(200, chunk({"content": "word" * MAX_REPLY_BYTES_ON_LOOP})),
        watchdog,
        background,
        bounds=UsageBounds(1_000, 1_000, None, "openai", report := FidelityReport()),
        report=report,
        reply_filter=None,
        deferred_tools=(),
        request_bytes=0,
    )
    reading = asyncio.create_task(stream.read())
    await asyncio.to_thread(decoder.begun.wait)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert stream.flush_pending() == []
    decoder.end.set()
    await background.run_in_thread(decoder.end.wait)  # behind the frame
    assert decoder.calls == ["begin", "end"]
