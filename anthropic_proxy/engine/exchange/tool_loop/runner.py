"""`ProxyToolRunner`: runs those server tools for a model that the proxy itself offers.

The proxy runs such a tool if the provider does not. `run_calls` runs calls within limits of number and time, and
returns result blocks for the reply and for the next upstream call. `usage` counts successful calls.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.inspection import InspectResult
from anthropic_proxy.engine.exchange.tool_loop.known_urls import KnownUrls
from anthropic_proxy.engine.exchange.tool_loop.proxy_calls import AddNotes, ProxyToolCall, RunCalls, ToolContext
from anthropic_proxy.engine.exchange.tool_loop.tool_search import run_tool_searches
from anthropic_proxy.engine.exchange.tool_loop.web_fetch import run_web_fetches
from anthropic_proxy.engine.exchange.tool_loop.web_search import run_web_searches
from anthropic_proxy.engine.messages.deltas import Block, Delta, Usage
from anthropic_proxy.engine.messages.models import Message, Tool
from anthropic_proxy.engine.messages.server_blocks import (
    Content,
    encode_server_tool_result,
    is_error_content,
)
from anthropic_proxy.engine.messages.server_tools import PROXY_TOOLS, ServerToolKind
from anthropic_proxy.engine.wires.bound_requests import ClientOrigin

RUNNERS: Mapping[ServerToolKind, RunCalls] = {
    "web_search": run_web_searches,
    "web_fetch": run_web_fetches,
    "tool_search": run_tool_searches,
}
"""Function for each kind of tool that the proxy can run (`PROXY_TOOLS`)."""
MAX_TOOL_CALLS = 32
"""Maximum number of proxy tool calls per reply, against endless loops of a model. Further calls get an error result."""
MAX_CONCURRENT_CALLS = 4
"""Maximum number of proxy tool calls of one upstream reply that run at the same time. The others are queued."""


class ProxyToolRunner:
    """Runner of the proxy's tools (web search …) for one reply. It counts the calls of the reply, for limits."""

    def __init__(
        self,
        engine: Engine,
        origin: ClientOrigin,
        add_notes: AddNotes,
        count: Callable[[int], Awaitable[None]],
        inspect: InspectResult | None = None,
    ) -> None:
        """`count`: takes memory for so many bytes of fetched pages. Raises `ProxyBusy`."""
        self._engine = engine
        self._count = count
        self._fetched_bytes = 0
        self._add_notes = add_notes
        self.origin = origin
        self._inspect = inspect
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._uses: dict[str, int] = {}
        """Tool name → number of calls in this reply, for the limits."""
        self._runs = 0
        self._successes: dict[ServerToolKind, int] = {}
        """Kind of tool → number of its successful calls in this reply."""

    @property
    def usage(self) -> Usage:
        """Numbers of successful calls of this reply, for billing. Failed calls do not count."""
        if not self._uses:
            return Usage()
        counts = {row.counter: self._successes.get(kind, 0) for kind, row in PROXY_TOOLS.items() if row.counter}
        return structs.replace(Usage(), **counts)

    async def run_calls(
        self,
        calls: Sequence[ProxyToolCall],
        messages: Sequence[Message],
        deferred: Sequence[Tool],
        *,
        accepts_pdf: bool,
    ) -> list[Delta]:
        """Run calls of the proxy's tools at the same time, and return one result block per call.

        A web fetch may only fetch URLs in the conversation `messages`, and may return a PDF file only if `accepts_pdf`
        is True. A tool search searches the tools `deferred`.
        """
        contents = {index: rejection for index, call in enumerate(calls) if (rejection := self._reject(call))}
        waiting: dict[ServerToolKind, list[int]] = {}
        for index, call in enumerate(calls):
            if index not in contents:
                waiting.setdefault(call.proxy_tool.kind, []).append(index)
        context = ToolContext(
            self._engine,
            self.origin,
            self._slots,
            KnownUrls(messages),
            accepts_pdf,
            deferred,
            self._add_notes,
            self._count_fetched,
        )

        async def run(kind: ServerToolKind, places: Sequence[int]) -> None:
            results = await RUNNERS[kind]([calls[index] for index in places], context)
            contents.update(zip(places, results, strict=True))

        async with asyncio.TaskGroup() as group:
            for kind, places in waiting.items():
                group.create_task(run(kind, places))
        for index, call in enumerate(calls):
            if not is_error_content(contents[index]):
                self._successes[call.proxy_tool.kind] = self._successes.get(call.proxy_tool.kind, 0) + 1
        results = [
            encode_server_tool_result(call.proxy_tool.kind, call.id, contents[index])
            for index, call in enumerate(calls)
        ]
        if self._inspect is not None:
            for index, call in enumerate(calls):
                kind = call.proxy_tool.kind
                inspected = await self._inspect(results[index].raw)
                unavailable = encode_server_tool_result(kind, call.id, PROXY_TOOLS[kind].error_content("unavailable"))
                results[index] = unavailable if inspected is None else Block(inspected)
        return [*results]

    async def _count_fetched(self, size: int) -> None:
        await self._count(self._fetched_bytes + size)
        self._fetched_bytes += size

    def _reject(self, call: ProxyToolCall) -> Content | None:
        """Return the error content for a call that exceeds a limit. None: the call may run."""
        row = PROXY_TOOLS[call.proxy_tool.kind]
        name = call.proxy_tool.name
        max_uses = call.proxy_tool.tool.max_uses
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        if max_uses is not None and uses > max_uses:
            return row.error_content(row.limit_error)
        self._runs += 1
        return row.error_content("too_many_requests") if self._runs > MAX_TOOL_CALLS else None
