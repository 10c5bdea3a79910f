"""Decoder of client tool calls in replies of the Responses API, streamed or complete.

`ToolCallItemDecoder` decodes one call and appends its deltas to a list. `ToolCallContext` has the state that all calls
of a reply share. A custom tool call has plain text as input.

Some models put several calls into the arguments of one call of a tool named `parallel`. This call is a parallel
wrapper. The client receives the calls in it one by one, without the wrapper.

In an upstream request, each MCP server has a label, which can differ from the client's name of the server.
`find_mcp_server_name` returns the client's name for a label.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Block, Citation, Delta, Text, ToolArgs, ToolCall, ToolEnd, Usage
from anthropic_proxy.messages.preparation import server_tool_kind
from anthropic_proxy.messages.server_blocks import (
    MCP_TOOL_ID_PREFIX,
    SERVER_TOOL_ID_PREFIX,
    SearchResultPage,
    describe_generated_file,
    encode_citation,
    encode_code_execution_call,
    encode_code_execution_error,
    encode_code_result,
    encode_failed_search,
    encode_mcp_call,
    encode_mcp_result,
    encode_search_call,
    encode_search_call_and_result,
    encode_search_result,
    is_domain_allowed,
)
from anthropic_proxy.messages.tool_arguments import is_truncated_object
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.frames import ABSENT, OutputContent, OutputItem, decode_or_empty
from anthropic_proxy.wire.openai_responses.tools import mcp_server_names_by_label
from anthropic_proxy.wire.tool_call_ids import ToolCallIds

_WRAPPERS = frozenset(("parallel", "multi_tool_use.parallel"))
"""Names of the tool `parallel`, a call with several calls in its arguments. Models sometimes call it although the
request does not offer it."""
_NAMESPACE = "functions."


class _Use(Struct):
    recipient_name: str
    parameters: Raw = Raw(b"{}")  # immutable


class _Wrapped(Struct):
    tool_uses: list[_Use]


_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


class ToolCallItemDecoder:
    """Decoder of one client tool call, from the first event of its output item to the last."""

    __slots__ = ("_began", "_ended", "_held", "_key", "_reader", "_streams", "_written", "incomplete")

    def __init__(self, reader: "ToolCallContext") -> None:
        self._reader = reader
        self._key = reader.new_call_key()
        self._began = self._ended = False
        self._streams = True
        self._written = ""  # latest fragment of the arguments
        self._held: list[str] = []  # fragments of the arguments of a call that is emitted at its end
        self.incomplete = False
        """True if the call ended early. Its item has the status `incomplete`, or its arguments are cut."""

    def start_call(self, item: OutputItem, deltas: list[Delta]) -> None:
        """Append the delta that starts a tool call to `deltas` once its name is known.

        Custom tool calls and parallel wrappers start only when they are complete.
        """
        if self._began or self._ended or not item.name:
            return
        self._streams = item.type == "function_call" and not self._reader.is_parallel_wrapper(item.name)
        if self._streams:
            self._began = True
            deltas.append(self._reader.build_tool_call(self._key, item.call_id, item.name))

    def add_arguments_fragment(self, fragment: str, deltas: list[Delta]) -> None:
        """Append a delta with a fragment of the arguments to `deltas`, if the tool call has started.

        Fragments before the start: those of a custom tool call or parallel wrapper are stored, because such a call
        starts only when it is complete. Those of other calls are dropped, because the complete arguments follow.
        """
        if self._ended or not fragment:
            return
        if self._began:
            deltas.append(ToolArgs(self._key, fragment))
        elif not self._streams:
            self._held.append(fragment)
        else:
            return
        self._written = fragment

    def add_complete_arguments(self, arguments: str, deltas: list[Delta]) -> None:
        """Append the complete arguments of a tool call to `deltas`, unless fragments of them came before."""
        if not self._written:
            self.add_arguments_fragment(arguments, deltas)

    def end_call(self, item: OutputItem | None, deltas: list[Delta], *, reply_ended_early: bool = False) -> None:
        """Append the remaining deltas of the tool call and its `ToolEnd` to `deltas`.

        `item` is None if the reply ended before the complete item arrived. Raises `UpstreamProtocolError` if the
        complete item has no name.
        """
        if self._ended:
            return
        if item is not None and not self._began:
            self.start_call(item, deltas)
        if item is not None and not self._streams:
            self._reader.emit_complete_call(self._key, item, item.arguments or "".join(self._held), deltas)
        elif self._began:
            if item is not None:
                self.add_complete_arguments(item.arguments or "", deltas)
            self.incomplete = self._is_cut(item, reply_ended_early=reply_ended_early)
            deltas.append(ToolEnd(self._key))
        elif item is not None:
            raise self._reader.build_missing_name_error()
        self._ended = True

    def _is_cut(self, item: OutputItem | None, *, reply_ended_early: bool) -> bool:
        if item is None:
            return reply_ended_early or (self._written != "" and not self._written.rstrip().endswith("}"))
        return item.status == "incomplete" or is_truncated_object(item.arguments or "")


class ToolCallContext:
    """State that all tool calls of one reply share: keys, ids, tool names, and names of MCP servers."""

    def __init__(self, call: Call[Dialect]) -> None:
        self._call = call
        self._ids = ToolCallIds(call)
        self._count = 0
        self._servers: dict[str, str] | None = None
        self._wrappers: frozenset[str] | None = None

    def new_call_key(self) -> int:
        """Return a new key, which links the deltas of one tool call. No other call of the reply has it."""
        self._count += 1
        return self._count - 1

    def is_parallel_wrapper(self, name: str) -> bool:
        """Return True if `name` is a parallel wrapper, a tool that the client does not offer."""
        if name not in _WRAPPERS:
            return False
        if self._wrappers is None:
            self._wrappers = _WRAPPERS.difference(tool.name for tool in self._call.request.tools)
        return name in self._wrappers

    def find_mcp_server_name(self, label: str) -> str:
        """Return the client's name of an MCP server. `label`: the server's name in the upstream request.

        An unknown label is returned unchanged.
        """
        if self._servers is None:
            self._servers = mcp_server_names_by_label(self._call.request)
        return self._servers.get(label, label)

    def build_tool_call(self, key: int | str, upstream_id: str | None, name: str) -> ToolCall:
        """Return the delta that starts a call, with the client's tool name and an id for the client."""
        return ToolCall(key, self._ids.assign_client_id(upstream_id), self._call.client_tool_names.get(name, name))

    def emit_complete_call(self, key: int, item: OutputItem, arguments: str, deltas: list[Delta]) -> None:
        """Append the deltas of a custom tool call, or of all calls in a parallel wrapper."""
        name = item.name or ""
        if item.type == "custom_tool_call":
            text_input = msgspec.json.encode({"input": item.input or ""}).decode()
            self._emit(key, item.call_id, name, text_input, deltas)
            return
        try:
            uses = _decode_wrapped(arguments).tool_uses
        except (msgspec.DecodeError, RecursionError):
            self._emit(key, item.call_id, name, arguments, deltas)
            return
        for position, use in enumerate(uses):
            own_id = f"{item.call_id}_{position}" if item.call_id else None
            name = use.recipient_name.removeprefix(_NAMESPACE)
            self._emit(f"{key}.{position}", own_id, name, bytes(use.parameters).decode(), deltas)

    def build_missing_name_error(self) -> UpstreamProtocolError:
        """Return the error for a tool call without a name, which the client could not run."""
        provider = self._call.provider
        return UpstreamProtocolError(f"{provider} sent a tool call without a name.", provider=provider)

    def _emit(self, key: int | str, upstream_id: str | None, name: str, arguments: str, deltas: list[Delta]) -> None:
        deltas.append(self.build_tool_call(key, upstream_id, name))
        if arguments:
            deltas.append(ToolArgs(key, arguments))
        deltas.append(ToolEnd(key))


