"""Replies with much work in one piece leave the event loop to other tasks meanwhile."""

import asyncio
from collections.abc import Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.messages.events import Event
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.replies import MESSAGES, Reply

CALLS = 20_000
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
