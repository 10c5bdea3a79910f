"""What the server's own tools did → Anthropic's blocks.

Groq tells each as `executed_tools`, first without and then with its result; OpenRouter tells only the pages, as
annotations before the text or behind the passage that rests on them (recorded by the project `pydantic/pydantic-ai`,
cassettes test_groq_model_web_search_tool_stream and test_openrouter_web_search_annotations_stream, 2026-08).
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Delta, Usage
from anthropic_proxy.messages.prepare import kind_of
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.chunks import Piece, is_said
from anthropic_proxy.wire.server_tools import (
    SERVER_CALL,
    Page,
    encode_citation,
    encode_fetch,
    encode_output,
    encode_pages,
    encode_program,
    encode_search,
    encode_search_call,
    is_shown,
    picture_in_words,
)


class _Found(Struct):
    url: str | None = None
    title: str | None = None
    content: str | None = None
    end_index: int | None = None


class _Pages(Struct):
    results: list[_Found] | None = None


class _Printed(Struct):
    text: str | None = None
    png: str | None = None


class _Executed(Struct):
    """One tool that was run; what kind it was shows in its arguments, because its `type` has many names."""

    index: int = 0
    arguments: str = ""
    output: str | None = None
    search_results: _Pages | None = None
    browser_results: list[_Found] | None = None
    code_results: list[_Printed] | None = None


class _Arguments(Struct):
    query: str | None = None
    code: str | None = None
    url: str | None = None


class _Annotation(Struct):
    type: str = ""
    url_citation: _Found | None = None


class Executed:
    """Reads what the server's own tools did in one answer."""

    def __init__(self, call: Call) -> None:
        self._new_id = call.new_id
        searching = (tool for tool in call.request.tools if kind_of(tool) == "web_search")
        self._blocked = [domain for tool in searching for domain in tool.blocked_domains or ()]
        self._open: dict[int, str] = {}
        """Search that has begun → the id of its call."""
        self._done: set[int] = set()
        self._found: dict[str, _Found] = {}
        self._told: set[str] = set()
        self._searches = 0
        self._fetches = 0

    def read(self, piece: Piece) -> list[Delta]:
        """Return what a piece tells of them, to be said before its text."""
        deltas: list[Delta] = []
        if is_said(piece.executed_tools):
            for executed in _list_of(piece.executed_tools, list[_Executed]):
                deltas += self._read_executed(executed)
        if is_said(piece.annotations):
            marks = _list_of(piece.annotations, list[_Annotation])
            deltas += self._read_pages([mark.url_citation for mark in marks if mark.url_citation is not None])
        if piece.content:
            deltas += self._say_pages()
        return deltas

    def finish(self) -> list[Delta]:
        """Return what is left to say at the end of the answer."""
        deltas = self._say_pages()
        for identifier in self._open.values():
            deltas.append(encode_pages(identifier, ()))
        self._open = {}
        return deltas

    def _read_executed(self, executed: _Executed) -> list[Delta]:
        index = executed.index
        if index in self._done:
            return []
        try:
            arguments = msgspec.json.decode(executed.arguments, type=_Arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = _Arguments()
        is_complete = executed.output is not None
        if arguments.query is not None:
            return self._read_search(executed, arguments.query, is_complete=is_complete)
        if not is_complete:
            return []
        self._done.add(index)
        identifier = self._new_id(SERVER_CALL)
        if arguments.code is not None:
            printed = "\n".join(filter(None, (executed.output, *map(_drawn, executed.code_results or ()))))
            return [encode_program(identifier, arguments.code), encode_output(identifier, stdout=printed)]
        if not arguments.url:
            return []
        self._fetches += 1
        return [*encode_fetch(identifier, arguments.url), Usage(web_fetch_requests=self._fetches)]

    def _read_search(self, executed: _Executed, query: str, *, is_complete: bool) -> list[Delta]:
        deltas: list[Delta] = []
        index = executed.index
        if index not in self._open:
            self._open[index] = self._new_id(SERVER_CALL)
            deltas.append(encode_search_call(self._open[index], query))
        if is_complete:
            self._done.add(index)
            self._searches += 1
            found = executed.search_results.results if executed.search_results else None
            pages = [*(found or ()), *(executed.browser_results or ())]
            deltas.append(encode_pages(self._open.pop(index), self._shown(pages)))
            deltas.append(Usage(web_search_requests=self._searches))
        return deltas

    def _read_pages(self, pages: list[_Found]) -> list[Delta]:
        deltas: list[Delta] = []
        for page in pages:
            if not page.url or not is_shown(page.url, (), self._blocked):
                continue
            self._found.setdefault(page.url, page)
            if page.end_index:
                deltas.append(encode_citation(page.url, page.title, page.content or ""))
        return deltas

    def _say_pages(self) -> list[Delta]:
        """Return the pages that were named since the last time as a search whose query nobody tells."""
        pages = [page for url, page in self._found.items() if url not in self._told]
        self._told.update(self._found)
        return encode_search(self._new_id(SERVER_CALL), "", self._shown(pages)) if pages else []

    def _shown(self, pages: Iterable[_Found]) -> list[Page]:
        shown = (page for page in pages if page.url and is_shown(page.url, (), self._blocked))
        return list({page.url: Page(page.url or "", page.title, page.content or "") for page in shown}.values())


def _drawn(printed: _Printed) -> str:
    return picture_in_words("image/png", len(printed.png)) if printed.png else ""


def _list_of(raw: Raw, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
