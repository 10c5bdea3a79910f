"""Content blocks of calls and results of server tools.

Source: types of the official SDK `anthropic` 2.10 (`ServerToolUseBlock`, `WebSearchToolResultBlock`,
`WebFetchToolResultBlock`, `ToolSearchToolResultBlock`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.deltas import Block
from anthropic_proxy.messages.sealed_passages import encode_passage
from anthropic_proxy.upstream.contract import FetchedPage, SearchResult

SERVER_TOOL_ID_PREFIX = "srvtoolu_"
"""Prefix of ids of server tool calls."""
_RESULTS = {
    "web_search": "web_search_tool_result",
    "web_fetch": "web_fetch_tool_result",
    "tool_search": "tool_search_tool_result",
}
"""Kind of a tool → type of its result block."""
_PDF = "application/pdf"

Content = list[dict[str, Any]] | dict[str, Any]
"""The `content` of a result block."""


def encode_call(identifier: str, name: str, arguments: Raw) -> Block:
    """Return the block of a call."""
    fields = {"type": "server_tool_use", "id": identifier, "name": name, "input": arguments}
    return Block(Raw(msgspec.json.encode(fields)))


def encode_result(kind: str, identifier: str, content: Content) -> Block:
    """Return the block of a result."""
    fields = {"type": _RESULTS[kind], "tool_use_id": identifier, "content": content}
    return Block(Raw(msgspec.json.encode(fields)))


def error_content(kind: str, code: str, message: str | None = None) -> Content:
    """Return the content of a failed call. Only tool search has a field for `message`."""
    fields = {"type": f"{_RESULTS[kind]}_error", "error_code": code}
    return fields | {"error_message": message} if kind == "tool_search" else fields


def search_content(results: Iterable[SearchResult]) -> Content:
    """Return the content of search results. Passages are encoded, for the model only."""
    return [
        {
            "type": "web_search_result",
            "url": result.url,
            "title": result.title or result.url,
            "encrypted_content": encode_passage(result.content),
            "page_age": result.page_age,
        }
        for result in results
    ]


def fetch_content(result: FetchedPage, text: str, citations: Any, retrieved_at: str) -> Content:
    """Return the content of a fetched page: its text, or the PDF."""
    if result.media_type == _PDF:
        source = {"type": "base64", "media_type": _PDF, "data": result.base64}
    else:
        source = {"type": "text", "media_type": "text/plain", "data": text}
    document = {"type": "document", "source": source, "title": result.title or None, "citations": citations}
    return {"type": "web_fetch_result", "url": result.url, "content": document, "retrieved_at": retrieved_at}


def references_content(names: Iterable[str]) -> Content:
    """Return the content of a tool search."""
    references = [{"type": "tool_reference", "tool_name": name} for name in names]
    return {"type": "tool_search_tool_search_result", "tool_references": references}


def is_error(content: Content) -> bool:
    """Return True for the content of a failed call."""
    return isinstance(content, Mapping) and "error_code" in content
