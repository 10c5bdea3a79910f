"""Tools that the proxy runs, together with strict, checked, continued, oversized and deeply nested replies."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.documents.reader import DocumentReader
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.tool_loop.runner import MAX_CONCURRENT_CALLS, MAX_TOOL_CALLS
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.upstream.contract import FetchedPage, SearchResult
from anthropic_proxy.errors import UpstreamUnreachable, WebSearchFailed
from anthropic_proxy.plugins import Client
from tests.support.foreign_marks import MARKS, hide
from tests.support.harness import RecordingSink, Room, new_client_request
from tests.support.pdf import PICTURE, write_encrypted_pdf, write_pdf
from tests.support.platform_marks import needs_timer_signal
from tests.support.tool_loop import (
    FACTS,
    FETCH,
    MAIL,
    REGEX,
    SEARCH,
    WEATHER,
    Fetcher,
    Script,
    Searcher,
    call,
    calls,
    deferred,
    frame,
    message_of,
    proxy,
    reply,
    text,
)
from tests.support.virtual_time import in_virtual_time


async def test_a_storm_of_calls_is_run_a_few_at_a_time_and_cut() -> None:
    running: list[int] = []

    class Busy(Searcher):
        active_calls = 0

        async def search(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
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


@in_virtual_time
async def test_a_search_that_waits_too_long_for_those_of_others_says_so() -> None:
    asked = proxy(Script(calls(call(REGEX["name"], pattern="a")), reply(text("."))))
    searches = asked.services.pattern_searches
    async with searches.hold("key ann"):
        message = message_of(await asked.post(tools=[REGEX, *deferred(MAIL)]))
    assert message.content[1].content.error_code == "too_many_requests"
    assert message.content[1].content.error_message == (
        "Other requests need the processes that search by patterns, and 0 wait. Try again in a moment."
    )


WORDS = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}


async def test_a_tool_that_the_proxy_has_found_changes_nothing_before_it() -> None:
    """The beginning of the prompt stays as it was, so that it is read from the provider's cache."""
    script = Script(
        calls(call(WORDS["name"], query="weather")),
        calls(call("CallLoadedTool", 1, name="get_weather", arguments={"city": "Oslo"})),
        reply(text("Cold.")),
    )
    tools = [WORDS, *deferred(MAIL, WEATHER)]
    built = proxy(script)
    question = {"role": "user", "content": "Is it cold in Oslo?"}
    message = message_of(await built.post(tools=tools, messages=[question]))
    assert [block.type for block in message.content] == ["server_tool_use", "tool_search_tool_result", "tool_use"]
    found = message.content[-1]
    assert (found.name, found.input, message.stop_reason) == ("get_weather", {"city": "Oslo"}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": found.id, "content": "3 degrees"}
    content = [block.model_dump(exclude_none=True) for block in message.content]
    messages = [question, {"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    assert message_of(await built.post(tools=tools, messages=messages)).content[0].text == "Cold."
    first, second, third = script.requests
    assert first["tools"] == second["tools"] == third["tools"]
    assert [tool["function"]["name"] for tool in first["tools"]] == [WORDS["name"], "CallLoadedTool"]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert third["messages"][: len(second["messages"])] == second["messages"]
    definition = second["messages"][-1]["content"]
    assert "Tool loaded: get_weather. Call it by CallLoadedTool, with this name." in str(definition)
    assert "Sends a letter." not in str(definition)


async def test_a_deferred_tool_that_no_search_has_found_is_called_by_its_name() -> None:
    """The model can know it from a text. The client has never declared the constant tool."""
    script = Script(calls(call("CallLoadedTool", name="send_mail", arguments={"to": "Ann"})), reply(text("Sent.")))
    tools = [WORDS, *deferred(MAIL, WEATHER)]
    built = proxy(script)
    question = {"role": "user", "content": "Write to Ann by send_mail."}
    message = message_of(await built.post(tools=tools, messages=[question]))
    (called,) = message.content
    assert (called.type, called.name, called.input) == ("tool_use", "send_mail", {"to": "Ann"})
    result = {"type": "tool_result", "tool_use_id": called.id, "content": "ok"}
    asked = [call.model_dump(exclude_none=True) for call in message.content]
    messages = [question, {"role": "assistant", "content": asked}, {"role": "user", "content": [result]}]
    assert message_of(await built.post(tools=tools, messages=messages)).content[0].text == "Sent."
    names = [[tool["function"]["name"] for tool in request["tools"]] for request in script.requests]
    assert names == [[WORDS["name"], "CallLoadedTool"], [WORDS["name"], "CallLoadedTool", "send_mail"]]


async def test_a_breaker_does_not_end_a_reply_that_has_begun() -> None:
    class Tripping(Searcher):
        async def search(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            for target in built.upstreams:
                for _ in range(50):
                    built.services.circuit_breakers.record_failure(target, UpstreamUnreachable("gone"), "local")
            return FACTS

    script = Script(calls(text("Hm."), call("web_search", query="a")), reply(text("Cold.")))
    built: Any = proxy(script, Tripping(), BIG_MODEL="openai/gpt-4.1", FALLBACK_SONNET="openai/gpt-4o")
    route = build_plan(RoutingQuery("claude-sonnet-4-5"), built.services.settings, built.services.catalog)
    built.upstreams = [target.upstream for target in route.targets]
    message = message_of(await built.post(tools=[SEARCH], stream=True))
    assert message.content[-1].text == "Cold."


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
    message = message_of(await built.post(tools=[SEARCH], stream=True, thinking={"type": "adaptive"}))
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
    assert receipt.failed_attempts == ["openai unreadable reply"]


async def test_title_and_text_of_a_page_share_the_limit_of_its_tokens() -> None:
    page = FetchedPage(url="https://a.test/", media_type="text/html", title="t" * 9_000, text="x" * 9_000)
    script = Script(calls(call("web_fetch", url=page.url)), reply(text(".")))
    tool = {"type": "web_fetch_20250910", "name": "web_fetch", "max_content_tokens": 200}
    sink = await proxy(script, fetch=Fetcher(page)).post(
        messages=[{"role": "user", "content": f"Read {page.url}"}], tools=[tool], stream=False
    )
    document = message_of(sink).content[1].content.content
    assert (len(document.title), len(document.source.data)) == (500, 300)


async def test_a_fetched_page_has_a_bound_of_its_own_and_one_of_the_memory() -> None:
    page = FetchedPage(url="https://a.test/", media_type="text/html", text="x" * 1_000_000)
    tool = {"type": "web_fetch_20250910", "name": "web_fetch", "max_content_tokens": 1_000_000_000}
    for room, expected in ((500_000, [400_000, "too_many_requests"]), (800_000, [400_000, 400_000])):
        twice = [calls(call("web_fetch", url=page.url)) for _ in range(2)]
        sink = await proxy(Script(*twice, reply(text("."))), fetch=Fetcher(page)).post(
            messages=[{"role": "user", "content": f"Read {page.url}"}], tools=[tool], stream=False, memory=Room(room)
        )
        results = [block.content for block in message_of(sink).content if block.type == "web_fetch_tool_result"]
        found = [len(one.content.source.data) if one.type == "web_fetch_result" else one.error_code for one in results]
        assert found == expected


FETCHES = {"type": "web_fetch_20250910", "name": "web_fetch"}
TEXT_MODEL = {"GROQ_API_KEY": "gsk_0123456789abcdef", "BIG_MODEL": "groq/openai/gpt-oss-120b"}


class NotInstalled(DocumentReader):
    is_installed = False


async def fetch_pdf(body: bytes, *, installed: bool = True, **fields: Any) -> tuple[Any, str]:
    """Return the content of a result of a model of text that fetches a PDF, and what the model then reads."""
    page = FetchedPage(url="https://a.test/deed.pdf", media_type="application/pdf", body=body)
    script = Script(calls(call("web_fetch", url=page.url)), reply(text(".")))
    built = proxy(script, fetch=Fetcher(page), **TEXT_MODEL)
    built.services = structs.replace(built.services, documents=DocumentReader() if installed else NotInstalled())
    messages = [{"role": "user", "content": f"Read {page.url}"}]
    sink = await built.post(messages=messages, tools=[FETCHES | fields], stream=False)
    notes = [note.reason for note in built.receipts[-1].notes if note.field == "messages.document"]
    content = message_of(sink).content[1].content
    is_read = content.type == "web_fetch_result"
    assert notes == ["the fetched PDF is sent as text, page by page"] * is_read
    return content, script.requests[-1]["messages"][-1]["content"]


async def test_a_model_of_text_reads_the_pages_of_a_fetched_pdf() -> None:
    found, read = await fetch_pdf(write_pdf("Deed of sale", "Signed by Ada"))
    pages = '<page number="1">\nDeed of sale\n</page>\n<page number="2">\nSigned by Ada\n</page>'
    source = found.content.source
    assert (source.type, source.media_type, source.data) == ("text", "text/plain", pages)
    assert read.endswith(pages)


async def test_the_pages_of_a_fetched_pdf_keep_the_limit_of_its_tokens() -> None:
    found, _ = await fetch_pdf(write_pdf("Deed of sale " * 100), max_content_tokens=20)
    assert len(found.content.source.data) == 80


@pytest.mark.parametrize(
    ("body", "installed"),
    [(b"%PDF damaged", True), (write_encrypted_pdf(), True), (write_pdf(PICTURE), True), (write_pdf("Deed"), False)],
    ids=["damaged", "encrypted", "scanned", "not installed"],
)
async def test_a_fetched_pdf_without_a_text_is_an_error_for_a_model_of_text(body: bytes, installed: bool) -> None:
    found, read = await fetch_pdf(body, installed=installed)
    assert found.error_code == "unsupported_content_type"
    assert read == "[tool error] [web_fetch failed: unsupported_content_type]"


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
async def test_a_fetched_page_with_a_mark_of_the_proxy_is_read_as_it_is(mark: str) -> None:
    page = FetchedPage(url="https://a.test/", media_type="text/html", title=f"So: {mark}.", text=f"So: {mark}.")
    script = Script(calls(call("web_fetch", url=page.url)), reply(text(f"So: {mark}.")))
    messages = [{"role": "user", "content": f"Read {page.url}"}]
    message = message_of(
        await proxy(script, fetch=Fetcher(page)).post(messages=messages, tools=[FETCHES], stream=False)
    )
    assert script.requests[-1]["messages"][-1]["content"].count(f"So: {mark}.") == 2
    assert (message.content[-1].text, message.content[-1].citations) == (f"So: {mark}.", None)


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
async def test_a_fetched_pdf_cannot_end_the_mark_of_its_page(mark: str) -> None:
    _, read = await fetch_pdf(write_pdf(f"So: {mark}."))
    assert read.endswith(f'<page number="1">\nSo: {hide(mark)}.\n</page>')


async def test_a_long_address_is_not_searched_in_the_conversation() -> None:
    url = "https://a.test/" + "a" * 300
    script, fetcher = Script(calls(call("web_fetch", url=url)), reply(text("."))), Fetcher()
    tool = {"type": "web_fetch_20250910", "name": "web_fetch"}
    sink = await proxy(script, fetch=fetcher).post(
        messages=[{"role": "user", "content": f"Read {url}"}], tools=[tool], stream=False
    )
    assert message_of(sink).content[1].content.error_code == "url_too_long"
    assert fetcher.requests == []


@pytest.mark.parametrize("stream", [True, False])
async def test_the_log_has_no_words_of_a_query_that_a_search_service_quotes(stream: bool) -> None:
    query = "the merger  with Contoso Nordwind"
    error = WebSearchFailed(
        "https://s.test answers with HTTP 400: No 'The merger with Contoso Nordwind'", "unavailable"
    )
    script = Script(calls(call("web_search", query=query)), reply(text("Nothing found.")))
    built = proxy(script, Searcher(error=error))
    await built.post("Search.", tools=[SEARCH], stream=stream)
    log = built.log.getvalue()
    assert "web_search failed: https://s.test answers with HTTP 400: No '(32 characters of the query)'" in log
    assert "Nordwind" not in log
