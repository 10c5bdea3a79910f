"""Brave Search, Tavily and Exa, as strict as their references: method, path, key, fields and limits.

Sources, read 2026-11-21: api-dashboard.search.brave.com (web search, GET), docs.tavily.com (POST /search),
exa.ai/docs (search; error codes).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, new_application
from tests.support.secret_canaries import new_canary

KEY = new_canary("search-")
_BRAVE = {
    *("q", "country", "search_lang", "ui_lang", "count", "offset", "safesearch", "freshness", "text_decorations"),
    *("spellcheck", "result_filter", "goggles", "units", "extra_snippets", "summary"),
}
_TAVILY = {
    *("query", "topic", "search_depth", "chunks_per_source", "max_results", "time_range", "start_date", "end_date"),
    *("include_answer", "include_raw_content", "include_images", "include_image_descriptions", "include_favicon"),
    *("include_domains", "exclude_domains", "country", "auto_parameters"),
}
_EXA = {
    *("query", "additionalQueries", "type", "category", "userLocation", "numResults", "includeDomains"),
    *("excludeDomains", "startCrawlDate", "endCrawlDate", "startPublishedDate", "endPublishedDate", "moderation"),
    *("contents", "outputSchema", "systemPrompt"),
}


@dataclass
class SearchStandIn:
    """One service: the results that it gives, and the status of a planned failure."""

    kind: str
    results: Sequence[dict[str, Any]] = ()
    status: int = 200
    error: str = "Planned failure"
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Parameters or body of each request."""

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        method, path, key_header, key = {
            "brave": ("GET", "/res/v1/web/search", "x-subscription-token", KEY),
            "tavily": ("POST", "/search", "authorization", f"Bearer {KEY}"),
            "exa": ("POST", "/search", "x-api-key", KEY),
        }[self.kind]
        fields: dict[str, Any] = dict(request.query) if method == "GET" else json.loads(raw or b"{}")
        exchange = journal.open(request, fields)
        self.requests.append(fields)
        if (request.method, request.path) != (method, path):
            exchange.breaches.append(ContractViolation("url", f"there is no {request.method} {request.path}"))
        if method == "POST" and request.content_type != "application/json":
            exchange.breaches.append(ContractViolation("content_type", "the body must be JSON"))
        exchange.breaches.extend(_CHECKS[self.kind](fields))
        response = self._answer(request.headers.get(key_header) == key, exchange)
        exchange.status = response.status
        journal.close(exchange, "answered" if response.status == 200 else "refused")
        return response

    def _answer(self, accepted: bool, exchange: Exchange) -> web.Response:
        if not accepted:
            return self._fail({"brave": 422}.get(self.kind, 401), "The provided API key is invalid.")
        if exchange.breaches:
            return self._fail({"brave": 422}.get(self.kind, 400), exchange.breaches[0].message)
        if self.status != 200:
            return self._fail(self.status, self.error)
        if self.kind == "brave":
            found: dict[str, Any] = {"type": "search", "query": {"original": "q"}, "mixed": {}}
            return web.json_response(
                found | ({"web": {"type": "search", "results": self.results}} if self.results else {})
            )
        if self.kind == "tavily":
            return web.json_response(
                {"query": "q", "answer": None, "images": [], "results": self.results, "response_time": 1.2}
            )
        return web.json_response({"requestId": "b5947044", "resolvedSearchType": "neural", "results": self.results})

    def _fail(self, status: int, text: str) -> web.Response:
        body: dict[str, Any] = {
            "brave": {"type": "ErrorResponse", "error": {"id": "1", "status": status, "code": "X", "detail": text}},
            "tavily": {"detail": {"error": text}},
            "exa": {"requestId": "1", "error": text, "tag": "X"},
        }[self.kind]
        return web.json_response(body, status=status)


def new_search_service(service: SearchStandIn) -> web.Application:
    return new_application(service.answer, RequestLog())


def _check_brave(fields: dict[str, Any]) -> list[ContractViolation]:
    found = _unknown(fields, _BRAVE)
    query = fields.get("q", "")
    if not 1 <= len(query) <= 400 or len(query.split()) > 50:
        found.append(ContractViolation("q", "q: at most 400 characters and 50 words"))
    if not 1 <= int(fields.get("count", 20)) <= 20:
        found.append(ContractViolation("count", "count: from 1 to 20"))
    return found


def _check_tavily(fields: dict[str, Any]) -> list[ContractViolation]:
    found = _unknown(fields, _TAVILY)
    if not 1 <= len(fields.get("query", "")) <= 400:
        found.append(ContractViolation("query", "Query is too long. Max query length is 400 characters."))
    if not 0 <= fields.get("max_results", 5) <= 20:
        found.append(ContractViolation("max_results", "max_results: from 0 to 20"))
    return found


def _check_exa(fields: dict[str, Any]) -> list[ContractViolation]:
    found = _unknown(fields, _EXA)
    if not fields.get("query"):
        found.append(ContractViolation("query", "query is required"))
    if not 1 <= fields.get("numResults", 10) <= 100:
        found.append(ContractViolation("numResults", "numResults: from 1 to 100"))
    return found


def _unknown(fields: dict[str, Any], known: set[str]) -> list[ContractViolation]:
    return [ContractViolation("field", f"{name} is unknown", name) for name in sorted(set(fields) - known)]


_CHECKS: dict[str, Callable[[dict[str, Any]], list[ContractViolation]]] = {
    "brave": _check_brave,
    "tavily": _check_tavily,
    "exa": _check_exa,
}
