"""Minutes in which a provider sends nothing, in virtual time: which limit ends them, and what the client gets."""

import asyncio
import json
from typing import Any

import pytest

from anthropic_proxy.errors import UpstreamUnreachable
from tests.support.harness import STALL, FakeResponse, ProxyHarness
from tests.support.replies import MESSAGES, Reply
from tests.support.virtual_time import in_virtual_time

SSE = {"content-type": "text/event-stream"}
SIX_MINUTES, ELEVEN_MINUTES = 360.0, 660.0
CHAT_START = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
CHAT_REST = {"choices": [{"index": 0, "delta": {"content": "Well."}, "finish_reason": "stop"}]}
CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
DONE_ITEM = ITEM | {"content": [{"type": "output_text", "text": "Well.", "annotations": []}]}
RESPONSE = {"id": "resp_1", "status": "completed", "output": [DONE_ITEM], "usage": None}
DELTA = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Well."}
ADDED = {"type": "response.output_item.added", "output_index": 0, "item": ITEM | {"content": []}}


def sse(*frames: object) -> bytes:
    return b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames)


COUNTS = {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


def chat(text: str, reason: str, **beside: Any) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **beside})


def thought(text: str, reason: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": reason}]})


def gemini(text: str, reason: str) -> bytes:
    parts = [{"text": text}] if text else []
    return sse({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason}]})


START, *BLOCKS = MESSAGES.stream(Reply(texts=["Well."]))
FIRST = {"chat": sse(CHAT_START), "responses": sse(CREATED), "messages": START}
CONTENT = {
    "chat": sse(CHAT_REST),
    "responses": sse(ADDED, DELTA, {"type": "response.completed", "response": RESPONSE}),
    "messages": b"".join(BLOCKS),
}
KEYS = {
    "chat": {"OPENAI_API_KEY": "key", "OPENAI_WIRE": "chat"},
    "responses": {"OPENAI_API_KEY": "key", "OPENAI_WIRE": "responses"},
    "messages": {"ANTHROPIC_API_KEY": "key", "PREFERRED_PROVIDER": "anthropic"},
    "gemini": {"GEMINI_API_KEY": "key", "PREFERRED_PROVIDER": "google"},
}
EARLY_REASONS = {
    "before a minute of thinking, Chat": ("chat", 60.0, chat("", "stop"), chat("Well.", "stop")),
    "with token counts, Chat": ("chat", 60.0, chat("", "stop", **COUNTS), chat("Well.", "stop", **COUNTS)),
    "before token counts, Chat": (
        "chat",
        60.0,
        chat("", "stop") + sse({"choices": [], **COUNTS}),
        chat("Well.", "stop"),
    ),
    "before a minute of thinking, Gemini": ("gemini", 60.0, gemini("", "STOP"), gemini("Well.", "STOP")),
    "beside each text, Chat": ("chat", 8.0, chat("We", "stop"), chat("ll.", "stop")),
    "beside each text, Gemini": ("gemini", 8.0, gemini("We", "STOP"), gemini("ll.", "STOP")),
    "beside a thought, Chat": ("chat", 60.0, thought("Hm.", "stop"), chat("Well.", "stop")),
    "beside a thought that is the text, Chat": ("chat", 60.0, thought("We", "stop"), thought("ll.", "stop")),
    "null as a text, Chat": ("chat", 60.0, chat("We", "null"), chat("ll.", "stop")),
    "null as a text, Gemini": ("gemini", 60.0, gemini("We", "null"), gemini("ll.", "STOP")),
}
"""Wire, seconds between both chunks, and the chunks."""


class Silent(FakeResponse):
    """A reply that is silent for some seconds before its second chunk."""

    def __init__(self, seconds: float, *chunks: bytes) -> None:
        super().__init__(200, *chunks, headers=SSE)
        self._seconds = seconds

    async def read(self) -> bytes:
        if len(self.chunks) == 1:
            await asyncio.sleep(self._seconds)
        return await super().read()


