"""`SearxngClient`: runs web searches by a SearXNG server, which may be on any host, including this machine.

Source: docs.searxng.org, "Search API" and "Limiter", and the source of SearXNG, read 2026-11.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import WebSearchFailed
from anthropic_proxy.upstream.contract import SearchResult
from anthropic_proxy.upstream.web_search.client import MAX_QUOTED_CHARACTERS, SearchClient, build_site_filter
from anthropic_proxy.wire.contract import Transport, UpstreamRequest

MAX_QUERY_CHARACTERS = 1_000
"""Maximum characters of a query to SearXNG. The search engines behind SearXNG cut or reject longer queries."""


class SearxngClient(SearchClient):
    """Client of a SearXNG server with the base URL `url`. Its `settings.yml` must enable the JSON format."""

    max_query_characters = MAX_QUERY_CHARACTERS
    """Maximum characters of a query to SearXNG. A longer query is rejected."""

    def __init__(self, send: Transport, url: str, *, setting: str = "SEARCH_URL") -> None:
        super().__init__(send, url.removesuffix("/search"), setting=setting)

    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        """Return the HTTP request for a query to SearXNG: `GET /search?q=…&format=json`.

        SearXNG's limiter treats a request without certain headers as a bot. The request therefore has these headers.
        """
        parameters = urlencode({"q": _without_commands(query + build_site_filter(sites)), "format": "json"})
        headers = {
            "accept": "application/json, text/html;q=0.5",
            "accept-encoding": "gzip, deflate",
            "accept-language": "en, *;q=0.5",
        }
        return UpstreamRequest(path=f"/search?{parameters}", body=b"", headers=headers, method="GET")

    def decode_results(self, body: bytes) -> Iterable[SearchResult]:
        """Return the results in a response of SearXNG.

        Raises `WebSearchFailed` if there are no results, and SearXNG reports search engines that failed.
        """
        reply = _decode_response(body)
        if not reply.results and reply.unresponsive:
            reasons = ", ".join(f"{engine}: {reason}" for engine, reason in reply.unresponsive)
            raise WebSearchFailed(
                f"no engine of SearXNG gave results ({reasons[:MAX_QUOTED_CHARACTERS]})", "unavailable"
            )
        return [
            SearchResult(
                url=result.url,
                title=result.title or result.url,
                snippet=result.content or "",
                page_age=(result.published or "").removesuffix("T00:00:00") or None,
            )
            for result in reply.results
            if result.url
        ]

    def describe_error_response(self, status: int, body: bytes) -> str:
        """Return a remedy for an error status of the SearXNG server. "": no remedy is known."""
        if status == 403:
            return "it does not give JSON; add json to search.formats in SearXNG's settings.yml"
        if status == 429:
            return (
                "SearXNG's limiter lets a caller have four answers an hour as JSON; switch it off or let this one pass"
            )
        return ""


class _Result(Struct):
    """A search result of SearXNG: the fields that all kinds of results have."""

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


def _without_commands(query: str) -> str:
    """Return a query without the words that SearXNG would execute:

    `!!g` redirects, `<3` sets a timeout, `:de` a language.
    """
    return " ".join(filter(None, (word.lstrip("!<:") for word in query.split())))
