"""`RelayedCheck`: the verdicts in a relayed reply, if its server has sent none.

A server that got the field `safeguards` may answer it, so nothing is checked before the end of its reply shows that it
did not. If the field was left out for this server, the checks start with each complete call.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.exchange.safeguards.check import MAX_CALLS, ReplyCheck
from anthropic_proxy.engine.exchange.safeguards.prompt import OpenCall, ToolCallToCheck
from anthropic_proxy.engine.wires.framing import EVENT_BORDER, EVENT_DATA
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS

_FIELD = "safeguard_results"
_NO_ANSWER = (b"", b"null", b"[]")
"""Values of the field from a server that does not check calls."""
_MAX_HELD_BYTES = 1024 * 1024
"""Maximum bytes of the events that wait for the verdicts. `message_stop` is the only one behind `message_delta`."""
_READ_FIRST = (b"content_block_start", b"message_delta")
"""Marks of events that are read if no call is open. Within a call, all events are read."""


class _Block(Struct):
    type: str = ""
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")  # immutable


class _Delta(Struct):
    type: str = ""
    partial_json: str = ""
    safeguard_results: Raw = Raw()  # immutable


class _Event(Struct):
    type: str = ""
    index: int = 0
    content_block: _Block | None = None
    delta: _Delta | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class RelayedCheck:
    """`answers`: True if the server got the field, so that it may answer."""

    def __init__(self, check: ReplyCheck, *, answers: bool) -> None:
        self._check = check
        self._answers = answers
        self._calls: list[ToolCallToCheck] = []
        """Complete calls that are not checked yet."""
        self._open: dict[int, OpenCall] = {}
        self._held = bytearray()
        """Bytes from the end of the reply on, which wait for the verdicts."""
        self._is_message = False
        self._has_answer = False
        self.answered: bool | None = None
        """False: the server got the field, and its reply has calls but no answer. None: nothing is known."""

    @property
    def is_waiting(self) -> bool:
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """Return what can be forwarded of the next bytes of a stream."""
        if self._has_answer:
            return data
        if self._held:
            if len(self._held) < _MAX_HELD_BYTES:
                self._held += data
            return b""
        if not self._open and not any(mark in data for mark in _READ_FIRST):
            return data
        start = 0
        for border in EVENT_BORDER.finditer(data):
            if self._read(data[start : border.end()]):
                self._held += data[start:]
                return data[:start]
            start = border.end()
        return data

    def feed_message(self, data: bytes) -> bytes:
        """Return a reply that is not streamed, if its server has answered. Otherwise it waits for `finish`."""
        try:
            message = msgspec.json.decode(data, type=dict[str, Raw])
            blocks = msgspec.json.decode(message.get("content", Raw(b"[]")), type=list[_Block])
        except DECODE_ERRORS:
            return data
        for block in blocks:
            if block.type == "tool_use":
                arguments = bytes(block.input).decode(errors="replace")
                self._calls.append(ToolCallToCheck(block.id, block.name, arguments))
        if (results := bytes(message.get(_FIELD, b""))) not in _NO_ANSWER:
            self._take_answer(results)
            return data
        self._start_checks()
        self._is_message = True
        self._held += data
        return b""

    async def finish(self) -> bytes:
        """Return the held bytes with the verdicts."""
        held, self._held = bytes(self._held), bytearray()
        results = await self._check.finish()
        if self._is_message:
            return _add_field(held, results)
        border = EVENT_BORDER.search(held)
        end = border.end() if border is not None else len(held)
        event = msgspec.json.decode(_find_data(held[:end]), type=dict[str, Raw])
        delta = bytes(event.get("delta", b"null"))
        event["delta"] = Raw(_add_field(b"{}" if delta == b"null" else delta, results))
        return b"event: message_delta\ndata: " + msgspec.json.encode(event) + b"\n\n" + held[end:]

    def _read(self, frame: bytes) -> bool:
        """Read one event. Return True if the reply waits from here on."""
        data = _find_data(frame)
        if not data:
            return False
        try:
            event = _decode_event(data)
        except DECODE_ERRORS:
            self._open.clear()  # the client may read what was not read here, so these calls are not checked
            return False
        if event.type == "content_block_start" and event.content_block is not None:
            if event.content_block.type == "tool_use" and len(self._open) < MAX_CALLS:
                self._open[event.index] = OpenCall(event.content_block.id, event.content_block.name)
        elif event.type == "content_block_delta" and event.delta is not None:
            if event.index in self._open and event.delta.type == "input_json_delta":
                self._open[event.index].add(event.delta.partial_json)
        elif event.type == "content_block_stop" and event.index in self._open:
            call = self._open.pop(event.index).build()
            if len(self._calls) >= MAX_CALLS:  # it is not checked
                call = ToolCallToCheck(call.id, call.name, "", is_too_long=True)
            self._calls.append(call)
            if not self._answers:
                self._start_checks()
        elif event.type == "message_delta":
            results = bytes(event.delta.safeguard_results) if event.delta is not None else b""
            self._has_answer = results not in _NO_ANSWER
            if not self._has_answer:
                self._start_checks()
                return True
            self._take_answer(results)
        return False

    def _take_answer(self, results: bytes) -> None:
        self.answered = True
        self._check.take_answer(results, self._calls)

    def _start_checks(self) -> None:
        """Start the checks of calls that the server has not answered."""
        if self._answers and self._calls:
            self.answered = False
        for call in self._calls:
            self._check.start_check(call)
        self._calls.clear()


def _find_data(frame: bytes) -> bytes:
    return b"\n".join(EVENT_DATA.findall(frame))


def _add_field(data: bytes, results: list[dict[str, Any]]) -> bytes:
    """Return a JSON object with the verdicts as its last member."""
    members = msgspec.json.decode(data, type=dict[str, Raw])
    return msgspec.json.encode({**members, _FIELD: Raw(msgspec.json.encode(results))})
