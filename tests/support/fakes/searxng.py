"""SearXNG's search page, as its documentation and its source have it: parameters, formats, the limiter, commands.

Source: docs.searxng.org ("Search API", "Search syntax", "Limiter") and its `searx/{webapp,query,limiter}.py`, 2026-08.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, leaks, new_application

PARAMETERS = {"q", "categories", "engines", "language", "pageno", "time_range", "format", "safesearch", "theme"}
_BOTS = re.compile("unknown|[Cc][Uu][Rr][Ll]|[wW]get|python-requests|Go-http-client|Python|Ruby|okhttp|HttpClient")


def result(url: str, title: str = "Brie", **fields: Any) -> dict[str, Any]:
    """Return a result as SearXNG writes one, with the fields of every template."""
    return {
        "url": url,
        "title": title,
        "content": f"What {url} says",
        "template": "default.html",
        "publishedDate": None,
        "pubdate": "",
        "engine": "duckduckgo",
        "engines": ["duckduckgo", "brave"],
        "parsed_url": ["https", "example.com", "/", "", "", ""],
        "positions": [1, 2],
        "score": 3.0,
        "category": "general",
        "thumbnail": "",
        "img_src": "",
        "length": None,
        **fields,
    }


class Searxng:
    """One instance: its results, the formats that its `settings.yml` allows, and whether its limiter is on."""

    def __init__(
        self,
        results: Sequence[dict[str, Any]] = (),
        *,
        formats: Sequence[str] = ("html", "json"),
        limited: bool = True,
        unresponsive: Sequence[Sequence[str]] = (),
        status: int = 200,
        body: bytes = b"",
    ) -> None:
        self.results = results
        self.formats = formats
        self.limited = limited
        self.unresponsive = unresponsive
        self.status = status
        self.body = body

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        exchange = journal.open(request, dict(request.query))
        exchange.breaches.extend([*leaks(exchange.headers, raw), *_check(request)])
        response = self._answer(request, exchange)
        exchange.status = response.status
        journal.close(exchange, "answered" if response.status == 200 else "refused")
        return response

    def _answer(self, request: web.Request, exchange: Exchange) -> web.Response:
        if request.path not in ("/", "/search") or request.method not in ("GET", "POST"):
            return web.Response(status=404, text="<h1>Page not found</h1>", content_type="text/html")
        if self.limited and _is_bot(exchange.headers):
            return web.Response(status=429, text="Too Many Requests")
        form = request.query.get("format", "html")
        if form not in self.formats:
            return web.Response(status=403, text="<h1>Forbidden</h1>", content_type="text/html")
        words = request.query.get("q", "").split()
        if not words:
            return web.json_response({"error": "No query"}, status=400)
        if any(word.startswith("!!") for word in words):
            return web.Response(status=302, headers={"location": "https://elsewhere.example/"})
        if self.status != 200 or self.body:
            return web.Response(status=self.status, body=self.body, content_type="application/json")
        found = {
            "query": request.query["q"],
            "number_of_results": 0,
            "results": self.results,
            "answers": [],
            "corrections": [],
            "infoboxes": [],
            "suggestions": ["camembert"],
            "unresponsive_engines": self.unresponsive,
        }
        response = web.Response(text=json.dumps(found), content_type="application/json")
        response.enable_compression()
        return response


def _check(request: web.Request) -> list[ContractViolation]:
    unknown = set(request.query) - PARAMETERS
    return [
        ContractViolation("parameter", f"{name} is no parameter of the search API", name) for name in sorted(unknown)
    ]


def _is_bot(headers: dict[str, str]) -> bool:
    """Return whether the limiter takes a caller for a bot, by the headers that every browser sends."""
    return (
        "text/html" not in headers.get("accept", "")
        or not {"gzip", "deflate"} & {part.strip() for part in headers.get("accept-encoding", "").split(",")}
        or not headers.get("accept-language", "").strip()
        or _BOTS.match(headers.get("user-agent", "unknown")) is not None
        or headers.get("connection", "").strip() == "close"
    )


def new_searxng(searxng: Searxng) -> web.Application:
    return new_application(searxng.answer, RequestLog())
