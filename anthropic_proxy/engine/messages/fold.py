"""Combines the deltas of a reply (its decoded pieces) into one message, for requests without streaming.

The message is built from the stream events of `MessageWriter`, so it is equal with and without streaming.
"""

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.engine.messages.deltas import Delta, ToolArgs
from anthropic_proxy.engine.messages.events import (
    BlockStart,
    BlockStop,
    CitationDelta,
    ErrorEvent,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolCallStart,
    replace_surrogates,
)
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.messages.models.tool_arguments import build_arguments_object
from anthropic_proxy.engine.messages.writer import MessageWriter, require_bounded_reply
from anthropic_proxy.errors import InternalError

_encode = msgspec.json.Encoder().encode
_STARTS = TextStart, ThinkingStart, ToolCallStart, BlockStart
_WITHOUT_CONTENT = MessageStart, Ping, MessageDelta, MessageStop, ErrorEvent
"""Events that belong to no block. `finish` reads the last two of a complete reply."""


class Fold:
    """Builds the message from the events of a writer. Its `message_start` is not needed."""

    # of the open block
    _start: TextStart | ThinkingStart | ToolCallStart | BlockStart | None = None
    _signature = ""
    open_characters = 0
    """Number of characters of arguments in `_fragments`."""

    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer
        writer.skip_start()
        self._content: list[Raw] = []
        self._fragments: list[str] = []
        """Of the open block."""
        self._citations: list[Raw] = []

    def builds_more_than(self, characters: int, deltas: Sequence[Delta]) -> bool:
        """Return True if `feed(deltas)` may build a tool call with arguments of more characters than this."""
        if ToolArgs not in map(type, deltas) and not isinstance(self._start, (ToolCallStart, BlockStart)):
            return False
        if {*map(type, deltas)} == {ToolArgs}:
            return False
        added = sum(len(delta.json) for delta in deltas if isinstance(delta, ToolArgs))
        return self.open_characters + added > characters

    def feed(self, deltas: Iterable[Delta]) -> None:
        """Add the deltas of one network read. Raises `UpstreamProtocolError` if the message becomes too large."""
        self._collect(self._writer.feed(deltas))
        require_bounded_reply(self._writer.characters)

    def finish(self) -> MessagesResponse:
        """Return the complete message. Raises `UpstreamProtocolError` if no delta `Stop` ended the reply."""
        writer = self._writer
        *events, ending, _ = writer.finish()
        assert isinstance(ending, MessageDelta)
        self._collect(events)
        usage = ending.usage
        if usage.service_tier is msgspec.UNSET:  # which a stream may omit
            usage = structs.replace(usage, service_tier="standard")
        return MessagesResponse(
            id=writer.message_id,
            model=writer.model,
            content=self._content,
            stop_reason=ending.stop_reason,
            stop_sequence=ending.stop_sequence,
            stop_details=ending.stop_details,
            usage=usage,
        )

    def _collect(self, events: Iterable[Event]) -> None:
        for event in events:
            if type(event) is TextDelta or type(event) is ThinkingDelta:
                self._fragments.append(event.text)
            elif type(event) is InputDelta:
                self._fragments.append(event.json)
                self.open_characters += len(event.json)
            elif type(event) is BlockStop:
                self._content.append(self._build_block())
            elif type(event) is CitationDelta:
                self._citations.append(event.raw)
            elif type(event) is SignatureDelta:
                self._signature = event.signature
            elif isinstance(event, _STARTS):
                self._start = event
                self._fragments = []
                self.open_characters = 0
                self._citations = []
                self._signature = ""
            elif not isinstance(event, _WITHOUT_CONTENT):
                assert_never(event)

    def _build_block(self) -> Raw:
        start = self._start
        text = "".join(self._fragments)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                # fragment by fragment, as in the stream, so that both kinds of responses have the same text
                text = "".join(map(replace_surrogates, self._fragments))
        block: dict[str, Any]
        if isinstance(start, TextStart):
            block = {"type": "text", "text": text}
            if self._citations:
                block["citations"] = self._citations
        elif isinstance(start, ThinkingStart):
            block = {"type": "thinking", "thinking": text, "signature": self._signature}
        elif isinstance(start, ToolCallStart):
            block = {"type": "tool_use", "id": replace_surrogates(start.id), "name": replace_surrogates(start.name)}
            block["input"] = build_arguments_object(text)
        elif isinstance(start, BlockStart):
            if not self._fragments:
                return start.raw
            block = msgspec.json.decode(start.raw, type=dict[str, Raw])
            block["input"] = build_arguments_object(text)
        else:
            raise InternalError("The writer ended a block that it did not start.")
        return Raw(_encode(block))
