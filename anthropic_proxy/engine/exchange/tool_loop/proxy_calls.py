"""Calls of server tools that the proxy runs, and what the functions that run them may use."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.messages.preparation import ProxyTool
from anthropic_proxy.engine.messages.server_blocks import Content
from anthropic_proxy.engine.messages.server_tools import PROXY_TOOLS
from anthropic_proxy.engine.wires.bound_requests import ClientOrigin
from anthropic_proxy.errors import ProxyBusy, WorkerBusy

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.tool_loop.known_urls import KnownUrls

TOOL_TIMEOUT_SECONDS = 60.0
"""Maximum seconds of one tool call. After this time the call gets an error result. Search and fetch have shorter
limits."""
MAX_TITLE_CHARACTERS = 500
"""Maximum length of the title of a page or of a result of a search. A longer one is truncated."""


class ProxyToolCall(Struct, frozen=True):
    """A complete call by the model of a tool that the proxy runs."""

    id: str
    """Id of the call in the reply to the client."""
    proxy_tool: ProxyTool
    """Tool that is called: its kind, and its definition in the client request."""
    arguments: Raw
    """Arguments that the model produced: the JSON text of an object."""

    def decode_arguments(self) -> dict[str, Any] | None:
        """Return the decoded arguments. None: they are not a JSON object."""
        try:
            return msgspec.json.decode(replace_lone_surrogates(bytes(self.arguments))[0], type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return None


AddNotes = Callable[[Sequence[FidelityNote]], None]
"""Adds notes on the results of tools to the report of the request."""


class ToolContext(Struct, frozen=True):
    """What a tool may use that the proxy runs for a model."""

    engine: Engine
    origin: ClientOrigin
    """Request that causes the call."""
    slots: asyncio.Semaphore
    """Limit of the calls that run at the same time."""
    known_urls: "KnownUrls"
    """URLs of the conversation, which a web fetch may fetch."""
    accepts_pdf: bool
    """True if the model reads PDF files."""
    deferred: Sequence[Tool]
    """Tools of the client that a tool search can find."""
    add_notes: AddNotes
    count_fetched: Callable[[int], Awaitable[None]]
    """Takes memory for so many bytes more of fetched pages. Raises `ProxyBusy`."""


RunCalls = Callable[[Sequence[ProxyToolCall], ToolContext], Awaitable[list[Content]]]
"""Function that runs all calls of one kind of tool in one reply of the model. It returns their results in the order of
the calls."""
RunCall = Callable[[Tool, dict[str, Any], ToolContext], Awaitable[Content]]
"""Function that runs one call of a tool with its arguments."""


def run_each(run_call: RunCall) -> RunCalls:
    """Return a function that runs each call on its own, several at the same time, and within `TOOL_TIMEOUT_SECONDS`."""

    async def run(call: ProxyToolCall, context: ToolContext) -> Content:
        row = PROXY_TOOLS[call.proxy_tool.kind]
        arguments = call.decode_arguments()
        if arguments is None:
            return row.error_content("invalid_tool_input")
        async with context.slots:
            try:
                async with asyncio.timeout(TOOL_TIMEOUT_SECONDS):
                    return await run_call(call.proxy_tool.tool, arguments, context)
            except TimeoutError:
                return row.error_content("unavailable")
            except (ProxyBusy, WorkerBusy):
                return row.error_content("too_many_requests")

    async def run_calls(calls: Sequence[ProxyToolCall], context: ToolContext) -> list[Content]:
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run(call, context)) for call in calls]
        return [run.result() for run in runs]

    return run_calls


def list_domains(tool: Tool) -> dict[str, Any]:
    """Return the client's lists of domains as the arguments of a search or a fetch."""
    return {"allowed_domains": tool.allowed_domains or (), "blocked_domains": tool.blocked_domains or ()}
