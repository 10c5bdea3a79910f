"""Web search for models, by a search service that the user chooses: SearXNG, Brave, Tavily or Exa."""

import asyncio
import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.messages.server_blocks import domain_names, is_url_allowed
from anthropic_proxy.engine.options import SearchServiceName
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.upstream.contract import SearchResult
from anthropic_proxy.engine.wires.bound_requests import Answer, BoundRequest, ClientOrigin, Transport, fetch_answer
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_or_repair, repair_json
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import UpstreamError, WebSearchFailed

SEARCH_TIMEOUT_SECONDS = 20.0
"""Maximum time for one search. SearXNG waits for the slowest of its search engines."""
MAX_QUOTED_CHARACTERS = 200
"""Maximum number of characters that an error message quotes from a response of the search service."""
_MAX_BYTES = 8 * 1024 * 1024
_MAX_RESULTS = 200
"""Maximum number of results that are looked at. Services give some tens."""
_MAX_SITES = 5
"""Maximum number of domains in a query. With more domains, the query contains none, because they would displace its
words; only the results are filtered."""


class _Result(Struct):
    """A result of any of the services."""

    url: str | None = None
    title: str | None = None
    content: str | None = None
    """Text of the page: SearXNG, Tavily."""
    description: str | None = None
    """The same: Brave."""
    highlights: list[str] = []
    """The same: Exa."""
    published: str | None = msgspec.field(default=None, name="publishedDate")
    """Publication date and time (ISO 8601), of which the time is usually midnight: SearXNG, Exa."""
    published_date: str | None = None
    page_age: str | None = None


class _Response(Struct):
    results: list[_Result]
    unresponsive: list[tuple[str, str]] = msgspec.field(default_factory=list, name="unresponsive_engines")


_decode_response = msgspec.json.Decoder(_Response).decode


