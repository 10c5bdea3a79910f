"""Changes of the tools within a conversation: additions and removals in its system messages, and those of a summary."""

from collections.abc import Collection, Sequence
from typing import Any

from anthropic_proxy.engine.messages.models import (
    CleanMessages,
    CompactionBlock,
    Message,
    MessagesRequest,
    Tool,
    ToolAdditionBlock,
    ToolRemovalBlock,
    decode_tool,
)
from anthropic_proxy.engine.messages.models.client_json import decode_values

_Change = ToolAdditionBlock | ToolRemovalBlock
_NOT_KEPT = "cache_control"


def apply_tool_changes(request: MessagesRequest) -> list[Tool]:
    """Return the tools of a client request after the changes in its messages."""
    if isinstance(request.messages, CleanMessages) or not (changes := _find_changes(request.messages)):
        return request.tools
    tools = {tool.name: tool for tool in request.tools}
    removed = set()
    for change in changes:
        name = change.tool.name
        if isinstance(change, ToolRemovalBlock):
            removed.add(name)
        elif len(change.tool.definition):
            tool = _decode_added(change)
            tools[tool.name] = tool
            removed.discard(tool.name)
        else:
            removed.discard(name)
    return [tool for name, tool in tools.items() if name not in removed]


def list_tool_changes(request: MessagesRequest, loaded: Collection[str]) -> list[dict[str, Any]]:
    """Return the changes that lead from the tools of the request to those at the end of its messages, as JSON values.

    `loaded`: names of the deferred tools that the messages have loaded.
    """
    deferred = {tool.name: bool(tool.defer_loading) for tool in request.tools}
    latest: dict[str, dict[str, Any] | None] = {}
    for change in _find_changes(request.messages):
        name = change.tool.name
        if isinstance(change, ToolRemovalBlock):
            latest[name] = _refer("tool_removal", name) if name in deferred else None
        elif len(change.tool.definition):
            definition = decode_values(change.tool.definition)
            definition.pop(_NOT_KEPT, None)
            tool = {"type": "tool_definition", "definition": definition}
            latest[_decode_added(change).name] = {"type": "tool_addition", "tool": tool}
        else:
            latest[name] = _refer("tool_addition", name) if deferred.get(name) else None
    for name in loaded:
        latest.setdefault(name, _refer("tool_addition", name))
    return [change for change in latest.values() if change is not None]


def _refer(kind: str, name: str) -> dict[str, Any]:
    return {"type": kind, "tool": {"type": "tool_reference", "name": name}}


def _find_changes(messages: Sequence[Message]) -> list[_Change]:
    changes: list[_Change] = []
    for message in messages:
        if isinstance(message.content, str):
            continue
        for block in message.content:
            if isinstance(block, CompactionBlock) and block.content and block.tool_changes is not None:
                changes = [*block.tool_changes]
            elif message.role == "system" and isinstance(block, _Change):
                changes.append(block)
    return changes


def _decode_added(change: ToolAdditionBlock) -> Tool:
    return decode_tool(change.tool.definition, "messages.tool_addition.tool.definition")
