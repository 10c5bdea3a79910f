"""`SearchClient`: base class of the clients for search services, which run web searches for models.

`search` runs one search with a time limit, and filters the results by domain. Each service has a subclass with three
methods: `encode_query` for the request, `decode_results` for the response, and `describe_error_response` for an error.
`build_site_filter` restricts a query to domains.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from anthropic_proxy.errors import UpstreamError, WebSearchFailed
from anthropic_proxy.messages.domains import domain_names, is_url_allowed
from anthropic_proxy.upstream.contract import SearchResult
from anthropic_proxy.wire.contract import Credential, Transport, UpstreamRequest, UpstreamResponse, read_body

SEARCH_TIMEOUT_SECONDS = 20.0
"""Maximum time for one search. SearXNG waits for the slowest of its search engines."""
MAX_QUOTED_CHARACTERS = 200
"""Maximum number of characters that an error message quotes from a response of the search service."""
_MAX_BYTES = 8 * 1024 * 1024
_MAX_SITES = 5
"""Maximum number of domains in a query. With more domains, the query contains none, because they would displace its
words; only the results are filtered."""


class SearchClient(ABC):
    """Client of a search service, with a subclass for each service.

    `setting` is the name of the setting that configures the service. Error messages for the user contain this name.
    """

    max_query_characters: int
    """Maximum characters of a query. A longer query is rejected with `query_too_long`, because services cut or reject
    it."""

    def __init__(
        self, send: Transport, url: str, *, credential: Credential | None = None, setting: str = "SEARCH_URL"
    ) -> None:
        self._send = send
        self._url = url
        self._credential = credential
        self._setting = setting

    @abstractmethod
    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        """Return the HTTP request for a search with at most `limit` results.

        If the service supports it, the request restricts the search to the domains `sites`, and excludes the domains
        `excluded_sites` from the search.
        """

    @abstractmethod
    def decode_results(self, body: bytes) -> Iterable[SearchResult]:
        """Return the search results in the response body of the service.

        Raises `msgspec.DecodeError` or `WebSearchFailed`.
        """

    @abstractmethod
    def describe_error_response(self, status: int, body: bytes) -> str:
        """Return the cause of an error response of the search service, or a remedy. "": unknown.

        `status` is an HTTP status other than 200. `body` may contain an error message.
        """

    async def search(
        self, query: str, allowed_domains: Sequence[str] = (), blocked_domains: Sequence[str] = (), limit: int = 10
    ) -> Sequence[SearchResult]:
        """Return at most `limit` results of a web search, the best first. Raises `WebSearchFailed`.

        If `allowed_domains` is not empty, only results from these domains are returned. Results from `blocked_domains`
        are never returned.
        """
        words = " ".join(query.split())
        if not words or not words.isprintable():
            raise WebSearchFailed("a query is text that can be printed", "invalid_tool_input")
        if len(words) > self.max_query_characters:
            raise WebSearchFailed(
                f"the query has {len(words)} characters; it can have {self.max_query_characters} at most",
                "query_too_long",
            )
        try:
            sites, excluded_sites = domain_names(allowed_domains), domain_names(blocked_domains)
        except ValueError as error:
            raise WebSearchFailed(str(error), "invalid_tool_input") from None
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_SECONDS):
                body = await self._send_query(self.encode_query(words, sites, excluded_sites, limit))
        except TimeoutError:
            raise WebSearchFailed(
                f"{self._url} gave no results within {SEARCH_TIMEOUT_SECONDS:g} s", "unavailable"
            ) from None
        except UpstreamError as error:
            raise WebSearchFailed(f"{self._setting}: {error.message}", "unavailable") from error
        return list(self._choose(body, allowed_domains, blocked_domains, limit))

    async def _send_query(self, request: UpstreamRequest) -> bytes:
        response = await self._send(self._url, request, self._credential)
        try:
            body = await read_body(response, _MAX_BYTES)
            if response.status != 200:
                raise self._refusal(response, body)
            return body
        finally:
            await response.close()

    def _refusal(self, response: UpstreamResponse, body: bytes) -> WebSearchFailed:
        status = response.status
        message = f"{self._url} answers with HTTP {status}"
        if 300 <= status < 400:
            location = response.headers.get("location", "").partition("?")[0][:MAX_QUOTED_CHARACTERS]
            message += f" and points to {location or 'another place'}; set {self._setting} to where the service is"
        elif remedy := self.describe_error_response(status, body):
            message += f": {remedy}"
        if self._credential is not None:
            message = message.replace(self._credential.secret, "…")
        return WebSearchFailed(message, "too_many_requests" if status == 429 else "unavailable")

    def _choose(
        self, body: bytes, allowed: Sequence[str], blocked: Sequence[str], limit: int
    ) -> Iterable[SearchResult]:
        try:
            results = self.decode_results(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WebSearchFailed(
                f"{self._url} gives no results as JSON ({str(error)[:MAX_QUOTED_CHARACTERS]})", "unavailable"
            ) from None
        seen: set[str] = set()
        for result in results:
            if len(seen) >= limit:
                return
            if result.url not in seen and _is_web_url(result.url) and is_url_allowed(result.url, allowed, blocked):
                seen.add(result.url)
                yield result


def build_site_filter(sites: Sequence[str]) -> str:
    """Return a text that, added to a query, restricts the search to the domains `sites`.

    "": there are no domains, or too many for a query.
    """
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
