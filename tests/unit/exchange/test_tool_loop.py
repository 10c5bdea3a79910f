"""Tools that the proxy runs itself: the reply to the client, and the upstream requests in between."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange import watchdog
from anthropic_proxy.engine.exchange.tool_loop.known_urls import KnownUrls
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import DocumentBlock, Source
from anthropic_proxy.engine.messages.models import Message as HistoryMessage
from anthropic_proxy.engine.messages.server_blocks import encode_passage
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.upstream.contract import SearchResult
from anthropic_proxy.engine.wires.upstream_http import Credential
from tests.support.harness import STALL, RecordingSink
from tests.support.tool_loop import (
    FACTS,
    PAGE,
    SEARCH,
    Script,
    Searcher,
    call,
    calls,
    frame,
    gemini,
    message_of,
    proxy,
    reply,
    text,
)
from tests.support.virtual_time import in_virtual_time


async def test_text_leaves_before_the_search_is_run() -> None:
    seen: list[bytes] = []
    sink = RecordingSink()

    class Late(Searcher):
        async def search(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            seen.append(sink.stream)
            return FACTS

    script = Script(calls(text("Let me look."), call("web_search", query="Oslo")), reply(text("Cold.")))
    built = proxy(script, Late())
    await built.post("How is Oslo?", tools=[SEARCH], stream=True, sink=sink)
    assert b"Let me look." in seen[0]
    assert b'"server_tool_use"' in seen[0]
    assert b"web_search_tool_result" not in seen[0]


async def test_a_search_that_nobody_can_run_any_more_stays_text() -> None:
    script = Script(reply(text("Hm.")))
    found = {
        "type": "web_search_result",
        "title": "Oslo",
        "url": "https://cold.test",
        "encrypted_content": encode_passage("Snow."),
    }
    content = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Oslo"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]},
    ]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    await proxy(script).post(messages=[*turns, {"role": "user", "content": "b"}])
    assert "[web_search: Oslo]" in json.dumps(script.requests[0])
    assert "Snow." in json.dumps(script.requests[0])
    assert "tool_calls" not in json.dumps(script.requests[0])


async def test_a_disconnected_client_ends_the_search() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    class Endless(Searcher):
        async def search(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return []

    class Leaving(RecordingSink):
        async def wait_disconnected(self) -> None:
            await began.wait()

    script = Script(calls(call("web_search", query="a")))
    built = proxy(script, Endless())
    await built.post(tools=[SEARCH], stream=True, sink=Leaving())
    assert ended.is_set()
    assert built.receipts[0].outcome == "cancelled"
    assert script.given[0].closed


async def test_a_client_that_disconnects_in_a_later_turn_pays_its_text() -> None:
    received, words = asyncio.Event(), "word " * 200

    class Leaving(RecordingSink):
        async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
            await super().send_events(events, is_last=is_last)
            if words.encode() in self.stream:
                received.set()

        async def wait_disconnected(self) -> None:
            await received.wait()

    script = Script(calls(call("web_search", query="a")), [frame(text(words)), STALL])
    built = proxy(script, Searcher())
    await built.post(tools=[SEARCH], stream=True, sink=Leaving())
    assert built.receipts[0].outcome == "cancelled"
    receipt = built.receipts[0]
    assert receipt.output_tokens >= len(words) / 4
    first, second = receipt.attempts
    assert second.input_tokens >= first.input_tokens > 0
    assert receipt.input_tokens == first.input_tokens + second.input_tokens


@in_virtual_time
async def test_a_slow_search_is_not_the_upstreams_silence() -> None:
    class Slow(Searcher):
        async def search(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            await asyncio.sleep(0.2)
            return FACTS

    script = Script(calls(text("Hm."), call("web_search", query="a")), reply(text("Cold.")))
    built = proxy(script, Slow(), UPSTREAM_FIRST_BYTE_TIMEOUT="0.05", UPSTREAM_IDLE_TIMEOUT="0.05")
    message = message_of(await built.post(tools=[SEARCH], stream=True))
    assert message.stop_reason == "end_turn"


async def test_a_client_is_held_while_a_search_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "FIRST_PING_SECONDS", 0.02)
    monkeypatch.setattr(watchdog, "PING_SECONDS", 0.02)
    pinged = asyncio.Event()

    class Held(RecordingSink):
        async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
            await super().send_events(events, is_last=is_last)
            if self.stream.count(b"event: ping") >= 3:
                pinged.set()

    class Slow(Searcher):
        async def search(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            await pinged.wait()
            return FACTS

    script = Script(calls(text("Hm."), call("web_search", query="a")), reply(text("Cold.")))
    message_of(await proxy(script, Slow()).post(tools=[SEARCH], stream=True, sink=Held()))


def test_a_files_bytes_are_not_searched_for_addresses() -> None:
    pdf = DocumentBlock(Source(type="base64", media_type="application/pdf", data=PAGE.url))
    assert not KnownUrls([HistoryMessage("user", [pdf])]).contains(PAGE.url)


class Tokens:
    """A source of tokens of Google Cloud that always has one."""

    async def acquire_token(self, *, max_seconds: float | None = None) -> tuple[Credential, str | None]:
        return Credential("authorization", "Bearer t", "a file"), "p"

    def forget(self) -> None:
        pass


async def test_vertex_goes_on_at_the_version_that_knows_the_token() -> None:
    script = Script(gemini({"text": "One"}, finish="CONTINUATION", token="dG8="), gemini({"text": "."}))
    built = proxy(script, VERTEX_PROJECT="p", VERTEX_LOCATION="global")
    built.services = structs.replace(
        built.services, credentials=Credentials(built.services.settings, {"google": Tokens()})
    )
    message_of(await built.post(model="vertex_ai/gemini-4-argon", stream=True))
    assert [url.partition(".com")[2] for url in script.urls] == [
        "/v1/projects/p/locations/global/publishers/google",
        "/v1beta1/projects/p/locations/global/publishers/google",
    ]
