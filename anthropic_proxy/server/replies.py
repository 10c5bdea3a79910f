"""Events and errors as bytes: SSE templates, Anthropic's error envelope, response headers.

Keys stand in the order in which Anthropic sends them. JSON takes one line, as a frame's data must.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.messages.events import (
    BlockStart,
    BlockStop,
    CallStart,
    CitationDelta,
    Event,
    Failure,
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
    mend,
)
from anthropic_proxy.messages.notes import Report
from anthropic_proxy.messages.types import MessagesResponse

RETRY_AFTER_SECONDS = 3600
"""The longest wait that a client is asked to keep; a client gives up at once long before that."""

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
_FAILURE = b"event: error\ndata: %b\n\n"


def encode_events(events: Iterable[Event], request_id: str = "") -> bytes:
    """Return events as SSE frames, ready to be sent in one piece.

    `request_id` is said in an `error` event; no other needs it.
    """
    try:
        return _encode_frames(events, request_id)
    except UnicodeEncodeError:
        return _encode_frames([_mend_event(event) for event in events], request_id)


def _encode_frames(events: Iterable[Event], request_id: str) -> bytes:
    frames = []
    for event in events:
        kind = type(event)
        if kind is TextDelta:  # nearly all of them are
            frames.append(_TEXT_DELTA % (event.index, _encode(event.text)))  # type: ignore[union-attr]
        elif kind is Failure:
            frames.append(_FAILURE % encode_error(event.error, request_id))  # type: ignore[union-attr]
        else:
            frames.append(_ENCODERS[kind](event))
    return b"".join(frames)


def encode_message(message: MessagesResponse) -> bytes:
    """Return a whole reply as the body of an answer that is not streamed."""
    return _encode(message)


def encode_error(error: ProxyError, request_id: str) -> bytes:
    """Return Anthropic's error envelope: the body of a refusal, and the data of an `error` event."""
    described: dict[str, Any] = {"type": error.kind, "message": mend(error.message)}
    if error.details is not None:
        described["details"] = error.details
    envelope: dict[str, Any] = {"type": "error", "error": described}
    if request_id:
        envelope["request_id"] = request_id
    return _encode(envelope)


def error_headers(error: ProxyError, request_id: str) -> dict[str, str]:
    """Return the headers of a refusal; `retry-after` is in whole seconds, rounded up, at least 1."""
    headers = json_headers(request_id)
    if error.retry_after is not None:
        headers["retry-after"] = str(min(max(math.ceil(error.retry_after), 1), RETRY_AFTER_SECONDS))
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    return headers


def json_headers(request_id: str) -> dict[str, str]:
    """Return the headers of an answer that is one JSON object."""
    return {"content-type": "application/json", "request-id": request_id}


def stream_headers(request_id: str) -> dict[str, str]:
    """Return the headers of a stream; nothing between here and the client may hold it back or keep it."""
    return {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "request-id": request_id,
    }


def report_headers(report: Report | None, tried: Sequence[str]) -> dict[str, str]:
    """Return the headers that tell what became of a request, and what was tried before its answer came.

    `x-proxy-fidelity: best-effort; approximated=2; emulated=1; dropped=0`, `x-proxy-tried: openai 503, groq 429`.
    None: the answer is no reply, so that there is nothing to report.
    """
    headers = {} if report is None else {"x-proxy-fidelity": report.describe()}
    if tried:
        headers["x-proxy-tried"] = ", ".join(tried)
    return headers


def _flatten(raw: Raw) -> bytes:
    # In valid JSON a line end stands between tokens only, so a space may take its place.
    return bytes(raw).replace(b"\n", b" ").replace(b"\r", b" ")


def _mend_event(event: Event) -> Event:
    mended = {
        name: mend(value)
        for name in event.__struct_fields__
        if isinstance(value := getattr(event, name), str) and not value.isascii()
    }
    return msgspec.structs.replace(event, **mended) if mended else event


def _encode_start(event: MessageStart) -> bytes:
    return _MESSAGE_START % _encode(event.message)


def _encode_message_delta(event: MessageDelta) -> bytes:
    ending: dict[str, Any] = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
    if event.stop_details is not None:
        ending["stop_details"] = event.stop_details
    return _MESSAGE_DELTA % (_encode(ending), _encode(event.usage))


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    MessageStart: _encode_start,
    Ping: lambda _: _PING,
    TextStart: lambda event: _TEXT_START % event.index,
    ThinkingStart: lambda event: _THINKING_START % event.index,
    CallStart: lambda event: _CALL_START % (event.index, _encode(event.id), _encode(event.name)),
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
