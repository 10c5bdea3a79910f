"""Parts of a conversation: what the steps that read it handle one by one. Their number decides, with the size, whether
a step runs in a thread (`engine/background.py`).
"""

import operator
from collections.abc import Sequence
from itertools import compress, repeat
from typing import Any

from msgspec import Raw

from anthropic_proxy.engine.messages.models.raw_json import is_string_or_absent
from anthropic_proxy.engine.messages.models.structs import (
    CompactionBlock,
    DocumentBlock,
    Message,
    SearchResultBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    ToolResultBlock,
    ToolUseBlock,
)

MIN_BYTES = 1 << 15
"""Size of a body from which its parts are counted. Those of a smaller one take some milliseconds at most."""
_CUTS = ".!?…。！？\n["
"""Characters at which a source with citations is divided, or marked."""
_CUTS_IN_JSON = tuple(mark.encode() for mark in (*_CUTS, "\\"))
"""The same in JSON, where some of them may be escapes."""
_get_content = operator.attrgetter("content")
_BYTES_PER_SENTENCE = 500
"""Size of a long sentence that takes as long as a short one."""


def count_messages_and_blocks(messages: Sequence[Any]) -> int:
    """Return the number of messages and of the blocks in them, without a Python loop over them."""
    contents = [*map(_get_content, messages)]
    lists = compress(contents, map(operator.is_, map(type, contents), repeat(list)))
    return len(contents) + sum(map(len, lists))


def count_parts(messages: Sequence[Message]) -> int:
    """Return the number of messages, blocks, blocks in blocks, and sentences of sources with citations, or more."""
    parts = count_messages_and_blocks(messages)
    for message in messages:
        for block in () if isinstance(message.content, str) else message.content:
            if isinstance(block, ToolResultBlock):
                parts += _count_inside(block.content, is_cited=True)
            elif isinstance(block, ToolUseBlock | ServerToolUseBlock):
                parts += count_members(block.input)
            elif isinstance(block, ServerToolResultBlock):
                parts += _count_inside(block.content)
            elif isinstance(block, SearchResultBlock):
                parts += _count_inside(block.content, is_cited=block.requests_citations)
                if block.requests_citations:
                    parts += _count_cuts(block.title) + _count_cuts(block.source)
            elif isinstance(block, CompactionBlock):
                parts += block.content.count("<") if block.content else 0
            elif isinstance(block, DocumentBlock):
                source, is_cited = block.source, block.requests_citations
                if source.content:
                    parts += _count_inside(source.content, is_cited=is_cited)
                if is_cited:
                    parts += _count_cuts(source.data) + _count_cuts(block.title) + _count_cuts(block.context)
    return parts


def _count_cuts(text: str | None) -> int:
    return sum(map(text.count, _CUTS)) + len(text) // _BYTES_PER_SENTENCE if text else 0


def count_members(text: Raw | bytes) -> int:
    """Return the number of list elements, object members and escapes in JSON, or more: its texts are read too."""
    given = bytes(text)
    return given.count(b",") + given.count(b"\\")


def count_surrogates(text: bytes) -> int:
    return text.count(b"\\ud") + text.count(b"\\uD")


def _count_inside(content: Raw, *, is_cited: bool = False) -> int:
    """`is_cited`: the content may have sources with citations, or is one."""
    if is_string_or_absent(content):
        return 0
    text = bytes(content)
    parts = text.count(b"{")
    return parts + sum(map(text.count, _CUTS_IN_JSON)) if is_cited else parts
