"""A scripted model and scripted tools for the tool loop."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from anthropic.types import Message
from msgspec import structs

from anthropic_proxy.engine.upstream.contract import DEFAULT_MEDIA_TYPES, FetchedPage, SearchResult
from anthropic_proxy.engine.upstream.web_fetch import matches_media_types
from anthropic_proxy.engine.wires.bound_requests import ServerName
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import WebFetchFailed
from tests.support.event_grammar import check_bytes
from tests.support.golden_runner import fold_events
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink

SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
REGEX = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
}
MAIL = {"name": "send_mail", "description": "Sends a letter.", "input_schema": {"type": "object", "properties": {}}}
FACTS = [SearchResult(url="https://cold.test/oslo", title="Oslo", snippet="It is cold in Oslo.", page_age="1 day")]


def frame(delta: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} if usage is None else {"choices": []}
    return b"data: " + json.dumps(body | ({"usage": usage} if usage else {})).encode() + b"\n\n"


def reply(*deltas: dict[str, Any], finish: str = "stop", tokens: tuple[int, int] = (100, 10)) -> list[bytes]:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return [*map(frame, deltas), frame({}, finish), frame({}, usage=usage), b"data: [DONE]\n\n"]


def text(words: str) -> dict[str, Any]:
    return {"content": words}


def call(name: str, at: int = 0, /, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": at, "id": f"call_{at}", "type": "function", "function": function}]}


def calls(*deltas: dict[str, Any], tokens: tuple[int, int] = (100, 10)) -> list[bytes]:
    return reply(*deltas, finish="tool_calls", tokens=tokens)


class Script:
    """An upstream with scripted responses; keeps the requests."""

    def __init__(self, *answers: Sequence[bytes | bytearray | Exception] | FakeResponse) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []
        self.urls: list[str] = []
        self.given: list[FakeResponse] = []

    def __call__(self, url: str, request: UpstreamRequest, _: Any) -> FakeResponse:
        self.urls.append(url)
        self.requests.append(json.loads(request.body))
        answer = self.answers.pop(0)
        self.given.append(answer if isinstance(answer, FakeResponse) else FakeResponse(200, *answer))
        return self.given[-1]

    def last_words(self, place: int) -> list[tuple[str, Any]]:
        """Role and content, or the calls' names, of the messages after the first of a call."""
        later_messages = self.requests[place]["messages"][1:]
        return [
            (one["role"], one.get("content") or [made["function"]["name"] for made in one.get("tool_calls", [])])
            for one in later_messages
        ]


def proxy(script: Script, search: Any = None, fetch: Any = None, **settings: str) -> ProxyHarness:
    built = ProxyHarness(script, **{"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat", **settings})
    built.services = structs.replace(built.services, web_search=search, web_fetch=fetch)
    return built


class Searcher:
    """A search service with one page. It stores the received queries. `service`: its name."""

    def __init__(
        self, pages: Sequence[SearchResult] = FACTS, error: Exception | None = None, service: ServerName = "searxng"
    ) -> None:
        self.service = service
        self.requests: list[tuple[str, Sequence[str], Sequence[str]]] = []
        self._pages, self._error = pages, error

    async def search(
        self,
        origin: object,
        query: str,
        *,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        limit: int = 10,
    ) -> Sequence[SearchResult]:
        self.requests.append((query, tuple(allowed_domains), tuple(blocked_domains)))
        if self._error:
            raise self._error
        return self._pages[:limit]


class Fetcher:
    """A web of given pages."""

    def __init__(self, *pages: FetchedPage) -> None:
        self.requests: list[str] = []
        self._pages = {page.url: page for page in pages}

    async def __call__(
        self, origin: object, url: str, *, media_types: Collection[str] = DEFAULT_MEDIA_TYPES, **_: Any
    ) -> FetchedPage:
        self.requests.append(url)
        if url not in self._pages:
            raise WebFetchFailed("404", "url_not_accessible")
        if not matches_media_types(self._pages[url].media_type, media_types):
            raise WebFetchFailed("another type", "unsupported_content_type")
        return self._pages[url]


def message_of(sink: RecordingSink) -> Any:
    """The reply as the official SDK reads it, whether it was streamed or not."""
    assert sink.error is None
    if sink.stream:
        assert check_bytes(sink.stream) == []
    body = fold_events(sink.stream) if sink.stream else sink.body
    return Message.model_validate(body)


PAGE = FetchedPage(url="https://a.test/page", media_type="text/html", title="A", text="Words " * 100)


def deferred(*tools: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**tool, "defer_loading": True} for tool in tools]


def gemini(
    *parts: dict[str, Any], finish: str = "STOP", token: str = "", tokens: tuple[int, int] = (10, 1)
) -> list[bytes]:
    candidate = {"content": {"parts": list(parts)}, "finishReason": finish}
    if token:
        candidate["continuationToken"] = token
    usage = {"promptTokenCount": tokens[0], "candidatesTokenCount": tokens[1]}
    return [b"data: " + json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode() + b"\r\n\r\n"]