class SearchClient(ABC):
    """Client of a search service, with a subclass for each service. `setting` is the name of the setting that
    configures the service. Error messages for the user contain this name.
    """

    service: SearchServiceName
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
        """`sites`, `excluded_sites`: domains, if the service can restrict a search."""

    def read_results(self, body: bytes) -> Sequence[_Result]:
        """Raises `msgspec.DecodeError` or `WebSearchFailed`."""
        return _decode_response(body).results

    def clean(self, text: str) -> str:
        """Return a title or snippet of the service as plain text."""
        return text

    def decode_results(self, body: bytes) -> Iterable[SearchResult]:
        """Raises `msgspec.DecodeError` or `WebSearchFailed`."""
        return (
            SearchResult(
                url=found.url,
                title=self.clean(found.title or "") or found.url,
                snippet=self.clean(found.content or found.description or " … ".join(found.highlights)),
                page_age=(found.published or found.published_date or found.page_age or "")
                .removesuffix("T00:00:00.000Z")
                .removesuffix("T00:00:00")
                or None,
            )
            for found in self.read_results(body)
            if found.url
        )

    @abstractmethod
    def describe_error_response(self, status: int, body: bytes) -> str:
        """Cause of a response other than 200, or a remedy. "": unknown."""

    async def search(
        self,
        origin: ClientOrigin,
        query: str,
        *,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        limit: int = 10,
    ) -> Sequence[SearchResult]:
        """Return at most `limit` results, the best first, never from `blocked_domains`. `allowed_domains` empty: all
        domains. Raises `WebSearchFailed`.
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
            request = self.encode_query(words, sites, excluded_sites, limit)
            async with asyncio.timeout(SEARCH_TIMEOUT_SECONDS):
                bound = BoundRequest(origin, self._url, request, self._credential, server=self.service)
                answer = await fetch_answer(self._send, bound, _MAX_BYTES)
        except TimeoutError:
            text = f"{self._url} gave no results within {SEARCH_TIMEOUT_SECONDS:g} s"
            raise WebSearchFailed(text, "unavailable") from None
        except UpstreamError as error:
            raise WebSearchFailed(f"{self._setting}: {error.message}", "unavailable") from error
        if answer.status != 200:
            raise self._build_error(answer)
        try:
            results = decode_or_repair(self.decode_results, answer.body, repair_json)
        except DECODE_ERRORS as error:
            text = f"{self._url} gives no results as JSON ({str(error)[:MAX_QUOTED_CHARACTERS]})"
            raise WebSearchFailed(text, "unavailable") from None
        chosen: dict[str, SearchResult] = {}
        for result in islice(results, _MAX_RESULTS):
            if len(chosen) >= limit:
                break
            url = result.url
            is_of_web = url.lstrip().lower().startswith(("http://", "https://"))
            if url not in chosen and is_of_web and is_url_allowed(url, allowed_domains, blocked_domains):
                chosen[url] = result
        return list(chosen.values())

    def _build_error(self, answer: Answer) -> WebSearchFailed:
        status = answer.status
        message = f"{self._url} answers with HTTP {status}"
        if 300 <= status < 400:
            location = answer.headers.get("location", "").partition("?")[0][:MAX_QUOTED_CHARACTERS]
            message += f" and points to {location or 'another place'}; set {self._setting} to where the service is"
        elif remedy := self.describe_error_response(status, answer.body):
            message += f": {remedy}"
        if self._credential is not None:
            message = message.replace(self._credential.secret, "…")
        return WebSearchFailed(message, "too_many_requests" if status == 429 else "unavailable")


def build_site_filter(sites: Sequence[str]) -> str:
    """Text to add to a query. "": there are no domains, or too many for a query."""
    if not 0 < len(sites) <= _MAX_SITES:
        return ""
    condition = " OR ".join(f"site:{site}" for site in sites)
    return f" {condition}" if len(sites) == 1 else f" ({condition})"


MAX_QUERY_CHARACTERS = 1_000
"""Maximum characters of a query to SearXNG. The search engines behind SearXNG cut or reject longer queries."""


class SearxngClient(SearchClient):
    """Client of a SearXNG server with the base URL `url`. Its `settings.yml` must enable the JSON format."""

    service = "searxng"
    max_query_characters = MAX_QUERY_CHARACTERS

    def __init__(self, send: Transport, url: str, *, setting: str = "SEARCH_URL") -> None:
        super().__init__(send, url.removesuffix("/search"), setting=setting)

    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        """SearXNG's limiter treats a request without these headers as a bot."""
        # SearXNG would execute such words: `!!g` redirects, `<3` sets a timeout, `:de` a language
        words = (word.lstrip("!<:") for word in (query + build_site_filter(sites)).split())
        parameters = urlencode({"q": " ".join(filter(None, words)), "format": "json"})
        headers = {
            "accept": "application/json, text/html;q=0.5",
            "accept-encoding": "gzip, deflate",
            "accept-language": "en, *;q=0.5",
        }
        return UpstreamRequest(path=f"/search?{parameters}", body=b"", headers=headers, method="GET")

    def read_results(self, body: bytes) -> Sequence[_Result]:
        """Raises `WebSearchFailed` if there are no results, and SearXNG reports search engines that failed."""
        reply = _decode_response(body)
        if not reply.results and reply.unresponsive:
            reasons = ", ".join(f"{engine}: {reason}" for engine, reason in reply.unresponsive)
            text = f"no engine of SearXNG gave results ({reasons[:MAX_QUOTED_CHARACTERS]})"
            raise WebSearchFailed(text, "unavailable")
        return reply.results

    def describe_error_response(self, status: int, body: bytes) -> str:
        if status == 403:
            return "it does not give JSON; add json to search.formats in SearXNG's settings.yml"
        if status == 429:
            return (
                "SearXNG's limiter lets a caller have four answers an hour as JSON; switch it off or let this one pass"
            )
        return ""


