"""Tables over the unions of deltas and events have each member."""

from typing import Any, get_args

import msgspec
import pytest
from msgspec import Raw

from anthropic_proxy.engine.exchange.client_side import encode_events
from anthropic_proxy.engine.messages.deltas import Delta, Stop, ToolCall
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import MessagesResponse, UsageBody
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.errors import InvalidRequest

VALUES: dict[str, Any] = {
    "message": MessagesResponse(
        id="msg_1", model="m", content=[], stop_reason=None, usage=UsageBody(output_tokens_details={})
    ),
    "index": 0,
    "id": "toolu_1",
    "name": "f",
    "key": 1,
    "raw": Raw(b'{"type":"text"}'),
    "text": "a",
    "json": "{}",
    "signature": "s",
    "reason": "end_turn",
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "stop_details": None,
    "usage": UsageBody(output_tokens_details={}),
    "error": InvalidRequest("no", code="request-body"),
}
"""Value of each field of deltas and events that has no default."""


def build(kind: type[Any]) -> Any:
    required = [field.name for field in msgspec.structs.fields(kind) if field.required]
    return kind(**{name: VALUES[name] for name in required})


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_each_event_is_sent_to_a_streaming_client(kind: type[Event]) -> None:
    assert encode_events([build(kind)]).startswith(b"event: ")


@pytest.mark.parametrize("kind", get_args(Delta), ids=lambda kind: kind.__name__)
def test_the_writer_accepts_each_delta_of_a_tool_call_and_beside_it(kind: type[Delta]) -> None:
    writer = MessageWriter(message_id="msg_1", model="m", signature="")
    writer.start(0)
    call = [] if kind is ToolCall else [build(ToolCall)]
    writer.feed([*call, build(kind)])
    assert writer.finish() if kind is Stop else writer.keep_alive() is not None
