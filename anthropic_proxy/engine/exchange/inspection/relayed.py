"""`InspectedRelay`: the bytes of a relayed reply, of which only the texts that the inspection changes are edited.

Events of a text that waits are held, and those of a tool call until its end (`RelayedCalls`). An event whose text is
the same passes as it came. A changed text takes the place of the text in a received event, by the edits with which
requests are changed too (`json_spans`).
"""

import asyncio
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from anthropic_proxy.engine.exchange.client_side import encode_events
from anthropic_proxy.engine.exchange.inspection.inspectors import InspectorCalls, ReplyRefused
from anthropic_proxy.engine.exchange.inspection.reply import HeldText, inspect_texts
from anthropic_proxy.engine.exchange.inspection.texts import (
    FRAGMENTS,
    find_texts_of_event,
    find_texts_of_message,
    read_body,
)
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.exchange.relayed_calls import (
    RelayedCalls,
    RelayedEvent,
    edit_data,
    find_data,
    find_text,
    join_data_lines,
    read_event,
    replace_fragment,
)
from anthropic_proxy.engine.messages.events import BlockStop, Event, MessageDelta, MessageStop, Ping, SignatureDelta
from anthropic_proxy.engine.messages.models import UsageBody
from anthropic_proxy.engine.messages.writer import KEEP_ALIVE_SIGNATURE
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit
from anthropic_proxy.engine.wires.framing import EVENT_BORDER, EVENT_DATA
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.errors import InvalidRequest, UpstreamProtocolError

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.edited_relay import EditedRelay

_TEXT_FIELDS = ("text", "thinking", "content")
_FIELDS_OF_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "compaction_delta": "content"}
"""Type of a delta → its field with a fragment. One of another type may have any of them."""
_WITHOUT_TEXT = frozenset(("ping", "content_block_stop", "message_stop"))
_FRAGMENT_FIELDS = frozenset(("type", *FRAGMENTS))
_READ_LINE = compile_anchored(rb"(?:data:.*+|event: ?[a-z_]{1,64}+)?", re.DOTALL)
"""A line of an event that is read, or has no text. Comments, ids and other lines are what clients skip."""
_MAX_EVENTS_ON_LOOP = 100
"""Maximum number of events between two pauses: a fragment takes up to 160 µs, because all that waits is read again."""
_PING_AFTER_SECONDS = 5.0
"""Seconds without an event for the client after which a ping takes the place of held events."""


class _OpenText(Struct):
    held: HeldText
    latest: bytes = b""
    """The latest event with text, which is the form of further ones."""


