"""Tools that the proxy runs itself: the reply to the client, and the upstream requests in between."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.cli.lint_stream import check_bytes
from anthropic_proxy.engine.exchange import watchdog
from anthropic_proxy.engine.exchange.tool_loop.runner import KnownUrls
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import DocumentBlock, Source
from anthropic_proxy.engine.messages.models import Message as HistoryMessage
from anthropic_proxy.engine.messages.server_blocks import encode_passage
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.upstream.contract import SearchResult
from anthropic_proxy.engine.wires.contract import Credential
from anthropic_proxy.errors import WebSearchFailed
from tests.support.harness import STALL, FakeResponse, RecordingSink
from tests.support.tool_loop import (
    FACTS,
    FETCH,
    MAIL,
    PAGE,
    PDF,
    REGEX,
    SEARCH,
    WEATHER,
    Fetcher,
    Script,
    Searcher,
    call,
    calls,
    deferred,
    fetched,
    folded,
    frame,
    gemini,
    kinds,
    message_of,
    proxy,
    reply,
    text,
)
from tests.support.virtual_time import in_virtual_time

WORDS = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_search_is_run_and_the_model_asked_again(stream: bool) -> None:
    script = Script(
        calls(text("Let me look."), call("web_search", query="Oslo")), reply(text("Cold."), tokens=(150, 5))
    )
    searcher = Searcher()
    sink = await proxy(script, searcher).post("How is Oslo?", tools=[SEARCH, WEATHER], stream=stream)
    message = message_of(sink)
    assert kinds(message) == ["text", "server_tool_use", "web_search_tool_result", "text"]
    used, found = message.content[1], message.content[2]
    assert used.id.startswith("srvtoolu_")
    assert (used.name, used.input, found.tool_use_id) == ("web_search", {"query": "Oslo"}, used.id)
    assert (found.content[0].url, found.content[0].title) == ("https://cold.test/oslo", "Oslo")
    assert (found.content[0].page_age, found.content[0].encrypted_content[:8]) == ("1 day", "px1.web.")
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (250, 15)
    assert message.usage.server_tool_use.model_dump() == {"web_search_requests": 1, "web_fetch_requests": 0}
    assert searcher.requests == [("Oslo", (), ())]
    assert [tool["function"]["name"] for tool in script.requests[0]["tools"]] == ["web_search", "get_weather"]
    assert script.last_words(1) == [
        ("assistant", "Let me look."),
        ("tool", "Oslo – https://cold.test/oslo (1 day)\nIt is cold in Oslo."),
    ]
    assert all(given.closed for given in script.given)


async def test_the_history_is_sent_again_with_equal_bytes() -> None:
    script = Script(
        calls(call("web_search", query="a")),
        calls(text("More."), call("web_search", 0, query="b"), call("web_search", 1, query="c")),
        reply(text("Done.")),
        reply(text("Again.")),
    )
    built = proxy(script, Searcher())
    body = folded((await built.post("Go", tools=[SEARCH], stream=True)).stream)
    turns = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": body["content"]}]
    await built.post(messages=[*turns, {"role": "user", "content": "And?"}], tools=[SEARCH], stream=True)
    before, after = script.requests[2], script.requests[3]
    assert after["messages"][: len(before["messages"])] == before["messages"]
    assert after["messages"][len(before["messages"]) :] == [
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "And?"},
    ]
    assert after["tools"] == before["tools"]


async def test_text_leaves_before_the_search_is_run() -> None:
    seen: list[bytes] = []
    sink = RecordingSink()

    class Late(Searcher):
        async def __call__(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            seen.append(sink.stream)
            return FACTS

    script = Script(calls(text("Let me look."), call("web_search", query="Oslo")), reply(text("Cold.")))
    built = proxy(script, Late())
    await built.post("How is Oslo?", tools=[SEARCH], stream=True, sink=sink)
    assert b"Let me look." in seen[0]
    assert b'"server_tool_use"' in seen[0]
    assert b"web_search_tool_result" not in seen[0]


async def test_without_a_service_the_search_is_unavailable() -> None:
    script = Script(calls(call("web_search", query="Oslo")), reply(text("I cannot look.")))
    message = message_of(await proxy(script).post(tools=[SEARCH]))
    assert kinds(message) == ["server_tool_use", "web_search_tool_result", "text"]
    assert message.content[1].content.error_code == "unavailable"
    assert message.usage.server_tool_use.web_search_requests == 0
    assert script.last_words(1)[-1] == ("tool", "[tool error] [web_search failed: unavailable]")


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        ({"query": "x"}, WebSearchFailed("429", "too_many_requests"), "too_many_requests"),
        ({"query": " "}, None, "invalid_tool_input"),
        ({"q": "x"}, None, "invalid_tool_input"),
    ],
)
async def test_a_failed_search_is_reported_in_a_block(
    arguments: dict[str, str], error: Exception | None, code: str
) -> None:
    script = Script(calls(call("web_search", **arguments)), reply(text("Sorry.")))
    message = message_of(await proxy(script, Searcher(error=error)).post(tools=[SEARCH]))
    assert message.content[1].content.error_code == code


async def test_the_clients_limits_hold() -> None:
    script = Script(calls(call("web_search", 0, query="a"), call("web_search", 1, query="b")), reply(text("Enough.")))
    searcher = Searcher()
    tool = {**SEARCH, "max_uses": 1, "allowed_domains": ["cold.test"]}
    message = message_of(await proxy(script, searcher).post(tools=[tool], stream=True))
    assert kinds(message) == [*["server_tool_use"] * 2, *["web_search_tool_result"] * 2, "text"]
    assert message.content[3].content.error_code == "max_uses_exceeded"
    assert searcher.requests == [("a", ("cold.test",), ())]
    assert message.usage.server_tool_use.web_search_requests == 1


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "web_search"}])
async def test_a_forced_search_is_forced_once(choice: dict[str, str]) -> None:
    script = Script(calls(call("web_search", query="a")), reply(text("Done.")))
    message_of(await proxy(script, Searcher()).post(tools=[SEARCH, WEATHER], tool_choice=choice))
    assert script.requests[0]["tool_choice"] != "auto"
    assert script.requests[1]["tool_choice"] == "auto"


@pytest.mark.parametrize("stream", [True, False])
async def test_the_clients_own_calls_end_the_message_after_ours_were_run(stream: bool) -> None:
    script = Script(calls(call("get_weather", 0, city="Oslo"), call("web_search", 1, query="a")), reply(text("So.")))
    built = proxy(script, Searcher())
    message = message_of(await built.post(tools=[SEARCH, WEATHER], stream=stream))
    assert kinds(message) == ["tool_use", "server_tool_use", "web_search_tool_result"]
    assert message.stop_reason == "tool_use"
    assert len(script.requests) == 1
    result = {"type": "tool_result", "tool_use_id": message.content[0].id, "content": "snow"}
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
        {"role": "user", "content": [result]},
    ]
    await built.post(messages=turns, tools=[SEARCH, WEATHER])
    assert script.last_words(1) == [
        ("assistant", ["get_weather", "web_search"]),
        ("tool", "snow"),
        ("tool", "Oslo – https://cold.test/oslo (1 day)\nIt is cold in Oslo."),
    ]


async def test_one_call_a_reply_counts_ours_too() -> None:
    script = Script(calls(call("web_search", 0, query="a"), call("get_weather", 1)), reply(text("So.")))
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    message = message_of(await proxy(script, Searcher()).post(tools=[SEARCH, WEATHER], tool_choice=choice, stream=True))
    assert kinds(message) == ["server_tool_use", "web_search_tool_result", "text"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_loop_pauses_and_goes_on_when_the_client_sends_it_back(stream: bool) -> None:
    script = Script(*[calls(call("web_search", query=str(count))) for count in range(10)], reply(text("Done.")))
    built = proxy(script, Searcher())
    message = message_of(await built.post("Go", tools=[SEARCH], stream=stream))
    assert message.stop_reason == "pause_turn"
    assert len(script.requests) == 10
    assert kinds(message) == ["server_tool_use", "web_search_tool_result"] * 10
    turns = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
    ]
    later = message_of(await built.post(messages=turns, tools=[SEARCH], stream=stream))
    assert kinds(later) == ["text"]
    assert script.requests[10]["messages"][-1]["role"] == "tool"
    assert len(script.requests[10]["messages"]) == 21


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_was_not_run_yet_is_run_first(stream: bool) -> None:
    script = Script(reply(text("Cold.")))
    owed = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Oslo"}}
    turns = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": [owed]}]
    sink = await proxy(script, Searcher()).post(
        messages=turns, tools=[SEARCH], tool_choice={"type": "any"}, stream=stream
    )
    message = message_of(sink)
    assert kinds(message) == ["web_search_tool_result", "text"]
    assert message.content[0].tool_use_id == "srvtoolu_1"
    assert [role for role, _ in script.last_words(0)] == ["assistant", "tool"]
    assert script.requests[0]["tool_choice"] == "auto"


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


@pytest.mark.parametrize("stream", [True, False])
async def test_a_later_call_is_repeated_once_and_then_fails_the_reply(stream: bool) -> None:
    script = Script(
        calls(text("Hm."), call("web_search", query="a")), FakeResponse(503, b"{}"), FakeResponse(503, b"{}")
    )
    built = proxy(script, Searcher())
    sink = await built.post(tools=[SEARCH], stream=stream)
    assert len(script.requests) == 3
    assert len(built.sleeps) == 1
    if stream:
        assert folded(sink.stream)["error"]["type"] == "api_error"
        assert check_bytes(sink.stream) == []
    else:
        assert sink.error.status == 503


async def test_a_later_call_that_is_refused_is_not_healed() -> None:
    refusal = FakeResponse(400, b'{"error":{"message":"Unsupported parameter: \'temperature\'","param":"temperature"}}')
    script = Script(calls(text("Hm."), call("web_search", query="a")), refusal)
    sink = await proxy(script, Searcher()).post(tools=[SEARCH], stream=True, temperature=0.5)
    assert folded(sink.stream)["error"]["type"] == "invalid_request_error"
    assert len(script.requests) == 2


async def test_an_answer_that_breaks_off_before_its_call_is_complete_runs_nothing() -> None:
    searcher = Searcher()
    script = Script([frame(text("Hm.")), frame(call("web_search", query="a"))])
    sink = await proxy(script, searcher).post(tools=[SEARCH], stream=True)
    assert "error" in folded(sink.stream)
    assert not searcher.requests


async def test_a_call_cut_by_the_limit_is_not_run() -> None:
    searcher = Searcher()
    begun = call("web_search")
    begun["tool_calls"][0]["function"]["arguments"] = '{"query": "Os'
    script = Script(reply(begun, finish="length"))
    message = message_of(await proxy(script, searcher).post(tools=[SEARCH], stream=True))
    assert message.stop_reason == "max_tokens"
    assert kinds(message) == ["server_tool_use"]
    assert not searcher.requests


async def test_all_calls_share_the_clients_limit_of_tokens() -> None:
    script = Script(
        calls(call("web_search", query="a"), tokens=(100, 30)), calls(call("web_search", query="b"), tokens=(100, 70))
    )
    message = message_of(await proxy(script, Searcher()).post(tools=[SEARCH], max_tokens=100, stream=True))
    assert [asked["max_completion_tokens"] for asked in script.requests] == [100, 70]
    assert message.stop_reason == "max_tokens"


async def test_a_stop_sequence_ends_the_reply_in_any_turn() -> None:
    script = Script(calls(call("web_search", query="a")), reply(text("One END two")))
    message = message_of(await proxy(script, Searcher()).post(tools=[SEARCH], stop_sequences=["END"], stream=True))
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert message.content[-1].text == "One "


async def test_a_disconnected_client_ends_the_search() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    class Endless(Searcher):
        async def __call__(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
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
    assert built.receipts[0].output_tokens >= len(words) / 4


@in_virtual_time
async def test_an_upstream_that_stalls_in_a_later_turn_is_an_error() -> None:
    script = Script(calls(text("Hm."), call("web_search", query="a")), [STALL], [STALL])
    built = proxy(script, Searcher(), UPSTREAM_FIRST_BYTE_TIMEOUT="0.05", UPSTREAM_IDLE_TIMEOUT="0.05")
    sink = await built.post(tools=[SEARCH], stream=True)
    assert folded(sink.stream)["error"]["type"] == "timeout_error"


@in_virtual_time
async def test_a_slow_search_is_not_the_upstreams_silence() -> None:
    class Slow(Searcher):
        async def __call__(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
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
        async def __call__(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            await pinged.wait()
            return FACTS

    script = Script(calls(text("Hm."), call("web_search", query="a")), reply(text("Cold.")))
    message_of(await proxy(script, Slow()).post(tools=[SEARCH], stream=True, sink=Held()))


async def test_a_request_without_such_tools_passes_as_it_is() -> None:
    script = Script(calls(call("web_search", query="a")))
    client_tool = {"name": "web_search", "input_schema": {"type": "object"}}
    message = message_of(await proxy(script, Searcher()).post(tools=[client_tool], stream=True))
    assert kinds(message) == ["tool_use"]


async def test_a_page_is_fetched_and_shown_to_the_model() -> None:
    message, _, script = await fetched(PAGE.url, f"Read {PAGE.url}, please.", {**FETCH, "citations": {"enabled": True}})
    assert kinds(message) == ["server_tool_use", "web_fetch_tool_result", "text"]
    found = message.content[1].content
    assert (found.type, found.url, found.content.title) == ("web_fetch_result", PAGE.url, "A")
    assert found.content.source.data == PAGE.text
    assert found.content.citations.enabled
    assert found.retrieved_at
    assert message.usage.server_tool_use.web_fetch_requests == 1
    role, words = script.last_words(1)[-1]
    assert role == "tool"
    assert words.startswith("https://a.test/page\n\nA\n\nWords Words")


async def test_a_pdf_is_fetched_whole() -> None:
    message, _, script = await fetched(PDF.url, f"Read {PDF.url}")
    source = message.content[1].content.content.source
    assert (source.type, source.media_type) == ("base64", "application/pdf")
    assert source.data in json.dumps(script.requests[1])


async def test_a_page_is_cut_to_what_the_client_allows() -> None:
    message, _, _ = await fetched(PAGE.url, PAGE.url, {**FETCH, "max_content_tokens": 10})
    assert len(message.content[1].content.content.source.data) == 40


async def test_without_the_setting_a_fetch_is_not_offered() -> None:
    script = Script(reply(text("No.")))
    message_of(await proxy(script).post(tools=[FETCH, WEATHER]))
    assert [tool["function"]["name"] for tool in script.requests[0]["tools"]] == ["get_weather"]


def result(content: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": content}]},
    ]


@pytest.mark.parametrize(
    "content",
    [
        "See https://a.test/page.",
        "(a.test/page)",
        "http://www.A.test/page/ or so",
        result("at <https://a.test/page>"),
        result([{"type": "text", "text": "[A](https://a.test/page)"}]),
        [
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": PAGE.url}}
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": PAGE.url}]}}
                ],
            }
        ],
    ],
)
async def test_an_address_that_stands_in_the_conversation_may_be_fetched(content: Any) -> None:
    _, fetcher, _ = await fetched(PAGE.url, content)
    assert fetcher.requests == [PAGE.url]


@pytest.mark.parametrize(
    ("url", "content"),
    [
        (PAGE.url, "Look at a.test"),
        ("https://a.test/", f"Read {PAGE.url}"),
        ("https://a.test/pag", f"Read {PAGE.url}"),
        (f"{PAGE.url}?secret=1", f"Read {PAGE.url}"),
        ("https://evil.test/https://a.test/page", f"Read {PAGE.url}"),
        ("https://test/page", f"Read {PAGE.url}"),
        ("file:///etc/passwd", "Read file:///etc/passwd"),
        ("https://[oops", "Read https://[oops"),
        (PAGE.url, [{"role": "user", "content": "a"}, {"role": "assistant", "content": PAGE.url}]),
    ],
)
async def test_an_address_that_the_model_made_up_is_not_fetched(url: str, content: Any) -> None:
    content = [*content, {"role": "user", "content": "b"}] if isinstance(content, list) else content
    message, fetcher, _ = await fetched(url, content)
    assert not fetcher.requests
    assert message.content[1].content.error_code == "url_not_in_prior_context"


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("https://a.test/caf%C3%A9", "https://a.test/café"),
        ("https://a.test/caf%c3%a9", "https://a.test/cafe\u0301"),
        ("https://a.test/café", "https://a.test/caf%C3%A9"),
        ("https://a.test/x_%28y%29?q=%7e", "see (https://a.test/x_(y)?q=~)"),
        ("https://a.test/a%2fb", "https://a.test/a%2Fb"),
        ("https://xn--bcher-kva.test/a", "https://bücher.test/a"),
        ("https://bücher.test/a", "https://xn--bcher-kva.test/a"),
        ("https://a.test/Straße", "HTTPS://WWW.A.TEST/Straße。"),
        ("http://a.test/a", "https://a.test/a"),
    ],
)
def test_an_address_is_known_however_it_is_encoded(url: str, content: str) -> None:
    assert KnownUrls([HistoryMessage("user", content)]).contains(url)


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("https://a.test/a/b", "https://a.test/a%2Fb"),
        ("https://a.test/a", "https://a.test/a%20b"),
        ("https://a.test/a", "https://a.test/a%C2%A0b"),
        ("https://a.test/a?b", "https://a.test/a%3Fb"),
        ("https://a.test/A", "https://a.test/a"),
        ("https://a.test/%ff", "https://a.test/%fe"),
        ("https://www.a.test/x", "me@a.test/x"),
    ],
)
def test_a_similar_address_is_not_known(url: str, content: str) -> None:
    assert not KnownUrls([HistoryMessage("user", content)]).contains(url)


def test_a_files_bytes_are_not_searched_for_addresses() -> None:
    pdf = DocumentBlock(Source(type="base64", media_type="application/pdf", data=PAGE.url))
    assert not KnownUrls([HistoryMessage("user", [pdf])]).contains(PAGE.url)


async def test_what_a_search_found_may_be_fetched() -> None:
    page = structs.replace(PAGE, url=FACTS[0].url)
    script = Script(calls(call("web_search", query="a")), calls(call("web_fetch", url=page.url)), reply(text("So.")))
    fetcher = Fetcher(page)
    message = message_of(await proxy(script, Searcher(), fetcher).post(tools=[SEARCH, FETCH], stream=True))
    assert fetcher.requests == [page.url]
    assert message.usage.server_tool_use.model_dump() == {"web_search_requests": 1, "web_fetch_requests": 1}


def offered(asked: Any) -> list[str]:
    return [tool["function"]["name"] for tool in asked["tools"]]


@pytest.mark.parametrize(
    ("tool", "asked"),
    [(REGEX, {"pattern": "(?i)LETTER"}), (REGEX, {"pattern": "send_.*"}), (WORDS, {"query": "send letters to people"})],
)
async def test_deferred_tools_are_found_and_stay_offered(tool: dict[str, str], asked: dict[str, str]) -> None:
    script = Script(calls(call(tool["name"], **asked)), calls(call("send_mail")), reply(text("Sent.")))
    built = proxy(script)
    tools = [tool, *deferred(WEATHER, MAIL)]
    message = message_of(await built.post("Go", tools=tools, stream=True))
    assert kinds(message) == ["server_tool_use", "tool_search_tool_result", "tool_use"]
    assert [one.tool_name for one in message.content[1].content.tool_references] == ["send_mail"]
    assert [offered(one) for one in script.requests] == [[tool["name"]], [tool["name"], "send_mail"]]
    assert script.requests[1]["tools"][:1] == script.requests[0]["tools"]
    assert script.last_words(1)[-1] == ("tool", "Tool available: send_mail")
    turns = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": message.content[2].id, "content": "ok"}]},
    ]
    message_of(await built.post(messages=turns, tools=tools, stream=True))
    assert script.requests[2]["tools"] == script.requests[1]["tools"]


async def test_what_the_clients_own_search_found_is_offered_too() -> None:
    script = Script(reply(text("Ok.")))
    turns = result([{"type": "tool_reference", "tool_name": "send_mail"}])
    await proxy(script).post(messages=turns, tools=[REGEX, *deferred(WEATHER, MAIL)])
    assert offered(script.requests[0]) == [REGEX["name"], "send_mail"]


async def test_without_a_search_deferred_tools_are_offered_at_once() -> None:
    script = Script(reply(text("Ok.")))
    await proxy(script).post(tools=deferred(WEATHER, MAIL))
    assert offered(script.requests[0]) == ["get_weather", "send_mail"]


@pytest.mark.parametrize(
    ("pattern", "code", "words"),
    [
        ("(", "invalid_tool_input", "no regular expression"),
        ("x" * 201, "invalid_tool_input", "at most 200"),
        ("", "invalid_tool_input", "a text is needed"),
        ("(a+)+$", "execution_time_exceeded", "too long"),
    ],
)
async def test_a_pattern_that_cannot_be_searched_is_reported(pattern: str, code: str, words: str) -> None:
    script = Script(calls(call(REGEX["name"], pattern=pattern)), reply(text("Hm.")))
    slow = {**MAIL, "description": "a" * 100 + "!"}
    message = message_of(await proxy(script).post(tools=[REGEX, *deferred(slow)], stream=True))
    assert message.content[1].content.error_code == code
    assert words in message.content[1].content.error_message
    assert words in str(script.last_words(1)[-1])


@pytest.mark.parametrize("stream", [True, False])
async def test_gemini_gets_its_signature_back_with_a_search_of_ours(stream: bool) -> None:
    search = {"functionCall": {"name": "web_search", "args": {"query": "a"}}, "thoughtSignature": "c2ln"}
    whole = [gemini({"text": "Hm.", "thought": True}, search), gemini({"text": "Cold."})]
    script = Script(*(whole if stream else [[b"".join(one).removeprefix(b"data: ")] for one in whole]))
    built = proxy(script, Searcher(), GEMINI_API_KEY="k")
    message = message_of(await built.post(model="gemini/gemini-2.5-pro", tools=[SEARCH, WEATHER], stream=stream))
    assert kinds(message) == ["thinking", "server_tool_use", "web_search_tool_result", "text"]
    made = script.requests[1]["contents"][1]["parts"][0]
    assert made["functionCall"]["name"] == "web_search"
    assert made["thoughtSignature"] == "c2ln"


ARGON = "gemini/gemini-4-argon"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_in_pieces_is_one_text(stream: bool) -> None:
    script = Script(
        gemini({"text": "One, "}, finish="CONTINUATION", token="dG8=", tokens=(10, 60)),
        gemini({"text": "two, "}, finish="CONTINUATION", token="dHc=", tokens=(70, 20)),
        gemini({"text": "three."}, tokens=(90, 5)),
    )
    built = proxy(script, GEMINI_API_KEY="k")
    message = message_of(await built.post(model=ARGON, stream=stream))
    assert [block.text for block in message.content] == ["One, two, three."]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (90, 85)
    (receipt,) = built.receipts
    assert (receipt.input_tokens, receipt.output_tokens) == (170, 85)
    assert [(one.input_tokens, one.output_tokens) for one in receipt.attempts] == [(10, 60), (70, 20), (90, 5)]
    assert [asked.pop("continuationToken", None) for asked in script.requests] == [None, "dG8=", "dHc="]
    assert script.requests[0] == script.requests[1] == script.requests[2]


async def test_a_reply_in_pieces_ends_at_the_clients_limit() -> None:
    script = Script(gemini({"text": "One"}, finish="CONTINUATION", token="dG8=", tokens=(10, 100)))
    message = message_of(await proxy(script, GEMINI_API_KEY="k").post(model=ARGON, max_tokens=100, stream=True))
    assert message.stop_reason == "max_tokens"
    assert len(script.requests) == 1


async def test_a_stop_sequence_is_found_across_pieces() -> None:
    script = Script(
        gemini({"text": "One EN"}, finish="CONTINUATION", token="dG8="),
        gemini({"text": "D two"}),
        gemini({"text": "x"}),
    )
    built = proxy(script, GEMINI_API_KEY="k")
    message = message_of(await built.post(model=ARGON, stop_sequences=["END"], stream=True))
    assert message.content[0].text == "One "
    assert message.stop_sequence == "END"


async def test_calls_in_several_pieces_are_all_there() -> None:
    call_frame = {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}}}
    script = Script(gemini(call_frame, finish="CONTINUATION", token="dG8="), gemini(call_frame))
    built = proxy(script, GEMINI_API_KEY="k")
    message = message_of(await built.post(model=ARGON, tools=[WEATHER], stream=True))
    assert kinds(message) == ["tool_use", "tool_use"]
    assert len({block.id for block in message.content}) == 2
    assert message.stop_reason == "tool_use"


class Tokens:
    """A source of tokens of Google Cloud that always has one."""

    async def acquire_token(self) -> tuple[Credential, str | None]:
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
