"""`ProxyToolRunner`: runs those tools for a model that the proxy itself offers (web search, web fetch, tool search).

The proxy runs such a tool if the provider does not. A `ProxyToolCall` is a call of such a tool by the model.
`run_calls` runs calls within limits of number and time, and returns result blocks for the reply and for the next
upstream call. `usage` counts successful searches and fetches.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from unicodedata import normalize
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.tool_loop.tool_search import (
    InvalidPattern,
    RegexTimeout,
    SearchOutcome,
    search_by_regex,
    search_by_words,
)
from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN, Delta, Usage
from anthropic_proxy.engine.messages.deltas import Block as ResultBlock
from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    Message,
    SearchResultBlock,
    TextBlock,
    Tool,
    ToolResultBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
    decode_nested_content,
)
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.messages.preparation import ProxyTool
from anthropic_proxy.engine.messages.server_blocks import (
    Content,
    SearchResultPage,
    decode_passage,
    encode_server_tool_result,
    error_content,
    is_error_content,
    tool_search_content,
    web_fetch_content,
    web_search_content,
)
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.upstream.contract import DEFAULT_MEDIA_TYPES, MAX_URL_CHARACTERS, TEXT_MEDIA_TYPES
from anthropic_proxy.engine.wires.bound_requests import WEB, ClientOrigin
from anthropic_proxy.errors import WebFetchFailed, WebSearchFailed

_MAX_BEFORE_CHARACTERS = len("https://www.")
_BEFORE = compile_later(r"(?:\A|[^\w@.-])(?:https?://)?(?:www\.)?\Z", re.IGNORECASE)
"""Pattern of the text before a URL: a character that cannot belong to a URL, then an optional scheme and `www.`."""
_AFTER = compile_anchored(r"/?(?![\w/%&=?~+@-]|[.:]\w)")
"""Pattern of the text after a URL: a character that cannot continue the path or host of the URL."""
_MAX_OCCURRENCES = 10_000
"""Maximum number of places of one text at which a URL is looked for. Most are within longer URLs."""
_ESCAPED = compile_later(r"(?:%[0-9A-Fa-f]{2})+")
_SAME_WITHOUT = frozenset("!$'()*,;-._~")
"""ASCII characters, besides letters and digits, that mean the same in a URL with and without percent-encoding."""


class KnownUrls:
    """The URLs that occur in a conversation. A model may fetch only these."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def contains(self, url: str) -> bool:
        """Return True if the URL occurs in the conversation.

        The comparison ignores `http` or `https`, `www.`, the fragment, a last slash and percent-encoding.
        """
        try:
            split = urlsplit(normalize_urls(url.strip()))
            netloc = split.netloc.lower().removeprefix("www.")
            host = split.hostname or ""
            hosts = {netloc}  # as given, and with the host in IDNA and in Unicode
            if not host.isascii():
                hosts.add(netloc.replace(host, host.encode("idna").decode("ascii")))
            elif "xn--" in host:
                hosts.add(netloc.replace(host, host.encode("ascii").decode("idna")))
        except ValueError:
            return False
        if split.scheme not in ("http", "https") or not split.hostname:
            return False
        path = split.path.rstrip("/") + (f"?{split.query}" if split.query else "")
        return any(_occurs_in(text, lowered, host, path) for host in hosts for text, lowered in self._texts)

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        """For each text of the conversation: the text with normalized URLs, and its lower-case copy of equal length."""
        texts = [normalize_urls(text) for text in _texts(self._messages)]
        return [(text, _lowered(text)) for text in texts]


def normalize_urls(text: str) -> str:
    """Return the text with percent-encoding decoded where this does not change the meaning of a URL.

    For example, `%2F` is kept, because a decoded slash would divide a part of the path.

    >>> normalize_urls("https://a.test/caf%c3%a9%2fb")
    'https://a.test/café%2Fb'
    """

    def decode(found: re.Match[str]) -> str:
        try:
            decoded = bytes.fromhex(found[0].replace("%", "")).decode()
        except UnicodeDecodeError:
            return found[0].upper()
        return "".join(one if _means_itself(one) else quote(one, safe="") for one in decoded)

    if "%" in text:
        text = _ESCAPED.sub(decode, text)
    return text if text.isascii() else normalize("NFC", text)


