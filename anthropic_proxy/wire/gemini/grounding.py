"""What the provider's own web search did → the blocks in which Anthropic's clients expect it.

The sources come with the last piece of the answer, but their block stands before the text that rests on them: where the
provider may search, the text waits for them.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.deltas import Block, Citation, Delta, Text, Usage
from anthropic_proxy.wire.gemini.frames import Grounding, Page

_LONGEST_QUOTE = 150
"""Characters of `cited_text`, as Anthropic's own search gives them."""


class Search:
    """Holds back text until `release`."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._text: list[str] = []
        self._queries: dict[str, None] = {}
        self._pages: dict[str, Page] = {}
        self._cited: list[tuple[str, list[Page]]] = []

    def feed_text(self, text: str) -> None:
        """Keep a fragment of the answer."""
        self._text.append(text)

    def feed(self, grounding: Grounding) -> None:
        """Take note of what the search did; may come several times, each time with sources of its own."""
        self._queries |= dict.fromkeys(grounding.web_search_queries or ())
        pages = [chunk.web for chunk in grounding.grounding_chunks or ()]
        self._pages |= {page.uri: page for page in pages if page is not None and page.uri}
        for support in grounding.grounding_supports or ():
            passage = support.segment.text if support.segment else None
            indices = [index for index in support.grounding_chunk_indices or () if 0 <= index < len(pages)]
            cited = [page for page in (pages[index] for index in indices) if page is not None and page.uri]
            if passage and cited:
                self._cited.append((passage, cited))

    def release(self) -> list[Delta]:
        """Return the search, if there was one, and the text with its citations."""
        deltas: list[Delta] = []
        if self._queries or self._pages:
            deltas += self._blocks()
            deltas.append(Usage(web_search_requests=max(len(self._queries), 1)))
        deltas += self._text_with_citations()
        self._text, self._queries, self._pages, self._cited = [], {}, {}, []
        return deltas

    def _blocks(self) -> list[Delta]:
        identifier = self._new_id("srvtoolu_")
        found = [
            {
                "type": "web_search_result",
                "url": page.uri,
                "title": page.title or page.uri,
                "encrypted_content": "",
                "page_age": None,
            }
            for page in self._pages.values()
        ]
        asked = {"query": ", ".join(self._queries)}
        return [
            _block(type="server_tool_use", id=identifier, name="web_search", input=asked),
            _block(type="web_search_tool_result", tool_use_id=identifier, content=found),
        ]

    def _text_with_citations(self) -> list[Delta]:
        text = "".join(self._text)
        deltas: list[Delta] = []
        start = 0
        for passage, pages in self._cited:
            place = text.find(passage, start)
            if place < 0:
                continue
            deltas.append(Text(text[start : place + len(passage)]))
            deltas += [_citation(passage, page) for page in pages]
            start = place + len(passage)
        if text[start:]:
            deltas.append(Text(text[start:]))
        return deltas


def _citation(passage: str, page: Page) -> Citation:
    citation = {
        "type": "web_search_result_location",
        "url": page.uri,
        "title": page.title or page.uri,
        "encrypted_index": "",
        "cited_text": passage[:_LONGEST_QUOTE],
    }
    return Citation(Raw(msgspec.json.encode(citation)))


def _block(**fields: Any) -> Block:
    return Block(Raw(msgspec.json.encode(fields)))
