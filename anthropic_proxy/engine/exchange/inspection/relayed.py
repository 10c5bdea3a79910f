"""`InspectedRelay`: the bytes of a relayed reply, of which only the texts that the inspection changes are edited.

Events of a text that waits are held, and those of a tool call until its end. An event whose text is the same passes as
it came. A changed text takes the place of the text in a received event, by the edits with which requests are changed
too (`json_spans`).
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from anthropic_proxy.engine.exchange.client_side import encode_events
from anthropic_proxy.engine.exchange.inspection.inspectors import InspectorCalls, ReplyRefused
from anthropic_proxy.engine.exchange.inspection.reply import HeldText, inspect_texts
from anthropic_proxy.engine.exchange.inspection.texts import (
    FRAGMENTS,
    find_texts_of_event,
    find_texts_of_message,
    read_arguments,
    read_body,
)
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.messages.events import BlockStop, Event, MessageDelta, MessageStop, Ping, SignatureDelta
from anthropic_proxy.engine.messages.models import UsageBody
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.messages.writer import KEEP_ALIVE_SIGNATURE, require_bounded_reply
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit
from anthropic_proxy.engine.wires.framing import EVENT_BORDER, EVENT_DATA
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.errors import InvalidRequest, UpstreamProtocolError

_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_TEXT_FIELDS = ("text", "thinking", "content")
_FIELDS_OF_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "compaction_delta": "content"}
"""Type of a delta → its field with a fragment. One of another type may have any of them."""
_WITHOUT_TEXT = frozenset(("ping", "content_block_stop", "message_stop"))
_FRAGMENT_FIELDS = frozenset(("type", *FRAGMENTS))
_PING_AFTER_SECONDS = 5.0
"""Seconds without an event for the client after which a ping takes the place of held events."""


class _Event(Struct):
    """An event, of which nothing is certain: some servers send null in each field that they do not use."""

    type: Any = ""
    index: Any = 0
    content_block: Any = None
    delta: Any = None

    @property
    def is_fragment(self) -> bool:
        """True if it has no other text than a fragment of a block."""
        delta = self.delta
        return self.type in _WITHOUT_TEXT or (
            self.type == "content_block_delta"
            and isinstance(delta, dict)
            and _FRAGMENT_FIELDS.issuperset(delta)
            and all(value is None or isinstance(value, str) for value in delta.values())
        )


def _find(part: Any, name: str) -> str:
    """Return a text of `content_block` or `delta`. "": it has none."""
    found = part.get(name) if isinstance(part, dict) else None
    return found if isinstance(found, str) else ""


_decode_event = msgspec.json.Decoder(_Event).decode


class _OpenText(Struct):
    held: HeldText
    latest: bytes = b""
    """The latest event with text, which is the form of further ones."""


class _OpenCall(Struct):
    name: str
    start: bytes
    """The first event."""
    frames: list[bytes] = []  # a struct copies it
    arguments: list[str] = []
    size: int = 0

    def add(self, frame: bytes, arguments: str) -> None:
        self.frames.append(frame)
        self.arguments.append(arguments)
        self.size += len(arguments)
        require_bounded_reply(self.size)


class InspectedRelay:
    """Reads `relay` in its place. `streams`: True if the reply is a stream."""

    def __init__(self, relay: RelayStream, inspection: InspectorCalls, *, streams: bool) -> None:
        self._relay = relay
        self._inspection = inspection
        self._streams = streams
        self._texts: dict[int, _OpenText] = {}
        self._calls: dict[int, _OpenCall] = {}
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
        return b"".join(_set_text(latest, text) for latest, text in rest if text) or None

    async def _read_events(self, data: bytes) -> bytes:
        shown: list[bytes] = []
        start = 0
        try:
            for border in EVENT_BORDER.finditer(data):
                await self._add(data[start : border.end()], shown)
                start = border.end()
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
        return b"".join((*shown, data[start:]))

    async def _read_message(self, data: bytes) -> bytes:
        try:
            return await inspect_texts(self._inspection, read_body(data, find_texts_of_message))
        except ReplyRefused as refused:
            self._relay.end_early("refusal")
            return json_spans.edit(data, partial(_find_refusal_edits, details=refused.details))

    async def _add(self, frame: bytes, shown: list[bytes]) -> None:
        """Add what the client gets after one event."""
        lines = EVENT_DATA.findall(frame)
        if len(lines) > 1:  # one line can be edited
            frame = EVENT_DATA.sub(b"", frame).strip() + b"\ndata: " + b" ".join(lines) + b"\n\n"
        event = _read_event(b" ".join(lines))
        index = event.index if isinstance(event.index, int) else 0
        if not event.is_fragment:
            frame = await self._inspect_event(frame)
        if event.type == "content_block_start":
            kind = _find(event.content_block, "type")
            if kind in _CALLS:
                self._calls[index] = _OpenCall(_find(event.content_block, "name"), frame)
                return
            self._open.add(index)
            self._texts[index] = _OpenText(
                HeldText(self._inspection, "thinking" if kind == "thinking" else "assistant")
            )
            self._has_content |= kind not in ("text", "thinking")  # these are empty at first
            shown.append(frame)
        elif event.type == "content_block_delta" and index in self._calls:
            self._calls[index].add(frame, _find(event.delta, "partial_json"))
        elif event.type == "content_block_delta":
            if index not in self._texts:  # of a block without its first event
                self._texts[index] = _OpenText(HeldText(self._inspection, "assistant"))
            await self._add_text(event.delta, self._texts[index], frame, shown)
        else:
            if event.type == "content_block_stop":
                if (call := self._calls.pop(index, None)) is not None:
                    arguments = "".join(call.arguments)
                    edited = (await inspect_texts(self._inspection, read_arguments(arguments, call.name))).decode()
                    frames = call.frames if edited == arguments else [_set_text(call.frames[-1], edited)]
                    shown += (call.start, *frames)
                elif (text := self._texts.get(index)) is not None:
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
                raise UpstreamProtocolError("an event of the reply is not valid JSON", code="invalid-reply") from None
            return frame
        return frame[:start] + await inspect_texts(self._inspection, texts) + frame[end:]

    async def _add_text(self, delta: Any, text: _OpenText, frame: bytes, shown: list[bytes]) -> None:
        field = _FIELDS_OF_DELTAS.get(_find(delta, "type"))
        fields = _TEXT_FIELDS if field is None else (field,)
        received = next(filter(None, (_find(delta, name) for name in fields)), "")
        if not received:  # a signature or a citation of the text before it
            await self._flush(text, shown)
            shown.append(frame)
            return
        text.latest = frame
        now = await text.held.feed(received)
        if now:
            self._has_content = True
            shown.append(frame if now == received else _set_text(frame, now))

    async def _flush(self, text: _OpenText, shown: list[bytes]) -> None:
        if rest := await text.held.finish():
            shown.append(_set_text(text.latest, rest))


def _read_event(data: bytes) -> _Event:
    for readable in (data, replace_lone_surrogates(data)[0]):
        try:
            event = _decode_event(readable)
        except DECODE_ERRORS:
            continue
        if isinstance(event.type, str):
            return event
    return _Event()  # no event of a block


def _set_text(frame: bytes, text: str) -> bytes:
    """Return an event with another text, thinking or arguments."""

    def find_edits(data: bytes) -> list[Edit]:
        return [
            Edit(member.value, member.end, msgspec.json.encode(text))
            for delta in json_spans.find_members(data)
            if delta.key == "delta"
            for member in json_spans.find_members(data, delta.value, delta.end)
            if member.key in (*_TEXT_FIELDS, "partial_json")
        ]

    found = EVENT_DATA.search(frame)
    assert found is not None, "the event was decoded"
    start, end = found.span(1)
    return frame[:start] + json_spans.edit(frame[start:end], find_edits) + frame[end:]


def _find_refusal_edits(message: bytes, details: Mapping[str, str | None]) -> list[Edit]:
    """Return the edits that end a message with a refusal, without its content."""
    new: dict[str, object] = {"content": [], "stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    members = json_spans.find_members(message)
    found = [member for member in members if member.key in new]
    edits = [Edit(member.value, member.end, msgspec.json.encode(new[member.key])) for member in found]
    if members and (missing := {key: value for key, value in new.items() if key not in [one.key for one in found]}):
        edits.append(Edit(members[-1].end, members[-1].end, b"," + msgspec.json.encode(missing)[1:-1]))
    return edits
