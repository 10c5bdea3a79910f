"""Runs the tools that the proxy owns: what a reply's calls ask for becomes result blocks."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import FetchFailed, SearchFailed
from anthropic_proxy.exchange.house import House
from anthropic_proxy.exchange.turns.addresses import is_known
from anthropic_proxy.exchange.turns.blocks import (
    Content,
    encode_result,
    error_content,
    is_error,
    page_content,
    pages_content,
    references_content,
)
from anthropic_proxy.exchange.turns.tool_search import InvalidPattern, SearchTooSlow, find_by_pattern, find_by_words
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.messages.deltas import Delta, Usage
from anthropic_proxy.messages.prepare import OwnedTool
from anthropic_proxy.messages.types import Message, Tool

LONGEST_SECONDS = 60.0
"""How long one call may run; the errands have shorter limits of their own."""
_RESULTS_ASKED = 10
_CHARACTERS_PER_TOKEN = 4
_MOST_TOKENS = 100_000
"""Tokens of a page that the model is shown where the client sets no limit: more would fill most windows."""
_FOUND, _MOST_FOUND = 5, 10
"""Tools that a search of tools returns, and the most that it can be asked for."""


class OwnedCall(Struct, frozen=True):
    """A call that the model made of a tool that the proxy runs."""

    id: str
    owned: OwnedTool
    arguments: Raw
    """A JSON object, as text."""


class Errands:
    """Runs the calls of one reply, and counts them."""

    def __init__(self, house: House, watch: Watch) -> None:
        self._house = house
        self._watch = watch
        self._uses: dict[str, int] = {}
        """Calls of each tool in this reply."""
        self._successes: dict[str, int] = {}
        """Of each kind."""

    @property
    def usage(self) -> Usage:
        """Searches and fetches so far that brought something: others cost nothing, as at Anthropic."""
        if not self._uses:
            return Usage()
        searches, fetches = (self._successes.get(kind, 0) for kind in ("web_search", "web_fetch"))
        return Usage(web_search_requests=searches, web_fetch_requests=fetches)

    async def run(
        self, calls: Sequence[OwnedCall], messages: Sequence[Message], deferred: Sequence[Tool]
    ) -> list[Delta]:
        """Return the results of calls, in their order; they run at the same time.

        `messages` hold the addresses that may be fetched; `deferred` are the tools that can be found.
        """
        allowed = [self._is_within_limit(call) for call in calls]
        self._watch.queueing = True  # the upstream owes nothing meanwhile; the client gets its pings
        try:
            async with asyncio.TaskGroup() as group:
                runs = [
                    group.create_task(self._run(call, messages, deferred, may))
                    for call, may in zip(calls, allowed, strict=True)
                ]
        finally:
            self._watch.queueing = False
        contents = [run.result() for run in runs]
        for call, content in zip(calls, contents, strict=True):
            if not is_error(content):
                self._successes[call.owned.kind] = self._successes.get(call.owned.kind, 0) + 1
        return [encode_result(call.owned.kind, call.id, content) for call, content in zip(calls, contents, strict=True)]

    def _is_within_limit(self, call: OwnedCall) -> bool:
        name, most = call.owned.name, call.owned.tool.max_uses
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        return most is None or uses <= most

    async def _run(self, call: OwnedCall, messages: Sequence[Message], deferred: Sequence[Tool], may: bool) -> Content:
        kind = call.owned.kind
        if not may:
            return error_content(kind, "max_uses_exceeded" if kind != "tool_search" else "too_many_requests")
        try:
            arguments = msgspec.json.decode(call.arguments, type=dict[str, Any])
        except msgspec.DecodeError:
            return error_content(kind, "invalid_tool_input")
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                if kind == "web_search":
                    return await self._search(call.owned.tool, arguments)
                if kind == "web_fetch":
                    return await self._fetch(call.owned.tool, arguments, messages)
                return await _find_tools(call.owned.tool, arguments, deferred)
        except TimeoutError:
            return error_content(kind, "unavailable")

    async def _search(self, tool: Tool, arguments: dict[str, Any]) -> Content:
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            return error_content("web_search", "invalid_tool_input")
        if self._house.search is None:
            return error_content("web_search", "unavailable")
        try:
            pages = await self._house.search(
                query, tool.allowed_domains or (), tool.blocked_domains or (), _RESULTS_ASKED
            )
        except SearchFailed as error:
            return error_content("web_search", error.error_code)
        return pages_content(pages)

    async def _fetch(self, tool: Tool, arguments: dict[str, Any], messages: Sequence[Message]) -> Content:
        url = arguments.get("url")
        if not isinstance(url, str) or not url.strip():
            return error_content("web_fetch", "invalid_tool_input")
        if self._house.fetch is None:
            return error_content("web_fetch", "unavailable")
        if not is_known(url, messages):
            return error_content("web_fetch", "url_not_in_prior_context")
        try:
            page = await self._house.fetch(
                url, allowed_domains=tool.allowed_domains or (), blocked_domains=tool.blocked_domains or ()
            )
        except FetchFailed as error:
            return error_content("web_fetch", error.error_code)
        most = _MOST_TOKENS if tool.max_content_tokens is None else max(tool.max_content_tokens, 0)
        citations = msgspec.json.decode(tool.citations) if memoryview(tool.citations).nbytes else None
        now = datetime.fromtimestamp(self._house.clock(), UTC).isoformat(timespec="seconds")
        return page_content(page, (page.text or "")[: most * _CHARACTERS_PER_TOKEN], citations, now)


async def _find_tools(tool: Tool, arguments: dict[str, Any], deferred: Sequence[Tool]) -> Content:
    by_words = (tool.type or "").startswith("tool_search_tool_bm25")
    asked = arguments.get("query" if by_words else "pattern")
    limit = arguments.get("limit")
    if not isinstance(asked, str) or not asked:
        return error_content("tool_search", "invalid_tool_input", "query or pattern: a text is needed")
    most = min(max(limit, 1), _MOST_FOUND) if isinstance(limit, int) else _FOUND
    try:
        found = find_by_words(asked, deferred) if by_words else await find_by_pattern(asked, deferred)
    except InvalidPattern as error:
        return error_content("tool_search", "invalid_tool_input", str(error))
    except SearchTooSlow:
        return error_content("tool_search", "execution_time_exceeded", "the pattern takes too long; use a simpler one")
    except OSError as error:  # the machine gives no further process
        return error_content("tool_search", "unavailable", f"the search could not be run: {error.strerror}")
    return references_content(found[:most])
