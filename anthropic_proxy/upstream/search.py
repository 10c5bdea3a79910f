"""Web searches by the service at `SEARCH_URL`, which the user has set and may be anywhere, on loopback too.

What differs between services is a `Service`: how a query is said, and how an answer is read. SearXNG is the one there
is. Source: docs.searxng.org, "Search API" and "Limiter", and its own source, read 2026-11.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import SearchFailed, UpstreamError
from anthropic_proxy.messages.domains import hosts_of, is_allowed
from anthropic_proxy.upstream.errands import FoundPage
from anthropic_proxy.wire.contract import Send, UpstreamRequest, UpstreamResponse

SECONDS = 20.0
"""For a whole search: a metasearch waits for the slowest of its engines."""
LONGEST_QUERY = 1_000
"""Characters of a query; engines cut or refuse longer ones."""
_MOST_BYTES = 8 * 1024 * 1024
_MOST_SITES = 5
"""Domains that are named in the query; more of them would be most of what an engine reads."""
_SHOWN = 200


class Service(Protocol):
    """One kind of search service."""

    def encode_query(self, query: str) -> UpstreamRequest:
        """Say a query, below the service's address."""
        ...

    def decode_results(self, body: bytes) -> Iterable[FoundPage]:
        """Read an answer, the best result first. Raises `SearchFailed` or `msgspec.DecodeError`."""
        ...

    def explain(self, status: int) -> str:
        """Return what the user can do about a status; "": nothing is known."""
        ...


class SearchService:
    """Asks one service, and keeps to the domains itself."""

    def __init__(self, send: Send, url: str, service: Service) -> None:
        self._send = send
        self._url = url.removesuffix("/search")
        self._service = service

    async def search(
        self, query: str, allowed_domains: Sequence[str] = (), blocked_domains: Sequence[str] = (), limit: int = 10
    ) -> Sequence[FoundPage]:
        """Return what the web has: an `errands.Search`."""
        words = " ".join(query.split())
        if not words or not words.isprintable():
            raise SearchFailed("a query is text that can be printed", "invalid_tool_input")
        if len(words) > LONGEST_QUERY:
            raise SearchFailed(
                f"the query has {len(words)} characters; it can have {LONGEST_QUERY} at most", "query_too_long"
            )
        try:
            sites = hosts_of(allowed_domains)
            hosts_of(blocked_domains)
        except ValueError as error:
            raise SearchFailed(str(error), "invalid_tool_input") from None
        try:
            async with asyncio.timeout(SECONDS):
                body = await self._ask(words + _restriction(sites))
        except TimeoutError:
            raise SearchFailed(f"{self._url} gave no results within {SECONDS:g} s", "unavailable") from None
        except UpstreamError as error:
            raise SearchFailed(f"SEARCH_URL: {error.message}", "unavailable") from error
        return list(self._choose(body, allowed_domains, blocked_domains, limit))

    async def _ask(self, query: str) -> bytes:
        response = await self._send(self._url, self._service.encode_query(query), None)
        try:
            if response.status != 200:
                raise self._refusal(response)
            return await _read_whole(response)
        finally:
            await response.close()

    def _refusal(self, response: UpstreamResponse) -> SearchFailed:
        status = response.status
        what = f"{self._url} answers with HTTP {status}"
        if 300 <= status < 400:
            place = response.headers.get("location", "").partition("?")[0][:_SHOWN]
            what += f" and points to {place or 'another place'}; set SEARCH_URL to where the service is"
        elif remedy := self._service.explain(status):
            what += f": {remedy}"
        return SearchFailed(what, "too_many_requests" if status == 429 else "unavailable")

    def _choose(self, body: bytes, allowed: Sequence[str], blocked: Sequence[str], limit: int) -> Iterable[FoundPage]:
        try:
            results = self._service.decode_results(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SearchFailed(f"{self._url} gives no results as JSON ({str(error)[:_SHOWN]})", "unavailable") from None
        seen: set[str] = set()
        for result in results:
            if len(seen) >= limit:
                return
            if result.url not in seen and _leads_somewhere(result.url) and is_allowed(result.url, allowed, blocked):
                seen.add(result.url)
                yield result


class _Result(Struct):
    """A result; other fields differ with its template."""

    url: str | None = None
    title: str | None = None
    content: str | None = None
    published: str | None = msgspec.field(default=None, name="publishedDate")
    """ISO 8601, the time mostly midnight."""


class _Answer(Struct):
    results: list[_Result]
    unresponsive: list[tuple[str, str]] = msgspec.field(default_factory=list, name="unresponsive_engines")
    """Engines that gave nothing, and why."""


class Searxng:
    """SearXNG: `GET /search?q=…&format=json`. The JSON format must be switched on in its `settings.yml`."""

    _decoder = msgspec.json.Decoder(_Answer)

    def encode_query(self, query: str) -> UpstreamRequest:
        """Say a query with the headers without which its limiter takes a caller for a bot."""
        parameters = urlencode({"q": _without_commands(query), "format": "json"})
        headers = {
            "accept": "application/json, text/html;q=0.5",
            "accept-encoding": "gzip, deflate",
            "accept-language": "en, *;q=0.5",
        }
        return UpstreamRequest(path=f"/search?{parameters}", body=b"", headers=headers, method="GET")

    def decode_results(self, body: bytes) -> Iterable[FoundPage]:
        """Return the results. Where there are none and engines failed, nobody knows whether there are any."""
        answer = self._decoder.decode(body)
        if not answer.results and answer.unresponsive:
            why = ", ".join(f"{engine}: {reason}" for engine, reason in answer.unresponsive)
            raise SearchFailed(f"no engine of SearXNG gave results ({why[:_SHOWN]})", "unavailable")
        return [
            FoundPage(
                url=result.url,
                title=result.title or result.url,
                content=result.content or "",
                page_age=(result.published or "").removesuffix("T00:00:00") or None,
            )
            for result in answer.results
            if result.url
        ]

    def explain(self, status: int) -> str:
        """Return what its refusals mean."""
        if status == 403:
            return "it does not give JSON; add json to search.formats in SearXNG's settings.yml"
        if status == 429:
            return (
                "SearXNG's limiter lets a caller have four answers an hour as JSON; switch it off or let this one pass"
            )
        return ""


def _without_commands(query: str) -> str:
    """Return a query without SearXNG's own signs: `!!g` leads elsewhere, `<3` sets a time limit, `:de` a language."""
    return " ".join(filter(None, (word.lstrip("!<:") for word in query.split())))


def _restriction(sites: Sequence[str]) -> str:
    """Return what keeps an engine to these domains, as most of them understand it; results are filtered anyway."""
    if not 0 < len(sites) <= _MOST_SITES:
        return ""
    said = " OR ".join(f"site:{site}" for site in sites)
    return f" {said}" if len(sites) == 1 else f" ({said})"


def _leads_somewhere(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


async def _read_whole(response: UpstreamResponse) -> bytes:
    body = bytearray()
    while data := await response.read():
        body += data
        if len(body) > _MOST_BYTES:
            raise SearchFailed(f"the search service sent more than {_MOST_BYTES // 1024 // 1024} MiB", "unavailable")
    return bytes(body)
