"""`EventStreamReader`: converts a binary event stream (`application/vnd.amazon.eventstream`) to server-sent events.

A message of the binary stream has a length, headers, a payload and two checksums (CRC-32). The payload of an event is a
JSON object, whose member `bytes` is one event of the Messages API in base64. An exception ends the stream. Source:
docs.aws.amazon.com/transcribe "Event stream encoding"; botocore/eventstream.py, read 2026-11.
"""

import base64
import binascii
import struct
import zlib

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.wires.framing import MAX_FRAME_BYTES
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.errors import UpstreamProtocolError

MEDIA_TYPE = "application/vnd.amazon.eventstream"
_PRELUDE = struct.Struct("!III")
"""Length of the message, length of its headers, and checksum of these eight bytes."""
_CHECKSUM = struct.Struct("!I")
_MIN_BYTES = _PRELUDE.size + _CHECKSUM.size
_VALUE_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Type of a header value → its size. The types 6 (bytes) and 7 (text) begin with their length."""
_ERROR_TYPES = {
    "throttlingException": "rate_limit_error",
    "validationException": "invalid_request_error",
    "accessDeniedException": "permission_error",
    "resourceNotFoundException": "not_found_error",
    "modelTimeoutException": "timeout_error",
    "serviceUnavailableException": "overloaded_error",
}
"""Type of an exception → error type of the Messages API. Others are an `api_error`."""


class _Payload(Struct):
    bytes: str = ""
    message: str = ""


class _Event(Struct):
    type: str = ""


_decode_payload = msgspec.json.Decoder(_Payload).decode
_decode_event = msgspec.json.Decoder(_Event).decode


class EventStreamReader:
    """Holds at most one unfinished message, of at most `MAX_FRAME_BYTES`."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Return the complete events as server-sent events. b"": none yet.

        Raises `UpstreamProtocolError` for a wrong checksum and for a message that is too large.
        """
        held, events = self._held, list[bytes]()
        held += data
        start = 0
        while len(held) - start >= _PRELUDE.size:
            size, header_size, checksum = _PRELUDE.unpack_from(held, start)
            if zlib.crc32(memoryview(held)[start : start + 8]) != checksum:
                raise _invalid("a wrong checksum")
            if size > MAX_FRAME_BYTES or size < _MIN_BYTES + header_size:
                raise _invalid(f"a message of {size:,} bytes")
            if len(held) - start < size:
                break
            message = bytes(memoryview(held)[start : start + size])
            start += size
            if zlib.crc32(message[:-4]) != _CHECKSUM.unpack(message[-4:])[0]:
                raise _invalid("a wrong checksum")
            end_of_headers = _PRELUDE.size + header_size
            events.append(_convert(_read_headers(message[_PRELUDE.size : end_of_headers]), message[end_of_headers:-4]))
        del held[:start]
        return b"".join(events)


def _convert(headers: dict[str, str], payload: bytes) -> bytes:
    kind = headers.get(":message-type", "event")
    try:
        decoded = _decode_payload(payload) if payload else _Payload()
        if kind == "event":
            event = base64.b64decode(decoded.bytes, validate=True)
            name = _decode_event(event).type if event else ""
        else:
            failure = headers.get(":exception-type") or headers.get(":error-code") or ""
            text = decoded.message or headers.get(":error-message") or failure
            name, error_type = "error", _ERROR_TYPES.get(failure, "api_error")
            event = msgspec.json.encode({"type": name, "error": {"type": error_type, "message": text}})
    except (*DECODE_ERRORS, binascii.Error) as error:
        raise _invalid("an event that is not JSON") from error
    if not name:
        return b""  # such as an event without bytes
    return b"event: %b\ndata: %b\n\n" % (name.encode(), b" ".join(event.split(b"\n")))


def _read_headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    position = 0
    try:
        while position < len(data):
            start = position + 1
            position = start + data[position]
            name, kind = data[start:position].decode(), data[position]
            position += 1
            if kind in (6, 7):
                start = position + 2
                position = start + int.from_bytes(data[position:start], "big")
                if kind == 7:
                    headers[name] = data[start:position].decode()
            else:
                position += _VALUE_BYTES[kind]
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise _invalid("invalid headers") from error
    if position != len(data):
        raise _invalid("invalid headers")
    return headers


def _invalid(what: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"The provider sent an event stream with {what}.", retryable=False)