@pytest.mark.parametrize("wire", FIRST)
@pytest.mark.parametrize(
    ("begins", "stream"),
    [(True, True), (False, True), (False, False)],
    ids=["event without content", "nothing", "nothing, in one piece"],
)
@in_virtual_time
async def test_a_model_may_think_for_six_minutes_without_a_word(wire: str, begins: bool, stream: bool) -> None:
    chunks = (FIRST[wire], CONTENT[wire]) if begins else (FIRST[wire] + CONTENT[wire],)
    proxy = ProxyHarness(lambda *_: Silent(SIX_MINUTES, *chunks), **KEYS[wire])
    sink = await proxy.post(stream=stream)
    assert sink.error is None, sink.error
    (receipt,) = proxy.receipts
    assert receipt.outcome == "end_turn"
    if stream:
        assert b"Well." in sink.stream
        has_pings = wire == "messages" or sink.stream.count(b"event: ping") > 15  # a relay has those of its server only
        assert has_pings, "the client knows that the stream lives"


@pytest.mark.parametrize(("before_content", "seconds"), [(True, 600), (False, 300)])
@in_virtual_time
async def test_each_limit_of_silence_ends_with_its_error(before_content: bool, seconds: int) -> None:
    first = sse(CHAT_START) if before_content else sse(CHAT_START).replace(b'"content": ""', b'"content": "I"')
    silence = ELEVEN_MINUTES if before_content else SIX_MINUTES
    proxy = ProxyHarness(
        lambda *_: Silent(silence, first, sse(CHAT_REST)), OPENAI_API_KEY="key", OPENAI_WIRE="chat", RETRIES="0"
    )
    sink = await proxy.post(stream=True)
    (receipt,) = proxy.receipts
    assert receipt.error_type == "timeout_error"
    assert receipt.error == (
        f"openai sent no data for {seconds} s; UPSTREAM_FIRST_BYTE_TIMEOUT and UPSTREAM_IDLE_TIMEOUT set this limit."
    )
    assert b"timeout_error" in sink.stream


@pytest.mark.parametrize("name", EARLY_REASONS)
@in_virtual_time
async def test_a_reason_in_each_frame_ends_no_reply_early(name: str) -> None:
    wire, seconds, *chunks = EARLY_REASONS[name]
    proxy = ProxyHarness(lambda *_: Silent(seconds, *chunks), **KEYS[wire])
    sink = await proxy.post(stream=True)
    (receipt,) = proxy.receipts
    texts = [
        json.loads(line[6:]).get("delta", {}).get("text", "")
        for line in sink.stream.split(b"\n")
        if line[:5] == b"data:"
    ]
    assert ("".join(texts), receipt.outcome, sink.error) == ("Well.", "end_turn", None)


@pytest.mark.parametrize(
    ("wire", "chunk"), [("chat", chat("", "stop")), ("gemini", gemini("", "STOP"))], ids=["chat", "gemini"]
)
@in_virtual_time
async def test_a_connection_that_breaks_behind_an_early_reason_is_an_error(wire: str, chunk: bytes) -> None:
    broken = UpstreamUnreachable("The connection broke.")
    proxy = ProxyHarness(lambda *_: FakeResponse(200, chunk, broken, headers=SSE), RETRIES="0", **KEYS[wire])
    await proxy.post(stream=True)
    (receipt,) = proxy.receipts
    assert receipt.error == f"{'openai' if wire == 'chat' else wire}: The connection broke."


@pytest.mark.parametrize(
    ("wire", "chunk"), [("chat", chat("", "stop")), ("gemini", gemini("", "STOP"))], ids=["chat", "gemini"]
)
@in_virtual_time
async def test_an_empty_reply_of_a_server_that_keeps_the_connection_open_ends(wire: str, chunk: bytes) -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(200, chunk, STALL, headers=SSE), RETRIES="0", **KEYS[wire])
    sink = await proxy.post(stream=True)
    (receipt,) = proxy.receipts
    assert (receipt.outcome, sink.error) == ("end_turn", None)
