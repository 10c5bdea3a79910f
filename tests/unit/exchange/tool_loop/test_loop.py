"""Tools that the proxy runs, together with strict, checked, continued, oversized and deeply nested replies."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.tool_loop.runner import MAX_CONCURRENT_CALLS, MAX_TOOL_CALLS
from anthropic_proxy.engine.routing.router import RoutingQuery, build_route
from anthropic_proxy.engine.upstream.contract import SearchResult
from anthropic_proxy.errors import UpstreamUnreachable
from anthropic_proxy.plugins import Client
from tests.support.harness import FakeResponse, RecordingSink, new_client_request
from tests.support.platform_marks import needs_timer_signal
from tests.support.reply_schemas import DEEPSEEK, FORMAT, GOOD, WRONG
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
    frame,
    gemini,
    kinds,
    message_of,
    proxy,
    reply,
    text,
)


async def test_a_storm_of_calls_is_run_a_few_at_a_time_and_cut() -> None:
    running: list[int] = []

    class Busy(Searcher):
        active_calls = 0

        async def __call__(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            self.active_calls += 1
            running.append(self.active_calls)
            await asyncio.sleep(0)
            self.active_calls -= 1
            return FACTS

    script = Script(calls(*[call("web_search", at, query="a") for at in range(MAX_TOOL_CALLS + 5)]), reply(text("So.")))
    message = message_of(await proxy(script, Busy()).post(tools=[SEARCH]))
    results = [block.content for block in message.content if block.type == "web_search_tool_result"]
    assert [isinstance(one, list) for one in results] == [True] * MAX_TOOL_CALLS + [False] * 5
    assert {one.error_code for one in results[MAX_TOOL_CALLS:]} == {"too_many_requests"}
    assert (len(running), max(running)) == (MAX_TOOL_CALLS, MAX_CONCURRENT_CALLS)
    assert message.usage.server_tool_use.web_search_requests == MAX_TOOL_CALLS


@needs_timer_signal
async def test_all_patterns_of_a_step_share_one_process_and_a_bad_one_does_not_affect_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Any] = []
    start = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", lambda *a, **k: (started.append(a), start(*a, **k))[1])
    patterns = ["send", "(a+)+$", "(", "x" * 201, "weather"]
    script = Script(calls(*[call(REGEX["name"], at, pattern=one) for at, one in enumerate(patterns)]), reply(text(".")))
    slow = {**MAIL, "description": "a" * 100 + "!"}
    message = message_of(await proxy(script).post(tools=[REGEX, *deferred(slow, WEATHER)]))
    found = [block.content for block in message.content if block.type == "tool_search_tool_result"]
    codes = [getattr(one, "error_code", "") for one in found]
    assert codes == ["", "execution_time_exceeded", "invalid_tool_input", "invalid_tool_input", ""]
    assert [one.tool_references[0].tool_name for one in (found[0], found[4])] == ["send_mail", "get_weather"]
    assert len(started) == 1


async def test_a_search_of_tools_needs_a_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(11, "no more processes")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    script = Script(calls(call(REGEX["name"], pattern="a")), reply(text(".")))
    message = message_of(await proxy(script).post(tools=[REGEX, *deferred(MAIL)]))
    assert message.content[1].content.error_code == "unavailable"


STRICT = {"FIDELITY": "strict"}
CHAT = {**DEEPSEEK, "BIG_MODEL": "openai/deepseek-chat"}
"""A model without pictures, PDFs, schemas and tools of its own."""


@pytest.mark.parametrize("stream", [True, False])
async def test_strict_judges_only_what_the_client_asked(stream: bool) -> None:
    script = Script(calls(text("Let me see."), call("web_fetch", url=PDF.url)), reply(text("So.")))
    built = proxy(script, fetch=Fetcher(PDF), **CHAT, **STRICT)
    sink = await built.post(f"Read {PDF.url}", tools=[FETCH], stream=stream, max_tokens=100)
    message = message_of(sink)
    assert kinds(message) == ["text", "server_tool_use", "web_fetch_tool_result", "text"]
    assert message.content[2].content.error_code == "unsupported_content_type"


async def test_strict_refuses_citations_of_a_fetch_before_anything_is_sent() -> None:
    script = Script()
    cited = {**FETCH, "citations": {"enabled": True}}
    sink = await proxy(script, fetch=Fetcher(), **STRICT).post(tools=[cited], max_tokens=100, model="claude-sonnet-4-5")
    assert sink.error.message == (
        "openai/gpt-4.1 would lose tools.web_fetch.citations: no other provider is known to cite fetched "
        "pages. FIDELITY=strict rejects this. Remove it from the request, choose another "
        "backend, or allow it with FIDELITY=best-effort (FIDELITY_<TIER> for one tier)."
    )
    assert not script.requests


async def test_strict_lets_a_later_call_pass_that_loses_what_was_found() -> None:
    odd = {**MAIL, "input_schema": {"type": "object", "properties": {}, "x": [1]}, "defer_loading": True}
    script = Script(calls(call(REGEX["name"], pattern="send")), reply(text("Done.")))
    message = message_of(await proxy(script, **STRICT).post(tools=[REGEX, odd], max_tokens=100, stream=True))
    assert message.stop_reason == "end_turn"


async def test_a_reply_of_many_calls_has_each_note_once() -> None:
    script = Script(*[calls(call("web_search", query="a")) for _ in range(9)], reply(text("So.")))
    built = proxy(script, Searcher())
    message_of(await built.post(model="gpt-4.1", tools=[SEARCH]))
    fields = Counter(note.field for note in built.receipts[0].fidelity.notes)
    assert fields == {"tools.web_search": 1, "max_tokens": 1}


async def test_citations_of_a_fetch_are_noted_once() -> None:
    _, _, script = await fetched(PAGE.url, PAGE.url, {**FETCH, "citations": {"enabled": True}})
    assert len(script.requests) == 2
    script = Script(calls(call("web_fetch", url=PAGE.url)), reply(text("So.")))
    built = proxy(script, fetch=Fetcher(PAGE))
    message_of(await built.post(PAGE.url, tools=[{**FETCH, "citations": {"enabled": True}}], max_tokens=100))
    dropped = [note.field for note in built.receipts[0].fidelity.notes if note.handling == "dropped"]
    assert dropped == ["tools.web_fetch.citations"]


async def test_a_breaker_does_not_end_a_reply_that_has_begun() -> None:
    class Tripping(Searcher):
        async def __call__(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            for target in built.upstreams:
                for _ in range(50):
                    built.services.circuit_breakers.record_failure(target, UpstreamUnreachable("gone"))
            return FACTS

    script = Script(calls(text("Hm."), call("web_search", query="a")), reply(text("Cold.")))
    built: Any = proxy(script, Tripping(), BIG_MODEL="openai/gpt-4.1", FALLBACK_SONNET="openai/gpt-4o")
    route = build_route(RoutingQuery("claude-sonnet-4-5"), built.services.settings, built.services.catalog)
    built.upstreams = [target.upstream for target in route.targets]
    message = message_of(await built.post(tools=[SEARCH], stream=True))
    assert message.content[-1].text == "Cold."


@pytest.mark.parametrize("stream", [True, False])
async def test_what_ran_ahead_reaches_the_client_though_another_provider_answers(stream: bool) -> None:
    native = gemini({"text": "Cold."})
    native_reply = native if stream else [native[0].removeprefix(b"data: ")]
    script = Script(FakeResponse(503, b"{}"), FakeResponse(503, b"{}"), native_reply)
    owed = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Oslo"}}
    turns = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": [owed]}]
    settings = {**CHAT, "GEMINI_API_KEY": "k", "FALLBACK_SONNET": "gemini/gemini-3-pro-preview"}
    searcher = Searcher()
    message = message_of(await proxy(script, searcher, **settings).post(messages=turns, tools=[SEARCH], stream=stream))
    assert kinds(message) == ["web_search_tool_result", "text"]
    assert message.content[0].tool_use_id == "srvtoolu_1"
    assert message.usage.server_tool_use.web_search_requests == 1
    assert len(searcher.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_checked_reply_keeps_its_searches_and_is_asked_for_again_with_them(stream: bool) -> None:
    script = Script(
        calls(text("Let me look."), call("web_search", query="Oslo"), tokens=(100, 30)),
        reply(text(WRONG), tokens=(150, 20)),
        reply(text(GOOD), tokens=(200, 15)),
    )
    searcher = Searcher()
    built = proxy(script, searcher, **CHAT)
    message = message_of(await built.post(tools=[SEARCH], stream=stream, max_tokens=100, **FORMAT))
    assert kinds(message) == ["server_tool_use", "web_search_tool_result", "text"]
    assert message.content[-1].text == GOOD
    assert message.content[1].tool_use_id == message.content[0].id
    assert message.usage.server_tool_use.web_search_requests == 1
    assert (message.usage.input_tokens, message.usage.output_tokens) == (300, 65), "without the rejected reply's input"
    (receipt,) = built.receipts
    assert (receipt.input_tokens, receipt.output_tokens) == (450, 65)
    assert [(one.input_tokens, one.output_tokens) for one in receipt.attempts] == [(100, 30), (150, 20), (200, 15)]
    assert len(searcher.requests) == 1
    assert [asked["max_tokens"] for asked in script.requests] == [100, 70, 50]
    roles = [one["role"] for one in script.requests[2]["messages"] if one["role"] != "system"]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert script.requests[2]["messages"][: len(script.requests[1]["messages"])] == script.requests[1]["messages"]
    assert script.requests[2]["messages"][-2]["content"] == WRONG


async def test_a_checked_reply_searches_again_before_its_second_answer() -> None:
    script = Script(
        calls(call("web_search", query="a")),
        reply(text("Nothing.")),
        calls(call("web_search", query="b")),
        reply(text(GOOD)),
    )
    message = message_of(await proxy(script, Searcher(), **CHAT).post(tools=[SEARCH], stream=True, **FORMAT))
    assert kinds(message) == [*["server_tool_use", "web_search_tool_result"] * 2, "text"]
    assert message.content[-1].text == GOOD
    assert message.usage.server_tool_use.web_search_requests == 2


async def test_a_checked_reply_that_is_cut_off_is_passed_in_order() -> None:
    script = Script(calls(text("Let me look."), call("web_search", query="a")), reply(text('{"ti'), finish="length"))
    message = message_of(await proxy(script, Searcher(), **CHAT).post(tools=[SEARCH], stream=True, **FORMAT))
    assert kinds(message) == ["text", "server_tool_use", "web_search_tool_result", "text"]
    assert message.stop_reason == "max_tokens"


async def test_a_wrong_reply_without_tokens_for_another_ends_at_the_limit() -> None:
    script = Script(reply(text(WRONG), tokens=(10, 100)))
    message = message_of(await proxy(script, **CHAT).post(stream=True, max_tokens=100, **FORMAT))
    assert (message.stop_reason, message.content[0].text) == ("max_tokens", WRONG)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


RESULT = '{"type":"web_fetch_tool_result","tool_use_id":"srvtoolu_1","content":%s}'
CALL = '{"type":"server_tool_use","id":"srvtoolu_1","name":"web_fetch","input":{"a":%s}}'
FOREIGN = '{"type":"of_tomorrow","content":%s}'
SCHEMA = '{"name":"x","defer_loading":true,"input_schema":{"type":"object","properties":{"a":%s}}}'
CITED = '{"type":"web_fetch_20250910","name":"web_fetch","citations":%s}'


async def ask_raw(tools: str, blocks: str) -> RecordingSink:
    assistant_message = f'{{"role":"assistant","content":[{blocks}]}}'
    turns = f'[{{"role":"user","content":"a"}},{assistant_message},{{"role":"user","content":"b"}}]'
    body = f'{{"model":"gpt-4.1","max_tokens":10,"tools":[{tools}],"messages":{turns}}}'
    script = Script(calls(call("web_fetch", url="https://a.test/")), reply(text(".")))
    sink, built = RecordingSink(), proxy(script, fetch=Fetcher())
    inbound = new_client_request(body.encode(), client=Client(credential_forwardable=True))
    await Exchange(built.services, inbound, sink).run()
    return sink


@pytest.mark.parametrize("depth", [205, 330, 900, 985, 1500, 20_000])
@pytest.mark.parametrize("place", [RESULT, CALL, FOREIGN, SCHEMA, CITED])
async def test_what_nests_too_deeply_is_refused_in_words(place: str, depth: int) -> None:
    deep = place % nested(depth)
    is_tool = place in (SCHEMA, CITED)
    sink = await ask_raw(deep if is_tool else json.dumps(FETCH), '{"type":"text","text":"a"}' if is_tool else deep)
    assert (sink.error.status, sink.error.error_type) == (400, "invalid_request_error")
    assert "at most 200 levels" in sink.error.message


@pytest.mark.parametrize("place", [RESULT, CALL, FOREIGN])
async def test_nesting_within_the_limit_is_accepted(place: str) -> None:
    sink = await ask_raw(json.dumps(FETCH), place % nested(195) + ',{"type":"text","text":"a"}')
    assert sink.error is None


async def test_a_call_of_ours_that_nests_too_deeply_is_answered_as_wrong() -> None:
    deep = call("web_search")
    deep["tool_calls"][0]["function"]["arguments"] = f'{{"query":{nested(500)}}}'
    script = Script(calls(deep), reply(text("So.")))
    message = message_of(await proxy(script, Searcher()).post(tools=[SEARCH], stream=True))
    assert message.content[1].content.error_code == "invalid_tool_input"


async def test_a_call_after_a_search_of_the_proxy_is_repeated() -> None:
    broken = [frame({"reasoning_content": "Hm."}), *reply(finish="malformed_function_call")]
    script = Script(calls(call("web_search", query="Oslo")), broken, reply(text("Cold."), tokens=(150, 5)))
    built = proxy(script, Searcher())
    message = message_of(await built.post(tools=[SEARCH], stream=True))
    assert [block.type for block in message.content] == [
        "server_tool_use",
        "web_search_tool_result",
        "thinking",
        "text",
    ]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (250, 25)
    (receipt,) = built.receipts
    assert (receipt.input_tokens, receipt.output_tokens) == (350, 25)
    assert [(one.input_tokens, one.output_tokens) for one in receipt.attempts] == [(100, 10), (100, 10), (150, 5)]
    assert receipt.failed_attempts == ["openai 502"]
