"""Tools that the proxy ran for a reply, said again as what they were: calls of functions and their results.

A client sees one message of the assistant with everything in it. To the model it was a step for every time that it was
asked: its calls, then their results from the user. To say it so again gives the provider the same bytes as when it
happened, which its cache of prefixes and signatures of calls depend on, and leads no model to write calls as text.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.prepare.blocks import result_in_words
from anthropic_proxy.messages.prepare.request import OwnedTool
from anthropic_proxy.messages.types import (
    Block,
    Message,
    PlainMessages,
    ServerToolUseBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
)

ServerResult = WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock
"""What the proxy's own tools give back."""


def replay(messages: list[Message], owned: Mapping[str, OwnedTool]) -> list[Message]:
    """Return the messages with the owned tools' calls and results as ordinary ones; others are the same objects."""
    if isinstance(messages, PlainMessages):
        return messages
    names = {tool.name: name for name, tool in owned.items()}
    replayed: list[Message] = []
    for message in messages:
        if message.role == "assistant" and not isinstance(message.content, str) and _calls(message.content, names):
            replayed += _steps(message.content, names)
        else:
            replayed.append(message)
    return replayed


def unanswered(messages: list[Message], owned: Mapping[str, OwnedTool]) -> list[ServerToolUseBlock]:
    """Return the calls of owned tools with which the messages end and that have no result yet."""
    last = messages[-1]
    if last.role != "assistant" or isinstance(last.content, str):
        return []
    names = {tool.name for tool in owned.values()}
    answered = {block.tool_use_id for block in last.content if isinstance(block, ServerResult)}
    calls: list[ServerToolUseBlock] = []
    for block in reversed(last.content):
        if isinstance(block, ServerToolUseBlock) and block.name in names:
            if block.id not in answered:
                calls.append(block)
        elif not isinstance(block, ServerResult):
            break
    return calls[::-1]


def ends_in_server_tools(messages: list[Message]) -> bool:
    """Whether the messages end with a call that the API ran, or its result: the reply was paused there."""
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or isinstance(last.content, str) or not last.content:
        return False
    return isinstance(last.content[-1], ServerToolUseBlock | ServerResult)


def _calls(content: Iterable[Block], names: Mapping[str, str]) -> bool:
    return any(isinstance(block, ServerToolUseBlock) and block.name in names for block in content)


def _steps(content: list[Block], names: Mapping[str, str]) -> list[Message]:
    """Return a step for each time that results stand before something else."""
    steps: list[Message] = []
    said: list[Block] = []
    results: list[Block] = []
    called: set[str] = set()
    for block in content:
        if isinstance(block, ServerResult) and block.tool_use_id in called:
            results.append(_as_result(block))
            continue
        if results:
            steps += [Message("assistant", said), Message("user", results)]
            said, results = [], []
        if isinstance(block, ServerToolUseBlock) and block.name in names:
            called.add(block.id)
            said.append(ToolUseBlock(block.id, names[block.name], block.input))
        else:
            said.append(block)
    steps.append(Message("assistant", said))
    return [*steps, Message("user", results)] if results else steps


def _as_result(block: ServerResult) -> ToolResultBlock:
    content = msgspec.json.decode(block.content) if len(block.content) else None
    failed = isinstance(content, dict) and "error_code" in content
    if isinstance(content, dict) and isinstance(page := content.get("content"), dict):  # it may be a PDF
        document = {name: value for name, value in page.items() if name != "citations"}  # its tool has the note
        shown: object = [{"type": "text", "text": str(content.get("url", ""))}, document]
    else:
        shown = result_in_words(block)
    return ToolResultBlock(block.tool_use_id, Raw(msgspec.json.encode(shown)), True if failed else None)
