"""Clients of the search services Brave Search, Tavily and Exa, which require an API key.

`BraveClient`, `TavilyClient` and `ExaClient` have the same methods. `encode_query` returns the HTTP request for a
query. `decode_results` decodes the results. `describe_error_response` returns the message of an error response.
`MissingKeyClient` replaces the client of a service if the API key is missing; each of its searches fails.

Sources, read 2026-11-21: api-dashboard.search.brave.com, "Web search" (query, GET); docs.tavily.com, "Tavily Search"
(POST /search); exa.ai/docs, "Search" and "Error codes" (POST /search).
"""

import html
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import WebSearchFailed
from anthropic_proxy.upstream.contract import SearchResult
from anthropic_proxy.upstream.web_search.client import MAX_QUOTED_CHARACTERS, SearchClient, build_site_filter
from anthropic_proxy.wire.contract import UpstreamRequest

# Sources, read 2026-11-21: api-dashboard.search.brave.com, "Web search" (query, GET); docs.tavily.com, "Tavily Search"
# (POST /search); exa.ai/docs, "Search" and "Error codes" (POST /search).
_MARKUP = re.compile(r"</?[a-z][^>]*>")
_BRAVE_MAX_WORDS = 50
_BRAVE_MAX_RESULTS = 20
_TAVILY_MAX_RESULTS = 20
_EXA_MAX_RESULTS = 100
_JSON = {"content-type": "application/json", "accept": "application/json"}


class _BraveResult(Struct):
    url: str
    title: str = ""
    description: str = ""
    page_age: str | None = None
    """Date and time of publication (ISO 8601)."""


class _BraveResults(Struct):
    results: list[_BraveResult] = []


class _BraveResponse(Struct):
    web: _BraveResults | None = None
    """Results of the web search. None: no results."""


class BraveClient(SearchClient):
    """Client of the Brave Search API. The API key is sent in the header `x-subscription-token`."""

    max_query_characters = 400
    """Maximum characters of a query to Brave Search. A longer query is rejected."""

    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        """Return the HTTP request for a query to Brave Search.

        The domains to search (`sites`) and to omit (`excluded_sites`) are added to the query. They are not added if the
        query would then be too long for Brave.
        """
        narrowed = query + build_site_filter(sites) + "".join(f" -site:{site}" for site in excluded_sites)
        if len(narrowed) > self.max_query_characters or len(narrowed.split()) > _BRAVE_MAX_WORDS:
            narrowed = query
        count = _BRAVE_MAX_RESULTS if sites or excluded_sites else min(limit, _BRAVE_MAX_RESULTS)
        parameters = {"q": narrowed, "count": count, "text_decorations": "false", "result_filter": "web"}
        headers = {"accept": "application/json", "accept-encoding": "gzip"}
        path = f"/res/v1/web/search?{urlencode(parameters)}"
        return UpstreamRequest(path=path, body=b"", headers=headers, method="GET")

    def decode_results(self, body: bytes) -> Iterable[SearchResult]:
        """Return the web results in a response of Brave Search, as plain text without HTML."""
        web = msgspec.json.decode(body, type=_BraveResponse).web
        return [
            SearchResult(
                url=result.url,
                title=_plain(result.title) or result.url,
                snippet=_plain(result.description),
                page_age=(result.page_age or "").removesuffix("T00:00:00") or None,
            )
            for result in (web.results if web else ())
        ]

    def describe_error_response(self, status: int, body: bytes) -> str:
        """Return the message in an error response of Brave Search, the field `error.detail`. "": no message.

        The status does not show the cause: Brave answers a wrong API key with status 422, for example.
        """
        return _quote(body, "error", "detail")


class _TavilyResult(Struct):
    url: str
    title: str = ""
    content: str = ""
    published_date: str | None = None


class _TavilyResponse(Struct):
    results: list[_TavilyResult]


class TavilyClient(SearchClient):
    """Client of the search service Tavily. The API key is sent in the header `authorization`, as Bearer token."""

    max_query_characters = 400
    """Maximum characters of a query to Tavily. A longer query is rejected."""

    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        """Return the HTTP request for a query to Tavily.

        Tavily itself filters by the domains to search (`sites`) and to omit (`excluded_sites`).
        """
        fields: dict[str, object] = {"query": query, "max_results": min(limit, _TAVILY_MAX_RESULTS)}
        fields |= {"include_domains": list(sites)} if sites else {}
        fields |= {"exclude_domains": list(excluded_sites)} if excluded_sites else {}
        return UpstreamRequest(path="/search", body=msgspec.json.encode(fields), headers=_JSON)

    def decode_results(self, body: bytes) -> Iterable[SearchResult]:
        """Return the results in a response of Tavily. The excerpt of a result consists of passages of the page."""
        return [
            SearchResult(
                url=result.url,
                title=result.title or result.url,
                snippet=result.content,
                page_age=result.published_date or None,
            )
            for result in msgspec.json.decode(body, type=_TavilyResponse).results
        ]

    def describe_error_response(self, status: int, body: bytes) -> str:
        """Return the message in an error response of Tavily, the field `detail.error`. "": no message.

        Tavily has two status codes of its own: 432 and 433 mean that the limit of the user's plan is reached.
        """
        return _quote(body, "detail", "error")


class _ExaResult(Struct):
    url: str
    title: str | None = None
    published: str | None = msgspec.field(default=None, name="publishedDate")
    highlights: list[str] = []


class _ExaResponse(Struct):
    results: list[_ExaResult]


class ExaClient(SearchClient):
    """Client of the search service Exa. The API key is sent in the header `x-api-key`."""

    max_query_characters = 1_000
    """Maximum characters of a query to Exa. A longer query is rejected."""

    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        """Return the HTTP request for a query to Exa.

        Exa itself filters by the domains to search (`sites`) and to omit (`excluded_sites`).
        """
        fields: dict[str, object] = {
            "query": query,
            "numResults": min(limit, _EXA_MAX_RESULTS),
            "contents": {"highlights": True},
        }
        fields |= {"includeDomains": list(sites)} if sites else {}
        fields |= {"excludeDomains": list(excluded_sites)} if excluded_sites else {}
        return UpstreamRequest(path="/search", body=msgspec.json.encode(fields), headers=_JSON)

    def decode_results(self, body: bytes) -> Iterable[SearchResult]:
        """Return the results in a response of Exa. The excerpts of a page are joined to one text."""
        return [
            SearchResult(
                url=result.url,
                title=result.title or result.url,
                snippet=" … ".join(result.highlights),
                page_age=(result.published or "").removesuffix("T00:00:00.000Z") or None,
            )
            for result in msgspec.json.decode(body, type=_ExaResponse).results
        ]

    def describe_error_response(self, status: int, body: bytes) -> str:
        """Return the message in an error response of Exa, the field `error`. "": none."""
        return _quote(body, "error")


class MissingKeyClient:
    """Replacement for a search service without its API key: each search fails.

    `problem` is the error text.
    """

    def __init__(self, problem: str) -> None:
        self._problem = problem

    async def search(self, query: str, **options: object) -> Sequence[SearchResult]:
        """Raise `WebSearchFailed`, because the API key of the search service is missing."""
        raise WebSearchFailed(self._problem, "unavailable")


def _plain(text: str) -> str:
    return html.unescape(_MARKUP.sub("", text))


def _quote(body: bytes, *keys: str) -> str:
    """Return the text at the path `keys` in a JSON error body, shortened for an error message. "": no such text."""
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found[:MAX_QUOTED_CHARACTERS] if isinstance(found, str) else ""
