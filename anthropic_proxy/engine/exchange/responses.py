"""Encoding of responses to clients as bytes: SSE frames of events, JSON messages, error bodies, response headers.

A lone surrogate (half of a UTF-16 character) in a text is replaced, because UTF-8 cannot encode it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.hooks import Receipt
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
from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.errors import ProxyError, UpstreamError

MAX_RETRY_AFTER_SECONDS = 3600
"""A longer delay is lowered to this maximum."""

_encode = msgspec.json.Encoder().encode

_START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":'
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'

_MESSAGE_START = b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n'
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_TEXT_START = _START + b'{"type":"text","text":""}}\n\n'
_THINKING_START = _START + b'{"type":"thinking","thinking":"","signature":""}}\n\n'
_CALL_START = _START + b'{"type":"tool_use","id":%b,"name":%b,"input":{}}}\n\n'
_BLOCK_START = _START + b"%b}\n\n"
_TEXT_DELTA = _DELTA + b'{"type":"text_delta","text":%b}}\n\n'
_CITATION_DELTA = _DELTA + b'{"type":"citations_delta","citation":%b}}\n\n'
_THINKING_DELTA = _DELTA + b'{"type":"thinking_delta","thinking":%b}}\n\n'
_SIGNATURE_DELTA = _DELTA + b'{"type":"signature_delta","signature":%b}}\n\n'
_INPUT_DELTA = _DELTA + b'{"type":"input_json_delta","partial_json":%b}}\n\n'
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_MESSAGE_DELTA = b'event: message_delta\ndata: {"type":"message_delta","delta":%b,"usage":%b}\n\n'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_ERROR = b"event: error\ndata: %b\n\n"


def encode_events(events: Sequence[Event], request_id: str = "") -> bytes:
    """Return the SSE frames of events. `request_id` is added to the data of `error` events; "": no id."""
    frames = []
    try:
        for event in events:
            kind = type(event)
            if kind is TextDelta:  # by far the most frequent
                frames.append(_TEXT_DELTA % (event.index, _encode(event.text)))  # type: ignore[union-attr]
            elif kind is ErrorEvent:
                frames.append(_ERROR % encode_error(event.error, request_id))  # type: ignore[union-attr]
            else:
                frames.append(_ENCODERS[kind](event))
    except UnicodeEncodeError:
        replaced = []
        for event in events:
            changes = {
                name: replace_surrogates(value)
                for name in event.__struct_fields__
                if isinstance(value := getattr(event, name), str) and not value.isascii()
            }
            replaced.append(msgspec.structs.replace(event, **changes))
        return encode_events(replaced, request_id)
    return b"".join(frames)


def encode_message(message: MessagesResponse) -> bytes:
    return _encode(message)


def encode_error(error: ProxyError, request_id: str) -> bytes:
    """Return the JSON error body in Anthropic's format, which is also the data of an `error` event in a stream."""
    error_object: dict[str, Any] = {"type": error.error_type, "message": replace_surrogates(error.message)}
    if error.details is not None:
        error_object["details"] = error.details
    envelope: dict[str, Any] = {"type": "error", "error": error_object}
    if request_id:
        envelope["request_id"] = request_id
    return _encode(envelope)


def error_headers(error: ProxyError, request_id: str) -> dict[str, str]:
    headers = json_headers(request_id)
    if error.retry_after is not None:
        headers["retry-after"] = str(min(max(math.ceil(error.retry_after), 1), MAX_RETRY_AFTER_SECONDS))
    # Anthropic's SDK reads `x-should-retry`.
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    return headers


def encode_error_response(error: ProxyError, request_id: str) -> tuple[dict[str, str], bytes]:
    """Return headers and body of the response with an error. A provider's own body and headers are kept."""
    headers, body = error_headers(error, request_id), encode_error(error, request_id)
    if isinstance(error, UpstreamError):
        return {**headers, **error.headers}, error.body or body
    return headers, body


def json_headers(request_id: str) -> dict[str, str]:
    return {"content-type": "application/json", "request-id": request_id}


def stream_headers(request_id: str) -> dict[str, str]:
    return {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "request-id": request_id,
    }


def receipt_headers(report: FidelityReport | None, failed_attempts: Sequence[str], route: str = "") -> dict[str, str]:
    """`x-proxy-fidelity: best-effort; approximated=2; emulated=1; dropped=0`
    `x-proxy-failed-attempts: openai 503, groq 429`
    `x-proxy-route: long context`
    """
    headers = {} if report is None else {"x-proxy-fidelity": report.format_counts()}
    if failed_attempts:
        headers["x-proxy-failed-attempts"] = ", ".join(failed_attempts)
    if route:
        headers["x-proxy-route"] = route
    return headers


def exchange_headers(receipt: Receipt, status: int) -> dict[str, str]:
    """Return the headers that follow from the receipt of an exchange, with the client's limits."""
    report = receipt.fidelity if status == 200 else None
    return {**receipt.limit_headers, **receipt_headers(report, receipt.failed_attempts, receipt.route)}


def _flatten(raw: Raw) -> bytes:
    # Valid JSON has line ends only between tokens, so a space may replace them.
    return bytes(raw).replace(b"\n", b" ").replace(b"\r", b" ")


def _encode_message_delta(event: MessageDelta) -> bytes:
    ending: dict[str, Any] = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
    if event.stop_details is not None:
        ending["stop_details"] = event.stop_details
    return _MESSAGE_DELTA % (_encode(ending), _encode(event.usage))


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    MessageStart: lambda event: _MESSAGE_START % _encode(event.message),
    Ping: lambda _: _PING,
    TextStart: lambda event: _TEXT_START % event.index,
    ThinkingStart: lambda event: _THINKING_START % event.index,
    ToolCallStart: lambda event: _CALL_START % (event.index, _encode(event.id), _encode(event.name)),
    BlockStart: lambda event: _BLOCK_START % (event.index, _flatten(event.raw)),
    TextDelta: lambda event: _TEXT_DELTA % (event.index, _encode(event.text)),
    CitationDelta: lambda event: _CITATION_DELTA % (event.index, _flatten(event.raw)),
    ThinkingDelta: lambda event: _THINKING_DELTA % (event.index, _encode(event.text)),
    SignatureDelta: lambda event: _SIGNATURE_DELTA % (event.index, _encode(event.signature)),
    InputDelta: lambda event: _INPUT_DELTA % (event.index, _encode(event.json)),
    BlockStop: lambda event: _BLOCK_STOP % event.index,
    MessageDelta: _encode_message_delta,
    MessageStop: lambda _: _MESSAGE_STOP,
}
