"""The Messages API itself: bytes pass as they are and are only read along. The one wire that relays.

Encoding a request anew would lose signatures, citations, the provider's prompt cache and every field invented after us.
So of a body only `model` is replaced, and our own thinking blocks (`px1.…`), which nobody else can read, are cut out.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.wire.carry import PREFIX
from anthropic_proxy.wire.contract import Call, Decoder, UpstreamRequest
from anthropic_proxy.wire.failures import Fault, decode_fault, judge, mask_keys

FRAMING: Literal["sse"] = "sse"
RELAY = True

KEPT_BACK = frozenset(
    (
        *("host", "content-length", "cookie", "accept-encoding", "expect"),
        *("x-api-key", "authorization", "proxy-authorization"),
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
"""Headers of the client that are ours to say, end at this hop, or are secrets meant for us."""
VERSION_HEADER, VERSION = "anthropic-version", "2023-06-01"
"""Required upstream; some clients leave it out (source: the API reference, "Versions", read 2026-11)."""

_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')
_MARK = f'"{PREFIX}'.encode()
_EMPTY = b'{"type":"text","text":"\xe2\x80\xa6"}'
"""Takes the place of a message's content that was only thinking of ours; empty content is refused upstream."""


class Dialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """How a server of the Messages API deviates from Anthropic's own. Nobody's does in a way that matters yet."""

    carry_tag: str = "relay"
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    tool_name_length: int = 128
    streams_always: bool = False


class _Addressed(Struct):
    addressee: str = msgspec.field(name="model")


class _Bearing(Struct):
    content: Raw


class _Conversation(Struct):
    messages: list[Raw]


class _Tagged(Struct):
    type: str = ""
    signature: str = ""
    data: Any = None


def encode_request(call: Call) -> UpstreamRequest:
    """Return the client's own bytes with the target's model and without blocks that only we can read."""
    headers = {name: value for name, value in call.headers.items() if name not in KEPT_BACK}
    headers.setdefault(VERSION_HEADER, VERSION)
    body = without_our_thinking(call.raw) if _MARK in call.raw else call.raw
    query = f"?{call.query}" if call.query else ""
    return UpstreamRequest(path=call.path + query, body=with_model(body, call.model), headers=headers)


def with_model(body: bytes, model: str) -> bytes:
    """Return a request's body with the value of its own `model` replaced, every other byte as it was."""
    try:
        if msgspec.json.decode(body, type=_Addressed).addressee == model:
            return body
        for match in _MODEL.finditer(body):
            renamed = _renamed(body, match, model)
            # a `model` may also stand in a tool's input before the one that counts
            if msgspec.json.decode(renamed, type=_Addressed).addressee == model:
                return renamed
    except (msgspec.DecodeError, RecursionError):
        return body  # the API says what is wrong with it
    return body


def with_reply_model(reply: bytes, model: str) -> bytes:
    """Return a message, or the bytes of a stream from its first event on, as the reply of that model.

    In both, the message's own `model` comes before anything that the model wrote.
    """
    match = _MODEL.search(reply)
    return _renamed(reply, match, model) if match else reply


def _renamed(body: bytes, match: re.Match[bytes], model: str) -> bytes:
    return body[: match.start(1) - 1] + msgspec.json.encode(model) + body[match.end(1) + 1 :]


def without_our_thinking(body: bytes) -> bytes:
    """Return `body` without thinking blocks that carry our own signature; a message left empty says `…`."""
    try:
        messages = msgspec.json.decode(body, type=_Conversation).messages
        for raw in messages:
            if _MARK in (message := bytes(raw)):
                content = bytes(msgspec.json.decode(message, type=_Bearing).content)
                body = body.replace(message, message.replace(content, _without_ours(content), 1), 1)
    except (msgspec.DecodeError, RecursionError):
        return body  # the API says what is wrong with it
    return body


def _without_ours(content: bytes) -> bytes:
    if not content.startswith(b"["):
        return content
    kept = [bytes(raw) for raw in msgspec.json.decode(content, type=list[Raw]) if not _is_ours(raw)]
    return b"[" + b",".join(kept or [_EMPTY]) + b"]"


def _is_ours(raw: Raw) -> bool:
    if _MARK not in bytes(raw):
        return False
    block = msgspec.json.decode(raw, type=_Tagged)
    carried = block.signature if block.type == "thinking" else block.data if block.type == "redacted_thinking" else ""
    return isinstance(carried, str) and carried.startswith(PREFIX)


def new_decoder(call: Call) -> Decoder:
    """Return a fresh reader of one answer."""
    return ReadingAlong(call)


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Read an answer whose status is not 2xx. Its body goes to the client as it is, keys masked."""
    error = judge(decode_fault(status, headers, body), call.provider, window=call.window)
    error.status = status
    error.body = mask_keys(body.decode(errors="replace")).encode()
    return error


class _CountedUsage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    service_tier: str | None = None


class _Ending(Struct):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Message(_Ending):
    usage: _CountedUsage | None = None


class _Event(Struct):
    type: str = ""
    message: _Message | None = None
    delta: _Ending | None = None
    usage: _CountedUsage | None = None


_UNREAD = (b'{"type":"content_block_delta"', b'{"type":"ping"', b'{"type": "content_block_delta"')
"""Beginnings of the frames that say nothing of usage or end: nearly all of a stream, so they are not even decoded."""


class ReadingAlong:
    """Takes usage, end and failure from an answer that passes unchanged; its text is not our concern."""

    signature = ""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.finished = False

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Read one event's data. Raises `UpstreamError` where it is an `error`."""
        if frame.startswith(_UNREAD):
            return []
        try:
            event = msgspec.json.decode(frame, type=_Event)
        except (msgspec.DecodeError, RecursionError):
            return []  # not ours to judge
        if event.type == "error":
            self.finished = True
            raise judge(decode_fault(None, {}, frame), self._call.provider)
        if event.type == "message_stop":
            self.finished = True
        return list(_read(event.message, event.usage, event.delta))

    def decode_end(self) -> list[Delta]:
        """Raises an `UpstreamError` where the stream ended before `message_stop`."""
        if not self.finished:
            provider = self._call.provider
            raise judge(Fault(status=502, message="the reply ended before it was complete"), provider)
        return []

    def decode_body(self, body: bytes) -> list[Delta]:
        """Read a whole message."""
        self.finished = True
        try:
            message = msgspec.json.decode(body, type=_Message)
        except (msgspec.DecodeError, RecursionError):
            return []
        return list(_read(message, message.usage, None))


def _read(message: _Message | None, usage: _CountedUsage | None, ending: _Ending | None) -> Iterator[Delta]:
    said = usage or (message and message.usage)
    if said:
        yield Usage(
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
            cache_read_tokens=said.cache_read_input_tokens,
            cache_write_tokens=said.cache_creation_input_tokens,
            service_tier=said.service_tier,
        )
    end = ending or message
    if end and end.stop_reason:
        yield Stop(end.stop_reason, end.stop_sequence)
