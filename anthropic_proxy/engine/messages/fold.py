"""Combines the deltas of a reply (its decoded pieces) into one message, for requests without streaming.

The message is built from the stream events of `MessageWriter`, so it is equal with and without streaming.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.events import (
    BlockStart,
    BlockStop,
    CitationDelta,
    Event,
    InputDelta,
    MessageDelta,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolCallStart,
    replace_surrogates,
)
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.messages.tool_arguments import build_arguments_object
from anthropic_proxy.engine.messages.writer import MessageWriter, require_bounded_reply
from anthropic_proxy.errors import InternalError

_encode = msgspec.json.Encoder().encode


def fold(
    deltas: Iterable[Delta], *, message_id: str, model: str, signature: str, estimated_input_tokens: int = 0
) -> MessagesResponse:
    """Return the complete message. `estimated_input_tokens` counts if the provider reports none."""
    writer = MessageWriter(message_id=message_id, model=model, signature=signature)
    writer.start(estimated_input_tokens)
    message = Fold(writer)
    message.feed(deltas)
    return message.finish()


class Fold:
    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer
        self._content: list[Raw] = []
        self._block: _OpenBlock | None = None
        if not writer.started:
            writer.start(writer.estimate)

    def feed(self, deltas: Iterable[Delta]) -> None:
        """Add the deltas of one network read. Raises `UpstreamProtocolError` if the message becomes too large."""
        self._collect(self._writer.feed(deltas))
        require_bounded_reply(self._writer.characters)

    def finish(self) -> MessagesResponse:
        """Return the complete message. Raises `UpstreamProtocolError` if no delta `Stop` ended the reply."""
        events = self._writer.finish()
        self._collect(events)
        for event in events:
            if isinstance(event, MessageDelta):
                usage = event.usage
                if usage.service_tier is msgspec.UNSET:  # which a stream may omit
                    usage = structs.replace(usage, service_tier="standard")
                return MessagesResponse(
                    id=self._writer.message_id,
                    model=self._writer.model,
                    content=self._content,
                    stop_reason=event.stop_reason,
                    stop_sequence=event.stop_sequence,
                    stop_details=event.stop_details,
                    usage=usage,
                )
        raise InternalError("The writer finished a message without a stop reason.")

    def _collect(self, events: Iterable[Event]) -> None:
        for event in events:
            if self._block is None:
                if isinstance(event, TextStart | ThinkingStart | ToolCallStart | BlockStart):
                    self._block = _OpenBlock(event)
            elif type(event) is BlockStop:
                self._content.append(self._block.build())
                self._block = None
            else:
                self._block.feed(event)


class _OpenBlock:
    def __init__(self, start: TextStart | ThinkingStart | ToolCallStart | BlockStart) -> None:
        self._start = start
        self._fragments: list[str] = []
        self._citations: list[Raw] = []
        self._signature = ""

    def feed(self, event: Event) -> None:
        if type(event) is TextDelta or type(event) is ThinkingDelta:
            self._fragments.append(event.text)
        elif type(event) is InputDelta:
            self._fragments.append(event.json)
        elif isinstance(event, CitationDelta):
            self._citations.append(event.raw)
        elif isinstance(event, SignatureDelta):
            self._signature = event.signature

    def build(self) -> Raw:
        start = self._start
        block: dict[str, Any]
        if isinstance(start, BlockStart):
            if not self._fragments:
                return start.raw
            block = msgspec.json.decode(start.raw, type=dict[str, Raw])
            block["input"] = build_arguments_object(self._text())
        elif isinstance(start, TextStart):
            block = {"type": "text", "text": self._text()}
            if self._citations:
                block["citations"] = self._citations
        elif isinstance(start, ThinkingStart):
            block = {"type": "thinking", "thinking": self._text(), "signature": self._signature}
        else:
            block = {"type": "tool_use", "id": replace_surrogates(start.id), "name": replace_surrogates(start.name)}
            block["input"] = build_arguments_object(self._text())
        return Raw(_encode(block))

    def _text(self) -> str:
        text = "".join(self._fragments)
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            # fragment by fragment, as in the stream, so that both kinds of responses have the same text
            return "".join(map(replace_surrogates, self._fragments))
        return text