class InspectedRelay:
    """Reads `relay` in its place. `calls`: what reads its calls. `streams`: True if the reply is a stream."""

    def __init__(
        self, relay: "RelayStream | EditedRelay", inspection: InspectorCalls, calls: RelayedCalls, *, streams: bool
    ) -> None:
        self._relay = relay
        self._inspection = inspection
        self._calls = calls
        self._streams = streams
        self._texts: dict[int, _OpenText] = {}
        self._open: set[int] = set()
        """Blocks whose start the client has."""
        self._beginning = b""
        """Events before the first content."""
        self._has_content = False
        """True once the client gets more than the beginning of the first block."""
        self._now = asyncio.get_running_loop().time
        self._shown_at = self._now()

    async def read(self) -> bytes | None:
        """Return the next bytes for the client. None: the response is complete."""
        while (data := await self._relay.read()) is not None:
            shown = self._beginning + await (self._read_events(data) if self._streams else self._read_message(data))
            self._beginning, now = b"", self._now()
            if self._relay.complete:
                return shown
            if now >= self._shown_at + _PING_AFTER_SECONDS and not (shown and self._has_content):
                shown += encode_events([Ping()])  # a long block is held, and clients expect something
            elif not self._has_content:  # an inspector that fails is still an HTTP status
                self._beginning, shown = shown, b""
            if shown:
                self._shown_at = now
                return shown
        rest = [(text.latest, text.held.flush()) for text in self._texts.values()]  # of blocks without an end
        self._texts = {}
        if self._inspection.readers:  # what no inspector has read is not shown
            return None
        return b"".join(replace_fragment(latest, _TEXT_FIELDS, text) for latest, text in rest if text) or None

    async def _read_events(self, data: bytes) -> bytes:
        shown: list[bytes] = []
        start = 0
        try:
            for number, border in enumerate(EVENT_BORDER.finditer(data), 1):
                await self._add(data[start : border.end()], shown)
                start = border.end()
                if not number % _MAX_EVENTS_ON_LOOP:
                    await asyncio.sleep(0)  # lets other tasks run between the fragments of one read
        except ReplyRefused as refused:
            usage = self._relay.end_early("refusal")
            events: list[Event] = []
            for index in sorted(self._open):
                if index in self._texts and self._texts[index].held.kind == "thinking":
                    events.append(SignatureDelta(index, KEEP_ALIVE_SIGNATURE))  # the block is not sent again
                events.append(BlockStop(index))
            totals = UsageBody(
                input_tokens=usage.input_tokens or 0,
                cache_creation_input_tokens=usage.cache_write_tokens or 0,
                cache_read_input_tokens=usage.cache_read_tokens or 0,
                output_tokens=usage.output_tokens or 0,
                output_tokens_details={"thinking_tokens": usage.thinking_tokens or 0},
                service_tier=UNSET,
            )
            events += [MessageDelta("refusal", None, refused.details, totals), MessageStop()]
            return b"".join((*shown, encode_events(events)))
        if self._inspection.readers and data[start:].strip():
            await self._add(data[start:] + b"\n\n", shown)
            start = len(data)
        return b"".join((*shown, data[start:]))

    async def _read_message(self, data: bytes) -> bytes:
        try:
            inspected = await inspect_texts(self._inspection, read_body(data, find_texts_of_message))
            return self._calls.read_message(data, inspected)
        except ReplyRefused as refused:
            self._relay.end_early("refusal")
            return json_spans.edit(data, partial(_find_refusal_edits, details=refused.details))

    async def _add(self, frame: bytes, shown: list[bytes]) -> None:
        """Add what the client gets after one event."""
        received = join_data_lines(frame)
        if self._inspection.readers and not (received := _leave_out_lines(received)):
            return
        event = read_event(find_data(received))
        index = event.index if isinstance(event.index, int) else 0
        if not _is_fragment(event):
            frame = await self._inspect_event(received)
        elif self._inspection.readers and not _is_usual(event, received):
            frame = received = _leave_out_fields(received, event)
        else:
            frame = received
        if not frame:
            return
        sent = await self._calls.read(event, frame, is_edited=frame != received)
        if sent is not None:
            if sent:
                self._has_content = True
            shown += sent
        elif event.type == "content_block_start":
            kind = find_text(event.content_block, "type")
            self._open.add(index)
            self._texts[index] = _OpenText(
                HeldText(self._inspection, "thinking" if kind == "thinking" else "assistant")
            )
            self._has_content |= kind not in ("text", "thinking")  # these are empty at first
            shown.append(frame)
        elif event.type == "content_block_delta":
            if index not in self._texts:  # of a block without its first event
                self._texts[index] = _OpenText(HeldText(self._inspection, "assistant"))
            await self._add_text(event.delta, self._texts[index], frame, shown)
        else:
            if event.type == "content_block_stop":
                if (text := self._texts.get(index)) is not None:
                    await self._flush(text, shown)
                    del self._texts[index]
                self._open.discard(index)
            self._has_content |= event.type not in ("message_start", "ping")
            shown.append(frame)

    async def _inspect_event(self, frame: bytes) -> bytes:
        """Return the event with the texts that are complete in it: those of a block of a server tool, a citation, an
        error, and the arguments of a call at some servers.
        """
        found = EVENT_DATA.search(frame)
        if found is None:
            return frame
        start, end = found.span(1)
        try:
            texts = read_body(frame[start:end], find_texts_of_event)
        except InvalidRequest:
            if self._inspection.readers and frame[start : start + 1] == b"{":  # a client may read it
                raise _build_json_error() from None
            return b"" if self._inspection.readers else frame
        return frame[:start] + await inspect_texts(self._inspection, texts) + frame[end:]

    async def _add_text(self, delta: Any, text: _OpenText, frame: bytes, shown: list[bytes]) -> None:
        field = _FIELDS_OF_DELTAS.get(find_text(delta, "type"))
        fields = _TEXT_FIELDS if field is None else (field,)
        received = next(filter(None, (find_text(delta, name) for name in fields)), "")
        if not received:  # a citation does not divide what the inspectors read; a signature ends it
            if text.held.kind == "thinking":
                await self._flush(text, shown)
            shown.append(frame)
            return
        text.latest = frame
        now = await text.held.feed(received)
        if now:
            self._has_content = True
            shown.append(frame if now == received else replace_fragment(frame, _TEXT_FIELDS, now))

    async def _flush(self, text: _OpenText, shown: list[bytes]) -> None:
        if rest := await text.held.finish():
            shown.append(replace_fragment(text.latest, _TEXT_FIELDS, rest))


