"""Which addresses a model may have fetched: those that it did not make up.

As the API does: what stands in a message of the user, in a result of the client's tools, or in what earlier searches
and fetches returned. A model that follows words on a page could otherwise carry a conversation away in an address.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.passages import open_passage
from anthropic_proxy.messages.types import (
    Block,
    DocumentBlock,
    Message,
    SearchResultBlock,
    TextBlock,
    ToolResultBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
    blocks_of,
)

_BEFORE = r"(?<![\w@.-])(?:https?://)?(?:www\.)?"
_AFTER = r"/?(?![\w/%&=?~+@-]|[.:]\w)"
"""An address ends where nothing follows that could belong to it."""


def is_known(url: str, messages: Sequence[Message]) -> bool:
    """Whether an address stands in the conversation; with or without its scheme, `www.` and a fragment."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return False
    host = re.escape(parts.netloc.lower().removeprefix("www."))
    rest = re.escape(parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else ""))
    pattern = re.compile(f"{_BEFORE}(?i:{host}){rest}{_AFTER}")
    return any(pattern.search(text) for text in _texts(messages))


def _texts(messages: Iterable[Message]) -> Iterator[str]:
    """Yield what users, tools and pages said, the newest first."""
    for message in reversed(list(messages)):
        if isinstance(message.content, str):
            if message.role == "user":
                yield message.content
        else:
            for block in message.content:
                yield from _said_by_others(block, message.role)


def _said_by_others(block: Block, role: str) -> Iterator[str]:
    if isinstance(block, WebSearchResultBlock | WebFetchResultBlock):
        yield from _strings(_value(block.content))
    elif role == "user":
        yield from _in(block)


def _in(block: Block) -> Iterator[str]:
    if isinstance(block, TextBlock):
        yield msgspec.json.decode(block.text, type=str)
    elif isinstance(block, ToolResultBlock):
        for part in blocks_of(block.content):
            yield from _in(part)
    elif isinstance(block, SearchResultBlock):
        yield f"{block.source}\n{block.title}"
        for part in blocks_of(block.content):
            yield from _in(part)
    elif isinstance(block, DocumentBlock):
        yield f"{block.title}\n{block.context}\n{block.source.url}\n{block.source.data}"


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield open_passage(value) or value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _value(raw: Raw) -> object:
    return msgspec.json.decode(raw) if memoryview(raw).nbytes else None
