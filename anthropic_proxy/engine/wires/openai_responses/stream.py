"""Decoder of Responses replies, streamed or complete: converts them to deltas, the pieces of a reply.

A reply is a list of output items: messages, reasoning, tool calls, and calls of server tools. A stream announces an
item, sends its content in fragments, and then sends the complete item, which repeats the content. The last event
repeats all items. Some servers leave out one of these steps, so each step adds what the steps before it lacked:
`OutputItemState` holds what was decoded of an item. Two kinds of content wait: reasoning with encrypted state until the
next content is known (`PendingReasoning`), and everything after a web search until its pages are known
(`WebSearchDecoder`).

The structs of events and bodies have only the fields that the decoder reads. Fields of wrong types are omitted, so that
one unexpected field does not end a reply.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.messages.deltas import (
    CHARACTERS_PER_TOKEN,
    Citation,
    Delta,
    Stop,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
)
from anthropic_proxy.engine.messages.models.raw_json import ABSENT, is_present
from anthropic_proxy.engine.messages.preparation import server_tool_kind
from anthropic_proxy.engine.messages.server_blocks import (
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
from anthropic_proxy.engine.messages.tool_arguments import is_truncated_object
from anthropic_proxy.engine.wires.contract import Call, Decoder
from anthropic_proxy.engine.wires.failures import find_reply_end
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_or_repair, decode_repaired, repair_json
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.openai_responses.errors import classify_fault, decode_error_object
from anthropic_proxy.engine.wires.openai_responses.tools import mcp_server_names_by_label
from anthropic_proxy.engine.wires.reply_ends import (
    build_stop,
    build_unreadable_reply,
    find_finish_kind,
    split_input_tokens,
)
from anthropic_proxy.engine.wires.thinking import (
    ReasoningState,
    empty_signature,
    encode_signature,
)
from anthropic_proxy.engine.wires.tools import ToolCallIds
from anthropic_proxy.errors import UnreadableReply, UpstreamProtocolError


class OutputContent(Struct, gc=False):
    """Content part of an output item: text, refusal, or text of the reasoning."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    """The model's refusal text. None: another type."""
    annotations: list[Raw] | None = None


class OutputItem(Struct, gc=False):
    """Output item: message, reasoning, or tool call. The set fields depend on `type`."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    """Of a tool call: the id of the call, which its result repeats."""
    name: str | None = None
    arguments: str | None = None
    """Of a tool call: the complete arguments, as JSON text."""
    input: str | None = None
    """Of a `custom_tool_call`: the plain text input."""
    content: list[OutputContent] | None = None
    """Of a message: the parts of its text. Of reasoning: its plain text, if the server sends one."""
    summary: list[OutputContent] | None = None
    """Of reasoning: summaries, which the client receives as thinking."""
    encrypted_content: str | None = None
    """Of reasoning: opaque state, which the next request sends back."""
    action: Raw = ABSENT
    """Of a `web_search_call`: JSON object with queries and sources."""
    output_format: str | None = None
    """Of an `image_generation_call`: the format of the image, such as `png`."""
    result: str | None = None
    """Of an `image_generation_call`: the image in base64."""
    code: str | None = None
    """Of a `code_interpreter_call`: the program."""
    outputs: list[Raw] | None = None
    """Of a `code_interpreter_call`: printed text and images."""
    server_label: str | None = None
    """Of an `mcp_call`: the label of the MCP server, its name in the upstream request."""
    output: str | None = None
    error: Raw = ABSENT
    status: str | None = None
    """Status of the item: `completed`, `incomplete`, `in_progress`."""


class InputTokenDetails(Struct, gc=False):
    """Details of `input_tokens`: tokens read from the cache and written to the cache, both included in the total."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputTokenDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class ResponsesUsage(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputTokenDetails | None = None
    output_tokens_details: OutputTokenDetails | None = None


class IncompleteDetails(Struct, gc=False):
    reason: str | None = None


class Response(Struct, gc=False):
    """Response object: the body of a reply that is not streamed, or the field `response` of a stream event."""

    status: str | None = None
    output: list[Raw] | None = None
    """Output items as JSON text. Decode each with `decode_item`."""
    usage: ResponsesUsage | None = None
    service_tier: Any = None
    """Service tier that served the response: `default`, `flex`, `priority`. None: not reported."""
    error: Raw = ABSENT
    incomplete_details: IncompleteDetails | None = None


