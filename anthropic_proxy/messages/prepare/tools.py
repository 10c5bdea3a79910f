"""Which tools are offered, under which names, and which of them the model must call."""

import functools
from collections.abc import Mapping

from msgspec.structs import replace

from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.client_tools import as_function
from anthropic_proxy.messages.prepare.deferral import split_deferred
from anthropic_proxy.messages.prepare.names import Names
from anthropic_proxy.messages.prepare.request import Limits, OwnedTool
from anthropic_proxy.messages.prepare.server_tools import Offer, decide, expect_offered, kind_of
from anthropic_proxy.messages.types import (
    MessagesRequest,
    Tool,
    ToolAdditionBlock,
    ToolChoice,
    ToolRemovalBlock,
    read_tool,
)
from anthropic_proxy.messages.types.tools import ToolList, are_client_tools
from anthropic_proxy.messages.types.toolsets import implied_toolsets

_PLACEHOLDER = "DeferredToolPlaceholder"
"""A tool that Claude Code sends where others are deferred; it does nothing, so no model should see it."""
_FREE = ("auto", "none")
_FORCED = ("any", "tool")
_LISTED = 20
"""Names that a refusal lists."""


def offered_tools(request: MessagesRequest, limits: Limits, names: Names, notes: list[Note]) -> Offer:
    """Return the tools that may be offered, under their aliases, deferred ones and the provider's own included."""
    declared = _with_changes(request)
    if request.mcp_servers and "mcp_toolset" in limits.server_tools:
        declared = [*declared, *implied_toolsets(request)]
    if declared and not limits.tools:
        notes.append(Note("dropped", "tools", "the model takes no tools"))
        return Offer([], {}, [])
    if isinstance(declared, ToolList) and declared.all_from_client:
        tools, aliases = _functions(declared, limits)
        names.aliases.update(aliases)
        return Offer(tools, {}, [])
    offer = decide([_defined(tool) for tool in declared if tool.name != _PLACEHOLDER], limits, notes)
    if any(tool.kind == "tool_search" for tool in offer.owned.values()):
        forced = request.tool_choice.name if request.tool_choice else None
        offer.tools, offer.deferred = split_deferred(offer.tools, request.messages, forced)
    offer.tools = [_under_alias(tool, names) for tool in offer.tools]
    return offer


def tools_now(request: MessagesRequest) -> list[Tool]:
    """Return the tools that a model sees now: without those that wait for a search of tools to find them."""
    tools = _with_changes(request)
    if not any(tool.defer_loading for tool in tools):
        return tools
    tools = [tool for tool in tools if tool.name != _PLACEHOLDER]
    if not any(kind_of(tool) == "tool_search" for tool in tools):
        return tools
    return split_deferred(tools, request.messages, request.tool_choice.name if request.tool_choice else None)[0]


def owned_tools(request: MessagesRequest, limits: Limits) -> Mapping[str, OwnedTool]:
    """Return the server tools that the proxy would run for a request; keys as `Prepared.owned` has them."""
    if not limits.tools or are_client_tools(request.tools):
        return {}
    return decide([_defined(tool) for tool in _with_changes(request)], limits, []).owned


def offered_choice(
    request: MessagesRequest, offer: Offer, limits: Limits, names: Names, notes: list[Note]
) -> ToolChoice | None:
    """Return the choice that the model is left, None for no say.

    Raises `InvalidRequest` where it forces a tool that is not offered, `UnsupportedFeature` where it is one that nobody
    runs, or the model takes none.
    """
    choice, tools = request.tool_choice, offer.tools
    if choice is None:
        return None
    if choice.type not in _FREE + _FORCED:
        notes.append(Note("dropped", "tool_choice", f"{choice.type!r} is not auto, any, tool or none"))
        return None
    expect_offered(choice, offer, limits)
    if not tools:
        if choice.type in _FREE:
            return None
        if request.tools and not limits.tools:
            raise UnsupportedFeature(f"tool_choice: '{choice.type}' forces a tool call, but the model takes no tools")
        raise InvalidRequest(f"tool_choice: '{choice.type}' forces a tool call, but no tool is offered in tools")
    if choice.type != "tool":
        return choice
    said = names.say(choice.name or "")
    if all(tool.name != said for tool in tools):
        listed = ", ".join(names.aliases.get(tool.name, tool.name) for tool in tools[:_LISTED])
        more = f" and {len(tools) - _LISTED} more" if len(tools) > _LISTED else ""
        raise InvalidRequest(f"tool_choice.name: no tool named {choice.name!r} is offered; there are: {listed}{more}")
    return choice if said == choice.name else replace(choice, name=said)


@functools.lru_cache(maxsize=64)
def _functions(tools: ToolList, limits: Limits) -> tuple[ToolList, Mapping[str, str]]:
    """Return tools of the client's under their aliases, and those: once for all requests with the same tools."""
    names = Names(limits.name_pattern, limits.name_length)
    offered = decide([tool for tool in tools if tool.name != _PLACEHOLDER], limits, []).tools
    return ToolList(_under_alias(tool, names) for tool in offered), names.aliases


def _defined(tool: Tool) -> Tool:
    return tool if tool.type is None else as_function(tool) or tool


def _under_alias(tool: Tool, names: Names) -> Tool:
    said = names.say(tool.name) if tool.name else ""
    return tool if said == tool.name else _renamed(tool, said)


def _renamed(tool: Tool, name: str) -> Tool:
    """Return the tool under another name, with a source of its own: caches of encoded tools go by it."""
    return replace(tool, name=name, source=_source_under(tool.source, name))


@functools.lru_cache(maxsize=512)
def _source_under(source: bytes, name: str) -> bytes:
    return b"%b %b" % (name.encode(), source)


def _with_changes(request: MessagesRequest) -> list[Tool]:
    """Return the tools after what system messages added and removed."""
    changes = [
        block
        for message in request.messages
        if message.role == "system" and not isinstance(message.content, str)
        for block in message.content
        if isinstance(block, ToolAdditionBlock | ToolRemovalBlock)
    ]
    if not changes:
        return request.tools
    tools = {tool.name: tool for tool in request.tools}
    removed = set()
    for change in changes:
        name = change.tool.name
        if isinstance(change, ToolRemovalBlock):
            removed.add(name)
        elif len(change.tool.definition):
            tool = read_tool(change.tool.definition, "messages.tool_addition.tool.definition")
            tools[tool.name] = tool
            removed.discard(tool.name)
        else:
            removed.discard(name)
    return [tool for name, tool in tools.items() if name not in removed]
