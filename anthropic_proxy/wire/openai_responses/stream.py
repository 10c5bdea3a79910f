"""Answers of Responses, streamed or whole → deltas."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, Text, Thinking
from anthropic_proxy.wire.contract import Call, Decoder
from anthropic_proxy.wire.json_repair import DECODE_ERRORS, FrameRepair, decode_repaired, repair_json
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.errors import classify_fault, read_failure, reply_in_error
from anthropic_proxy.wire.openai_responses.frames import (
    Event,
    OutputContent,
    OutputItem,
    Response,
    ResponsesUsage,
    decode_event,
    decode_item,
    decode_or_repair,
    decode_response,
    decode_strict_event,
    is_present,
)
from anthropic_proxy.wire.openai_responses.item_state import ItemState, item_as_text
from anthropic_proxy.wire.openai_responses.output_limit import LocalOutputLimit
from anthropic_proxy.wire.openai_responses.pending_reasoning import PendingReasoning, find_state
from anthropic_proxy.wire.openai_responses.server_tool_results import SERVER_TOOL_ITEMS, ServerToolReader
from anthropic_proxy.wire.openai_responses.tool_calls import OpenToolCall, ToolCallReader
from anthropic_proxy.wire.openai_responses.usage import decode_usage, find_stop
from anthropic_proxy.wire.openai_responses.web_search import WebSearchReader
from anthropic_proxy.wire.signatures import empty_signature, encode_signature
from anthropic_proxy.wire.trailing_thinking import TrailingThinkingBuffer

_DONE = b"[DONE]"
_CALLS = ("function_call", "custom_tool_call")
_TEXT = ("text", 0)  # no index: parts of a text follow each other without a paragraph between
_PARAGRAPH = "\n\n"


class ResponsesDecoder(Decoder):
    """Reads one answer. Items are known by their place in the output: some gateways change ids between events."""

    def __init__(self, call: Call[Dialect]) -> None:
        dialect = call.dialect
        self._call = call
        self._tag = dialect.signature_tag
        self.signature = empty_signature(dialect.signature_tag)
        """Signs thinking that came without anything to carry."""
        self.finished = False
        """True after the last frame."""
        asked = call.request.max_tokens
        self._limit = LocalOutputLimit(asked) if asked < dialect.min_output_tokens else None
        self._calls = ToolCallReader(call)
        self._search = WebSearchReader(call)
        self._thoughts = PendingReasoning(self.signature)
        self._late = TrailingThinkingBuffer()
        self._mender = FrameRepair()
        self._items: dict[int, ItemState] = {}
        self._complete_items = 0
        self._last = 0
        """Index of the item of the last event, for events without an index."""
        self._spoken: int | None = None
        """Index of the item with the latest text. None: another item type followed."""
        self._refusal = ""
        self._stopped = False

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Read one data field. Raises `UpstreamError` where it is an error or no JSON."""
        if frame == _DONE:
            self.finished = True
            return []
        try:
            event = decode_strict_event(frame)
        except DECODE_ERRORS:
            event = self._decode(decode_event, frame, self._mender.repair)
        deltas: list[Delta] = []
        read = _READERS.get(event.type)
        if read is not None:
            read(self, event, deltas)
        elif event.type == "error" or (not event.type and is_present(event.error)):
            deltas += self._fail(decode_repaired(frame))
        return self._late.feed(deltas if self._limit is None else self._limit.feed(deltas))

    def decode_body(self, body: bytes) -> list[Delta]:
        """Read an answer that was not streamed."""
        deltas: list[Delta] = []
        self._read_end(self._decode(decode_response, body), deltas)
        return self._late.feed(self._limited(deltas)) + self.decode_end()

    def decode_end(self) -> list[Delta]:
        """Raise `UpstreamProtocolError` if the reply is incomplete."""
        if not self._stopped:
            raise self._broken("ended its answer before it was complete")
        return []

    def flush_pending(self) -> list[Delta]:
        """Return what waits for the pages of a search, and thinking that waits for what it led to."""
        deltas: list[Delta] = []
        self._put(self._thoughts.release(), deltas)
        deltas += self._search.release()
        return [*self._late.feed(self._limited(deltas)), *self._late.flush_pending()]

    def _limited(self, deltas: list[Delta]) -> list[Delta]:
        return deltas if self._limit is None else self._limit.feed(deltas)

    def _decode(self, decode: Callable[[Any], Any], data: Any, mend: Callable[[bytes], bytes] = repair_json) -> Any:
        try:
            return decode_or_repair(decode, data, mend)
        except DECODE_ERRORS as error:
            raise self._broken("sent invalid JSON") from error

    def _broken(self, what: str) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"{self._call.provider} {what}.", provider=self._call.provider)

    def _find(self, event: Event) -> ItemState:
        if event.output_index is not None:
            self._last = event.output_index
        state = self._items.get(self._last)
        if state is None:
            state = self._items[self._last] = ItemState()
        return state

    def _read_text(self, event: Event, deltas: list[Delta]) -> None:
        state = self._find(event)
        if event.delta and not state.done:
            state.text = True
            self._emit_text(event.delta, state, deltas)
            if self._search.listens:
                self._search.track_text(event.delta, (self._last, event.content_index))

    def _read_annotation(self, event: Event, deltas: list[Delta]) -> None:
        state = self._find(event)
        found = self._search.cite(event.annotation, (self._last, event.content_index))
        state.cited += len(found)
        deltas += found

    def _read_refusal(self, event: Event, deltas: list[Delta]) -> None:
        if event.delta:
            self._refusal += event.delta
            self._read_text(event, deltas)

    def _read_summary(self, event: Event, deltas: list[Delta]) -> None:
        self._read_thought(event, ("summary", event.summary_index), deltas)

    def _read_reasoning(self, event: Event, deltas: list[Delta]) -> None:
        self._read_thought(event, ("reasoning", event.content_index), deltas)

    def _read_thought(self, event: Event, part: tuple[str, int], deltas: list[Delta]) -> None:
        state = self._find(event)
        if event.delta and not state.done:
            self._think(event.delta, part, state, deltas)

    def _read_arguments(self, event: Event, deltas: list[Delta]) -> None:
        state = self._find(event)
        if state.call is not None and event.delta:
            state.call.feed(event.delta, deltas)

    def _read_whole_arguments(self, event: Event, deltas: list[Delta]) -> None:
        state = self._find(event)
        if state.call is not None and event.arguments:
            state.call.complete(event.arguments, deltas)
        elif state.hosted is not None:
            self._put_hosted(state.hosted.announce(event.arguments or event.code or ""), deltas)

    def _begin_item(self, event: Event, deltas: list[Delta]) -> None:
        state = self._find(event)
        item = self._decode(decode_item, event.item)
        if state.done:  # a server that gives every item the same place
            state = self._items[self._last] = ItemState()
        state.item_id = item.id
        if item.type in _CALLS and state.call is None:
            self._begin_call(state, item, deltas)
        elif item.type in SERVER_TOOL_ITEMS:
            state.hosted = ServerToolReader(self._call, item, self._calls)

    def _begin_call(self, state: ItemState, item: OutputItem, deltas: list[Delta]) -> None:
        self._put(self._thoughts.release(), deltas)
        deltas += self._search.release()
        self._spoken = None
        state.call = OpenToolCall(self._calls)
        state.call.begin(item, deltas)

    def _end_item(self, event: Event, deltas: list[Delta]) -> None:
        self._complete(self._find(event), self._decode(decode_item, event.item), deltas)

    def _complete(self, state: ItemState, item: OutputItem, deltas: list[Delta]) -> None:
        """Emit the content of a complete item that no fragment contained."""
        if state.done:
            return
        state.done = True
        self._complete_items += 1
        if item.type == "reasoning":
            self._end_thinking(state, item, deltas)
        elif item.type == "message":
            self._end_message(state, item, deltas)
        elif item.type in _CALLS:
            if state.call is None:
                self._begin_call(state, item, deltas)
            if state.call is not None:
                state.call.end(item, deltas)
        elif item.type == "web_search_call":
            self._put_hosted([], deltas)
            deltas += self._search.begin(item)
        elif item.type in SERVER_TOOL_ITEMS:
            self._put_hosted((state.hosted or ServerToolReader(self._call, item, self._calls)).end(item), deltas)
        elif (words := item_as_text(item)) is not None:
            self._emit_text(words, state, deltas)

    def _end_thinking(self, state: ItemState, item: OutputItem, deltas: list[Delta]) -> None:
        if state.part is None:
            kind, parts = ("summary", item.summary) if item.summary else ("reasoning", item.content)
            for index, part in enumerate(parts or ()):
                if part.text:
                    self._think(part.text, (kind, index), state, deltas)
        carry = find_state(item, state)
        if carry.encrypted or state.part is not None:
            self._put_thought(Thinking(signature=encode_signature(self._tag, carry)), state, deltas)

    def _end_message(self, state: ItemState, item: OutputItem, deltas: list[Delta]) -> None:
        parts = item.content or []
        if state.text:
            deltas += self._search.end_message(parts, state.cited)
        else:
            for part in parts:
                self._emit_content(part, state, deltas)
        deltas += self._search.release()

    def _emit_content(self, part: OutputContent, state: ItemState, deltas: list[Delta]) -> None:
        if part.type == "refusal":
            self._refusal += part.refusal or ""
        for piece in self._search.with_citations(part):
            if isinstance(piece, Text):
                self._emit_text(piece.text, state, deltas)
            else:
                self._put([piece], deltas)

    def _emit_text(self, text: str, state: ItemState, deltas: list[Delta]) -> None:
        if self._spoken != self._last:
            if self._spoken is not None:
                text = _PARAGRAPH + text  # another message follows at once
            self._spoken = self._last
        state.part = _TEXT
        if self._thoughts.kept or self._search.holds:
            self._put([*self._thoughts.release(), Text(text)], deltas)
        else:
            deltas.append(Text(text))

    def _think(self, text: str, part: tuple[str, int], state: ItemState, deltas: list[Delta]) -> None:
        if state.part is not None and state.part != part:
            text = _PARAGRAPH + text
        state.part, self._spoken = part, None
        if self._thoughts.kept or self._search.holds:
            self._put_thought(Thinking(text), state, deltas)
        else:
            deltas.append(Thinking(text))

    def _put_thought(self, thought: Thinking, state: ItemState, deltas: list[Delta]) -> None:
        self._spoken = None
        if not self._thoughts.keep(thought, shown=state.part is not None):
            self._put([thought], deltas)

    def _put_hosted(self, some: Iterable[Delta], deltas: list[Delta]) -> None:
        """Emit deltas of server tools. Earlier reasoning is emitted without state, because it is sent back as text."""
        self._spoken = None
        self._put(self._thoughts.release_unsigned(), deltas)
        self._put(some, deltas)

    def _put(self, some: Iterable[Delta], deltas: list[Delta]) -> None:
        if self._search.holds:
            self._search.hold(some)
        else:
            deltas += some

    def _read_last(self, event: Event, deltas: list[Delta]) -> None:
        self.finished = True
        self._read_end(self._decode(decode_response, event.response), deltas)

    def _read_end(self, response: Response, deltas: list[Delta]) -> None:
        if self._stopped:
            return
        if response.status is None and response.output is None and not is_present(response.error):
            raise self._broken("sent an answer without any output")
        if is_present(response.error):
            self._read_usage(response.usage, deltas)
            deltas += self._fail(decode_repaired(response.error))
            return
        if response.status in ("failed", "cancelled", "in_progress", "queued"):
            raise classify_fault(read_failure({"message": f"the response ended as {response.status!r}"}), self._call)
        missing = () if self._complete_items >= len(response.output or ()) else response.output or ()
        items = [self._decode(decode_item, raw) for raw in missing]
        self._search.read_ahead(items)
        for place, item in enumerate(items):
            if item.type == "reasoning" and any(later > place for later in self._items):
                continue  # too late: thinking may not stand behind what it led to
            self._last = place
            self._complete(self._items.setdefault(place, ItemState()), item, deltas)
        self._end_open(deltas, cut=response.status == "incomplete")
        self._read_usage(response.usage, deltas)
        self._stopped = True
        cut = [state for state in self._items.values() if state.call is not None and state.call.incomplete]
        deltas.append(find_stop(response, self._refusal, self._call, cut_call=bool(cut)))

    def _end_open(self, deltas: list[Delta], *, cut: bool) -> None:
        """End open calls, because the reply was `cut` or the server sends no end events."""
        for state in self._items.values():
            if state.call is not None and not state.done:
                state.call.end(None, deltas, cut=cut)
            elif state.hosted is not None and not state.done:
                self._put_hosted(state.hosted.cut(), deltas)
        self._put(self._thoughts.release(), deltas)
        deltas += self._search.release()

    def _read_usage(self, counts: ResponsesUsage | None, deltas: list[Delta]) -> None:
        if counts is not None and (counts.input_tokens is not None or counts.output_tokens is not None):
            deltas.append(decode_usage(counts))

    def _fail(self, error: Any) -> list[Delta]:
        """Raise the error that this is, or return the refusal."""
        if self._stopped:
            return []
        fault = read_failure(error)
        reply = reply_in_error(fault, self._call)
        if reply is None:
            raise classify_fault(fault, self._call)
        deltas: list[Delta] = []
        self._end_open(deltas, cut=True)
        self.finished = self._stopped = True
        return deltas + reply


_READERS: Mapping[str, Callable[[ResponsesDecoder, Event, list[Delta]], None]] = {
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
"""Events with new content. All others repeat it or report progress."""
