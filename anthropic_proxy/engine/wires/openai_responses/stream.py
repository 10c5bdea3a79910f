"""Decoder of Responses replies, streamed or complete: converts them to deltas.

A reply is a list of output items: messages, reasoning, tool calls, and calls of server tools. A stream announces an
item, sends its content in fragments, and then repeats the content: each part, then the complete item, and in the last
event all items. Some servers leave out one of these steps, double it or change the order, so each step adds what the
steps before it lacked: `OutputItemState` holds what was delivered of an item. A contradiction between fragments and
their repetition is an error of a call; delivered text stays. Two kinds of content wait: reasoning with encrypted state
until the next content is known (`PendingReasoning`), and everything after a web search until its pages are known
(`WebSearchDecoder`).

`reply.py` has the structs of events and bodies, and `tools.py` the decoders of tool calls and of web searches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.messages.deltas import Delta, Text, Thinking, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.messages.server_blocks import describe_generated_file
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Decoder
from anthropic_proxy.engine.wires.delivered_text import DeliveredText, Keys, find_counterparts
from anthropic_proxy.engine.wires.failures import (
    UpstreamFault,
    find_reply_end,
    read_error_field,
    read_own_words,
)
from anthropic_proxy.engine.wires.foreign_lines import is_end_mark, is_part_of_reply
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_or_repair, decode_repaired, repair_json
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.openai_responses.errors import (
    classify_fault,
    correct_status,
    decode_error_object,
)
from anthropic_proxy.engine.wires.openai_responses.reply import (
    InputTokenDetails,
    OutputContent,
    OutputItem,
    OutputTokenDetails,
    Response,
    ResponsesUsage,
    StreamEvent,
    decode_content,
    decode_event,
    decode_item,
    decode_response,
    decode_strict_event,
)
from anthropic_proxy.engine.wires.openai_responses.tools import (
    SERVER_TOOL_ITEM_TYPES,
    ServerToolItemDecoder,
    ToolCallContext,
    ToolCallItemDecoder,
    WebSearchDecoder,
)
from anthropic_proxy.engine.wires.reply_ends import (
    build_stop,
    build_unreadable_reply,
    explain_total,
    find_finish_kind,
    split_input_tokens,
)
from anthropic_proxy.engine.wires.thinking import ReasoningState, empty_signature, encode_signature
from anthropic_proxy.engine.wires.tools import is_other_call
from anthropic_proxy.errors import UnreadableReply, UpstreamError


class OutputItemState:
    """Decoding state of one output item of a stream: the decoder of its tool call, and the content decoded so far."""

    __slots__ = (
        *("call_id", "citation_count", "complete", "contents", "early_arguments", "index", "item_id", "latest_part"),
        *("latest_text", "parts", "server_tool", "tool_call", "type", "wholes"),
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.tool_call: ToolCallItemDecoder | None = None
        self.server_tool: ServerToolItemDecoder | None = None
        self.type = ""
        """"": no event has stated it."""
        self.item_id: str | None = None
        self.call_id: str | None = None
        self.early_arguments: list[str] = []
        """Fragments of arguments before the event that announces their call."""
        self.parts: dict[Part, DeliveredText] = {}
        """Text and reasoning that the client has."""
        self.latest_part: Part | None = None
        """Content part of the latest fragment. None: no fragment yet."""
        self.latest_text = DeliveredText()
        """Text of the latest part."""
        self.wholes: set[tuple[Part, str]] = set()
        """Parts that were repeated whole, each with the type of the event that did so."""
        self.contents: Sequence[OutputContent] = ()
        """The parts of a message of which no fragment came."""
        self.citation_count = 0
        """Number of citations returned from stream events. The complete item repeats these citations."""
        self.complete = False

    def learn(self, item: OutputItem) -> None:
        """Learn what identifies the item. The first event that states it counts."""
        self.type = self.type or item.type
        self.item_id = self.item_id or item.id
        self.call_id = self.call_id or item.call_id

    def is_other_kind(self, item: OutputItem) -> bool:
        return self.type not in ("", item.type)

    @property
    def keys(self) -> Keys:
        kind = self.type or ("function_call" if self.early_arguments else "")
        if not kind and self.latest_part is not None:
            kind = "message" if self.latest_part[0] == "text" else "reasoning"
        return build_keys(kind, self.item_id, self.call_id)

    @property
    def text(self) -> str:
        """The text of a message so far."""
        return "".join(
            [text.text for part, text in self.parts.items() if part[0] == "text"]
            or [part.text or part.refusal or "" for part in self.contents]
        )

    def ends_with(self, text: str, item_id: str | None) -> bool:
        """Return True if a fragment under the id of this complete message is its end, which TensorRT-LLM sends behind
        it.
        """
        return self.complete and self.item_id is not None and self.item_id == item_id and self.text.endswith(text)

    def find_text(self, part: "Part") -> DeliveredText:
        """Return the text of a part, which becomes the latest one."""
        if part != self.latest_part:
            self.latest_part = part
            self.latest_text = self.parts.setdefault(part, DeliveredText())
        return self.latest_text

    def has_in_parts(self, kind: str, whole: str, source: str) -> bool:
        """Return True if all parts of a kind together are a whole text: vLLM has counted each fragment as a part (its
        pull 23741). `source`: see `_complete_parts`. It has stated none of the parts.
        """
        if not 1 < len(self.parts) <= len(whole):
            return False
        parts = {part: text for part, text in self.parts.items() if part[0] == kind}
        if sum(text.size for text in parts.values()) != len(whole):
            return False
        is_stated = any((part, source) in self.wholes for part in parts)
        return not is_stated and "".join(text.text for text in parts.values()) == whole

    def lacks_content(self, item: OutputItem) -> bool:
        """Return True if nothing of a complete message or call is known, so that the end of the reply may have it."""
        if item.type == "message":
            return not item.content and self.latest_part is None
        return (
            item.type == "function_call"
            and not item.arguments
            and (self.tool_call is None or not self.tool_call.has_arguments)
        )


def build_keys(kind: str, item_id: str | None, call_id: str | None) -> Keys:
    """Return what identifies an output item of a stream or of a complete response."""
    of_call = (kind, call_id) if call_id else None
    return (of_call and (*of_call, item_id), of_call, (kind, None, item_id) if item_id else None, kind or None)


Part = tuple[str, int]
"""Kind and index of a part of an output item: `("summary", 0)`. Kinds: `text`, `summary`, `reasoning`."""
_CALLS = ("function_call", "custom_tool_call")
_HOSTED = SERVER_TOOL_ITEM_TYPES | {"web_search_call", "image_generation_call"}
_PARAGRAPH = "\n\n"
_NO_RESPONSE = Response()
_MAX_EXAMINED_CALLS = 64
"""Number of calls that may have the arguments of an event without an item."""
_MAX_EXAMINED_ITEMS = 64
"""Number of items that are compared with a message that begins."""
_STATUSES = ("completed", "failed", "in_progress", "cancelled", "queued", "incomplete")
"""Values of `status` in the API. A body with another one, and without output, is no response."""


class ResponsesDecoder(Decoder):
    """Decoder of one reply. It identifies the output items of a stream by their index, because some servers change
    their ids, and by their ids where the index is missing, unknown, or that of several items, and where it is that of
    another call. It identifies those of the complete response by `find_counterparts`, because some servers count them
    otherwise.
    """

    _next = 0
    """No index below it is free."""

    _first_unfinished = 0
    """Index in `_states` before which each call has its complete arguments. See `_find_by_arguments`."""
    _shares_index = False
    """True if several items have had the same index. Then a known id decides."""

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        dialect = call.dialect
        self._call = call
        self._tag = dialect.signature_tag
        self.default_signature = empty_signature(dialect.signature_tag)
        self.finished = False
        self._calls = ToolCallContext(call)
        self._search = WebSearchDecoder(call)
        self._thoughts = PendingReasoning(self.default_signature)
        self._items: dict[int, OutputItemState] = {}
        """The latest item of each index."""
        self._states: list[OutputItemState] = []
        """All items in the order of their first events."""
        self._frame = b""
        """The latest event."""
        self._number: int | None = None
        """`sequence_number` of the latest event."""
        self._earlier_number: int | None = None
        """That of the event before it. Some servers give all events the same number."""
        self._by_id: dict[str, OutputItemState] = {}
        """The latest item of each id, also by the id of its call."""
        self._last = 0
        """Index of the output item of the last event. Events without an index and a known id belong to the same
        item."""
        self._spoken: int | None = None
        """Index of the output item with the latest text. None: another kind of item followed."""
        self._copy: _Copy | None = None
        """A message that so far repeats an earlier one. It is held back, because OpenAI sends some messages twice
        (LiteLLM issues 37299 and 41109). None: there is none."""
        self._refusal: list[str] = []
        self._stopped = False
        self._unreadable: UnreadableReply | None = None
        self._failure: UpstreamError | None = None
        """Error of a response that has failed without a reason: Azure's follows it (bifrost issue 6419)."""

    @property
    def notes(self) -> Sequence[FidelityNote]:
        return self._calls.repair.notes

    def decode_frame(self, frame: bytes) -> list[Delta]:
        if frame == b"[DONE]":
            self.finished = True
            return []
        try:
            event = decode_strict_event(frame)
        except DECODE_ERRORS:
            if is_end_mark(frame):
                self.finished = True
                return []
            try:
                event = decode_or_repair(decode_event, frame, self.repair_frame)
            except DECODE_ERRORS as error:
                if (fault := self.find_error(frame)) is not None:
                    return self._fail(correct_status(fault))
                if not is_part_of_reply(frame):
                    return []
                raise self._call.build_protocol_error(" sent invalid JSON.") from error
        if frame == self._frame and self._earlier_number is not None and event.sequence_number != self._earlier_number:
            return []  # the server numbers its events, so this one arrived twice
        self._earlier_number = self._number
        self._number = event.sequence_number
        self._frame = frame
        deltas: list[Delta] = []
        read = _READERS.get(event.type)
        if read is not None:
            read(self, event, deltas)
        return deltas

    def decode_body(self, body: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        response = _NO_RESPONSE
        with suppress(*DECODE_ERRORS):
            response = decode_or_repair(decode_response, body, repair_json)
        if response.status not in _STATUSES and response.output is None:
            if (fault := self.find_error(body, is_whole=True)) is not None:
                return self._fail(correct_status(fault))
            self._decode(decode_response, body)  # raises the error of invalid JSON
        self._read_end(response, body, deltas)
        return deltas

    def decode_end(self) -> list[Delta]:
        if self._unreadable is not None:
            raise self._unreadable
        if not self._stopped:
            if self._failure is not None:
                raise self._failure
            raise self._call.build_protocol_error(" ended its answer before it was complete.", code="incomplete-reply")
        return []

    def flush_pending(self) -> list[Delta]:
        deltas: list[Delta] = []
        self._end_copy(deltas)
        self._put(self._thoughts.release_signed(), deltas)
        deltas += self._search.release_buffered_deltas()
        return deltas

    def _decode(self, decode: Callable[[Any], Any], data: Any) -> Any:
        try:
            return decode_or_repair(decode, data, repair_json)
        except DECODE_ERRORS as error:
            raise self._call.build_protocol_error(" sent invalid JSON.") from error

    def _find(self, event: StreamEvent) -> OutputItemState:
        index = event.output_index
        if index is not None and not self._shares_index:  # the usual event
            self._last = index
            if (state := self._items.get(index)) is not None:
                return state
        return self._find_by_id(event)

    def _find_by_id(
        self, event: StreamEvent, item: OutputItem | None = None, *, begins: bool = False
    ) -> OutputItemState:
        """Return the item of an event by its ids and its index. An id that is not that of the item at the index decides
        if it is known, unless the event `begins` an item with an index.
        """
        if event.output_index is not None:
            self._last = event.output_index
        state = self._items.get(self._last)
        if item is None:
            name = event.item_id or event.call_id or ""
            known = self._by_id.get(name)
            is_elsewhere = state is None or name not in (state.item_id, state.call_id)
        else:
            known = self._by_id.get(item.call_id or "") or self._by_id.get(item.id or "")
            if known is not None and is_other_call(item.call_id, known.call_id):
                known = None
            if state is not None and state.is_other_kind(item):
                state = None
            is_elsewhere = state is None or (item.call_id is not None and item.call_id != state.call_id)
            is_elsewhere = is_elsewhere and not begins and known is not None and not known.complete
        if known is not None and (is_elsewhere or event.output_index is None or known.index == self._last):
            self._last = known.index
            return known
        return self._add_state(self._last) if state is None else state

    def _find_by_arguments(self, arguments: str) -> OutputItemState | None:
        """Return the first call that lacks its complete arguments and may have these, if possible one with a part of
        them. An event of llama.cpp states no item (oh-my-pi issue 1970).
        """
        states, first = self._states, self._first_unfinished
        while first < len(states) and (states[first].complete or states[first].tool_call is None):
            first += 1
        self._first_unfinished = first
        near = states[first : first + _MAX_EXAMINED_CALLS]
        found = [state for state in near if state.tool_call is not None and state.tool_call.may_have(arguments)]
        if not found:
            return None
        begun = (state for state in found if state.tool_call is not None and state.tool_call.has_arguments)
        state = next(begun, found[0])
        self._first_unfinished += state is states[first]
        return state

    def _learn(self, state: OutputItemState, item: OutputItem) -> None:
        state.learn(item)
        if item.id:
            self._by_id[item.id] = state
        if item.call_id:
            self._by_id[item.call_id] = state

    def _add_state(self, index: int) -> OutputItemState:
        if index in self._items:
            self._shares_index = True
        self._last = index
        state = self._items[index] = OutputItemState(index)
        self._states.append(state)
        return state

    def _find_free_index(self) -> int:
        while self._next in self._items:
            self._next += 1
        return self._next

    def _read_text(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        if event.delta and (not state.complete or self._goes_on(state)):
            text = state.find_text(("text", event.content_index)).add(event.delta)
            if text:
                self._deliver_text(text, event.content_index, deltas)

    def _goes_on(self, state: OutputItemState) -> bool:
        """Return True if a complete item is the latest text, whose fragments are known. Some gateways end an item with
        its first fragment (OmniRoute issue 13693).
        """
        return self._spoken == state.index and state.latest_part is not None

    def _read_refusal(self, event: StreamEvent, deltas: list[Delta]) -> None:
        if event.delta:
            self._refusal.append(event.delta)
            self._read_text(event, deltas)

    def _read_thought(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        part = _find_part(_KINDS[event.type], event)
        if event.delta and not state.complete:
            begins_part = state.latest_part not in (None, part)
            text = state.find_text(part).add(event.delta)
            if text:
                self._deliver_thinking(text, state, deltas, begins_part=begins_part)

    def _read_annotation(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find(event)
        if self._copy is not None and self._copy.index == state.index:
            return
        found = self._search.decode_annotation(event.annotation, (self._last, event.content_index))
        state.citation_count += len(found)
        deltas += found

    def _read_arguments(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = self._find_by_id(event)
        if event.delta and state.tool_call is not None:
            state.tool_call.add_arguments_fragment(event.delta, deltas)
        elif event.delta:
            state.early_arguments.append(event.delta)

    def _end_arguments(self, event: StreamEvent, deltas: list[Delta]) -> None:
        state = None
        if event.arguments and event.output_index is None and not (event.item_id or event.call_id):
            state = self._find_by_arguments(event.arguments)
        state = state or self._find_by_id(event)
        if state.tool_call is not None:
            if event.arguments:
                state.tool_call.add_complete_arguments(event.arguments, deltas)
            else:
                state.tool_call.is_done = True
        elif state.server_tool is not None:
            self._put_hosted(state.server_tool.start_call(event.arguments or event.code or ""), deltas)

    def _end_part(self, event: StreamEvent, deltas: list[Delta]) -> None:
        kind, whole = _KINDS[event.type], event.text or event.refusal
        if event.part is not ABSENT:
            content: OutputContent = self._decode(decode_content, event.part)
            kind = "reasoning" if content.type == "reasoning_text" else kind
            whole = content.text or content.refusal
        state = self._find(event)
        if whole and (not state.complete or (kind == "text" and self._goes_on(state))):
            self._complete_parts([(_find_part(kind, event), whole)], state, deltas, event.type)

    def _complete_parts(
        self, wholes: Iterable[tuple[Part, str]], state: OutputItemState, deltas: list[Delta], source: str
    ) -> None:
        """Append what the fragments so far lack of the parts of an item, in order, as far as they agree with them.

        What lacks before later content would come too late. If a server gives every part the same index, the fragments
        agree with none. `source`: the type of the event, or of the item, which states each part once.
        """
        for part, whole in wholes:
            latest = state.latest_part
            if latest is not None and part != latest:
                known = state.parts.get(part)
                if known is not None and known.is_equal(whole):
                    continue
                if state.has_in_parts(part[0], whole, source):
                    state.wholes.add((latest, source))
                    continue
                if state.latest_text.is_equal(whole) and (latest, source) not in state.wholes:
                    # some servers count the parts of whole texts otherwise than those of fragments
                    state.parts[part] = state.latest_text
                    state.wholes.add((latest, source))
                    continue
                if known is not None or part[0] != latest[0] or part[1] < latest[1]:
                    return
            state.wholes.add((part, source))
            missing = state.find_text(part).complete(whole)
            if missing is None:
                return
            if missing and part[0] == "text":
                self._deliver_text(missing, part[1], deltas)
            elif missing:
                self._deliver_thinking(missing, state, deltas, begins_part=latest not in (None, part))

    def _begin_call(self, state: OutputItemState, item: OutputItem, deltas: list[Delta]) -> ToolCallItemDecoder:
        self._put(self._thoughts.release_signed(), deltas)
        deltas += self._search.release_buffered_deltas()
        self._spoken = None
        state.tool_call = ToolCallItemDecoder(self._calls)
        state.tool_call.start_call(item, deltas)
        for fragment in state.early_arguments:
            state.tool_call.add_arguments_fragment(fragment, deltas)
        return state.tool_call

    def _begin_item(self, event: StreamEvent, deltas: list[Delta]) -> None:
        item: OutputItem = self._decode(decode_item, event.item)
        index = event.output_index
        known = self._by_id.get(item.id or "")
        if known is not None and known.type == item.type in _HOSTED and index in (None, known.index):
            self._last = known.index  # announced once more
            return
        if index is not None and index not in self._items:  # the usual event
            state = self._add_state(index)
        else:
            state = self._find_by_id(event, item, begins=True)
            is_other = is_other_call(item.call_id, state.call_id)
            if state.complete or is_other or (index is None and is_other_call(item.id, state.item_id)):
                # a server that gives every item the same index, or none
                state = self._add_state(self._find_free_index() if index is None else index)
        self._learn(state, item)
        if item.type in _CALLS and state.tool_call is None:
            self._begin_call(state, item, deltas)
        elif item.type in SERVER_TOOL_ITEM_TYPES:
            state.server_tool = ServerToolItemDecoder(self._call, item, self._calls)

    def _end_item(self, event: StreamEvent, deltas: list[Delta]) -> None:
        item: OutputItem = self._decode(decode_item, event.item)
        state = self._items.get(self._last)
        if state is None or event.output_index != self._last or state.call_id != item.call_id:
            state = self._find_by_id(event, item)
        if state.complete and is_other_call(item.call_id, state.call_id):
            state = self._add_state(self._find_free_index() if event.output_index is None else self._last)
        self._learn(state, item)
        if not state.lacks_content(item):
            self._complete(state, item, deltas)
        elif item.type in _CALLS:
            call = state.tool_call or self._begin_call(state, item, deltas)
            call.is_done = True

    def _complete(self, state: OutputItemState, item: OutputItem, deltas: list[Delta]) -> None:
        """Append the content of a complete output item to `deltas`, except content of earlier events."""
        if state.complete:
            if state.tool_call is not None and item.type in _CALLS:
                state.tool_call.end_call(item, deltas)
            elif item.type == "message" and self._goes_on(state):
                self._complete_texts(state, item.content or [], deltas)
            return
        state.complete = True
        if item.type == "reasoning":
            kind, parts = ("summary", item.summary) if item.summary else ("reasoning", item.content)
            wholes = [((kind, index), part.text) for index, part in enumerate(parts or ()) if part.text]
            self._complete_parts(wholes, state, deltas, item.type)
            carry = build_reasoning_state(item, state)
            if carry.encrypted or state.latest_part is not None:
                self._put_thought(Thinking(signature=encode_signature(self._tag, carry)), state, deltas)
        elif item.type == "message":
            self._complete_message(state, item.content or [], deltas)
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
            self._emit_text(words, deltas)

    def _complete_message(self, state: OutputItemState, parts: list[OutputContent], deltas: list[Delta]) -> None:
        if state.latest_part is not None:
            self._complete_texts(state, parts, deltas)
            if self._copy is None:
                deltas += self._search.decode_remaining_citations(parts, state.citation_count)
        else:
            state.contents = parts
            for part in parts:
                if part.type == "refusal":
                    self._refusal.append(part.refusal or "")
                for piece in self._search.split_at_citations(part):
                    if isinstance(piece, Text):
                        self._emit_text(piece.text, deltas)
                    elif self._copy is None:
                        self._put([piece], deltas)
        if self._copy is not None:
            self._end_copy(deltas)
        deltas += self._search.release_buffered_deltas()

    def _complete_texts(self, state: OutputItemState, parts: list[OutputContent], deltas: list[Delta]) -> None:
        if len(parts) == 1 and len(parts[0].text or "") == state.latest_text.size:
            return  # the usual end: nothing lacks
        texts = [(("text", index), part.text or part.refusal or "") for index, part in enumerate(parts)]
        self._complete_parts(texts, state, deltas, "message")

    def _deliver_text(self, text: str, content_index: int, deltas: list[Delta]) -> None:
        self._emit_text(text, deltas)
        if self._search.requires_recorded_text:
            self._search.record_sent_text(text, (self._last, content_index))

    def _emit_text(self, text: str, deltas: list[Delta]) -> None:
        if self._spoken != self._last:
            if len(self._states) > 1 and not (text := self._hold_copy(text, deltas)):
                return
            if self._spoken is not None:
                text = _PARAGRAPH + text  # another message follows at once
            self._spoken = self._last
        if self._thoughts.buffered or self._search.buffering:
            self._put([*self._thoughts.release_signed(), Text(text)], deltas)
        else:
            deltas.append(Text(text))

    def _hold_copy(self, text: str, deltas: list[Delta]) -> str:
        """Return what the client gets of the latest message: "" while it repeats an earlier one."""
        copy = self._copy
        if copy is not None and copy.index != self._last:
            self._end_copy(deltas)
            copy = None
        if copy is None:
            current = self._items.get(self._last)
            if current is not None and current.latest_text.size > len(text):
                return text  # it does not begin
            states = [state for state in self._states[-_MAX_EXAMINED_ITEMS:] if state is not current]
            whole = next((state.text for state in reversed(states) if state.text.startswith(text)), None)
            if whole is None:
                if current is None or not any(state.ends_with(text, current.item_id) for state in states):
                    return text
                whole = text
            copy = self._copy = _Copy(self._last, whole)
        if copy.whole.startswith(text, copy.size):
            copy.size += len(text)
            return ""
        self._copy = None
        return copy.whole[: copy.size] + text

    def _end_copy(self, deltas: list[Delta]) -> None:
        """End the message that repeats an earlier one: it is left out, unless it is shorter."""
        copy, self._copy = self._copy, None
        if copy is not None and copy.size < len(copy.whole):
            text = copy.whole[: copy.size]
            text = text if self._spoken is None else _PARAGRAPH + text
            self._spoken = copy.index
            self._put([*self._thoughts.release_signed(), Text(text)], deltas)

    def _deliver_thinking(self, text: str, state: OutputItemState, deltas: list[Delta], *, begins_part: bool) -> None:
        """`begins_part`: True if the text begins a later part of the same reasoning."""
        if begins_part:
            text = _PARAGRAPH + text
        self._end_paragraph()
        if self._thoughts.buffered or self._search.buffering:
            self._put_thought(Thinking(text), state, deltas)
        else:
            deltas.append(Thinking(text))

    def _end_paragraph(self) -> None:
        """Thinking stands between two texts, unless the client does not get it."""
        if self._call.request.shows_thinking:
            self._spoken = None

    def _put_thought(self, thought: Thinking, state: OutputItemState, deltas: list[Delta]) -> None:
        self._end_paragraph()
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

    def _end_stream(self, event: StreamEvent, deltas: list[Delta]) -> None:
        if event.response is ABSENT:  # Bifrost states an error in the place of the response (bifrost issue 6783)
            self._read_untyped(event, deltas)
        self.finished = True
        self._read_end(self._decode(decode_response, event.response), event.response, deltas)

    def _read_error(self, _: StreamEvent, deltas: list[Delta]) -> None:
        deltas += self._fail(decode_error_object(decode_repaired(self._frame)))

    def _read_untyped(self, event: StreamEvent, deltas: list[Delta]) -> None:
        fault = self.find_error(self._frame) or read_error_field(event.error, self._frame)
        if fault is not None:
            deltas += self._fail(correct_status(fault))

    def _read_end(self, response: Response, data: Raw | bytes, deltas: list[Delta]) -> None:
        if self._stopped:
            return
        fault = read_error_field(response.error, data)
        if response.status not in _STATUSES and response.output is None and fault is None:
            raise self._call.build_protocol_error(" sent an answer without any output.")
        if fault is not None:
            self.usage_of_error = self._read_usage(response, deltas)
            deltas += self._fail(correct_status(fault))
            return
        if response.status in ("failed", "cancelled", "in_progress", "queued"):
            self.usage_of_error = self._read_usage(response, deltas)
            error = {"message": f"the response ended as {response.status!r}"}
            self._failure, self.finished = classify_fault(decode_error_object(error), self._call), False
            return
        reason = (response.incomplete_details.reason if response.incomplete_details is not None else None) or ""
        kind = find_finish_kind(reason)
        if kind == "unreadable":
            self._unreadable = build_unreadable_reply(self._call.provider_prefix, reason)
            self._read_usage(response, deltas)
            return
        self._complete_items(response.output or (), deltas)
        self._end_open(deltas, reply_ended_early=response.status == "incomplete")
        self._read_usage(response, deltas)
        self._stopped = True
        counts = response.usage
        total = 0 if counts is None else (counts.input_tokens or 0) + (counts.output_tokens or 0)
        fills = self._call.is_window_filled(total)
        deltas.append(
            build_stop(
                kind,
                self._call.provider_prefix,
                reason,
                refusal="".join(self._refusal),
                is_cut=self._calls.has_cut_call,
                fills_window=fills,
            )
        )

    def _complete_items(self, output: Sequence[Raw], deltas: list[Delta]) -> None:
        """Append what the items of the complete response have beyond their fragments."""
        items: list[OutputItem] = [self._decode(decode_item, raw) for raw in output]
        self._search.record_source_titles(items)
        known = self._states.copy()
        if len(known) > len(items):  # a message of which only the announcement is known may be that of another one
            known = [one for one in known if one.type != "message" or one.complete or one.latest_part is not None]
        final = [build_keys(item.type, item.id, item.call_id) for item in items]
        found = find_counterparts([state.keys for state in known], final)
        latest_known = max((place for place, index in enumerate(found) if index is not None), default=-1)
        for place, (item, index) in enumerate(zip(items, found, strict=True)):
            is_late = place < latest_known if index is None else index < len(known) - 1
            if item.type == "reasoning" and is_late:
                continue  # thinking must precede the content that followed it
            state = self._find_unknown(place) if index is None else known[index]
            self._last = state.index
            self._complete(state, item, deltas)

    def _find_unknown(self, place: int) -> OutputItemState:
        """Return the state of an item of which no event has had content."""
        state = self._items.get(place)
        if state is None:
            return self._add_state(place)
        return state if state.keys[-1] is None else self._add_state(self._find_free_index())

    def _end_open(self, deltas: list[Delta], *, reply_ended_early: bool) -> None:
        """End the open items. `reply_ended_early`: True if the reply did not end normally."""
        for state in self._states:
            if state.tool_call is not None and not state.complete:
                state.tool_call.end_call(None, deltas, reply_ended_early=reply_ended_early)
            elif state.server_tool is not None and not state.complete:
                self._put_hosted(state.server_tool.abort_call(), deltas)
        if self._copy is not None:
            self._end_copy(deltas)
        self._put(self._thoughts.release_signed(), deltas)
        deltas += self._search.release_buffered_deltas()

    def _read_usage(self, response: Response, deltas: list[Delta]) -> Usage | None:
        counts = response.usage
        if counts is None or (counts.input_tokens is None and counts.output_tokens is None):
            return None
        usage = decode_usage(counts, response.service_tier)
        deltas.append(usage)
        return usage

    def _fail(self, fault: UpstreamFault) -> list[Delta]:
        """Raise the `UpstreamError` for an error. If it stands for the end of the reply, return this end."""
        if self._stopped or self._unreadable is not None:
            return []
        fault = read_own_words(fault, self._call)
        end = find_reply_end(fault, self._call.provider_prefix, has_content=bool(self._items))
        if end is None:
            raise classify_fault(fault, self._call)
        deltas: list[Delta] = []
        self._end_open(deltas, reply_ended_early=True)
        self.finished = True
        self._stopped = True
        return [*deltas, end]


_KINDS = {
    "response.output_text.done": "text",
    "response.refusal.done": "text",
    "response.content_part.done": "text",
    "response.reasoning_summary_text.delta": "summary",
    "response.reasoning_summary_text.done": "summary",
    "response.reasoning_summary_part.done": "summary",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_text.done": "reasoning",
}
"""Type of an event → kind of its part."""
_READERS: Mapping[str, Callable[[ResponsesDecoder, StreamEvent, list[Delta]], None]] = {
    **dict.fromkeys(_KINDS, ResponsesDecoder._end_part),
    "response.output_text.delta": ResponsesDecoder._read_text,
    "response.refusal.delta": ResponsesDecoder._read_refusal,
    "response.reasoning_summary_text.delta": ResponsesDecoder._read_thought,
    "response.reasoning_text.delta": ResponsesDecoder._read_thought,
    "response.output_text.annotation.added": ResponsesDecoder._read_annotation,
    "response.function_call_arguments.delta": ResponsesDecoder._read_arguments,
    "response.function_call_arguments.done": ResponsesDecoder._end_arguments,
    "response.mcp_call_arguments.done": ResponsesDecoder._end_arguments,
    "response.code_interpreter_call_code.done": ResponsesDecoder._end_arguments,
    "response.output_item.added": ResponsesDecoder._begin_item,
    "response.output_item.done": ResponsesDecoder._end_item,
    "response.completed": ResponsesDecoder._end_stream,
    "response.incomplete": ResponsesDecoder._end_stream,
    "response.failed": ResponsesDecoder._end_stream,
    "response.cancelled": ResponsesDecoder._end_stream,
    "response.done": ResponsesDecoder._end_stream,  # of some gateways: oh-my-pi pull 4692, 9router pull 2142
    "error": ResponsesDecoder._read_error,
    "": ResponsesDecoder._read_untyped,
}
"""Type of an event → what reads it. Other events report progress, and are ignored."""


class _Copy(Struct):
    """A message that so far repeats an earlier one."""

    index: int
    whole: str
    """The earlier one."""
    size: int = 0
    """Characters so far."""


def _find_part(kind: str, event: StreamEvent) -> Part:
    return kind, event.summary_index if kind == "summary" else event.content_index


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
    prompt = counts.input_tokens
    output = counts.output_tokens
    thinking = spent.reasoning_tokens
    if prompt and (total := counts.total_tokens or 0) > prompt + (output or 0):
        held = (within.cached_tokens or 0) + (within.cache_write_tokens or 0)
        prompt, output, thinking = explain_total(total, prompt, output, thinking, held)
    uncached, cached, written = split_input_tokens(prompt, within.cached_tokens, within.cache_write_tokens)
    return Usage(
        input_tokens=uncached,
        output_tokens=output,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        thinking_tokens=thinking,
        billed_tier=tier if isinstance(tier, str) else None,
        stated_cost=counts.read_nano_dollars(),
    )
