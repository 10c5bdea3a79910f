"""`StreamRepair`: gives clients a valid stream, whatever sequence of events a server with the Messages API sends.

Theory of operation. A valid stream is `message_start`, then blocks of a start, deltas and a stop with the indexes 0, 1,
2 …, then one `message_delta` and `message_stop` (`messages/stream_grammar.py` has the fields). The repair is a state
machine over this grammar: what has begun, which block is open, and whether the end was stated. An event that fits the
state passes as the same bytes. Nearly all events are deltas of the open block: a packet of them is decoded at once, and
passes if each has the index and the type of this block. Of another event, the state says what is meant, and what is
written:

    state \\ event   | start of message | start of block | delta of its kind | another delta    | message_delta, stop
    not begun       | write            | begin, write   | begin, open, write| –                | begin, write
    no open block   | drop             | write          | open, write       | –                | write
    open block      | drop             | close, write   | write             | close, open, write | close, write
    open tool call  | drop             | queue          | write             | queue            | close, write
    ended           | drop             | drop           | drop              | drop             | drop

A missing index is that of the open block, a missing type follows from the other members, and a missing member whose
name is misspelled is the only other one of its type. A signature is held until its block ends, and `message_delta`
until the end of the stream, so that a second one changes the first. A call with the id of an earlier one is held until
its end: it is dropped if its name is the same, and its arguments are the same or missing. Else it gets another id. An
event of no block, such as a ping, waits only behind a `message_delta` that states the reason of the end, because the
relay has a time limit for what follows it.

Text is never worth an error. A tool call is never completed: if its id, name or a part of its arguments is missing,
repeated or at another place, and this can be seen, the stream ends with an error. Arguments of a tool that the client
wants unchecked (`eager_input_streaming`) need not be JSON: they pass as they are if the server ends their block.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, defstruct

from anthropic_proxy.engine.messages.models.tool_arguments import find_missing
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES, SERVER_CALL_TYPES
from anthropic_proxy.engine.messages.stream_grammar import BLOCK_FIELDS, COUNTS, CUTTING_REASONS, DELTAS, EMPTY_STARTS
from anthropic_proxy.engine.messages.writer import MAX_REPLY_CHARACTERS, require_bounded_reply
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, parse_token_count, replace_non_numbers
from anthropic_proxy.engine.wires.thinking import UNSIGNED_SIGNATURE
from anthropic_proxy.engine.wires.tools import EndedCalls
from anthropic_proxy.engine.wires.upstream_http import MAX_REPLY_PARTS, require_few_parts
from anthropic_proxy.errors import UpstreamProtocolError

_EVENT_ENDS = compile_later(rb"(?<=\n\n)|(?<=\r\n\r\n)|(?<=\r\r)")
_LINE_ENDS = compile_later(rb"\r\n|\n|\r")
_CR = ord("\r")
_EVENT, _DATA = b"event: ", b"\ndata: "
_DELTA = b"event: content_block_delta\ndata: "
_DELTA_SIZE, _NEXT_DELTA = len(_DELTA), b"\n\n" + _DELTA
_DONE = b"[DONE]"
"""Data of the last event of servers that also have the API Chat Completions."""
_MAX_QUEUED_BLOCKS = 64
_UNREADABLE = "a part of its arguments cannot be read"


def encode_event(event: dict[str, Any]) -> bytes:
    try:
        data = msgspec.json.encode(event)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON permits
        data = json.dumps(event, separators=(",", ":")).encode()
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)


_Name = Annotated[str, Meta(min_length=1)]
_Empty = Annotated[str, Meta(max_length=0)]


class _EndCounts(Struct, gc=False):
    output_tokens: int
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _StartCounts(Struct, gc=False):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _StartedMessage(Struct, gc=False):
    id: _Name
    type: Literal["message"]
    role: Literal["assistant"]
    model: _Name
    content: Annotated[list[Raw], Meta(max_length=0)]
    stop_reason: None
    usage: _StartCounts
    stop_sequence: None = None


class _TextBlock(Struct, tag_field="type", tag="text", gc=False):
    text: _Empty


class _ThinkingBlock(Struct, tag_field="type", tag="thinking", gc=False):
    thinking: _Empty
    signature: _Empty


class _CallBlock(Struct, tag_field="type", tag="tool_use", gc=False):
    id: _Name
    name: _Name
    input: Annotated[dict[str, Raw], Meta(max_length=0)]


class _TextDelta(Struct, tag_field="type", tag="text_delta", gc=False):
    text: str


class _ThinkingDelta(Struct, tag_field="type", tag="thinking_delta", gc=False):
    thinking: str


class _InputDelta(Struct, tag_field="type", tag="input_json_delta", gc=False):
    partial_json: str


class _SignatureDelta(Struct, tag_field="type", tag="signature_delta", gc=False):
    signature: _Name


class _Ending(Struct, gc=False):
    stop_reason: _Name
    stop_sequence: str | None = None


class _MessageStart(Struct, tag_field="type", tag="message_start", gc=False):
    message: _StartedMessage


class _BlockStart(Struct, tag_field="type", tag="content_block_start", gc=False):
    index: int
    content_block: _TextBlock | _ThinkingBlock | _CallBlock


class _BlockDelta(Struct, tag_field="type", tag="content_block_delta", gc=False):
    index: int
    delta: _TextDelta | _ThinkingDelta | _InputDelta | _SignatureDelta


class _BlockStop(Struct, tag_field="type", tag="content_block_stop", gc=False):
    index: int


class _MessageDelta(Struct, tag_field="type", tag="message_delta", gc=False):
    delta: _Ending
    usage: _EndCounts


class _MessageStop(Struct, tag_field="type", tag="message_stop", gc=False):
    pass


class _Ping(Struct, tag_field="type", tag="ping", gc=False):
    pass


_decode_usual = msgspec.json.Decoder(
    _MessageStart | _BlockStart | _BlockDelta | _BlockStop | _MessageDelta | _MessageStop | _Ping
).decode
_NAMES: Mapping[type, bytes] = {
    _MessageStart: b"message_start",
    _BlockStart: b"content_block_start",
    _BlockDelta: b"content_block_delta",
    _BlockStop: b"content_block_stop",
    _MessageDelta: b"message_delta",
    _MessageStop: b"message_stop",
    _Ping: b"ping",
}
_KINDS: Mapping[type, str] = {
    _TextBlock: "text",
    _ThinkingBlock: "thinking",
    _CallBlock: "tool_use",
    _TextDelta: "text",
    _ThinkingDelta: "thinking",
    _InputDelta: "tool_use",
    _SignatureDelta: "thinking",
}


@lru_cache(maxsize=256)
def _build_delta_decoder(kind: str, index: int) -> Callable[[bytes], Any]:
    """Return the decoder of the deltas that fill the block of a type and an index. It accepts no other event."""
    name = {"text": "text_delta", "thinking": "thinking_delta"}.get(kind, "input_json_delta")
    own_index = Annotated[int, Meta(ge=index, le=index)]
    # not as tags, which may be missing in a type that is no union
    delta = defstruct("Delta", [("type", Literal[name]), (DELTAS[name][1], str)], gc=False)
    fields = [("type", Literal["content_block_delta"]), ("index", own_index), ("delta", delta)]
    return msgspec.json.Decoder(defstruct("BlockDelta", fields, gc=False)).decode


def _expect_no_delta(_: bytes) -> Any:
    raise msgspec.ValidationError("no block is open")


_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode

_EVENT_TYPES = frozenset(
    (
        *("message_start", "message_delta", "message_stop", "ping"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
    )
)
_KNOWN_MEMBERS = frozenset(("type", "index", "message", "content_block", "delta", "usage", "context_management"))
_OF_BLOCKS = frozenset(kind for kind in _EVENT_TYPES if kind.startswith("content_block"))
_BEFORE_END = _EVENT_TYPES - {"message_stop"}
_OTHER_FIELDS = ("type", "id", "name", "input", "caller", "trigger")
"""Fields of blocks that are no misspelled name of another one."""
_OF_ENDING = ("stop_reason", "stop_sequence")


class StreamRepair:
    """The repair of one stream. `feed` takes whole events; `finish` follows the last one.

    `model`: the name in a message that states none. `new_id`: returns a new id with the given prefix.
    `estimated_input`: input tokens of a message that states none. `estimate_output`: returns the output tokens so far,
    with those of further events. `eager_tools`: names of the tools whose arguments the client wants unchecked.
    """

    error: UpstreamProtocolError | None = None
    """Why a tool call of the stream cannot be run. An event `error` is then the last one. None: no error."""
    stated_reason: str | None = None
    """Why the reply ends, if the server has stated it, and only its last event is missing. None otherwise."""
    _is_ending = False
    """True once `message_delta` was received, until the end of the stream."""
    _begun = _ended = False
    _start = b""
    """The event `message_start`, if it was valid when it came, and until its usage is needed."""
    _first_usage: Any = None
    """Usage of any other `message_start`, or of one that was read."""
    _is_complete = False
    """True once `message_delta` was written."""
    _next = 0
    """Index of the open block, or of the next."""
    _kind = ""
    """Type of the open block. "": none is open."""
    _index: Any = None
    """Index of the open block in the events of the server."""
    _is_filled = False
    """True if the open block has content."""
    _first_text = ""
    """Text of the start of the open block, which the first delta may repeat."""
    _signature = b""
    """Held event with the signature of the open block. b"": none."""
    _is_signed = False
    """True if a signature of the open block was written before its end."""
    _given_input = ""
    """Arguments in the start of the open call, which deltas may repeat. "": none."""
    _argument_size = 0
    _call_id = _call_name = ""
    """Id and name of the open call, as the server states them."""
    _ahead: list[bytes] | None = None
    """Events before an open call that may repeat another one, whose events are held in `_out`. None: none is open."""
    _held_size = 0
    """Size of all that was ever held."""
    _cut_stop = b""
    """Held stop of a call whose arguments are incomplete, which is right if the reply was cut. b"": none."""
    _calls = 0
    _has_new_ids = False
    """True if two calls had the same id, so that a verdict of the server may be about either."""
    _server_call = ""
    """Id of the latest call of a server tool. "": none."""
    _ending: dict[str, Any] | None = None
    """The held `message_delta`. None: there is none, or it was valid when it came."""
    _end_index = -1
    """Value of `_next` for which the held `message_delta` is valid."""

    def __init__(
        self,
        model: str,
        new_id: Callable[[str], str],
        estimated_input: int,
        estimate_output: Callable[[bytes], int],
        build_error: Callable[[str], UpstreamProtocolError],
        *,
        eager_tools: Collection[str] = (),
    ) -> None:
        self._model = model
        self._new_id = new_id
        self._estimated_input = estimated_input
        self._estimate_output = estimate_output
        self._build_error = build_error
        self._eager_tools = eager_tools
        self._out: list[bytes] = []
        self._decode_delta: Callable[[bytes], Any] = _expect_no_delta
        """Decodes the data of an event that only adds to the open block, and raises an error for any other one."""
        self._arguments: list[str] = []
        """Fragments of the arguments of the open call."""
        self._queue: list[tuple[str, dict[str, Any], bytes]] = []
        """Events of other blocks that came within the open call."""
        self._queued_indexes: list[int | None] = []
        """Those of the starts of blocks in the queue."""
        self._blanks: list[str] = []
        """White space that came outside of a block. It belongs to the text that follows."""
        self._ended_indexes: set[Any] = set()
        self._call_ids: set[str] = set()
        """Ids of the server of all calls that have begun."""
        self._ended_calls = EndedCalls()
        self._usage: dict[str, Any] = {}
        """Usage of a second `message_start`."""
        self._ending_events: list[bytes] = []
        """The events `message_delta` and those after it. The first is b"" if it has changed."""

    def feed(self, events: bytes) -> bytes:
        # each event is the two usual lines: clients read another line, such as a second name, before they read the data
        if events.startswith(_DELTA) and _CR not in events:
            try:
                read = [*map(self._decode_delta, events[_DELTA_SIZE:].split(_NEXT_DELTA))]
            except DECODE_ERRORS:
                return self._feed_others(events)
            if events.count(b"\n") == 3 * len(read):
                self._is_filled = True
                if self._arguments:
                    if b'"{' in events:  # perhaps whole arguments once more
                        return self._feed_others(events)
                    self._arguments += [event.delta.partial_json for event in read]
                    self._argument_size += len(events)
                    if self._argument_size > MAX_REPLY_CHARACTERS:
                        require_bounded_reply(self._argument_size)
                return events
        return self._feed_others(events) if events else b""

    def finish(self) -> bytes:
        """Return what was held, if the server has stated the end of the reply."""
        if self.stated_reason is not None:
            self._end_message()
        return self._feed_others(b"")

    def _feed_others(self, events: bytes) -> bytes:
        if len(events) > MAX_REPLY_PARTS:
            require_few_parts(events)
        for event in _EVENT_ENDS.split(events):
            if not (event.startswith(_EVENT) and self._passes(event)):
                self._repair(event)
        if self._ahead is not None:
            out, self._ahead = self._ahead, []
        else:
            out, self._out = self._out, []
        return b"".join(out)

    # Events in their usual form, which fit the state.

    def _passes(self, event: bytes) -> bool:
        """Write an event that is valid in this state, and return True."""
        name, _, data = event[7:].partition(_DATA)
        if event.count(b"\n") != 3 or _CR in event:
            return False
        try:
            read = _decode_usual(data)
        except DECODE_ERRORS:
            return False
        kind = type(read)
        if _NAMES[kind] != name or self._ended or self._is_complete or (not self._begun and kind is not _MessageStart):
            return False
        if kind is _BlockDelta:
            return self._passes_delta(read, event)
        if kind is _BlockStart:
            block = read.content_block
            if (
                self._kind
                or read.index != self._next
                or self._blanks
                or (type(block) is _CallBlock and block.id in self._call_ids)
            ):
                return False
            self._open(_KINDS[type(block)], read.index)
            if type(block) is _CallBlock:
                self._calls += 1
                self._call_ids.add(block.id)
                self._call_id, self._call_name = block.id, block.name
            else:
                self._decode_delta = _build_delta_decoder(self._kind, read.index)
            self._out.append(event)
        elif kind is _BlockStop:
            if read.index != self._index or read.index != self._next or not self._kind or self._cut_stop:
                return False
            self._close(event)
        elif kind is _MessageStart:
            if self._begun or self._out:
                return False
            self._begun = True
            self._start = event
            self._out.append(event)
        elif kind is _MessageDelta:
            if self._is_ending or self._kind or not self._is_right_end(read.delta):
                return False
            self._is_ending = True
            self.stated_reason = read.delta.stop_reason
            self._ending_events = [event]
            self._end_index = self._next
        elif kind is _MessageStop:
            if not self._is_ending:
                return False
            self._end_message()
            if not self._ended:
                self._ended = True
                self._out.append(event)
        else:
            self._write_beside(event)
        return True

    def _is_right_end(self, delta: _Ending) -> bool:
        reason = delta.stop_reason
        if reason == "stop_sequence" and delta.stop_sequence is None:
            return False
        return reason not in ("end_turn", "tool_use") or (reason == "tool_use") == (self._calls > 0)

    def _passes_delta(self, read: _BlockDelta, event: bytes) -> bool:
        delta = read.delta
        if (
            read.index != self._index
            or read.index != self._next
            or _KINDS[type(delta)] != self._kind
            or self._first_text
        ):
            return False
        if type(delta) is _InputDelta:
            if not self._accepts_arguments(delta.partial_json):
                return False
            self._write_arguments(delta.partial_json, event)
            return True
        if type(delta) is _SignatureDelta:
            self._signature = event
            return True
        if self._signature:
            return False
        self._is_filled = True
        self._out.append(event)
        self._expect_deltas()
        return True

    def _expect_deltas(self) -> None:
        """Let deltas of the open block pass, if the server counts its blocks as the client does."""
        if self._index == self._next and self._ahead is None:
            self._decode_delta = _build_delta_decoder(self._kind, self._next)

    def _open(self, kind: str, index: Any) -> None:
        self._kind, self._index = kind, index
        self._is_filled = False
        self._first_text = ""

    def _write_beside(self, event: bytes) -> None:
        """Write an event that belongs to no block, such as a ping, by which the client sees that the server works."""
        if self.stated_reason is not None:
            self._hold(len(event))
            self._ending_events.append(event)
            return
        if self._signature:
            self._out.append(self._signature)
            self._signature, self._is_signed = b"", True
        (self._out if self._ahead is None else self._ahead).append(event)

    def _hold(self, size: int) -> None:
        self._held_size += size
        require_bounded_reply(self._held_size)

    # Any other event.

    def _repair(self, event: bytes) -> None:
        event = event.removeprefix(BOM_UTF8)  # behind the first event, it is a part of a name to clients
        name, data, names = "", list[bytes](), 0
        for line in _LINE_ENDS.split(event):
            field, _, value = line.partition(b":")
            if field == b"event":
                name, names = value.removeprefix(b" ").decode(errors="replace"), names + 1
            elif field == b"data":
                data.append(value.removeprefix(b" "))
        if not any(map(bytes.strip, data)):  # clients stop at an event without data
            if not (data or names) and event:
                self._write_beside(event)
            return
        text = b"\n".join(data)
        content, is_changed = _decode(text)
        if content is None and self._kind in CALL_TYPES and name in _OF_BLOCKS:
            self._fail(_UNREADABLE)
            return
        if (
            not isinstance(content, dict)
            or name == "error"
            or content.get("error") is not None
            or content.get("type") == "error"
        ):
            if self.stated_reason is not None and text != _DONE:
                self._end_message()
            if not self._ended or not names:
                self._write_beside(event)  # the decoder judges it
            return
        kind = _find_type(name, content)
        if kind != content.get("type") and kind:
            content, is_changed = {**content, "type": kind}, True
        if kind and (is_changed or len(data) > 1 or names > 1 or (names and name != kind)):
            event = b""
        elif kind and not names:
            event = b"event: %b\n%b" % (kind.encode(), event)
        if not (self._ended or (self._is_complete and kind in _BEFORE_END)):
            self._follow(kind, content, event)

    def _follow(self, kind: str, content: dict[str, Any], event: bytes) -> None:
        """Write what an event means in this state. `event`: its bytes. b"": they have to be written again."""
        match kind:
            case "message_start":
                self._start_message(content, event)
            case "content_block_start":
                self._require_begun()
                self._start_block(content, event)
            case "content_block_delta":
                self._require_begun()
                self._add_delta(content, event)
            case "content_block_stop":
                self._stop_block(content, event)
            case "message_delta":
                self._require_begun()
                self._add_ending(content, event)
            case "message_stop":
                self._stop_message(event or encode_event(content))
            case "ping":
                if self._begun:
                    self._write_beside(event or encode_event({"type": "ping"}))
            case _:  # an event that the API has got since, unless nothing but its type is there
                if self._begun and len(content) > 1:
                    self._write_beside(event)

    def _require_begun(self) -> None:
        if not self._begun:
            self._start_message({"type": "message_start", "message": {}}, b"")

    def _start_message(self, content: dict[str, Any], event: bytes) -> None:
        message, is_named = _find_member(content, "message", dict, _KNOWN_MEMBERS)
        message = message or {}
        if self._begun:
            usage = message.get("usage")
            if self._start:
                self._first_usage = msgspec.json.decode(self._start.partition(_DATA)[2])["message"]["usage"]
                self._start = b""
            if isinstance(usage, dict) and usage != self._first_usage:
                _merge_into(self._usage, usage)
            return
        self._begun = True
        fields: dict[str, Any] = {
            "id": message.get("id") if _is_text(message.get("id")) else self._new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": message.get("model") if _is_text(message.get("model")) else self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        usage = self._complete_usage(message.get("usage"), {"input_tokens": self._estimated_input, "output_tokens": 0})
        complete = {**message, **fields, "usage": usage}
        is_same = complete == {"stop_sequence": None, **message}
        self._first_usage = usage
        self._out.append(event if event and is_named and is_same else encode_event({**content, "message": complete}))
        blocks = message.get("content")
        blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
        for block in blocks if isinstance(blocks, list) else ():
            if isinstance(block, dict) and not self._ended:
                if block.get("type") in CALL_TYPES and "input" not in block:  # no deltas of a whole block follow
                    self._fail("its input is missing")
                    return
                self._start_block({"type": "content_block_start", "content_block": block}, b"")
                self._stop_block({"type": "content_block_stop"}, b"")

    def _complete_usage(self, usage: Any, missing: Mapping[str, int]) -> dict[str, Any]:
        """Return usage with valid counts. `missing`: the required ones, and their values if the server states none."""
        given = usage if isinstance(usage, dict) else {}
        counts = {name: given.get(name) for name in (*missing, *COUNTS)}
        for name, count in counts.items():
            if name in missing or (count is not None and not _is_count(count)):
                read = count if _is_count(count) else parse_token_count(count)
                counts[name] = missing.get(name) if read is None else read
        return {**given, **{name: count for name, count in counts.items() if name in given or name in missing}}

    def _start_block(self, content: dict[str, Any], event: bytes) -> None:
        index = _read_index(content)
        block, is_named = _find_member(content, "content_block", dict, _KNOWN_MEMBERS)
        block = block or {}
        kind = _find_block_type(block)
        if self._kind:
            is_same = (
                index == self._index
                and kind == self._kind
                and not (self._is_filled or self._signature or self._is_signed or self._arguments)
            )
            if self._kind in CALL_TYPES and not (self._has_whole_deltas() or self._is_beginning_again()):
                if (
                    self._cut_stop
                    or is_same
                    or index == self._index
                    or (kind in CALL_TYPES and block.get("id") in self._call_ids)
                ):
                    self._fail("its arguments are incomplete")
                else:
                    self._put_off("content_block_start", content, event)
                return
            if is_same and self._kind not in CALL_TYPES:
                return  # the same event again
            self._close_all()
            if self._ended:
                return
        if not kind:
            if _looks_like_call(block):
                self._fail("its type is missing")
                return
            self._ended_indexes.discard(index)
            return  # its deltas say which kind of block it is
        self._ended_indexes.discard(index)
        complete = {**block, "type": kind}
        for field in BLOCK_FIELDS.get(kind, ()):
            if complete.get(field) is None and not self._find_field(complete, field):
                if kind in CALL_TYPES:
                    self._fail(f"its {field} is missing")
                return  # no client can read it
        self._open(kind, index)
        deltas = list[dict[str, Any]]()
        if kind in CALL_TYPES:
            arguments = self._complete_call(complete)
            if arguments is None:
                return
            self._given_input = arguments
        else:
            for delta, (of_kind, field) in DELTAS.items():
                if of_kind != kind or field == "citation":
                    continue
                text = block.get(field)
                complete[field] = ""
                if isinstance(text, str) and text:
                    deltas.append({"type": delta, field: text})
            if kind == "text" and self._blanks:
                deltas.insert(0, {"type": "text_delta", "text": self._take_blanks()})
        is_same = complete == block and index == self._next and is_named
        self._out.append(
            event if event and is_same else encode_event({**content, "index": self._next, "content_block": complete})
        )
        for delta_ in deltas:
            self._add_delta({"type": "content_block_delta", "index": index, "delta": delta_}, b"")
        self._first_text = deltas[-1].get("text", "") if deltas else ""

    def _find_field(self, block: dict[str, Any], field: str) -> bool:
        """Give a block a field that it lacks, if it can be known."""
        known = {*BLOCK_FIELDS[block["type"]], *_OTHER_FIELDS}
        others = [name for name, value in block.items() if name not in known and value is not None]
        if len(others) == 1:
            block[field] = block.pop(others[0])
        elif field == "tool_use_id" and self._server_call:
            block[field] = self._server_call
        elif field == "is_error":
            block[field] = False
        return field in block

    def _complete_call(self, block: dict[str, Any]) -> str | None:
        """Give a call what only has one value, and return the arguments in its start. None: the call is invalid."""
        for field in ("id", "name"):
            if not _is_text(block.get(field)):
                self._fail(f"its {field} is missing")
                return None
        self._call_id, self._call_name = block["id"], block["name"]
        if block["id"] in self._call_ids:
            block["id"] = self._new_id("toolu_px")
            if block["type"] == "tool_use":
                self._ahead, self._out = self._out, []
            else:
                self._has_new_ids = True
        else:
            self._call_ids.add(block["id"])
            self._calls += block["type"] == "tool_use"
        self._server_call = block["id"] if block["type"] in SERVER_CALL_TYPES else self._server_call
        given = block.get("input")
        block["input"] = {}
        if given in (None, "", {}):
            return ""
        return given if isinstance(given, str) else msgspec.json.encode(given).decode()

    def _add_delta(self, content: dict[str, Any], event: bytes) -> None:
        index = _read_index(content)
        delta, is_named = _find_member(content, "delta", dict, _KNOWN_MEMBERS)
        if not is_named:
            content, event = {"type": content["type"], "index": index, "delta": delta}, b""
        kind, field, is_typed = _find_delta_type(delta or {})
        if delta is None or not (kind or field):
            if self._kind in CALL_TYPES:
                self._fail(_UNREADABLE)
            elif delta is not None and self._kind and _is_text(delta.get("type")) and delta["type"] not in DELTAS:
                self._write_in_block(content, event)  # a delta that the API has got since
            return
        if not is_typed:
            content, event = {**content, "delta": delta}, b""
        if (
            self._kind
            and self._kind not in EMPTY_STARTS
            and self._kind not in CALL_TYPES
            and index in (None, self._index)
        ):
            self._write_in_block(content, event)  # a block that the API has got since
        elif kind == "tool_use":
            self._add_call_delta(index, delta["partial_json"], content, event)
        elif self._kind in CALL_TYPES and not (kind == "thinking" and field == "signature"):
            index = None if index == self._index else index
            self._put_off("content_block_delta", {**content, "index": index}, event)
        elif field == "signature":
            self._add_signature(index, delta, content, event)
        elif field == "citation":
            if self._kind == "text":
                self._write_in_block(content, event)
        elif text := delta[field]:
            self._add_text(kind, text, content, event)
        elif self._kind == kind:
            self._write_in_block(content, event)

    def _add_text(self, kind: str, text: str, content: dict[str, Any], event: bytes) -> None:
        if self._kind != kind:
            if self._kind not in ("", kind):
                self._close_all()
            if self._ended:
                return
            if kind == "text" and not text.strip():
                self._hold(len(text))
                self._blanks.append(text)
                return
            self._require_open(kind, _read_index(content))
        repeated, self._first_text = self._first_text == text, ""
        if not repeated:
            self._is_filled = True
            self._write_in_block(content, event)

    def _require_open(self, kind: str, index: Any) -> None:
        """Open a block that the server has not begun."""
        self._open(kind, index)
        block = {"type": kind, **EMPTY_STARTS[kind]}
        self._out.append(encode_event({"type": "content_block_start", "index": self._next, "content_block": block}))
        if self._blanks and kind == "text":
            delta = {"type": "text_delta", "text": self._take_blanks()}
            self._write_in_block({"type": "content_block_delta", "delta": delta}, b"")

    def _take_blanks(self) -> str:
        blanks, self._blanks = self._blanks, []
        return "".join(blanks)

    def _write_in_block(self, content: dict[str, Any], event: bytes) -> None:
        if event and content.get("index") == self._next and type(content.get("index")) is int:
            self._out.append(event)
        else:
            self._out.append(encode_event({**content, "index": self._next}))

    def _add_signature(self, index: Any, delta: dict[str, Any], content: dict[str, Any], event: bytes) -> None:
        if not delta["signature"] or (self._kind != "thinking" and (self._kind or index in self._ended_indexes)):
            return
        if not self._kind:
            self._require_open("thinking", index)
        is_same = event and content.get("index") == self._next
        self._signature = event if is_same else encode_event({**content, "index": self._next})

    # Tool calls.

    def _add_call_delta(self, index: Any, fragment: str, content: dict[str, Any], event: bytes) -> None:
        if self._kind not in CALL_TYPES:
            if fragment.strip() and not self._ended_calls.repeats(self._call_id, self._call_name, fragment):
                self._fail("a part of its arguments has no place")
        elif index is not None and index != self._index:
            if index in self._queued_indexes:
                self._put_off("content_block_delta", content, event)
            elif fragment.strip():
                self._fail("a part of its arguments has no place")
        elif self._accepts_arguments(fragment):
            is_same = event and content.get("index") == self._next
            self._write_arguments(fragment, event if is_same else encode_event({**content, "index": self._next}))
        elif not self._cut_stop and (missing := self._find_missing(fragment)):
            content = {"type": "content_block_delta", "index": self._next, "delta": _state(missing)}
            self._write_arguments(missing, encode_event(content))

    def _accepts_arguments(self, fragment: str) -> bool:
        """Return False if a fragment is left out, or cannot be one of the open call."""
        if not self._arguments and fragment and not fragment.lstrip().startswith("{"):
            if not fragment.strip():
                return False  # the official SDKs fail at white space before the arguments
            if self._call_name not in self._eager_tools:
                self._fail("its arguments are no JSON object")
                return False
        if fragment[:1] == "{" and fragment[-1] == "}" and self._find_missing(fragment) is not None:
            return False
        if self._cut_stop:
            if fragment.strip():
                self._fail("a part of its arguments has no place")
            return False
        return True

    def _find_missing(self, fragment: str) -> str | None:
        """Return what the arguments so far lack of a fragment that has all of them: 9router sends them twice (its pull
        2869), and vLLM at the end of a call. None: it has not, or is perhaps a value in them.
        """
        if not self._arguments or len(self._arguments[0]) > len(fragment):  # not joined for each fragment
            return None
        known = self._read_arguments()
        return None if known.rstrip().endswith((":", ",", "[")) else find_missing(known, fragment)

    def _write_arguments(self, fragment: str, event: bytes) -> None:
        self._out.append(event)
        if fragment:
            self._argument_size += len(event)
            require_bounded_reply(self._argument_size)
            self._arguments.append(fragment)
            self._expect_deltas()

    def _read_arguments(self) -> str:
        self._arguments = ["".join(self._arguments)] if self._arguments else []
        return "".join(self._arguments)

    def _has_whole_deltas(self) -> bool:
        """Return True if the deltas of the open call are all its arguments, so that no other one is expected."""
        text, given = self._read_arguments(), self._given_input
        return _is_object(text) and (not given or text == given or _are_equal(text, given))

    def _is_whole_call(self, *, may_be_empty: bool = False) -> bool:
        """Return True if all arguments of the open call, which ends, are a JSON object. `may_be_empty`: or nothing."""
        given = self._given_input
        if given and not self._arguments:
            self._add_call_delta(self._index, given, {"type": "content_block_delta", "delta": _state(given)}, b"")
        text = self._read_arguments()
        if given and text != given and not _are_equal(text, given):
            self._fail("its start and its deltas have other arguments")
            return False
        return _is_object(text) if text.strip() else may_be_empty

    def _is_beginning_again(self) -> bool:
        """Return True if the open call is only the beginning of one that has ended."""
        has_ended = self._ahead is not None and self._ended_calls.has(self._call_id, self._call_name)
        return has_ended and not self._given_input and not self._read_arguments().strip()

    def _is_cut_call(self) -> bool:
        """Return True if the arguments of the open call are the beginning of a JSON object, which is not complete."""
        try:
            _decode_object(self._read_arguments())
        except (*DECODE_ERRORS, UnicodeEncodeError) as error:
            return str(error) == "Input data was truncated"
        return False

    def _fail(self, reason: str) -> None:
        if self.error is None:
            self.error = self._build_error(reason)
            if self._ahead is not None:
                self._out, self._ahead = self._ahead, None
            self._out.append(b'event: error\ndata: {"type":"error"}\n\n')
            self._end()

    def _end(self) -> None:
        self._ended, self.stated_reason = True, None
        self._kind = ""
        self._decode_delta = _expect_no_delta

    # Ends of blocks and of the message.

    def _stop_block(self, content: dict[str, Any], event: bytes) -> None:
        index = _read_index(content)
        if not self._kind:
            return
        if index is not None and index != self._index:
            if index in self._queued_indexes:
                self._put_off("content_block_stop", content, event)
                return
            if index in self._ended_indexes:
                return
        if not self._cut_stop:  # a second one adds nothing
            self._close(event if event and index == self._next else encode_event({**content, "index": self._next}))

    def _put_off(self, kind: str, content: dict[str, Any], event: bytes) -> None:
        """Keep an event of another block until the open call has ended."""
        self._hold(len(event) or len(encode_event(content)))
        self._queue.append((kind, content, event))
        if kind == "content_block_start":
            self._queued_indexes.append(_read_index(content))
            if len(self._queued_indexes) > _MAX_QUEUED_BLOCKS:  # each reads the arguments, and each end the queue
                self._fail("too many other blocks begin before its end")

    def _close(self, stop: bytes = b"") -> None:
        """Write the end of the open block. `stop`: the event of the server. b"": it has sent none."""
        kind = self._kind
        if kind == "thinking":
            unsigned = {"type": "signature_delta", "signature": UNSIGNED_SIGNATURE}
            if self._signature:
                self._out.append(self._signature)
            elif not self._is_signed:
                self._out.append(encode_event({"type": "content_block_delta", "index": self._next, "delta": unsigned}))
            self._signature, self._is_signed = b"", False
        elif kind in CALL_TYPES and not (
            self._is_whole_call(may_be_empty=bool(stop)) or self._may_be_no_json(stop) or self._is_beginning_again()
        ):
            if stop:
                self._cut_stop = stop
                self._decode_delta = _expect_no_delta
            else:
                self._fail("its arguments are incomplete")
            return
        self._write_stop(stop)

    def _close_all(self) -> None:
        """Write the end of the open block, and of those that came within it if it is a call: they follow its end."""
        while self._kind and not self._ended:
            self._close()

    def _may_be_no_json(self, stop: bytes) -> bool:
        """Return True if the arguments of the open call are what the server sent, and need no check. `stop`: as for
        `_close`.
        """
        return stop != b"" and self._call_name in self._eager_tools and self.error is None

    def _write_stop(self, stop: bytes) -> None:
        if self._kind != "tool_use" or self._is_new_call():
            self._out.append(stop or encode_event({"type": "content_block_stop", "index": self._next}))
            self._next += 1
        self._ended_indexes.add(self._index)
        self._kind, self._index = "", None
        self._decode_delta = _expect_no_delta
        self._arguments, self._argument_size, self._cut_stop, self._given_input = [], 0, b"", ""
        queue, self._queue = self._queue, []
        self._queued_indexes = []
        for kind, content, event in queue:
            if not self._ended:
                self._follow(kind, content, event)

    def _is_new_call(self) -> bool:
        """Record the open call, which ends. Return False if it only repeats another one, which has its id."""
        is_new = not self._ended_calls.repeats(self._call_id, self._call_name, self._read_arguments())
        if self._ahead is None:
            return True
        self._out = [*self._ahead, *self._out] if is_new else self._ahead
        self._ahead = None
        if is_new:
            self._calls += 1
            self._has_new_ids = True
        return is_new

    def _add_ending(self, content: dict[str, Any], event: bytes) -> None:
        delta, has_delta = _find_member(content, "delta", dict, _KNOWN_MEMBERS)
        usage, has_usage = _find_member(content, "usage", dict, _KNOWN_MEMBERS)
        if not (has_delta and has_usage):
            event = b""
        content = {**content, "delta": delta, "usage": usage}
        if not self._is_ending:
            self._is_ending = True
            self._ending, self._ending_events = content, [event]
        else:
            ending = self._ending = self._read_ending()
            for name, value in content.items():
                if name in ("delta", "usage"):
                    ending[name] = ending[name] or {}
                    _merge_into(ending[name], value)
                elif value is not None:
                    ending[name] = value
            self._ending_events[0] = b""
        self.stated_reason = _find_reason(self._ending["delta"] or {})

    def _read_ending(self) -> dict[str, Any]:
        """Return the held `message_delta`."""
        if self._ending is not None:
            return self._ending
        data = self._ending_events[0].partition(_DATA)[2] if self._ending_events else b"{}"
        content, _ = _decode(data)
        return {"delta": None, "usage": None, **(content or {})}

    def _end_message(self) -> None:
        """Write the end of the open block, and `message_delta`."""
        if self._end_index == self._next and not (self._kind or self._ending or self._usage or self._has_new_ids):
            self._out += self._ending_events
            self._end_of_message()
            return
        reason = self.stated_reason
        may_be_empty = bool(self._cut_stop) or self._is_beginning_again()
        if self._kind in CALL_TYPES and not self._is_whole_call(may_be_empty=may_be_empty):
            if reason not in CUTTING_REASONS or self._queue or not self._is_cut_call():
                self._fail("its arguments are incomplete")
                return
            self._write_stop(self._cut_stop)
        self._close_all()
        if self._ended:
            return
        given = self._read_ending()
        delta = dict(given.get("delta") or {})
        if self._has_new_ids:
            delta.pop("safeguard_results", None)
        sequence = delta.get("stop_sequence")
        if reason is None or (reason == "stop_sequence" and not isinstance(sequence, str)):
            reason = "end_turn"
        if reason in ("end_turn", "tool_use"):
            reason = "tool_use" if self._calls else "end_turn"
        sequence = sequence if isinstance(sequence, str) else None
        usage = given.get("usage")
        output = usage.get("output_tokens") if isinstance(usage, dict) else None
        is_stated = _is_count(output) or parse_token_count(output) is not None
        estimate = 0 if is_stated else self._estimate_output(b"".join(self._out))
        stated = self._complete_usage(usage, {"output_tokens": estimate})
        if self._usage:
            _merge_into(self._usage, stated)
            stated = self._usage
        complete = {
            **given,
            "type": "message_delta",
            "delta": {**delta, "stop_reason": reason, "stop_sequence": sequence},
            "usage": stated,
        }
        is_same = complete == {**given, "delta": {"stop_sequence": None, **(given.get("delta") or {})}}
        events = self._ending_events or [b""]
        if not (events[0] and is_same):
            events[0] = encode_event(complete)
        self._out += events
        self._end_of_message()

    def _end_of_message(self) -> None:
        self._is_ending, self._is_complete = False, True
        self._ending, self._ending_events, self.stated_reason = None, [], None

    def _stop_message(self, event: bytes) -> None:
        if self._begun and not self._is_complete and (self._is_ending or self._next or self._kind):
            self._end_message()
        if not self._ended:
            self._ended = True
            self._out.append(event)


def _decode(text: bytes) -> tuple[Any, bool]:
    """Return the value of JSON text, and True if clients need another text. None: it cannot be decoded."""
    try:
        return msgspec.json.decode(text), False
    except DECODE_ERRORS:
        pass
    try:
        return msgspec.json.decode(replace_non_numbers(text)), True
    except DECODE_ERRORS:
        pass
    try:
        return json.loads(text.decode()), False  # lone surrogates
    except (ValueError, RecursionError):
        return None, False


def _find_type(name: str, content: dict[str, Any]) -> str:
    """Return the type of an event by its name, its type and its members. "": an unknown one."""
    stated = content.get("type")
    candidates = [kind for kind in (stated, name) if isinstance(kind, str) and kind in _EVENT_TYPES]
    if candidates and candidates[0] == candidates[-1]:
        return candidates[0]
    shape = ""
    delta = content.get("delta")
    if isinstance(content.get("message"), dict):
        shape = "message_start"
    elif isinstance(content.get("content_block"), dict):
        shape = "content_block_start"
    elif isinstance(delta, dict):
        shape = "message_delta" if any(map(delta.__contains__, _OF_ENDING)) else "content_block_delta"
    elif isinstance(content.get("usage"), dict):
        shape = "message_delta"
    elif "index" in content and len(content) <= 2:
        shape = "content_block_stop"
    if shape in candidates or not candidates:
        return shape
    return candidates[0]


def _find_member(holder: dict[str, Any], name: str, kind: type, known: frozenset[str]) -> tuple[Any, bool]:
    """Return a member of a type, and True if it has its name. A misspelled name is that of the only unknown member of
    the type. None: there is none.
    """
    value = holder.get(name)
    if isinstance(value, kind):
        return value, True
    others = [member for other, member in holder.items() if other not in known and isinstance(member, kind)]
    return (others[0] if len(others) == 1 else None), False


def _find_block_type(block: dict[str, Any]) -> str:
    """Return the type of a block. "": it cannot be known."""
    kind = block.get("type")
    if _is_text(kind):
        return str(kind)
    texts = [
        value for value in block.values() if isinstance(value, str) and (value in EMPTY_STARTS or value in CALL_TYPES)
    ]
    if len(texts) == 1:
        return texts[0]
    if _looks_like_call(block):
        return ""
    return next((field for field in ("text", "thinking") if isinstance(block.get(field), str)), "")


def _looks_like_call(block: dict[str, Any]) -> bool:
    return "input" in block or ("id" in block and "name" in block)


def _find_delta_type(delta: dict[str, Any]) -> tuple[str, str, bool]:
    """Return the type of the block of a delta, the name of its field, and True if it is as the API defines it.

    "": the type is unknown. What is misspelled is corrected in `delta`.
    """
    stated = delta.get("type")
    if isinstance(stated, str) and stated in DELTAS:
        kind, field = DELTAS[stated]
        wanted = dict if field == "citation" else str
        value, is_named = _find_member(delta, field, wanted, frozenset(("type",)))
        if value is None:
            return "", "", False
        if not is_named:
            for other in [other for other, member in delta.items() if member is value and other != "type"]:
                del delta[other]
            delta[field] = value
        return kind, field, is_named
    for known, (kind, field) in DELTAS.items():
        if isinstance(delta.get(field), dict if field == "citation" else str):
            if isinstance(stated, str) and stated and len(delta) > 2:
                continue
            delta["type"] = known
            return kind, field, False
    return "", "", False


def _read_index(content: dict[str, Any]) -> int | None:
    index = content.get("index")
    return index if type(index) is int else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: Any) -> bool:
    return type(value) in (int, float)  # `UsageBounds` judges the number


def _state(arguments: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": arguments}


def _are_equal(text: str, other: str) -> bool:
    try:
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # the halves of characters
        return bool(json.loads(joined) == json.loads(other))
    except (ValueError, RecursionError):
        return False


def _is_object(text: str) -> bool:
    try:
        _decode_object(text)
    except (*DECODE_ERRORS, UnicodeEncodeError):  # half a character
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False
    return True


def _find_reason(delta: dict[str, Any]) -> str | None:
    """Return the stated reason of the end. None: none is stated."""
    reason = delta.get("stop_reason")
    if not _is_text(reason):
        return "stop_sequence" if _is_text(delta.get("stop_sequence")) else None
    return str(reason)


def _merge_into(before: dict[str, Any], later: Any) -> None:
    """Add the values of a later event about the same. A later value counts, unless it is null, or 0 for a count."""
    for name, value in later.items() if isinstance(later, dict) else ():
        if value is not None and (value or not before.get(name)):
            before[name] = value
