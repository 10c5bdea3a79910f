"""Conversion of server tool calls in earlier replies back to function calls and results.

Proxy tools are the server tools, such as web search, that the proxy runs itself; the model calls them as functions. A
client stores a reply with several such calls as one message. `restore_function_calls` restores the separate messages
that the model saw. `find_pending_calls` returns the calls without a result. A paused reply ends with a server tool call
or its result, and the client requests its continuation. `ends_with_paused_reply` detects it.
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
"""Result blocks of the server tools that the proxy runs: web search, web fetch, tool search."""


def restore_function_calls(messages: list[Message], tools: Mapping[str, ProxyTool]) -> list[Message]:
    """Return the messages with calls of proxy tools as function calls, as the upstream model has made them.

    Proxy tools are server tools that the proxy runs itself. Their results become results of function calls.
    """
    if isinstance(messages, CleanMessages):
        return messages
    # the keys of `tools` are the names by which the model calls them
    names = {tool.name: name for name, tool in tools.items()}
    replayed: list[Message] = []
    for message in messages:
        if message.role == "assistant" and not isinstance(message.content, str) and _calls(message.content, names):
            replayed += _steps(message.content, names)
        else:
            replayed.append(message)
    return replayed


def find_pending_calls(messages: list[Message], tools: Mapping[str, ProxyTool]) -> list[ServerToolUseBlock]:
    """Return the calls without a result at the end of the last message, in order. Only calls of proxy tools count.

    Proxy tools are server tools that the proxy runs itself.
    """
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


def ends_with_paused_reply(messages: list[Message]) -> bool:
    """Return True if the last message is a reply that ends with a server tool call or its result.

    The client then requests the continuation of this reply.
    """
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or isinstance(last.content, str) or not last.content:
        return False
    return isinstance(last.content[-1], ServerToolUseBlock | ServerResult)


def _calls(content: Iterable[Block], names: Mapping[str, str]) -> bool:
    return any(isinstance(block, ServerToolUseBlock) and block.name in names for block in content)


def _steps(content: list[Block], names: Mapping[str, str]) -> list[Message]:
    """Return the messages that replace one assistant message with calls of proxy-run tools.

    Messages with calls and messages with their results alternate. `names`: tool name of the client → name in upstream
    calls.
    """
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
