"""Web search for models by a SearXNG server at `SEARCH_URL`, which may be on any host, including loopback.

Request: `GET /search?q=…&format=json`. Source: docs.searxng.org, "Search API" and "Limiter", and the source of SearXNG,
read 2026-11.
"""

import asyncio
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import UpstreamError, WebSearchFailed
from anthropic_proxy.messages.domains import domain_names, is_url_allowed
from anthropic_proxy.upstream.contract import SearchResult
from anthropic_proxy.wire.contract import Transport, UpstreamRequest, UpstreamResponse

SEARCH_TIMEOUT_SECONDS = 20.0
"""Maximum time for one search. SearXNG waits for the slowest of its search engines."""
MAX_QUERY_CHARACTERS = 1_000
"""Maximum characters of a query, because search engines cut or reject longer ones. A longer query is rejected with
`query_too_long`."""
_MAX_BYTES = 8 * 1024 * 1024
_MAX_SITES = 5
"""Maximum domains in a query, because more would displace its words. With more, only the results are filtered."""
_MAX_QUOTED_CHARACTERS = 200


class SearxngClient:
    """Client of the SearXNG server at `url`. The server's `settings.yml` must enable the JSON format."""

    def __init__(self, send: Transport, url: str) -> None:
        self._send = send
        self._url = url.removesuffix("/search")

    async def search(
        self, query: str, allowed_domains: Sequence[str] = (), blocked_domains: Sequence[str] = (), limit: int = 10
    ) -> Sequence[SearchResult]:
        """Return at most `limit` results, the best first. Raises `WebSearchFailed`. Implements `WebSearch`."""
        words = " ".join(query.split())
        if not words or not words.isprintable():
            raise WebSearchFailed("a query is text that can be printed", "invalid_tool_input")
        if len(words) > MAX_QUERY_CHARACTERS:
            raise WebSearchFailed(
                f"the query has {len(words)} characters; it can have {MAX_QUERY_CHARACTERS} at most", "query_too_long"
            )
        try:
            sites = domain_names(allowed_domains)
            domain_names(blocked_domains)
        except ValueError as error:
            raise WebSearchFailed(str(error), "invalid_tool_input") from None
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_SECONDS):
                body = await self._send_query(words + _site_filter(sites))
        except TimeoutError:
            raise WebSearchFailed(
                f"{self._url} gave no results within {SEARCH_TIMEOUT_SECONDS:g} s", "unavailable"
            ) from None
        except UpstreamError as error:
            raise WebSearchFailed(f"SEARCH_URL: {error.message}", "unavailable") from error
        return list(self._choose(body, allowed_domains, blocked_domains, limit))

    async def _send_query(self, query: str) -> bytes:
        response = await self._send(self._url, _encode_query(query), None)
        try:
            if response.status != 200:
                raise self._refusal(response)
            return await _read_body(response)
        finally:
            await response.close()

    def _refusal(self, response: UpstreamResponse) -> WebSearchFailed:
        status = response.status
        message = f"{self._url} answers with HTTP {status}"
        if 300 <= status < 400:
            location = response.headers.get("location", "").partition("?")[0][:_MAX_QUOTED_CHARACTERS]
            message += f" and points to {location or 'another place'}; set SEARCH_URL to where the service is"
        elif remedy := _explain(status):
            message += f": {remedy}"
        return WebSearchFailed(message, "too_many_requests" if status == 429 else "unavailable")

    def _choose(
        self, body: bytes, allowed: Sequence[str], blocked: Sequence[str], limit: int
    ) -> Iterable[SearchResult]:
        try:
            results = _decode_results(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WebSearchFailed(
                f"{self._url} gives no results as JSON ({str(error)[:_MAX_QUOTED_CHARACTERS]})", "unavailable"
            ) from None
        seen: set[str] = set()
        for result in results:
            if len(seen) >= limit:
                return
            if result.url not in seen and _is_web_url(result.url) and is_url_allowed(result.url, allowed, blocked):
                seen.add(result.url)
                yield result


class _Result(Struct):
    """A search result of SearXNG. Further fields differ by the kind of result."""

    url: str | None = None
    title: str | None = None
    content: str | None = None
    published: str | None = msgspec.field(default=None, name="publishedDate")
    """Publication date and time (ISO 8601). The time is usually midnight."""


class _Response(Struct):
    results: list[_Result]
    unresponsive: list[tuple[str, str]] = msgspec.field(default_factory=list, name="unresponsive_engines")
    """Pairs of a search engine that failed and the reason."""


_decode_response = msgspec.json.Decoder(_Response).decode


def _encode_query(query: str) -> UpstreamRequest:
    """Return the HTTP request for a query. SearXNG's limiter rejects requests without these headers as a bot's."""
    parameters = urlencode({"q": _without_commands(query), "format": "json"})
    headers = {
        "accept": "application/json, text/html;q=0.5",
        "accept-encoding": "gzip, deflate",
        "accept-language": "en, *;q=0.5",
    }
    return UpstreamRequest(path=f"/search?{parameters}", body=b"", headers=headers, method="GET")


def _decode_results(body: bytes) -> Iterable[SearchResult]:
    """Return the results in a body. Raises `WebSearchFailed` if it has none because search engines failed."""
    answer = _decode_response(body)
    if not answer.results and answer.unresponsive:
        reasons = ", ".join(f"{engine}: {reason}" for engine, reason in answer.unresponsive)
        raise WebSearchFailed(f"no engine of SearXNG gave results ({reasons[:_MAX_QUOTED_CHARACTERS]})", "unavailable")
    return [
        SearchResult(
            url=result.url,
            title=result.title or result.url,
            snippet=result.content or "",
            page_age=(result.published or "").removesuffix("T00:00:00") or None,
        )
        for result in answer.results
        if result.url
    ]


def _explain(status: int) -> str:
    """Return the remedy for an HTTP status of SearXNG. "": none."""
    if status == 403:
        return "it does not give JSON; add json to search.formats in SearXNG's settings.yml"
    if status == 429:
        return "SearXNG's limiter lets a caller have four answers an hour as JSON; switch it off or let this one pass"
    return ""


def _without_commands(query: str) -> str:
    """Return a query without SearXNG commands: `!!g` redirects, `<3` sets a timeout, `:de` a language."""
    return " ".join(filter(None, (word.lstrip("!<:") for word in query.split())))


def _site_filter(sites: Sequence[str]) -> str:
    """Return query text that restricts most search engines to these domains. The results are filtered too."""
    if not 0 < len(sites) <= _MAX_SITES:
        return ""
    condition = " OR ".join(f"site:{site}" for site in sites)
    return f" {condition}" if len(sites) == 1 else f" ({condition})"


def _is_web_url(url: str) -> bool:
    try:
        target = urlsplit(url)
    except ValueError:
        return False
    return target.scheme in ("http", "https") and bool(target.hostname)


async def _read_body(response: UpstreamResponse) -> bytes:
    body = bytearray()
    while data := await response.read():
        body += data
        if len(body) > _MAX_BYTES:
            raise WebSearchFailed(f"the search service sent more than {_MAX_BYTES // 1024 // 1024} MiB", "unavailable")
    return bytes(body)
