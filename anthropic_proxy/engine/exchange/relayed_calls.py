"""`RelayedCalls`: the tool calls in the bytes of a relayed reply, and their final form.

Without inspectors, the bytes pass unchanged, and the calls are only read. With inspectors, the events of a call are
held until its end: the inspectors read what the provider sent, then placeholders become texts again, and the result
takes the place of the arguments in a received event.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.exchange.final_calls import CLIENT_CALL, FinalCall, OpenCall, RestoredArguments, finish_call
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.messages.writer import require_bounded_reply
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.framing import EVENT_DATA
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS

_NO_INPUT: tuple[Any, ...] = (None, "", {})
"""Values of `input` in the first event of a call whose arguments follow."""


class ArgumentInspection(Protocol):
    """What the inspectors do with the arguments of a call: `InspectorCalls`."""

    async def inspect_arguments(self, arguments: str, name: str) -> str: ...

    def restore_arguments(self, arguments: str) -> RestoredArguments: ...


class RelayedEvent(Struct):
    """An event, of which nothing is certain: some servers send null in each field that they do not use."""

    type: Any = ""
    index: Any = 0
    content_block: Any = None
    delta: Any = None


_ARGUMENTS = "input_json_delta"
"""Type of a delta with a fragment of the arguments of a call."""
OF_BLOCKS = frozenset(("content_block_start", "content_block_delta", "content_block_stop"))
"""Types of events that belong to a block."""
_decode_event = msgspec.json.Decoder(RelayedEvent).decode
_decode_string = msgspec.json.Decoder(str).decode


def join_data_lines(frame: bytes) -> bytes:
    """Return an SSE event with its data in one line, so that it can be edited."""
    lines = EVENT_DATA.findall(frame)
    if len(lines) <= 1:
        return frame
    return EVENT_DATA.sub(b"", frame).strip() + b"\ndata: " + b" ".join(lines) + b"\n\n"


def find_data(frame: bytes) -> bytes:
    """Return the data of an SSE event in one line. b"": it has none."""
    found = EVENT_DATA.search(frame)
    return found[1] if found is not None else b""


def read_event(data: bytes) -> RelayedEvent:
    for readable in (data, replace_lone_surrogates(data)[0]):
        try:
            event = _decode_event(readable)
        except DECODE_ERRORS:
            continue
        if isinstance(event.type, str):
            return event
    return RelayedEvent()  # no event of a block


def find_text(part: Any, name: str) -> str:
    """Return a text of `content_block` or `delta`. "": it has none."""
    found = part.get(name) if isinstance(part, dict) else None
    return found if isinstance(found, str) else ""


def edit_data(frame: bytes, find_edits: Callable[[bytes], Sequence[Edit]]) -> bytes:
    """Return an SSE event with edits of its data, which is one line."""
    found = EVENT_DATA.search(frame)
    assert found is not None, "the event was decoded"
    start, end = found.span(1)
    return frame[:start] + json_spans.edit(frame[start:end], find_edits) + frame[end:]


def replace_fragment(frame: bytes, fields: tuple[str, ...], text: str) -> bytes:
    """Return an event with another text in these fields of its delta."""

    def find_edits(data: bytes) -> list[Edit]:
        return [
            Edit(member.value, member.end, msgspec.json.encode(text))
            for delta in json_spans.find_members(data)
            if delta.key == "delta"
            for member in json_spans.find_members(data, delta.value, delta.end)
            if member.key in fields
        ]

    return edit_data(frame, find_edits)


class _OpenCall(OpenCall):
    """A call whose first event is `start`. `is_edited`: an inspector has changed this event."""

    def __init__(self, start: bytes, block: Any, *, is_held: bool, is_edited: bool) -> None:
        super().__init__(find_text(block, "type"), find_text(block, "id"), find_text(block, "name"), is_held=is_held)
        self.start = start
        self.has_input = block.get("input") not in _NO_INPUT
        """True if the first event has arguments, which some clients run, and others replace by those that follow."""
        self.is_edited = is_edited
        self.frames: list[bytes] = []
        """The events with its arguments, if they are held."""


class _CallBlock(Struct):
    """A call in a complete message. `start` and `end`: place of its arguments."""

    kind: str
    id: str
    name: str
    start: int
    end: int
    has_text_as_id: bool


class RelayedCalls:
    """The calls of one reply. `inspection`: None if no text of request and reply can be changed."""

    def __init__(self, inspection: ArgumentInspection | None) -> None:
        self._inspection = inspection
        self._restore = None if inspection is None else inspection.restore_arguments
        self._open: dict[int, _OpenCall] = {}
        """Index of a block → its call."""
        self._ended: dict[int, str] = {}
        """Index of a block that has ended → the id of its call."""
        self._complete: list[FinalCall] = []
        self._ids: set[str] = set()
        """Ids of all calls so far."""
        self._continued: set[str] = set()
        """Ids of calls whose arguments went on after their end."""
        self._begun = 0
        """Number of blocks so far."""
        self._is_unclear = False
        """True after an event that clients may add to any call: one that cannot be read, or is of no certain block."""

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    @property
    def ambiguous(self) -> Collection[str]:
        """Ids of the calls of which clients may read another input than the proxy."""
        return self._ids if self._is_unclear else self._continued

    def take_complete(self) -> list[FinalCall]:
        """Return the calls of the client's tools that are complete and were not taken before."""
        complete, self._complete = self._complete, []
        return complete

    async def read(self, event: RelayedEvent, frame: bytes, *, is_edited: bool = False) -> list[bytes] | None:
        """Return what the client gets after an event of a call. None: the event belongs to no open call.

        `is_edited`: an inspector has changed this event. Raises like `InspectorCalls.inspect_reply`.
        """
        index = event.index if isinstance(event.index, int) else 0
        call = self._open.get(index)
        is_held = self._inspection is not None
        self._is_unclear |= self._is_of_no_certain_block(event, frame)
        if event.type == "message_delta":
            self._restore = None  # the client has the verdicts, so no later call gets a text that they do not know
        if event.type == "content_block_start" and find_text(event.content_block, "type") in CALL_TYPES:
            self._is_unclear |= not isinstance(event.content_block.get("id"), str)  # some clients make a text of it
            self._open[index] = _OpenCall(frame, event.content_block, is_held=is_held, is_edited=is_edited)
            self._ids.add(self._open[index].id)
            return [] if is_held else [frame]
        if event.type == "content_block_delta":
            fragment = find_text(event.delta, "partial_json")
            self._is_unclear |= _is_unclear_fragment(event.delta)
            if call is None:
                if fragment and index in self._ended:
                    self._continued.add(self._ended[index])
                elif fragment:  # of no call
                    self._is_unclear = True
                return None
            call.add(fragment)
            if not is_held:
                return [frame]
            call.frames.append(frame)
            require_bounded_reply(call.size)
            return []
        if event.type == "content_block_stop" and call is not None:
            del self._open[index]
            self._ended[index] = call.id
            return [*await self._finish(call), frame]
        return None

    def _is_of_no_certain_block(self, event: RelayedEvent, frame: bytes) -> bool:
        """Return True if clients may add an event to another block than the proxy.

        Some find a block by the index of the event, others by its place in the message.
        """
        if event.type == "":
            return find_data(frame).lstrip().startswith(b"{")
        if event.type not in OF_BLOCKS:
            return False
        is_expected = event.type != "content_block_start" or event.index == self._begun
        self._begun += event.type == "content_block_start"
        return type(event.index) is not int or event.index < 0 or not is_expected

    async def _finish(self, call: _OpenCall) -> list[bytes]:
        """Return the held events of a call in their final form."""
        start, frames, written = call.start, call.frames, call.arguments
        shown, is_edited = written, call.is_edited
        if call.has_input and not written:
            shown = _read_input(start)
        elif self._inspection is not None:
            shown = await self._inspection.inspect_arguments(written, call.name)
            is_edited |= shown != written
        final = finish_call(
            call.id,
            call.name,
            shown,
            self._restore,
            is_edited=is_edited,
            is_ambiguous=call.has_input,
            is_too_long=call.is_too_long,
        )
        if call.kind == CLIENT_CALL:
            self._complete.append(final)
        if self._inspection is None:
            return []
        if call.has_input and not written:
            start = _replace_input(start, final.arguments) if final.hidden else start
        elif final.arguments != written:
            frames = [replace_fragment(frames[-1], ("partial_json",), final.arguments)]
        return [start, *frames]

    def read_message(self, received: bytes, message: bytes) -> bytes:
        """Return a message that is not streamed with its calls in their final form.

        `received`: the message before the inspectors. Raises `InvalidRequest` if one of them is not JSON.
        """
        inputs: list[bytes] = []

        def collect_inputs(text: bytes) -> Sequence[Edit]:
            inputs[:] = [text[block.start : block.end] for block in _find_calls(text)]
            return ()

        def find_edits(text: bytes) -> Sequence[Edit]:
            self._complete.clear()
            edits: list[Edit] = []
            self._ids.clear()
            for place, block in enumerate(_find_calls(text)):
                self._ids.add(block.id)
                self._is_unclear |= not block.has_text_as_id
                shown = text[block.start : block.end]
                is_edited = received != message and inputs[place : place + 1] != [shown]
                call = finish_call(
                    block.id, block.name, shown.decode(errors="replace"), self._restore, is_edited=is_edited
                )
                if call.hidden:
                    edits.append(Edit(block.start, block.end, call.arguments.encode()))
                if block.kind == CLIENT_CALL:
                    self._complete.append(call)
            return edits

        if received != message:
            json_spans.edit(received, collect_inputs)
        return json_spans.edit(message, find_edits)