# Sources, read 2026-11-21: api-dashboard.search.brave.com, "Web search" (query, GET); docs.tavily.com, "Tavily Search"
# (POST /search); exa.ai/docs, "Search" and "Error codes" (POST /search).
_MARKUP = compile_later(r"</?[a-z][^<>]*>")
_BRAVE_MAX_WORDS = 50
_BRAVE_MAX_RESULTS = 20
_JSON = {"content-type": "application/json", "accept": "application/json"}


class _BraveResults(Struct):
    results: list[_Result] = []


class _BraveResponse(Struct):
    web: _BraveResults | None = None


class BraveClient(SearchClient):
    service = "brave"
    max_query_characters = 400

    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        """The domains are added to the query, unless it would then be too long for Brave."""
        narrowed = query + build_site_filter(sites) + "".join(f" -site:{site}" for site in excluded_sites)
        if len(narrowed) > self.max_query_characters or len(narrowed.split()) > _BRAVE_MAX_WORDS:
            narrowed = query
        count = _BRAVE_MAX_RESULTS if sites or excluded_sites else min(limit, _BRAVE_MAX_RESULTS)
        parameters = {"q": narrowed, "count": count, "text_decorations": "false", "result_filter": "web"}
        headers = {"accept": "application/json", "accept-encoding": "gzip"}
        path = f"/res/v1/web/search?{urlencode(parameters)}"
        return UpstreamRequest(path=path, body=b"", headers=headers, method="GET")

    def read_results(self, body: bytes) -> Sequence[_Result]:
        web = msgspec.json.decode(body, type=_BraveResponse).web
        return web.results if web else ()

    def clean(self, text: str) -> str:
        return html.unescape(_MARKUP.sub("", text))

    def describe_error_response(self, status: int, body: bytes) -> str:
        """The status does not show the cause: Brave answers a wrong API key with status 422, for example."""
        return _quote(body, "error", "detail")


class _JsonClient(SearchClient):
    """Client of a service that gets a query as a JSON object."""

    fields: tuple[str, str, str]
    """Names of the fields with the number of results, the allowed and the excluded domains."""
    max_results: int
    constant_fields: Mapping[str, object] = {}
    error_path: Sequence[str]

    def encode_query(
        self, query: str, sites: Sequence[str], excluded_sites: Sequence[str], limit: int
    ) -> UpstreamRequest:
        count, allowed, excluded = self.fields
        body: dict[str, object] = {"query": query, count: min(limit, self.max_results), **self.constant_fields}
        body |= {name: list(domains) for name, domains in ((allowed, sites), (excluded, excluded_sites)) if domains}
        return UpstreamRequest(path="/search", body=msgspec.json.encode(body), headers=_JSON)

    def describe_error_response(self, status: int, body: bytes) -> str:
        return _quote(body, *self.error_path)


class TavilyClient(_JsonClient):
    """Its own status codes 432 and 433 mean that the limit of the user's plan is reached."""

    service = "tavily"
    max_query_characters = 400
    fields = ("max_results", "include_domains", "exclude_domains")
    max_results = 20
    error_path = ("detail", "error")


class ExaClient(_JsonClient):
    service = "exa"
    max_query_characters = 1_000
    fields = ("numResults", "includeDomains", "excludeDomains")
    max_results = 100
    constant_fields: Mapping[str, object] = {"contents": {"highlights": True}}
    error_path = ("error",)


class RefusedSearch:
    """Stands for a search service whose API key is missing."""

    def __init__(self, service: SearchServiceName, problem: str) -> None:
        self.service = service
        self._problem = problem

    async def search(self, origin: ClientOrigin, query: str, **options: object) -> Sequence[SearchResult]:
        """Raises `WebSearchFailed`."""
        raise WebSearchFailed(self._problem, "unavailable")


def _quote(body: bytes, *keys: str) -> str:
    """Return the text at the path `keys` in a JSON error body, shortened for an error message. "": no such text."""
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found[:MAX_QUOTED_CHARACTERS] if isinstance(found, str) else ""
