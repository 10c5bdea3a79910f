"""Combines the deltas of a reply (its decoded pieces) into one message, for requests without streaming.

The message is built from the stream events of `MessageWriter`, so it is equal with and without streaming.
"""

from collections.abc import Iterable
from typing import Any, assert_never

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.events import (
    COMPACTION,
    BlockStart,
    BlockStop,
    CitationDelta,
    CompactionDelta,
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

_encode = msgspec.json.Encoder().encode
_COMPACTION = _encode(COMPACTION)
_STARTS = TextStart, ThinkingStart, ToolCallStart, BlockStart
_TEXTS = TextDelta, ThinkingDelta, CompactionDelta
_WITHOUT_CONTENT = BlockStop, MessageStart, Ping, MessageDelta, MessageStop, ErrorEvent
"""Events that add nothing to a block. `finish` reads the last two of a complete reply."""


class _Block(Struct):
    start: TextStart | ThinkingStart | ToolCallStart | BlockStart
    fragments: list[str] = []
    """Of its text, its thinking, or its arguments."""
    citations: list[Raw] = []
    signature: str = ""


class Fold:
    """Builds the message from the events of a writer. Its `message_start` is not needed."""

    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer
        writer.skip_start()
        self._events: list[Event] = []

    def feed(self, deltas: Iterable[Delta]) -> None:
        """Add the deltas of one network read. Raises `UpstreamProtocolError` if the message becomes too large."""
        self._events += self._writer.feed(deltas)
        require_bounded_reply(self._writer.characters)

    def finish(self) -> MessagesResponse:
        """Return the complete message. Raises `UpstreamProtocolError` if no delta `Stop` ended the reply."""
        writer = self._writer
        *events, ending, _ = writer.finish()
        assert isinstance(ending, MessageDelta)
        blocks = _collect_blocks([*self._events, *events])
        usage = ending.usage
        if usage.service_tier is msgspec.UNSET:  # which a stream may omit
            usage = structs.replace(usage, service_tier="standard")
        message = MessagesResponse(
            id=writer.message_id,
            model=writer.model,
            content=[*map(_build_block, blocks)],
            stop_reason=ending.stop_reason,
            stop_sequence=ending.stop_sequence,
            stop_details=ending.stop_details,
            usage=usage,
        )
        if ending.applied_edits is not None:
            message.context_management = {"applied_edits": ending.applied_edits}
        return message


def _collect_blocks(events: Iterable[Event]) -> list[_Block]:
    blocks: list[_Block] = []
    for event in events:
        if isinstance(event, _TEXTS):
            blocks[-1].fragments.append(event.text)
        elif type(event) is InputDelta:
            blocks[-1].fragments.append(event.json)
        elif type(event) is CitationDelta:
            blocks[-1].citations.append(event.raw)
        elif type(event) is SignatureDelta:
            blocks[-1].signature = event.signature
        elif isinstance(event, _STARTS):
            blocks.append(_Block(event))
        elif not isinstance(event, _WITHOUT_CONTENT):
            assert_never(event)
    return blocks


def _build_block(collected: _Block) -> Raw:
    start = collected.start
    text = "".join(collected.fragments)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # fragment by fragment, as in the stream, so that both kinds of responses have the same text
            text = "".join(map(replace_surrogates, collected.fragments))
    block: dict[str, Any]
    if isinstance(start, TextStart):
        block = {"type": "text", "text": text}
        if collected.citations:
            block["citations"] = collected.citations
    elif isinstance(start, ThinkingStart):
        block = {"type": "thinking", "thinking": text, "signature": collected.signature}
    elif isinstance(start, ToolCallStart):
        block = {"type": "tool_use", "id": replace_surrogates(start.id), "name": replace_surrogates(start.name)}
        block["input"] = build_arguments_object(text)
    elif isinstance(start, BlockStart):
        if not collected.fragments:
            return start.raw
        block = msgspec.json.decode(start.raw, type=dict[str, Raw])
        if bytes(block["type"]) == _COMPACTION:
            return Raw(_encode({**block, "content": text}))
        block["input"] = build_arguments_object(text)
    else:
        assert_never(start)
    return Raw(_encode(block))
