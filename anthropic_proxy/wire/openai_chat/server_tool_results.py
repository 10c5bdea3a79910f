"""Decoder of results of server tools, which the provider runs: converts response fields to blocks of the Messages API.

`ServerToolDecoder` decodes the results of one reply. Groq sends each run of a tool as an entry of `executed_tools`,
first without and then with the result. OpenRouter sends only the found pages, as annotations of the text. Both were
recorded by the project `pydantic/pydantic-ai` (cassettes test_groq_model_web_search_tool_stream and
test_openrouter_web_search_annotations_stream, 2026-08).
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Delta, Usage
from anthropic_proxy.messages.preparation import server_tool_kind
from anthropic_proxy.messages.server_blocks import (
    SERVER_TOOL_ID_PREFIX,
    SearchResultPage,
    describe_generated_file,
    encode_citation,
    encode_code_execution_call,
    encode_code_result,
    encode_fetch_call_and_result,
    encode_search_call,
    encode_search_call_and_result,
    encode_search_result,
    is_domain_allowed,
)
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.frames import ChoiceDelta, is_present


class _Found(Struct):
    url: str | None = None
    title: str | None = None
    content: str | None = None
    end_index: int | None = None


class _SearchResults(Struct):
    results: list[_Found] | None = None


class _Printed(Struct):
    text: str | None = None
    png: str | None = None


class _Executed(Struct):
    """Entry of Groq's `executed_tools`. The kind of tool is recognized by its arguments."""

    index: int = 0
    arguments: str = ""
    output: str | None = None
    search_results: _SearchResults | None = None
    browser_results: list[_Found] | None = None
    code_results: list[_Printed] | None = None


class _Arguments(Struct):
    query: str | None = None
    code: str | None = None
    url: str | None = None


class _Annotation(Struct):
    type: str = ""
    url_citation: _Found | None = None


# Groq sends each run first without and then with its result. Both forms were recorded by the project
# `pydantic/pydantic-ai` (cassettes test_groq_model_web_search_tool_stream and
# test_openrouter_web_search_annotations_stream, 2026-08).
class ServerToolDecoder:
    """Decodes the results of server tools (web search …) in one reply into deltas, the pieces of the reply."""

    def __init__(self, call: Call[Dialect]) -> None:
        self._new_id = call.new_id
        searching = (tool for tool in call.request.tools if server_tool_kind(tool) == "web_search")
        self._blocked = [domain for tool in searching for domain in tool.blocked_domains or ()]
        self._open: dict[int, str] = {}
        """Index of a search without a result so far → id of its call block in the reply to the client."""
        self._done: set[int] = set()
        self._found: dict[str, _Found] = {}
        self._reported: set[str] = set()
        self._searches = 0
        self._fetches = 0

    def decode_choice_delta(self, choice_delta: ChoiceDelta) -> list[Delta]:
        """Return the deltas of the server tools in one chunk. Send them before the text of the chunk."""
        deltas: list[Delta] = []
        if is_present(choice_delta.executed_tools):
            for executed in _list_of(choice_delta.executed_tools, list[_Executed]):
                deltas += self._read_executed(executed)
        if is_present(choice_delta.annotations):
            marks = _list_of(choice_delta.annotations, list[_Annotation])
            deltas += self._read_citations([mark.url_citation for mark in marks if mark.url_citation is not None])
        if choice_delta.content:
            deltas += self._emit_search()
        return deltas

    def finish_searches(self) -> list[Delta]:
        """Return the remaining deltas of the web searches. Call this when the text of the reply has ended.

        A search without a result gets an empty result.
        """
        deltas = self._emit_search()
        for identifier in self._open.values():
            deltas.append(encode_search_result(identifier, ()))
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
        identifier = self._new_id(SERVER_TOOL_ID_PREFIX)
        if arguments.code is not None:
            printed = "\n".join(filter(None, (executed.output, *map(_drawn, executed.code_results or ()))))
            return [
                encode_code_execution_call(identifier, arguments.code),
                encode_code_result(identifier, stdout=printed),
            ]
        if not arguments.url:
            return []
        self._fetches += 1
        return [*encode_fetch_call_and_result(identifier, arguments.url), Usage(web_fetch_requests=self._fetches)]

    def _read_search(self, executed: _Executed, query: str, *, is_complete: bool) -> list[Delta]:
        deltas: list[Delta] = []
        index = executed.index
        if index not in self._open:
            self._open[index] = self._new_id(SERVER_TOOL_ID_PREFIX)
            deltas.append(encode_search_call(self._open[index], query))
        if is_complete:
            self._done.add(index)
            self._searches += 1
            found = executed.search_results.results if executed.search_results else None
            results = [*(found or ()), *(executed.browser_results or ())]
            deltas.append(encode_search_result(self._open.pop(index), self._shown(results)))
            deltas.append(Usage(web_search_requests=self._searches, billed_searches=self._searches))
        return deltas

    def _read_citations(self, results: list[_Found]) -> list[Delta]:
        deltas: list[Delta] = []
        for result in results:
            if not result.url or not is_domain_allowed(result.url, (), self._blocked):
                continue
            self._found.setdefault(result.url, result)
            if result.end_index:
                deltas.append(encode_citation(result.url, result.title, result.content or ""))
        return deltas

    def _emit_search(self) -> list[Delta]:
        """Return the blocks of a search with the pages that were not returned before.

        The query is "", because OpenRouter reports no query.
        """
        results = [result for url, result in self._found.items() if url not in self._reported]
        self._reported.update(self._found)
        return (
            encode_search_call_and_result(self._new_id(SERVER_TOOL_ID_PREFIX), "", self._shown(results))
            if results
            else []
        )

    def _shown(self, results: Iterable[_Found]) -> list[SearchResultPage]:
        shown: dict[str, SearchResultPage] = {}
        for result in results:
            if result.url and is_domain_allowed(result.url, (), self._blocked):
                shown[result.url] = SearchResultPage(result.url, result.title, result.content or "")
        return list(shown.values())


def _drawn(printed: _Printed) -> str:
    return describe_generated_file("image/png", len(printed.png)) if printed.png else ""


def _list_of(raw: Raw, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