class StreamEvent(Struct, gc=False):
    """Event of a streamed response: the data of one SSE event. The set fields depend on `type`."""

    type: str = ""
    output_index: int | None = None
    """Index, in the response, of the output item that the event belongs to."""
    summary_index: int = 0
    content_index: int = 0
    delta: str | None = None
    arguments: str | None = None
    """Of `…arguments.done`: the complete arguments, a JSON text. Fragments are in `delta`."""
    code: str | None = None
    item: Raw = ABSENT
    """Output item that begins or is complete, JSON text for `decode_item`."""
    response: Raw = ABSENT
    """Response object of an event that ends the stream, as JSON text for `decode_response`."""
    annotation: Raw = ABSENT
    error: Raw = ABSENT


_Kind = TypeVar("_Kind", bound=Struct)

decode_strict_event = msgspec.json.Decoder(StreamEvent).decode
_decode_item = msgspec.json.Decoder(OutputItem).decode
_decode_response = msgspec.json.Decoder(Response).decode


def decode_event(data: bytes) -> StreamEvent:
    """Decode a stream event. Raises `msgspec.DecodeError` for invalid JSON.

    If only the last brace of the event is missing, it is added (recorded: parallel_tool_wrapper_stream).
    """
    try:
        return decode_strict_event(data)
    except msgspec.ValidationError:
        return _mended(data, StreamEvent())
    except msgspec.DecodeError:
        return decode_strict_event(data + b"}")


def decode_item(raw: Raw) -> OutputItem:
    try:
        return _decode_item(raw)
    except msgspec.ValidationError:
        return _mended(raw, OutputItem())


def decode_response(raw: Raw | bytes) -> Response:
    try:
        return _decode_response(raw)
    except msgspec.ValidationError:
        return _mended(raw, Response())


def decode_or_empty(raw: Raw, result_type: type[Any]) -> Any:
    """Return an empty `result_type()` if the text is absent or cannot be decoded."""
    if raw is ABSENT:
        return result_type()
    try:
        return msgspec.json.decode(raw, type=result_type)
    except UnicodeDecodeError:
        return decode_or_empty(Raw(repair_json(raw)), result_type)
    except (msgspec.DecodeError, RecursionError):
        return result_type()


def _mended(data: Raw | bytes, empty: _Kind) -> _Kind:
    """Decode a JSON object as the class of `empty`. Fields of wrong types are omitted."""
    fields = msgspec.json.decode(data, type=dict[str, Raw])
    kind = type(empty)
    kept: dict[str, Raw] = {}
    for name in kind.__struct_fields__:
        if name not in fields:
            continue
        try:
            msgspec.json.decode(b'{"%b":%b}' % (name.encode(), bytes(fields[name])), type=kind)
        except msgspec.ValidationError:
            continue
        kept[name] = fields[name]
    return msgspec.json.decode(msgspec.json.encode(kept), type=kind)


class OutputItemState:
    """Decoding state of one output item of a stream: the decoder of its tool call, and the content decoded so far."""

    __slots__ = ("citation_count", "complete", "item_id", "latest_part", "server_tool", "text_streamed", "tool_call")

    def __init__(self) -> None:
        self.tool_call: ToolCallItemDecoder | None = None
        self.server_tool: ServerToolItemDecoder | None = None
        self.item_id: str | None = None
        self.latest_part: tuple[str, int] | None = None
        """Kind and index of the content part of the latest fragment: `("summary", 0)`. None: no fragment yet."""
        self.text_streamed = False
        """True if fragments of text were returned. The complete item, which follows, then adds no text."""
        self.citation_count = 0
        """Number of citations returned from stream events. The complete item repeats these citations."""
        self.complete = False


_CALLS = ("function_call", "custom_tool_call")
_TEXT = ("text", 0)  # no index: parts of a text follow each other without a paragraph between
_PARAGRAPH = "\n\n"


