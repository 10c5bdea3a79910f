"""What the server's own web search did → the blocks in which Anthropic's clients expect it.

A search tells the addresses that it found, if at all; their titles come with the citations of the text that rests on
them. From the first search on everything waits, in its order, until that text is complete.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Delta, Text, Usage
from anthropic_proxy.wire.mending import mend_json
from anthropic_proxy.wire.openai_responses.events import ABSENT, Item, Part
from anthropic_proxy.wire.server_tools import encode_citation, encode_search


class _Source(Struct):
    url: str | None = None


class _Action(Struct):
    type: str = ""
    query: str | None = None
    queries: list[str] | None = None
    sources: list[_Source] | None = None
    url: str | None = None
    pattern: str | None = None


class _Mark(Struct):
    """An annotation; only those of type `url_citation` count."""

    type: str = ""
    url: str | None = None
    title: str | None = None
    start_index: int = 0
    end_index: int = 0


class _Found(Struct):
    """One search that waits for the titles of what it found."""

    query: str
    urls: list[str]


class Search:
    """Holds back deltas from the first search on until `release`."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._waiting: list[Delta | _Found] = []
        self._titles: dict[str, str] = {}
        self._count = 0
        self.holds = False
        """Whether what comes must wait."""

    def begin(self, item: Item) -> None:
        """Take a search that is complete. Pages that the model opens or reads through belong to the search before."""
        action = _read(item.action, _Action)
        if action.type not in ("search", ""):
            self._add_page(action.url)
            return
        query = action.query or ", ".join(action.queries or ())
        urls = [source.url for source in action.sources or () if source.url]
        self._waiting.append(_Found(query, list(dict.fromkeys(urls))))
        self._count += 1
        self.holds = True

    def hold(self, deltas: Iterable[Delta]) -> None:
        """Keep deltas in their place."""
        self._waiting += deltas

    def cite(self, parts: Sequence[Part]) -> None:
        """Take a message that is complete: its texts, already waiting, get the citations that stand in their parts."""
        texts = [part.text or part.refusal or "" for part in parts]
        marks = [[_read(raw, _Mark) for raw in part.annotations or ()] for part in parts]
        cited = [[mark for mark in some if mark.type == "url_citation" and mark.url] for some in marks]
        if not any(cited):
            return
        if not self._drop_text("".join(texts)):
            return  # what has left cannot be cited any more
        for text, some in zip(texts, cited, strict=True):
            self._waiting += _with_citations(text, some)
        for mark in (mark for some in cited for mark in some):
            self._add_page(mark.url)
            self._titles.setdefault(mark.url or "", mark.title or "")

    def release(self) -> list[Delta]:
        """Return what waited, with the searches as blocks."""
        if not self.holds:
            return []
        deltas: list[Delta] = []
        for item in self._waiting:
            if isinstance(item, _Found):
                found = ((url, self._titles.get(url)) for url in item.urls)
                deltas += encode_search(self._new_id("srvtoolu_"), item.query, found)
            else:
                deltas.append(item)
        deltas.append(Usage(web_search_requests=self._count))
        self._waiting = []
        self.holds = False
        return deltas

    def _add_page(self, url: str | None) -> None:
        """Add a page to the last search, unless one of them has found it."""
        searches = [item for item in self._waiting if isinstance(item, _Found)]
        if url and searches and all(url not in search.urls for search in searches):
            searches[-1].urls.append(url)

    def _drop_text(self, whole: str) -> bool:
        """Take the text at the end of what waits away if it is this one, because it will be said with citations."""
        start = len(self._waiting)
        while start and isinstance(self._waiting[start - 1], Text):
            start -= 1
        waiting = "".join(item.text for item in self._waiting[start:] if isinstance(item, Text))
        if not waiting.endswith(whole):
            return False
        before = waiting[: len(waiting) - len(whole)]
        self._waiting[start:] = [Text(before)] if before else []
        return True


def _with_citations(text: str, marks: list[_Mark]) -> Iterable[Delta]:
    """Yield the text cut after each cited passage; `end_index` counts characters."""
    start = 0
    for mark in sorted(marks, key=lambda mark: mark.end_index):
        end = min(max(mark.end_index, start), len(text))
        if end > start:
            yield Text(text[start:end])
            start = end
        if start:  # a citation belongs to the text before it
            yield encode_citation(mark.url or "", mark.title, text[mark.start_index : mark.end_index])
    if text[start:]:
        yield Text(text[start:])


def _read(raw: Raw, kind: Any) -> Any:
    if raw is ABSENT:
        return kind()
    try:
        return msgspec.json.decode(raw, type=kind)
    except UnicodeDecodeError:
        return _read(Raw(mend_json(raw)), kind)
    except msgspec.ValidationError:
        return kind()