def _is_fragment(event: RelayedEvent) -> bool:
    """Return True if the fields of an event that the API has contain no other text than one fragment of a block."""
    delta = event.delta
    if event.type in _WITHOUT_TEXT:
        return True
    if event.type != "content_block_delta" or not isinstance(delta, dict) or not _FRAGMENT_FIELDS.issuperset(delta):
        return False
    if not all(value is None or isinstance(value, str) for value in delta.values()):
        return False
    field = _FIELDS_OF_DELTAS.get(find_text(delta, "type"))
    texts = [name for name, value in delta.items() if value and name != "type"]
    return texts == [field] if field is not None and texts else len(texts) <= 1


def _leave_out_lines(frame: bytes) -> bytes:
    """Return an SSE event without the lines that no inspector reads. b"": it has no data."""
    lines = frame.splitlines()
    kept = [line for line in lines if _READ_LINE.fullmatch(line)]
    if not any(line[:5] == b"data:" for line in kept):
        return b""
    return frame if len(kept) == len(lines) else b"\n".join(filter(None, kept)) + b"\n\n"


class _UsualDelta(RelayedEvent, forbid_unknown_fields=True):
    """An event of a fragment without further fields."""


_decode_usual = msgspec.json.Decoder(_UsualDelta).decode


def _is_usual(event: RelayedEvent, frame: bytes) -> bool:
    """Return True if the event of a fragment has no further field."""
    try:
        usual = _decode_usual(find_data(frame))
    except DECODE_ERRORS:
        return False
    return usual.content_block is None and (event.type not in _WITHOUT_TEXT or usual.delta is None)


def _leave_out_fields(frame: bytes, event: RelayedEvent) -> bytes:
    """Return the event of a fragment without the further fields that contain a string."""
    try:
        return edit_data(frame, partial(_find_unread, event))
    except InvalidRequest:
        raise _build_json_error() from None


def _build_json_error() -> UpstreamProtocolError:
    return UpstreamProtocolError("an event of the reply is not valid JSON", code="invalid-reply")


def _find_unread(event: RelayedEvent, data: bytes) -> list[Edit]:
    known = ("type", "index", "delta") if event.type == "content_block_delta" else ("type", "index")
    members = json_spans.find_members(data)
    kept = [member.key in known or b'"' not in data[member.value : member.end] for member in members]
    return json_spans.build_removal_edits(members, kept)


def _find_refusal_edits(message: bytes, details: Mapping[str, str | None]) -> list[Edit]:
    """Return the edits that end a message with a refusal, without its content."""
    new: dict[str, object] = {"content": [], "stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    members = json_spans.find_members(message)
    found = [member for member in members if member.key in new]
    edits = [Edit(member.value, member.end, msgspec.json.encode(new[member.key])) for member in found]
    if members and (missing := {key: value for key, value in new.items() if key not in [one.key for one in found]}):
        edits.append(Edit(members[-1].end, members[-1].end, b"," + msgspec.json.encode(missing)[1:-1]))
    return edits