def _is_unclear_fragment(delta: Any) -> bool:
    """Return True if clients may read other arguments in a delta than its text.

    Most read them only in deltas of their type, and some make a text of any value there, also of one that is absent.
    """
    if not isinstance(delta, dict):
        return False
    fragment = delta.get("partial_json")
    return not isinstance(fragment, str) if delta.get("type") == _ARGUMENTS else fragment not in (None, "")


def _find_calls(message: bytes) -> Iterator[_CallBlock]:
    for element in json_spans.find_listed(message, "content"):
        if message[element.value : element.value + 1] != b"{":
            continue
        members = {member.key: member for member in json_spans.find_members(message, element.value, element.end)}
        texts = {name: _read_string(message, members.get(name)) for name in ("type", "id", "name")}
        if texts["type"] in CALL_TYPES and (found := members.get("input")) is not None:
            number = members.get("id")
            has_text = number is not None and message[number.value : number.value + 1] == b'"'
            yield _CallBlock(texts["type"], texts["id"], texts["name"], found.value, found.end, has_text)


def _read_string(text: bytes, member: JsonSpan | None) -> str:
    """Return the value of a member that is a string. "": it is absent, or of another type."""
    is_string = member is not None and text[member.value : member.value + 1] == b'"'
    return _decode_string(text[member.value : member.end]) if member is not None and is_string else ""


def _find_inputs(event: bytes) -> Iterator[JsonSpan]:
    """Yield the arguments in the first event of a call."""
    for block in json_spans.find_members(event):
        if block.key == "content_block":
            for member in json_spans.find_members(event, block.value, block.end):
                if member.key == "input":
                    yield member


def _read_input(start: bytes) -> str:
    found: list[bytes] = []

    def collect(event: bytes) -> Sequence[Edit]:
        found[:] = [event[member.value : member.end] for member in _find_inputs(event)]
        return ()

    edit_data(start, collect)
    return found[-1].decode(errors="replace")


def _replace_input(start: bytes, arguments: str) -> bytes:
    encoded = arguments.encode()
    return edit_data(start, lambda event: [Edit(one.value, one.end, encoded) for one in _find_inputs(event)])
