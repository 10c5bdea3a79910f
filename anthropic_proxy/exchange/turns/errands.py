"""Runs the tools that the proxy owns: what a reply's calls ask for becomes result blocks."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import FetchFailed, SearchFailed
from anthropic_proxy.exchange.house import House
from anthropic_proxy.exchange.turns.addresses import KnownAddresses
from anthropic_proxy.exchange.turns.blocks import (
    Content,
    encode_result,
    error_content,
    is_error,
    page_content,
    pages_content,
    references_content,
)
from anthropic_proxy.exchange.turns.tool_search import (
    Found,
    InvalidPattern,
    SearchTooSlow,
    find_by_patterns,
    find_by_words,
)
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.messages.deltas import Delta, Usage
from anthropic_proxy.messages.prepare import OwnedTool
from anthropic_proxy.messages.types import Message, Tool
from anthropic_proxy.upstream.errands import READABLE, TEXTS

MOST_ERRANDS = 32
"""Calls that are run for one reply: more of them is a model that has lost its way."""
MOST_AT_ONCE = 4
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


class _Wanted(Struct, frozen=True):
    """What a search of tools looks for."""

    text: str
    by_words: bool
    most: int


class Errands:
    """Runs the calls of one reply, and counts them."""

    def __init__(self, house: House, watch: Watch) -> None:
        self._house = house
        self._watch = watch
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._uses: dict[str, int] = {}
        """Calls of each tool in this reply."""
        self._runs = 0
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
        self, calls: Sequence[OwnedCall], messages: Sequence[Message], deferred: Sequence[Tool], *, takes_pdf: bool
    ) -> list[Delta]:
        """Return the results of calls, in their order; some of them run at the same time.

        `messages` hold the addresses that may be fetched; `deferred` are the tools that can be found; `takes_pdf`:
        whether the model can read one.
        """
        contents = {place: refusal for place, call in enumerate(calls) if (refusal := self._refuse(call))}
        left = [place for place in range(len(calls)) if place not in contents]
        searches = [place for place in left if calls[place].owned.kind == "tool_search"]
        others = [place for place in left if calls[place].owned.kind != "tool_search"]
        known = KnownAddresses(messages)
        self._watch.queueing = True  # the upstream owes nothing meanwhile; the client gets its pings
        try:
            async with asyncio.TaskGroup() as group:
                finding = group.create_task(_find_tools([calls[place] for place in searches], deferred))
                runs = [group.create_task(self._run(calls[place], known, takes_pdf)) for place in others]
        finally:
            self._watch.queueing = False
        contents |= zip(searches, finding.result(), strict=True)
        contents |= zip(others, (run.result() for run in runs), strict=True)
        for place, call in enumerate(calls):
            if not is_error(contents[place]):
                self._successes[call.owned.kind] = self._successes.get(call.owned.kind, 0) + 1
        return [encode_result(call.owned.kind, call.id, contents[place]) for place, call in enumerate(calls)]

    def _refuse(self, call: OwnedCall) -> Content | None:
        """Return what a call gets that is not run; None: it may."""
        kind, name, most = call.owned.kind, call.owned.name, call.owned.tool.max_uses
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        if most is not None and uses > most:
            return error_content(kind, "max_uses_exceeded" if kind != "tool_search" else "too_many_requests")
        self._runs += 1
        return error_content(kind, "too_many_requests") if self._runs > MOST_ERRANDS else None

    async def _run(self, call: OwnedCall, known: KnownAddresses, takes_pdf: bool) -> Content:
        kind, arguments = call.owned.kind, _arguments(call)
        if arguments is None:
            return error_content(kind, "invalid_tool_input")
        async with self._turns:
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    if kind == "web_search":
                        return await self._search(call.owned.tool, arguments)
                    return await self._fetch(call.owned.tool, arguments, known, takes_pdf)
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

    async def _fetch(self, tool: Tool, arguments: dict[str, Any], known: KnownAddresses, takes_pdf: bool) -> Content:
        url = arguments.get("url")
        if not isinstance(url, str) or not url.strip():
            return error_content("web_fetch", "invalid_tool_input")
        if self._house.fetch is None:
            return error_content("web_fetch", "unavailable")
        if not known.has(url):
            return error_content("web_fetch", "url_not_in_prior_context")
        try:
            page = await self._house.fetch(
                url,
                media_types=READABLE if takes_pdf else TEXTS,
                allowed_domains=tool.allowed_domains or (),
                blocked_domains=tool.blocked_domains or (),
            )
        except FetchFailed as error:
            return error_content("web_fetch", error.error_code)
        most = _MOST_TOKENS if tool.max_content_tokens is None else max(tool.max_content_tokens, 0)
        citations = msgspec.json.decode(tool.citations) if memoryview(tool.citations).nbytes else None
        now = datetime.fromtimestamp(self._house.clock(), UTC).isoformat(timespec="seconds")
        return page_content(page, (page.text or "")[: most * _CHARACTERS_PER_TOKEN], citations, now)


async def _find_tools(calls: Sequence[OwnedCall], deferred: Sequence[Tool]) -> list[Content]:
    """Return what the searches of tools of one step find: all by words in a thread, all by patterns in a process."""
    wanted = [_wanted(call) for call in calls]
    queries = [one.text for one in wanted if one and one.by_words]
    patterns = [one.text for one in wanted if one and not one.by_words]
    by_words = iter(await asyncio.to_thread(find_by_words, queries, deferred) if queries else ())
    by_pattern = iter(await _find_by_patterns(patterns, deferred))
    return [
        _tools_content(next(by_words if one.by_words else by_pattern), one.most)
        if one
        else error_content("tool_search", "invalid_tool_input", "query or pattern: a text is needed")
        for one in wanted
    ]


def _wanted(call: OwnedCall) -> _Wanted | None:
    by_words = (call.owned.tool.type or "").startswith("tool_search_tool_bm25")
    arguments = _arguments(call) or {}
    text, limit = arguments.get("query" if by_words else "pattern"), arguments.get("limit")
    most = min(max(limit, 1), _MOST_FOUND) if isinstance(limit, int) else _FOUND
    return _Wanted(text, by_words, most) if isinstance(text, str) and text else None


async def _find_by_patterns(patterns: Sequence[str], deferred: Sequence[Tool]) -> Sequence[Found | OSError]:
    try:
        return await find_by_patterns(patterns, deferred)
    except OSError as error:  # the machine gives no further process
        return [error] * len(patterns)


def _tools_content(found: Found | OSError, most: int) -> Content:
    if isinstance(found, InvalidPattern):
        return error_content("tool_search", "invalid_tool_input", str(found))
    if isinstance(found, SearchTooSlow):
        return error_content("tool_search", "execution_time_exceeded", "the pattern takes too long; use a simpler one")
    if isinstance(found, OSError):
        return error_content("tool_search", "unavailable", f"the search could not be run: {found.strerror}")
    return references_content(found[:most])


def _arguments(call: OwnedCall) -> dict[str, Any] | None:
    """Return what the model wrote; None: it cannot be read."""
    try:
        return msgspec.json.decode(call.arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
