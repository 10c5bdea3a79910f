"""What the provider's own web search did → the blocks in which Anthropic's clients expect it.

The sources come with the last piece of the answer, but their block stands before the text that rests on them: where the
provider may search, the text waits for them.
"""

from collections.abc import Callable

from anthropic_proxy.messages.deltas import Delta, Text, Usage
from anthropic_proxy.wire.gemini.frames import Grounding, Page
from anthropic_proxy.wire.server_tools import encode_citation, encode_search


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
            found = ((url, page.title) for url, page in self._pages.items())
            deltas += encode_search(self._new_id("srvtoolu_"), ", ".join(self._queries), found)
            deltas.append(Usage(web_search_requests=max(len(self._queries), 1)))
        deltas += self._text_with_citations()
        self._text, self._queries, self._pages, self._cited = [], {}, {}, []
        return deltas

    def _text_with_citations(self) -> list[Delta]:
        text = "".join(self._text)
        deltas: list[Delta] = []
        start = 0
        for passage, pages in self._cited:
            place = text.find(passage, start)
            if place < 0:
                continue
            deltas.append(Text(text[start : place + len(passage)]))
            deltas += [encode_citation(page.uri or "", page.title, passage) for page in pages]
            start = place + len(passage)
        if text[start:]:
            deltas.append(Text(text[start:]))
        return deltas
