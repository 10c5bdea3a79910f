"""A search that the provider ran → the blocks in which Anthropic's clients expect it."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.deltas import Block, Citation, Delta

_LONGEST_QUOTE = 150
"""Characters of `cited_text`, as Anthropic's own search gives them."""


def encode_search(identifier: str, query: str, pages: Iterable[tuple[str, str | None]]) -> list[Delta]:
    """Return the call and its result; `pages` are addresses with their titles, where those are known."""
    found = [
        {"type": "web_search_result", "url": url, "title": title or url, "encrypted_content": "", "page_age": None}
        for url, title in pages
    ]
    return [
        _block(type="server_tool_use", id=identifier, name="web_search", input={"query": query}),
        _block(type="web_search_tool_result", tool_use_id=identifier, content=found),
    ]


def encode_citation(url: str, title: str | None, passage: str) -> Citation:
    """Return the citation of a page by the passage that rests on it."""
    citation = {
        "type": "web_search_result_location",
        "url": url,
        "title": title or url,
        "encrypted_index": "",
        "cited_text": passage[:_LONGEST_QUOTE],
    }
    return Citation(Raw(msgspec.json.encode(citation)))


def _block(**fields: Any) -> Block:
    return Block(Raw(msgspec.json.encode(fields)))