_TRACKING = "utm_source="
"""Start of a query parameter that OpenAI adds to URLs of citations (recorded). The proxy removes it."""

_AROUND = " -*•"
"""Characters that are removed from both ends of a cited line, such as the mark of a list entry."""


class _Source(Struct):
    url: str | None = None


class _Action(Struct):
    """Action of a search item: a search, or the opening of a page. xAI sends this object in `arguments` (recorded)."""

    type: str = ""
    query: str | None = None
    queries: list[str] | None = None
    sources: list[_Source] | None = None
    url: str | None = None


class _Mark(Struct):
    """Annotation of reply text, such as a citation. Only annotations of type `url_citation` are decoded."""

    type: str = ""
    url: str | None = None
    title: str | None = None
    start_index: int = 0
    end_index: int = 0


class _Found(Struct):
    """Placeholder in the buffer for the result block of a search, until the pages of the search are known."""

    call: str
    urls: list[str]


# OpenAI sends the found pages with each search. Both forms were recorded by the project `vercel/ai` (fixtures
# openai-web-search-tool.1 and xai-web-search-tool.1, 2026-08).
class WebSearchDecoder:
    """Decodes the web searches of one reply into blocks and citations.

    If the found pages of a search are not known yet, all deltas after the search are buffered.
    """

    def __init__(self, call: Call[Dialect]) -> None:
        self._call = call
        self._waiting: list[Delta | _Found] = []
        self._found: set[str] = set()
        self._titles: dict[str, str] = {}
        self._text: list[str] = []
        self._place: tuple[int, int] | None = None
        self._cited_to = 0
        self._count = 0
        self.requires_recorded_text = False
        """True after a search. The caller must then call `record_sent_text` with all text that it sends."""
        self.buffering = False
        """True while the caller must pass all deltas to `buffer_deltas` instead of sending them."""

    def record_source_titles(self, items: Iterable[OutputItem]) -> None:
        """Store the titles of the cited pages of a complete reply, for the result blocks of its searches."""
        for item in items:
            for part in item.content or () if item.type == "message" else ():
                for mark in self._marks_of(part):
                    self._learn(mark)

    def decode_search_item(self, item: OutputItem) -> list[Delta]:
        """Return the deltas to send now for a search item: call block, result block and usage.

        The result block is buffered until the found pages are known. If earlier deltas are still buffered, the call
        block is buffered too, so that only the usage is returned. The list is empty if there is nothing to send now. An
        example is an opened page that an earlier search has found.
        """
        action = _action_of(item)
        pages = [_plain(source.url) for source in action.sources or () if source.url]
        query = action.query or ", ".join(action.queries or ())
        if action.type not in ("search", "") or (action.url and not query):
            url = _plain(action.url or "")
            if not url or url in self._found or not self._shows(url):
                return []
            if self.buffering:
                self._add_to_last([url])
                return []
            return self._put(url, [url], waits=False)
        if item.status == "failed":
            identifier = self._call.new_id(SERVER_TOOL_ID_PREFIX)
            failure = encode_failed_search(identifier, "unavailable")
            return self._keep([encode_search_call(identifier, query), failure])
        self._count += 1
        self.requires_recorded_text = True
        counted = Usage(web_search_requests=self._count, billed_searches=self._count)
        return [*self._put(query, list(dict.fromkeys(pages)), waits=self.buffering or not pages), counted]

    def buffer_deltas(self, deltas: Iterable[Delta]) -> None:
        """Buffer the deltas after a web search, until the pages that it found are known."""
        self._waiting += deltas

    def record_sent_text(self, text: str, part_indexes: tuple[int, int]) -> None:
        """Store text that was sent to the client, because later citations refer to offsets in it.

        `part_indexes`: index of the output item, and index of the content part in it.
        """
        if part_indexes != self._place:
            self._place, self._text, self._cited_to = part_indexes, [], 0
        self._text.append(text)

    def decode_annotation(self, annotation: Raw, part_indexes: tuple[int, int]) -> list[Citation]:
        """Return the citation in an annotation event as a list.

        Empty list: the annotation is no citation, its page is blocked, its text was not recorded, or deltas are
        buffered. `part_indexes`: index of the output item, and index of the content part in it.
        """
        if self.buffering or part_indexes != self._place:
            return []
        mark = decode_or_empty(annotation, _Mark)
        self._text = ["".join(self._text)]
        return self._cited(mark, self._text[0]) if _is_citation(mark) else []

    def split_at_citations(self, part: OutputContent) -> Iterable[Delta]:
        """Yield the deltas of a complete content part: pieces of its text, each followed by its citations."""
        text, start = part.text or part.refusal or "", 0
        self._cited_to = 0
        for mark in self._marks_of(part) if self._count else ():
            self._learn(mark)
            end = min(max(mark.end_index, start), len(text)) if mark.end_index else len(text)
            if end > start:
                yield Text(text[start:end])
                start = end
            if start:  # a citation belongs to the text before it
                yield from self._cited(mark, text)
        if text[start:]:
            yield Text(text[start:])

    def decode_remaining_citations(self, parts: Sequence[OutputContent], emitted_citation_count: int) -> list[Delta]:
        """Return the citations of a complete streamed message that were not sent during the stream.

        `emitted_citation_count` is the number of citations already sent. While deltas are buffered, the citations are
        added to the buffer and the list is empty.
        """
        if not self._count:
            return []
        if not self.buffering:
            late = [(mark, part.text or "") for part in parts for mark in self._marks_of(part)][emitted_citation_count:]
            return [citation for mark, text in late for citation in self._cited(mark, text)]
        is_repeated = self._drop_text("".join(part.text or part.refusal or "" for part in parts))
        for part in parts:
            deltas = list(self.split_at_citations(part))  # also records the cited pages
            self._waiting += deltas if is_repeated else []
        return []

    def release_buffered_deltas(self) -> list[Delta]:
        """Return the buffered deltas when the text of the reply has ended.

        Cited pages that are in no search result are first added to the result of the last search.
        """
        if not self.buffering:
            return []
        self._add_to_last([url for url in self._titles if url not in self._found])
        deltas = [self._result_of(item) if isinstance(item, _Found) else item for item in self._waiting]
        self._waiting = []
        self.buffering = False
        return deltas

    def _put(self, query: str, urls: list[str], *, waits: bool) -> list[Delta]:
        identifier = self._call.new_id(SERVER_TOOL_ID_PREFIX)
        self._found.update(urls)
        if not waits:
            return encode_search_call_and_result(identifier, query, self._pages(urls))
        kept = self._keep([encode_search_call(identifier, query)])
        self.buffering = True
        self._waiting.append(_Found(identifier, urls))
        return kept

    def _keep(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas, to be sent at once. While deltas are buffered, buffer these too and return nothing."""
        if not self.buffering:
            return deltas
        self._waiting += deltas
        return []

    def _pages(self, urls: Iterable[str]) -> Iterable[SearchResultPage]:
        return (SearchResultPage(url, self._titles.get(url)) for url in urls if self._shows(url))

    def _result_of(self, found: _Found) -> Block:
        return encode_search_result(found.call, self._pages(found.urls))

    def _add_to_last(self, urls: list[str]) -> None:
        waiting = [item for item in self._waiting if isinstance(item, _Found)]
        waiting[-1].urls += urls
        self._found.update(urls)

    def _marks_of(self, part: OutputContent) -> list[_Mark]:
        """Return the citations of a content part in text order. Citations without offsets come last."""
        marks = [decode_or_empty(raw, _Mark) for raw in part.annotations or ()]
        cited = [mark for mark in marks if _is_citation(mark)]
        return sorted(cited, key=lambda mark: mark.end_index or len(part.text or ""))

    def _learn(self, mark: _Mark) -> None:
        url = _plain(mark.url or "")
        if not self._titles.get(url):
            self._titles[url] = _title_of(mark)

    def _cited(self, mark: _Mark, text: str) -> list[Citation]:
        """Return the citation of a passage as a list. Empty list: the page is on a blocked domain."""
        self._learn(mark)
        url = _plain(mark.url or "")
        passage = text[mark.start_index : mark.end_index]
        if "](" in passage:  # the annotation covers only the link after the passage (recorded)
            lines = text[self._cited_to : mark.start_index].rstrip().splitlines()
            passage = lines[-1].strip(_AROUND) if lines else ""
        self._cited_to = max(self._cited_to, mark.end_index)
        return [encode_citation(url, _title_of(mark), passage)] if self._shows(url) else []

    def _shows(self, url: str) -> bool:
        return is_domain_allowed(url, (), self._blocked)

    @cached_property
    def _blocked(self) -> list[str]:
        searching = (tool for tool in self._call.request.tools if server_tool_kind(tool) == "web_search")
        return [domain for tool in searching for domain in tool.blocked_domains or ()]

    def _drop_text(self, whole: str) -> bool:
        """Remove the text `whole` from the end of the buffer. Return False if the buffer ends with another text.

        The caller then adds the text again with citations.
        """
        start = len(self._waiting)
        while start and isinstance(self._waiting[start - 1], Text):
            start -= 1
        waiting = "".join(item.text for item in self._waiting[start:] if isinstance(item, Text))
        if not waiting.endswith(whole):
            return False
        before = waiting[: len(waiting) - len(whole)]
        self._waiting[start:] = [Text(before)] if before else []
        return True


def _action_of(item: OutputItem) -> _Action:
    action: _Action = decode_or_empty(item.action, _Action)
    if action.query or action.queries or action.url or not item.arguments:
        return action
    try:
        return msgspec.json.decode(item.arguments, type=_Action)
    except (msgspec.DecodeError, RecursionError):
        return action


def _is_citation(mark: _Mark) -> bool:
    return mark.type == "url_citation" and bool(mark.url)


def _title_of(mark: _Mark) -> str:
    """Return the title of a cited page. "": the title is only a number, as in citations of xAI."""
    return "" if (mark.title or "").isdigit() else mark.title or ""


def _plain(url: str) -> str:
    """Return the URL of a citation without the tracking parameter that OpenAI adds."""
    address, mark, query = url.partition("?")
    if not mark:
        return url
    kept = "&".join(word for word in query.split("&") if not word.startswith(_TRACKING))
    return f"{address}?{kept}" if kept else address


# Sources: `ResponseCodeInterpreterToolCall` and `McpCall` of the official SDK `openai` 3.51; recorded by the project
# `vercel/ai` (openai-code-interpreter-tool.1, openai-mcp-tool.1 and xai-code-execution-tool.1 of its fixtures,
# 2026-08).
_PROGRAMS = frozenset(("code_interpreter_call", "code_execution_call"))
SERVER_TOOL_ITEM_TYPES = _PROGRAMS | {"mcp_call"}
"""Types of output items that this module decodes."""


class _Output(Struct):
    """Output of a program that the provider ran: printed text, or the URL of an image."""

    type: str = ""
    """Type of the output: `logs` or `image`."""
    logs: str | None = None
    url: str | None = None


class _Arguments(Struct):
    """Arguments of xAI's code execution items: the source text of the program (recorded)."""

    code: str = ""


class ServerToolItemDecoder:
    """Decoder of one code execution or MCP call that the provider runs, from the first event to the last."""

    __slots__ = ("_call", "_identifier", "_is_program", "_item", "_shared")

    def __init__(self, call: Call[Dialect], item: OutputItem, shared: ToolCallContext) -> None:
        self._call = call
        self._shared = shared
        self._item = item
        self._is_program = item.type in _PROGRAMS
        self._identifier = ""

    def start_call(self, program_or_arguments: str) -> list[Delta]:
        """Return the block that begins the call. Empty list: the block was already returned.

        `program_or_arguments` is the program of a code execution, or the JSON arguments of an MCP call.
        """
        if self._identifier:
            return []
        if self._is_program:
            self._identifier = self._call.new_id(SERVER_TOOL_ID_PREFIX)
            return [encode_code_execution_call(self._identifier, program_or_arguments)]
        self._identifier = self._call.new_id(MCP_TOOL_ID_PREFIX)
        label, name = self._item.server_label or "", self._item.name or ""
        server = self._shared.find_mcp_server_name(label)
        own_name = name.removeprefix(f"{label}.")  # xAI adds the label as a prefix (documented)
        return [encode_mcp_call(self._identifier, server, own_name, program_or_arguments)]

    def decode_complete_item(self, item: OutputItem) -> list[Delta]:
        """Return the block with the result of the call. `item`: the complete output item of the call.

        The block that begins the call comes first, unless `start_call` returned it before.
        """
        self._item = item
        if self._is_program:
            announced = self.start_call(_code_of(item))
            return [*announced, _result_of_program(self._identifier, item)]
        announced = self.start_call(item.arguments or "")
        failure = decode_or_empty(item.error, object) if item.error is not ABSENT else None
        words = _in_words(failure) if failure else item.output or ""
        is_error = bool(failure) or item.status in ("failed", "incomplete")
        return [*announced, encode_mcp_result(self._identifier, words, is_error=is_error)]

    def abort_call(self) -> list[Delta]:
        """Return an error block in place of the missing result. Empty list: the client received no call block."""
        if not self._identifier:
            return []
        if self._is_program:
            return [encode_code_execution_error(self._identifier, "unavailable")]
        return [encode_mcp_result(self._identifier, "the answer was cut before the result", is_error=True)]


def _code_of(item: OutputItem) -> str:
    if item.code is not None or not item.arguments:
        return item.code or ""
    return str(decode_or_empty(Raw(item.arguments.encode(errors="replace")), _Arguments).code)


def _result_of_program(identifier: str, item: OutputItem) -> Block:
    outputs: list[_Output] = [decode_or_empty(raw, _Output) for raw in item.outputs or ()]
    printed = "\n".join(filter(None, map(_output_in_words, outputs)))
    if item.status in ("failed", "incomplete"):
        if not printed:
            return encode_code_execution_error(identifier, "unavailable")
        return encode_code_result(identifier, stderr=printed, return_code=1)
    return encode_code_result(identifier, stdout=printed)


def _output_in_words(output: _Output) -> str:
    if output.type != "image" or not output.url:
        return output.logs or ""
    described, mark, data = output.url.partition(",")
    if not mark or not described.startswith("data:"):
        return f"[image generated: {output.url}]"
    return describe_generated_file(described.removeprefix("data:").partition(";")[0], len(data))


def _in_words(error: Any) -> str:
    """Return the text of an MCP error. xAI sends a string, OpenAI an object with a message or the tool's output."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "\n".join(map(_in_words, error))
    if isinstance(error, dict):
        for name in ("message", "text", "content"):
            if error.get(name):
                return _in_words(error[name])
    return msgspec.json.encode(error).decode()
