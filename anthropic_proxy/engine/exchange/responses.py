"""Encoding of responses to clients as bytes: SSE frames of events, JSON messages, error bodies, response headers.

A lone surrogate (half of a UTF-16 character) in a text is replaced, because UTF-8 cannot encode it.
"""

import math
from collections.abc import Sequence
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
        for event in events:  # in the order of their frequency
            match event:
                case TextDelta():
                    frames.append(_TEXT_DELTA % (event.index, _encode(event.text)))
                case InputDelta():
                    frames.append(_INPUT_DELTA % (event.index, _encode(event.json)))
                case ThinkingDelta():
                    frames.append(_THINKING_DELTA % (event.index, _encode(event.text)))
                case BlockStop():
                    frames.append(_BLOCK_STOP % event.index)
                case TextStart():
                    frames.append(_TEXT_START % event.index)
                case ToolCallStart():
                    frames.append(_CALL_START % (event.index, _encode(event.id), _encode(event.name)))
                case Ping():
                    frames.append(_PING)
                case MessageStart():
                    frames.append(_MESSAGE_START % _encode(event.message))
                case MessageDelta():
                    ending: dict[str, Any] = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
                    if event.stop_details is not None:
                        ending["stop_details"] = event.stop_details
                    frames.append(_MESSAGE_DELTA % (_encode(ending), _encode(event.usage)))
                case MessageStop():
                    frames.append(_MESSAGE_STOP)
                case ThinkingStart():
                    frames.append(_THINKING_START % event.index)
                case SignatureDelta():
                    frames.append(_SIGNATURE_DELTA % (event.index, _encode(event.signature)))
                case CitationDelta():
                    frames.append(_CITATION_DELTA % (event.index, _flatten(event.raw)))
                case BlockStart():
                    frames.append(_BLOCK_START % (event.index, _flatten(event.raw)))
                case ErrorEvent():
                    frames.append(_ERROR % encode_error(event.error, request_id))
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


def exchange_headers(receipt: Receipt, status: int) -> dict[str, str]:
    """Return the headers that follow from the receipt of an exchange: the client's limits, and for example

    `x-proxy-fidelity: best-effort; approximated=2; emulated=1; dropped=0`
    `x-proxy-failed-attempts: openai 503, groq 429`
    `x-proxy-route: long context`
    """
    headers = {**receipt.limit_headers}
    if status == 200:
        headers["x-proxy-fidelity"] = receipt.fidelity.format_counts()
    if receipt.failed_attempts:
        headers["x-proxy-failed-attempts"] = ", ".join(receipt.failed_attempts)
    if receipt.route:
        headers["x-proxy-route"] = receipt.route
    return headers


def _flatten(raw: Raw) -> bytes:
    # Valid JSON has line ends only between tokens, so a space may replace them.
    return bytes(raw).replace(b"\n", b" ").replace(b"\r", b" ")