class ResponsesDecoder(Decoder):
    """Decoder of one reply. It identifies output items by their index, because some servers change their ids."""

    def __init__(self, call: Call[Dialect]) -> None:
        dialect = call.dialect
        self._call = call
        self._tag = dialect.signature_tag
        self.default_signature = empty_signature(dialect.signature_tag)
        self.finished = False
        asked = call.request.max_tokens
        self._limit = LocalOutputLimit(asked) if asked < dialect.min_output_tokens else None
        self._calls = ToolCallContext(call)
        self._search = WebSearchDecoder(call)
        self._thoughts = PendingReasoning(self.default_signature)
        self._items: dict[int, OutputItemState] = {}
        self._complete_items = 0
        self._last = 0
        """Index of the output item of the last event. Events without an index belong to the same item."""
        self._spoken: int | None = None
        """Index of the output item with the latest text. None: another kind of item followed."""
        self._refusal = ""
        self._stopped = False
        self._unreadable: UnreadableReply | None = None

    def decode_frame(self, frame: bytes) -> list[Delta]:
        if frame == b"[DONE]":
            self.finished = True
            return []
        try:
            event = decode_strict_event(frame)
        except DECODE_ERRORS:
            event = self._decode(decode_event, frame, self.repair_frame)
        deltas: list[Delta] = []
        read = _READERS.get(event.type)
        if read is not None:
            read(self, event, deltas)
        elif event.type == "error" or (not event.type and is_present(event.error)):
            deltas += self._fail(decode_repaired(frame))
        return deltas if self._limit is None else self._limit.cut_deltas(deltas)

    def decode_body(self, body: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        self._read_end(self._decode(decode_response, body), deltas)
        return self._limited(deltas)

    def decode_end(self) -> list[Delta]:
        if self._unreadable is not None:
            raise self._unreadable
        if not self._stopped:
            raise self._broken("ended its answer before it was complete", "incomplete-reply")
        return []

    def flush_pending(self) -> list[Delta]:
        deltas: list[Delta] = []
        self._put(self._thoughts.release_signed(), deltas)
        deltas += self._search.release_buffered_deltas()
        return self._limited(deltas)

    def _limited(self, deltas: list[Delta]) -> list[Delta]:
        return deltas if self._limit is None else self._limit.cut_deltas(deltas)

    def _decode(self, decode: Callable[[Any], Any], data: Any, repair: Callable[[bytes], bytes] = repair_json) -> Any:
        try:
            return decode_or_repair(decode, data, repair)
        except DECODE_ERRORS as error:
            raise self._broken("sent invalid JSON") from error

    def _broken(self, what: str, code: str = "") -> UpstreamProtocolError:
        return UpstreamProtocolError(f"{self._call.provider} {what}.", code=code, provider=self._call.provider)

    def _find(self, event: StreamEvent) -> OutputItemState:
        if event.output_index is not None:
            self._last = event.output_index
        state = self._items.get(self._last)
        if state is None:
            state = self._items[self._last] = OutputItemState()
        return state

    def _read_text(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        if event.delta and not state.complete:
            state.text_streamed = True
            self._emit_text(event.delta, state, deltas)
            if self._search.requires_recorded_text:
                self._search.record_sent_text(event.delta, (self._last, event.content_index))

    def _read_annotation(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        found = self._search.decode_annotation(event.annotation, (self._last, event.content_index))
        state.citation_count += len(found)
        deltas += found

    def _read_refusal(self, event: StreamEvent, deltas: list[Delta]) -> None:
        if event.delta:
            self._refusal += event.delta
            self._read_text(event, deltas)

    def _read_summary(self, event: StreamEvent, deltas: list[Delta]) -> None:
        self._read_thought(event, ("summary", event.summary_index), deltas)

    def _read_reasoning(self, event: StreamEvent, deltas: list[Delta]) -> None:
        self._read_thought(event, ("reasoning", event.content_index), deltas)

    def _read_thought(self, event: StreamEvent, part: tuple[str, int], deltas: list[Delta]) -> None:
        state = self._find(event)
        if event.delta and not state.complete:
            self._think(event.delta, part, state, deltas)

    def _read_arguments(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        if state.tool_call is not None and event.delta:
            state.tool_call.add_arguments_fragment(event.delta, deltas)

    def _read_whole_arguments(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        if state.tool_call is not None and event.arguments:
            state.tool_call.add_complete_arguments(event.arguments, deltas)
        elif state.server_tool is not None:
            self._put_hosted(state.server_tool.start_call(event.arguments or event.code or ""), deltas)

    def _begin_item(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        item = self._decode(decode_item, event.item)
        if state.complete:  # a server that gives every item the same index
            state = self._items[self._last] = OutputItemState()
        state.item_id = item.id
        if item.type in _CALLS and state.tool_call is None:
            self._begin_call(state, item, deltas)
        elif item.type in SERVER_TOOL_ITEM_TYPES:
            state.server_tool = ServerToolItemDecoder(self._call, item, self._calls)

    def _begin_call(self, state: OutputItemState, item: OutputItem, deltas: list[Delta]) -> "ToolCallItemDecoder":
        self._put(self._thoughts.release_signed(), deltas)
        deltas += self._search.release_buffered_deltas()
        self._spoken = None
        state.tool_call = ToolCallItemDecoder(self._calls)
        state.tool_call.start_call(item, deltas)
        return state.tool_call

    def _end_item(self, event: StreamEvent, deltas: list[Delta]) -> None:
        self._complete(self._find(event), self._decode(decode_item, event.item), deltas)

    def _complete(self, state: OutputItemState, item: OutputItem, deltas: list[Delta]) -> None:
        """Append the content of a complete output item to `deltas`, except content of earlier events."""
        if state.complete:
            return
        state.complete = True
        self._complete_items += 1
        if item.type == "reasoning":
            if state.latest_part is None:
                kind, parts = ("summary", item.summary) if item.summary else ("reasoning", item.content)
                for index, part in enumerate(parts or ()):
                    if part.text:
                        self._think(part.text, (kind, index), state, deltas)
            carry = build_reasoning_state(item, state)
            if carry.encrypted or state.latest_part is not None:
                self._put_thought(Thinking(signature=encode_signature(self._tag, carry)), state, deltas)
        elif item.type == "message":
            parts = item.content or []
            if state.text_streamed:
                deltas += self._search.decode_remaining_citations(parts, state.citation_count)
            else:
                for part in parts:
                    if part.type == "refusal":
                        self._refusal += part.refusal or ""
                    for piece in self._search.split_at_citations(part):
                        if isinstance(piece, Text):
                            self._emit_text(piece.text, state, deltas)
                        else:
                            self._put([piece], deltas)
            deltas += self._search.release_buffered_deltas()
        elif item.type in _CALLS:
            (state.tool_call or self._begin_call(state, item, deltas)).end_call(item, deltas)
        elif item.type == "web_search_call":
            self._put_hosted([], deltas)
            deltas += self._search.decode_search_item(item)
        elif item.type in SERVER_TOOL_ITEM_TYPES:
            server_tool = state.server_tool or ServerToolItemDecoder(self._call, item, self._calls)
            self._put_hosted(server_tool.decode_complete_item(item), deltas)
        elif item.type == "image_generation_call" and item.result:  # the Messages API has no block for an image
            words = describe_generated_file(f"image/{item.output_format or 'png'}", len(item.result))
            self._emit_text(words, state, deltas)

    def _emit_text(self, text: str, state: OutputItemState, deltas: list[Delta]) -> None:
        if self._spoken != self._last:
            if self._spoken is not None:
                text = _PARAGRAPH + text  # another message follows at once
            self._spoken = self._last
        state.latest_part = _TEXT
        if self._thoughts.buffered or self._search.buffering:
            self._put([*self._thoughts.release_signed(), Text(text)], deltas)
        else:
            deltas.append(Text(text))

    def _think(self, text: str, part: tuple[str, int], state: OutputItemState, deltas: list[Delta]) -> None:
        if state.latest_part is not None and state.latest_part != part:
            text = _PARAGRAPH + text
        state.latest_part, self._spoken = part, None
        if self._thoughts.buffered or self._search.buffering:
            self._put_thought(Thinking(text), state, deltas)
        else:
            deltas.append(Thinking(text))

    def _put_thought(self, thought: Thinking, state: OutputItemState, deltas: list[Delta]) -> None:
        self._spoken = None
        if not self._thoughts.buffer_thinking(thought, item_has_text=state.latest_part is not None):
            self._put([thought], deltas)

    def _put_hosted(self, some: Iterable[Delta], deltas: list[Delta]) -> None:
        """Append buffered reasoning without its encrypted state, and then the deltas of a server tool (`some`)."""
        self._spoken = None
        self._put(self._thoughts.release_unsigned(), deltas)
        self._put(some, deltas)

    def _put(self, some: Iterable[Delta], deltas: list[Delta]) -> None:
        if self._search.buffering:
            self._search.buffer_deltas(some)
        else:
            deltas += some

    def _read_last(self, event: StreamEvent, deltas: list[Delta]) -> None:
        self.finished = True
        self._read_end(self._decode(decode_response, event.response), deltas)

    def _read_end(self, response: Response, deltas: list[Delta]) -> None:
        if self._stopped:
            return
        if response.status is None and response.output is None and not is_present(response.error):
            raise self._broken("sent an answer without any output")
        if is_present(response.error):
            self._read_usage(response, deltas)
            deltas += self._fail(decode_repaired(response.error))
            return
        if response.status in ("failed", "cancelled", "in_progress", "queued"):
            error = {"message": f"the response ended as {response.status!r}"}
            raise classify_fault(decode_error_object(error), self._call)
        reason = (response.incomplete_details.reason if response.incomplete_details is not None else None) or ""
        kind = find_finish_kind(reason)
        if kind == "unreadable":
            self._unreadable = build_unreadable_reply(self._call.provider, reason)
            self._read_usage(response, deltas)
            return
        missing = () if self._complete_items >= len(response.output or ()) else response.output or ()
        items = [self._decode(decode_item, raw) for raw in missing]
        self._search.record_source_titles(items)
        for place, item in enumerate(items):
            if item.type == "reasoning" and any(later > place for later in self._items):
                continue  # too late: thinking must precede the content that followed it
            self._last = place
            self._complete(self._items.setdefault(place, OutputItemState()), item, deltas)
        self._end_open(deltas, reply_ended_early=response.status == "incomplete")
        self._read_usage(response, deltas)
        self._stopped = True
        calls = [state.tool_call for state in self._items.values() if state.tool_call is not None]
        counts, window = response.usage, self._call.context_window
        total = 0 if counts is None else (counts.input_tokens or 0) + (counts.output_tokens or 0)
        deltas.append(
            build_stop(
                kind,
                self._call.provider,
                reason,
                refusal=self._refusal,
                is_cut=any(call.incomplete for call in calls),
                fills_window=counts is not None and window is not None and total >= window - 1,
            )
        )

    def _end_open(self, deltas: list[Delta], *, reply_ended_early: bool) -> None:
        """End the open items. `reply_ended_early`: True if the reply did not end normally."""
        for state in self._items.values():
            if state.tool_call is not None and not state.complete:
                state.tool_call.end_call(None, deltas, reply_ended_early=reply_ended_early)
            elif state.server_tool is not None and not state.complete:
                self._put_hosted(state.server_tool.abort_call(), deltas)
        self._put(self._thoughts.release_signed(), deltas)
        deltas += self._search.release_buffered_deltas()

    def _read_usage(self, response: Response, deltas: list[Delta]) -> None:
        counts = response.usage
        if counts is not None and (counts.input_tokens is not None or counts.output_tokens is not None):
            deltas.append(decode_usage(counts, response.service_tier))

    def _fail(self, error: Any) -> list[Delta]:
        """Raise the `UpstreamError` for an error object. If it stands for the end of the reply, return this end."""
        if self._stopped:
            return []
        fault = decode_error_object(error)
        end = find_reply_end(fault, self._call.provider, has_content=bool(self._items))
        if end is None:
            raise classify_fault(fault, self._call)
        deltas: list[Delta] = []
        self._end_open(deltas, reply_ended_early=True)
        self.finished = self._stopped = True
        return [*deltas, end]


_READERS: Mapping[str, Callable[[ResponsesDecoder, StreamEvent, list[Delta]], None]] = {
    "response.output_text.delta": ResponsesDecoder._read_text,
    "response.output_text.annotation.added": ResponsesDecoder._read_annotation,
    "response.function_call_arguments.delta": ResponsesDecoder._read_arguments,
    "response.reasoning_summary_text.delta": ResponsesDecoder._read_summary,
    "response.reasoning_text.delta": ResponsesDecoder._read_reasoning,
    "response.refusal.delta": ResponsesDecoder._read_refusal,
    "response.function_call_arguments.done": ResponsesDecoder._read_whole_arguments,
    "response.mcp_call_arguments.done": ResponsesDecoder._read_whole_arguments,
    "response.code_interpreter_call_code.done": ResponsesDecoder._read_whole_arguments,
    "response.output_item.added": ResponsesDecoder._begin_item,
    "response.output_item.done": ResponsesDecoder._end_item,
    "response.completed": ResponsesDecoder._read_last,
    "response.incomplete": ResponsesDecoder._read_last,
    "response.failed": ResponsesDecoder._read_last,
}
"""Event type → method of the decoder. Other events repeat content or report progress, and are ignored."""


class PendingReasoning:
    """Buffer for the reasoning since the last text, call or search of a reply."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        """Signature for thinking blocks that have no encrypted state."""
        self.buffered: list[tuple[Thinking, bool]] = []
        """Buffered thinking deltas, each with True if the reasoning has text."""

    def buffer_thinking(self, thought: Thinking, *, item_has_text: bool) -> bool:
        """Buffer a piece of reasoning and return True. False: it is not buffered, and the caller can send it now.

        Buffering begins with the first piece that has a signature. `item_has_text` is True if the reasoning item has
        text.
        """
        if not self.buffered and not thought.signature:
            return False
        self.buffered.append((thought, item_has_text))
        return True

    def release_signed(self) -> list[Thinking]:
        """Empty the buffer and return its reasoning with the signatures. Use it before a text or a tool call."""
        kept, self.buffered = self.buffered, []
        return [thought for thought, _ in kept]

    def release_unsigned(self) -> list[Thinking]:
        """Empty the buffer and return the reasoning that has text, without its encrypted state.

        Use it before a web search.
        """
        kept, self.buffered = self.buffered, []
        return [
            replace(thought, signature=self._signature) if thought.signature else thought
            for thought, has_text in kept
            if has_text
        ]


def build_reasoning_state(item: OutputItem, item_state: OutputItemState) -> ReasoningState:
    """Return the state of the complete reasoning item `item`, which later requests send back.

    `item_state` is the decoding state of this item. An item without encrypted content has a state only if it contains
    the reasoning itself; a summary is not enough. Otherwise, the result is an empty state.
    """
    item_id = item.id or item_state.item_id  # xAI's complete items have none
    if item.encrypted_content:
        return ReasoningState(item_id=item_id, encrypted=item.encrypted_content)
    if item_state.latest_part is not None and item_state.latest_part[0] == "reasoning":
        return ReasoningState(item_id=item_id, replay=1)
    return ReasoningState()


_NO_INPUT_DETAILS = InputTokenDetails()
_NO_OUTPUT_DETAILS = OutputTokenDetails()


def decode_usage(counts: ResponsesUsage, tier: object = None) -> Usage:
    """Return the token counts of a reply as the Messages API counts tokens, with its `service_tier`."""
    within = counts.input_tokens_details or _NO_INPUT_DETAILS
    spent = counts.output_tokens_details or _NO_OUTPUT_DETAILS
    uncached, cached, written = split_input_tokens(counts.input_tokens, within.cached_tokens, within.cache_write_tokens)
    return Usage(
        input_tokens=uncached,
        # The output tokens include reasoning in both APIs (recorded, also for xAI).
        output_tokens=counts.output_tokens,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        thinking_tokens=spent.reasoning_tokens,
        billed_tier=tier if isinstance(tier, str) else None,
    )


class LocalOutputLimit:
    """Cuts the deltas of one reply at the client's output limit, if the server accepts no limit as low as this.

    Tokens are estimated from characters, because clients use such a low limit only for tests.
    """

    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens * CHARACTERS_PER_TOKEN
        self._open: int | str | None = None  # key of the tool call in progress
        self._reached = False

    def cut_deltas(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas up to the client's limit, where a `Stop` ends the reply. Later only `Usage` is returned."""
        kept: list[Delta] = []
        for delta in deltas:
            if self._reached:
                if isinstance(delta, Usage):
                    kept.append(delta)
            else:
                self._keep(delta, kept)
        return kept

    def _keep(self, delta: Delta, kept: list[Delta]) -> None:
        if isinstance(delta, Text | Thinking):
            text = delta.text[: self._left]
            self._left -= len(delta.text)
            if text == delta.text:
                kept.append(delta)
            elif text:
                kept.append(replace(delta, text=text, **({"signature": ""} if isinstance(delta, Thinking) else {})))
        elif isinstance(delta, ToolArgs):
            if delta.json[: self._left]:
                kept.append(replace(delta, json=delta.json[: self._left]))
            self._left -= len(delta.json)
        else:
            kept.append(delta)
            if isinstance(delta, ToolCall):
                self._open = delta.key
                self._left -= len(delta.name)
            elif isinstance(delta, ToolEnd):
                self._open = None
        if self._left < 0:
            self._reached = True
            if self._open is not None:
                kept.append(ToolEnd(self._open))
            kept.append(Stop("max_tokens"))


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
        """Start the call once its name is known. Custom calls and parallel wrappers start when they are complete."""
        if self._began or self._ended or not item.name:
            return
        self._streams = item.type == "function_call" and not self._reader.is_parallel_wrapper(item.name)
        if self._streams:
            self._began = True
            deltas.append(self._reader.build_tool_call(self._key, item.call_id, item.name))

    def add_arguments_fragment(self, fragment: str, deltas: list[Delta]) -> None:
        """Append a fragment of the arguments, if the tool call has started.

        Earlier fragments of a custom tool call or parallel wrapper are stored, because such a call starts only when it
        is complete. Fragments of other calls are dropped, because the complete arguments follow.
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
        if not self._written:
            self.add_arguments_fragment(arguments, deltas)

    def end_call(self, item: OutputItem | None, deltas: list[Delta], *, reply_ended_early: bool = False) -> None:
        """Append the remaining deltas of the tool call.

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
            if item is not None:
                self.incomplete = item.status == "incomplete" or is_truncated_object(item.arguments or "")
            else:
                is_cut = self._written != "" and not self._written.rstrip().endswith("}")
                self.incomplete = reply_ended_early or is_cut
            deltas.append(ToolEnd(self._key))
        elif item is not None:
            provider = self._reader.provider
            raise UpstreamProtocolError(f"{provider} sent a tool call without a name.", provider=provider)
        self._ended = True


class ToolCallContext:
    """State that all tool calls of one reply share: keys, ids, tool names, and names of MCP servers."""

    def __init__(self, call: Call[Dialect]) -> None:
        self.provider = call.provider
        self._call = call
        self._ids = ToolCallIds(call)
        self._count = 0
        self._servers: dict[str, str] | None = None
        self._wrappers: frozenset[str] | None = None

    def new_call_key(self) -> int:
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
        """Return the client's name of an MCP server, or `label` itself if it is unknown."""
        if self._servers is None:
            self._servers = mcp_server_names_by_label(self._call.request)
        return self._servers.get(label, label)

    def build_tool_call(self, key: int | str, upstream_id: str | None, name: str) -> ToolCall:
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

    def _emit(self, key: int | str, upstream_id: str | None, name: str, arguments: str, deltas: list[Delta]) -> None:
        deltas.append(self.build_tool_call(key, upstream_id, name))
        if arguments:
            deltas.append(ToolArgs(key, arguments))
        deltas.append(ToolEnd(key))


# Sources: `ResponseCodeInterpreterToolCall` and `McpCall` of the official SDK `openai` 3.51; recorded by the project
# `vercel/ai` (openai-code-interpreter-tool.1, openai-mcp-tool.1 and xai-code-execution-tool.1 of its fixtures,
# 2026-08).
_PROGRAMS = frozenset(("code_interpreter_call", "code_execution_call"))
SERVER_TOOL_ITEM_TYPES = _PROGRAMS | {"mcp_call"}


class _Output(Struct):
    """Output of a program that the provider ran: printed text, or the URL of an image."""

    type: str = ""
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
        """Return the block with the result, after the block of the call if `start_call` did not return it."""
        self._item = item
        if self._is_program:
            code = item.code or ""
            if item.code is None and item.arguments:
                code = str(decode_or_empty(Raw(item.arguments.encode(errors="replace")), _Arguments).code)
            announced = self.start_call(code)
            outputs: list[_Output] = [decode_or_empty(raw, _Output) for raw in item.outputs or ()]
            printed = "\n".join(filter(None, map(_output_in_words, outputs)))
            if item.status not in ("failed", "incomplete"):
                return [*announced, encode_code_result(self._identifier, stdout=printed)]
            if printed:
                return [*announced, encode_code_result(self._identifier, stderr=printed, return_code=1)]
            return [*announced, encode_code_execution_error(self._identifier, "unavailable")]
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
        deltas = [
            encode_search_result(item.call, self._pages(item.urls)) if isinstance(item, _Found) else item
            for item in self._waiting
        ]
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
        """Remove `whole` from the end of the buffer. Return False if the buffer ends with another text."""
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
