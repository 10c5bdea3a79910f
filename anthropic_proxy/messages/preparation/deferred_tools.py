"""Deferred tools, which are offered after a tool search has found them."""

from collections.abc import Iterator

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.models import (
    Block,
    Message,
    Tool,
    ToolAdditionBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    blocks_of,
)

_REFERENCE = b'"tool_reference'


def split_deferred(tools: list[Tool], messages: list[Message], forced: str | None) -> tuple[list[Tool], list[Tool]]:
    """Return the tools to offer now, and all deferred tools.

    Found tools come last, in the order of discovery, so that the request prefix stays identical. A tool that the model
    called, or must call now, counts as found.
    """
    deferred = {tool.name: tool for tool in tools if tool.defer_loading}
    if not deferred:
        return tools, []
    found = dict.fromkeys(name for message in messages for name in _found_in(message) if name in deferred)
    if forced in deferred:
        found[forced] = None
    offered = [tool for tool in tools if not tool.defer_loading]
    return offered + [deferred[name] for name in found], list(deferred.values())


def _found_in(message: Message) -> Iterator[str]:
    if not isinstance(message.content, str):
        for block in message.content:
            yield from _found_by(block)


def _found_by(block: Block) -> Iterator[str]:
    if isinstance(block, ToolSearchResultBlock):
        yield from _references_in(block.content)
    elif isinstance(block, ToolResultBlock):
        if _REFERENCE in bytes(block.content):
            inner = blocks_of(block.content)
            yield from (reference.tool_name for reference in inner if isinstance(reference, ToolReferenceBlock))
    elif isinstance(block, ToolUseBlock):
        yield block.name
    elif isinstance(block, ToolAdditionBlock):
        yield block.tool.name


class _Reference(msgspec.Struct):
    tool_name: str = ""


class _Found(msgspec.Struct):
    tool_references: list[_Reference] = []


def _references_in(content: Raw) -> Iterator[str]:
    try:
        found = msgspec.json.decode(content, type=_Found)
    except msgspec.DecodeError:
        return
    yield from (reference.tool_name for reference in found.tool_references)
