"""History of tools that the proxy ran, restored as function calls and results.

A client stores one assistant message for all upstream calls of a reply. The model saw one step per upstream call: its
calls, then the results from the user. The restored steps have the bytes of the original requests. Prompt caches and
signatures of calls depend on them, and a model that sees calls as text begins to write calls as text.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.models import (
    Block,
    CleanMessages,
    Message,
    ServerToolUseBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
)
from anthropic_proxy.messages.preparation.block_text import result_as_text
from anthropic_proxy.messages.preparation.request import ProxyTool

ServerResult = WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock
"""Result blocks of the tools that the proxy runs."""


def as_function_calls(messages: list[Message], tools: Mapping[str, ProxyTool]) -> list[Message]:
    """Return the messages with calls and results of proxy tools as function calls.

    Messages without such a call stay the same objects.
    """
    if isinstance(messages, CleanMessages):
        return messages
    names = {tool.name: name for name, tool in tools.items()}
    replayed: list[Message] = []
    for message in messages:
        if message.role == "assistant" and not isinstance(message.content, str) and _calls(message.content, names):
            replayed += _steps(message.content, names)
        else:
            replayed.append(message)
    return replayed


def pending_calls(messages: list[Message], tools: Mapping[str, ProxyTool]) -> list[ServerToolUseBlock]:
    """Return the calls of proxy tools without a result at the end of the last message, in order."""
    last = messages[-1]
    if last.role != "assistant" or isinstance(last.content, str):
        return []
    names = {tool.name for tool in tools.values()}
    answered = {block.tool_use_id for block in last.content if isinstance(block, ServerResult)}
    calls: list[ServerToolUseBlock] = []
    for block in reversed(last.content):
        if isinstance(block, ServerToolUseBlock) and block.name in names:
            if block.id not in answered:
                calls.append(block)
        elif not isinstance(block, ServerResult):
            break
    return calls[::-1]


def is_paused(messages: list[Message]) -> bool:
    """Return True if the messages end with a server tool call or its result (after `pause_turn`)."""
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or isinstance(last.content, str) or not last.content:
        return False
    return isinstance(last.content[-1], ServerToolUseBlock | ServerResult)


def _calls(content: Iterable[Block], names: Mapping[str, str]) -> bool:
    return any(isinstance(block, ServerToolUseBlock) and block.name in names for block in content)


def _steps(content: list[Block], names: Mapping[str, str]) -> list[Message]:
    """Return the messages for one assistant message with proxy tools: in turn, a group of calls and its results."""
    steps: list[Message] = []
    blocks: list[Block] = []
    results: list[Block] = []
    called: set[str] = set()
    for block in content:
        if isinstance(block, ServerResult) and block.tool_use_id in called:
            results.append(_as_result(block))
            continue
        if results:
            steps += [Message("assistant", blocks), Message("user", results)]
            blocks, results = [], []
        if isinstance(block, ServerToolUseBlock) and block.name in names:
            called.add(block.id)
            blocks.append(ToolUseBlock(block.id, names[block.name], block.input))
        else:
            blocks.append(block)
    steps.append(Message("assistant", blocks))
    return [*steps, Message("user", results)] if results else steps


def _as_result(block: ServerResult) -> ToolResultBlock:
    content = msgspec.json.decode(block.content) if len(block.content) else None
    failed = isinstance(content, dict) and "error_code" in content
    if isinstance(content, dict) and isinstance(fetched := content.get("content"), dict):  # may be a PDF
        # the note on citations belongs to the tool
        document = {name: value for name, value in fetched.items() if name != "citations"}
        shown: object = [{"type": "text", "text": str(content.get("url", ""))}, document]
    else:
        shown = result_as_text(block)
    return ToolResultBlock(block.tool_use_id, Raw(msgspec.json.encode(shown)), True if failed else None)