def _means_itself(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in _SAME_WITHOUT
    return character.isprintable()


def _occurs_in(text: str, lowered: str, host: str, path: str) -> bool:
    """Return True if the URL of `host` and `path` occurs in `text`. Case matters in the path, not in the host.

    `lowered`: lower-case copy of `text`.
    """
    wanted = host + _lowered(path)
    at = lowered.find(wanted)
    for _ in range(_MAX_OCCURRENCES):
        if at < 0:
            break
        before = text[max(at - _MAX_BEFORE_CHARACTERS - 1, 0) : at]
        if text.startswith(path, at + len(host)) and _AFTER.match(text, at + len(wanted)) and _BEFORE.search(before):
            return True
        at = lowered.find(wanted, at + 1)
    return False


def _lowered(text: str) -> str:
    """Return a text of equal length with ASCII letters in lower case."""
    return text.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


def _texts(messages: Iterable[Message]) -> Iterator[str]:
    """Yield texts with permitted URLs: of user messages, results of client tools, and fetched pages, newest first."""
    for message in reversed(list(messages)):
        if isinstance(message.content, str):
            if message.role == "user":
                yield message.content
        else:
            for block in message.content:
                if isinstance(block, WebSearchResultBlock | WebFetchResultBlock):
                    if memoryview(block.content).nbytes:
                        yield from _strings(msgspec.json.decode(block.content))
                elif message.role == "user":
                    yield from _texts_of(block)


def _texts_of(block: Block) -> Iterator[str]:
    if isinstance(block, TextBlock):
        yield msgspec.json.decode(block.text, type=str)
    elif isinstance(block, ToolResultBlock):
        for inner in decode_nested_content(block.content):
            yield from _texts_of(inner)
    elif isinstance(block, SearchResultBlock):
        yield f"{block.source}\n{block.title}"
        for inner in decode_nested_content(block.content, in_result=False):
            yield from _texts_of(inner)
    elif isinstance(block, DocumentBlock):
        source = block.source
        yield f"{block.title}\n{block.context}\n{source.url}"
        if source.type == "text":
            yield source.data
        elif source.type == "content":
            for inner in decode_nested_content(source.content, in_result=False):
                yield from _texts_of(inner)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield decode_passage(value) or value
    elif isinstance(value, dict):
        if value.get("type") == "base64":
            return
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


MAX_TOOL_CALLS = 32
"""Maximum number of proxy tool calls per reply, against endless loops of a model. Further calls get an error result."""
MAX_CONCURRENT_CALLS = 4
"""Maximum number of proxy tool calls of one upstream reply that run at the same time. The others are queued."""
TOOL_TIMEOUT_SECONDS = 60.0
"""Maximum seconds of one tool call. After this time the call gets an error result. Search and fetch have shorter
limits."""
_RESULTS_ASKED = 10
_PDF = "application/pdf"
_MAX_FETCHED_TOKENS = 100_000
"""Maximum tokens of a fetched page for the model, if the client sets no limit. A longer page is truncated."""
_MAX_TITLE_CHARACTERS, _MAX_SNIPPET_CHARACTERS, _MAX_DATE_CHARACTERS = 500, 10_000, 100
"""Maximum length of texts of a search service or a page. Longer ones are truncated."""
_MAX_RESULT_URL_CHARACTERS = 2_000
"""Maximum length of the URL of a search result. A result with a longer one is left out."""
_DEFAULT_TOOLS_FOUND, _MAX_TOOLS_FOUND = 5, 10
"""Default and maximum number of tools that a tool search returns."""


class ProxyToolCall(Struct, frozen=True):
    """A complete call by the model of a tool that the proxy runs."""

    id: str
    """Id of the call in the reply to the client."""
    proxy_tool: ProxyTool
    """Tool that is called: its kind, and its definition in the client request."""
    arguments: Raw
    """Arguments that the model produced: the JSON text of an object."""


class _ToolQuery(Struct, frozen=True):
    """Arguments of a tool search call: words (`by_words` is True) or a regular expression, in `text`."""

    text: str
    by_words: bool
    max_results: int


InspectResult = Callable[[Raw], Awaitable[Raw | None]]
"""Function that returns a result as the model may get it, or None if it may not."""


class ProxyToolRunner:
    """Runner of the proxy's tools (web search …) for one reply. It counts the calls of the reply, for limits."""

    def __init__(self, engine: Engine, origin: ClientOrigin, inspect: InspectResult | None = None) -> None:
        self._engine = engine
        self.origin = origin
        self._inspect = inspect
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._uses: dict[str, int] = {}
        """Tool name → number of calls in this reply, for the limits."""
        self._runs = 0
        self._successes: dict[str, int] = {}
        """Kind of tool (`web_search`) → number of its successful calls in this reply."""

    @property
    def usage(self) -> Usage:
        """Numbers of successful web searches and web fetches of this reply, for billing. Failed calls do not count."""
        if not self._uses:
            return Usage()
        searches, fetches = (self._successes.get(kind, 0) for kind in ("web_search", "web_fetch"))
        return Usage(web_search_requests=searches, web_fetch_requests=fetches)

    async def run_calls(
        self,
        calls: Sequence[ProxyToolCall],
        messages: Sequence[Message],
        deferred: Sequence[Tool],
        *,
        accepts_pdf: bool,
    ) -> list[Delta]:
        """Run calls of the proxy's tools at the same time, and return one result block per call.

        A web fetch may only fetch URLs in the conversation `messages`, and may return a PDF file only if `accepts_pdf`
        is True. A tool search searches the tools `deferred`.
        """
        contents = {index: rejection for index, call in enumerate(calls) if (rejection := self._reject(call))}
        left = [index for index in range(len(calls)) if index not in contents]
        searches = [index for index in left if calls[index].proxy_tool.kind == "tool_search"]
        others = [index for index in left if calls[index].proxy_tool.kind != "tool_search"]
        known = KnownUrls(messages)
        async with asyncio.TaskGroup() as group:
            finding = group.create_task(_find_tools([calls[index] for index in searches], deferred))
            runs = [group.create_task(self._run(calls[index], known, accepts_pdf)) for index in others]
        contents |= zip(searches, finding.result(), strict=True)
        contents |= zip(others, (run.result() for run in runs), strict=True)
        for index, call in enumerate(calls):
            if not is_error_content(contents[index]):
                self._successes[call.proxy_tool.kind] = self._successes.get(call.proxy_tool.kind, 0) + 1
        results = [
            encode_server_tool_result(call.proxy_tool.kind, call.id, contents[index])
            for index, call in enumerate(calls)
        ]
        if self._inspect is not None:
            for index, call in enumerate(calls):
                kind = call.proxy_tool.kind
                found = await self._inspect(results[index].raw)
                unavailable = encode_server_tool_result(kind, call.id, error_content(kind, "unavailable"))
                results[index] = unavailable if found is None else ResultBlock(found)
        return [*results]

    def _reject(self, call: ProxyToolCall) -> Content | None:
        """Return the error content for a call that exceeds a limit. None: the call may run."""
        kind = call.proxy_tool.kind
        name = call.proxy_tool.name
        max_uses = call.proxy_tool.tool.max_uses
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        if max_uses is not None and uses > max_uses:
            return error_content(kind, "max_uses_exceeded" if kind != "tool_search" else "too_many_requests")
        self._runs += 1
        return error_content(kind, "too_many_requests") if self._runs > MAX_TOOL_CALLS else None

    async def _run(self, call: ProxyToolCall, known: KnownUrls, accepts_pdf: bool) -> Content:
        kind = call.proxy_tool.kind
        arguments = _arguments(call)
        if arguments is None:
            return error_content(kind, "invalid_tool_input")
        async with self._slots:
            try:
                async with asyncio.timeout(TOOL_TIMEOUT_SECONDS):
                    if kind == "web_search":
                        return await self._search(call.proxy_tool.tool, arguments)
                    return await self._fetch(call.proxy_tool.tool, arguments, known, accepts_pdf)
            except TimeoutError:
                return error_content(kind, "unavailable")

    async def _search(self, tool: Tool, arguments: dict[str, Any]) -> Content:
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            return error_content("web_search", "invalid_tool_input")
        service = self._engine.web_search
        if service is None or service.service not in self.origin.servers:
            return error_content("web_search", "unavailable")
        try:
            origin = structs.replace(self.origin, purpose="web_search")
            results = await service.search(origin, query, **_list_domains(tool), limit=_RESULTS_ASKED)
        except WebSearchFailed as error:
            if error.error_code in ("unavailable", "too_many_requests"):  # a failure of the service, not of the query
                self._engine.log.write_once(f"web_search failed: {error.message}", "warning")
            return error_content("web_search", error.error_code)
        return web_search_content(
            SearchResultPage(
                result.url,
                result.title[:_MAX_TITLE_CHARACTERS],
                result.snippet[:_MAX_SNIPPET_CHARACTERS],
                result.page_age and result.page_age[:_MAX_DATE_CHARACTERS],
            )
            for result in results
            if len(result.url) <= _MAX_RESULT_URL_CHARACTERS
        )

    async def _fetch(self, tool: Tool, arguments: dict[str, Any], known: KnownUrls, accepts_pdf: bool) -> Content:
        url = arguments.get("url")
        if not isinstance(url, str) or not url.strip():
            return error_content("web_fetch", "invalid_tool_input")
        if self._engine.web_fetch is None or WEB not in self.origin.servers:
            return error_content("web_fetch", "unavailable")
        if len(url) > MAX_URL_CHARACTERS:
            return error_content("web_fetch", "url_too_long")
        if not await self._engine.background.run_in_thread(known.contains, url):
            return error_content("web_fetch", "url_not_in_prior_context")
        try:
            media_types = DEFAULT_MEDIA_TYPES if accepts_pdf else TEXT_MEDIA_TYPES
            origin = structs.replace(self.origin, purpose="web_fetch")
            fetched = await self._engine.web_fetch(origin, url, media_types=media_types, **_list_domains(tool))
        except WebFetchFailed as error:
            return error_content("web_fetch", error.error_code)
        max_tokens = _MAX_FETCHED_TOKENS if tool.max_content_tokens is None else max(tool.max_content_tokens, 0)
        citations = msgspec.json.decode(tool.citations) if memoryview(tool.citations).nbytes else None
        room = max_tokens * CHARACTERS_PER_TOKEN
        title = (fetched.title or "")[: min(room, _MAX_TITLE_CHARACTERS)]
        now = datetime.fromtimestamp(self._engine.clock(), UTC).isoformat(timespec="seconds")
        if fetched.media_type == _PDF:
            source = {"type": "base64", "media_type": _PDF, "data": fetched.body_base64}
        else:
            text = (fetched.text or "")[: max(room - len(title), 0)]
            source = {"type": "text", "media_type": "text/plain", "data": text}
        return web_fetch_content(fetched.url, source, title or None, citations, now)


async def _find_tools(calls: Sequence[ProxyToolCall], deferred: Sequence[Tool]) -> list[Content]:
    """Return the result contents of tool search calls, in their order.

    One thread runs all searches by words; one separate process runs all regular expressions.
    """
    queries_by_call = [_tool_query(call) for call in calls]
    queries = [query.text for query in queries_by_call if query and query.by_words]
    patterns = [query.text for query in queries_by_call if query and not query.by_words]
    by_words = iter(await asyncio.to_thread(search_by_words, queries, deferred) if queries else ())
    try:
        found: Sequence[SearchOutcome | OSError] = await search_by_regex(patterns, deferred)
    except OSError as error:  # no process could be started
        found = [error] * len(patterns)
    by_pattern = iter(found)
    contents = list[Content]()
    for query in queries_by_call:
        if query is None:
            contents.append(error_content("tool_search", "invalid_tool_input", "query or pattern: a text is needed"))
            continue
        outcome = next(by_words if query.by_words else by_pattern)
        if isinstance(outcome, list):
            contents.append(tool_search_content(outcome[: query.max_results]))
        elif isinstance(outcome, InvalidPattern):
            contents.append(error_content("tool_search", "invalid_tool_input", str(outcome)))
        elif isinstance(outcome, RegexTimeout):
            text = "the pattern takes too long; use a simpler one"
            contents.append(error_content("tool_search", "execution_time_exceeded", text))
        else:
            text = f"the search could not be run: {describe_os_error(outcome)}"
            contents.append(error_content("tool_search", "unavailable", text))
    return contents


def _tool_query(call: ProxyToolCall) -> _ToolQuery | None:
    by_words = (call.proxy_tool.tool.type or "").startswith("tool_search_tool_bm25")
    arguments = _arguments(call) or {}
    text = arguments.get("query" if by_words else "pattern")
    limit = arguments.get("limit")
    max_results = min(max(limit, 1), _MAX_TOOLS_FOUND) if isinstance(limit, int) else _DEFAULT_TOOLS_FOUND
    return _ToolQuery(text, by_words, max_results) if isinstance(text, str) and text else None


def _list_domains(tool: Tool) -> dict[str, Any]:
    return {"allowed_domains": tool.allowed_domains or (), "blocked_domains": tool.blocked_domains or ()}


def _arguments(call: ProxyToolCall) -> dict[str, Any] | None:
    """Return the decoded arguments of a call. None: the arguments are not a JSON object."""
    try:
        return msgspec.json.decode(replace_lone_surrogates(bytes(call.arguments))[0], type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
