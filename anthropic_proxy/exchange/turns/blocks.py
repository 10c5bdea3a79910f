"""The blocks in which Anthropic's clients expect what the API ran for a model.

Source: types of the official SDK `anthropic` 2.10 (`ServerToolUseBlock`, `WebSearchToolResultBlock`,
`WebFetchToolResultBlock`, `ToolSearchToolResultBlock`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.deltas import Block
from anthropic_proxy.messages.passages import seal_passage
from anthropic_proxy.upstream.errands import FoundPage, Page

SERVER_CALL = "srvtoolu_"
"""Prefix of the ids of calls that the API runs."""
_RESULTS = {
    "web_search": "web_search_tool_result",
    "web_fetch": "web_fetch_tool_result",
    "tool_search": "tool_search_tool_result",
}
"""Kind of a tool → type of the block with its result."""
_PDF = "application/pdf"

Content = list[dict[str, Any]] | dict[str, Any]
"""The `content` of a result block."""


def encode_call(identifier: str, name: str, arguments: Raw) -> Block:
    """Return the call of a tool that the proxy runs."""
    fields = {"type": "server_tool_use", "id": identifier, "name": name, "input": arguments}
    return Block(Raw(msgspec.json.encode(fields)))


def encode_result(kind: str, identifier: str, content: Content) -> Block:
    """Return what that call gave."""
    fields = {"type": _RESULTS[kind], "tool_use_id": identifier, "content": content}
    return Block(Raw(msgspec.json.encode(fields)))


def error_content(kind: str, code: str, message: str | None = None) -> Content:
    """Return a result's content where the tool failed; only a search of tools has a place for words."""
    fields = {"type": f"{_RESULTS[kind]}_error", "error_code": code}
    return fields | {"error_message": message} if kind == "tool_search" else fields


def pages_content(pages: Iterable[FoundPage]) -> Content:
    """Return what a search found; the passages travel sealed, for the model alone."""
    return [
        {
            "type": "web_search_result",
            "url": page.url,
            "title": page.title or page.url,
            "encrypted_content": seal_passage(page.content),
            "page_age": page.page_age,
        }
        for page in pages
    ]


def page_content(page: Page, text: str, citations: Any, retrieved_at: str) -> Content:
    """Return a page that was fetched: its text, or the PDF that it is."""
    if page.media_type == _PDF:
        source = {"type": "base64", "media_type": _PDF, "data": page.base64}
    else:
        source = {"type": "text", "media_type": "text/plain", "data": text}
    document = {"type": "document", "source": source, "title": page.title or None, "citations": citations}
    return {"type": "web_fetch_result", "url": page.url, "content": document, "retrieved_at": retrieved_at}


def references_content(names: Iterable[str]) -> Content:
    """Return which tools a search found."""
    references = [{"type": "tool_reference", "tool_name": name} for name in names]
    return {"type": "tool_search_tool_search_result", "tool_references": references}


def is_error(content: Content) -> bool:
    """Whether a result says that its tool failed."""
    return isinstance(content, Mapping) and "error_code" in content
