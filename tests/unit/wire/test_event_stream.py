"""The binary event stream of Amazon: converted at any cut, with its checksums, in bounded memory."""

import base64
import itertools
import json
import re
import struct
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.anthropic.stream import EventStreamReader
from anthropic_proxy.engine.wires.framing import MAX_FRAME_BYTES
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.fakes.clouds import encode_chunk, encode_message

EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_1"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "é\u2028\n"}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}},
]
STREAM = b"".join(map(encode_chunk, EVENTS))


def read(*pieces: bytes) -> list[dict[str, Any]]:
    reader = EventStreamReader()
    found = b"".join(map(reader.feed, pieces)).decode()
    events = []
    for frame in filter(None, found.split("\n\n")):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_a_stream_is_the_same_at_any_cut(points: list[int]) -> None:
    cuts = [0, *sorted(points), len(STREAM)]
    assert read(*(STREAM[start:end] for start, end in itertools.pairwise(cuts))) == EVENTS


@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255))
def test_a_changed_byte_is_an_error_or_an_unfinished_message(position: int, change: int) -> None:
    changed = bytearray(STREAM)
    changed[position] ^= change
    reader, found = EventStreamReader(), b""
    with suppress(UpstreamProtocolError):
        found = reader.feed(bytes(changed))
    assert found.count(b"event: ") < len(EVENTS)
    assert EventStreamReader().feed(STREAM).startswith(found)


@pytest.mark.parametrize(
    ("headers", "payload", "error"),
    [
        (
            {":message-type": "exception", ":exception-type": "throttlingException"},
            b'{"message":"Too many requests"}',
            {"type": "rate_limit_error", "message": "Too many requests"},
        ),
        (
            {":message-type": "exception", ":exception-type": "modelStreamErrorException"},
            b'{"message":"The model failed","originalStatusCode":500}',
            {"type": "api_error", "message": "The model failed"},
        ),
        (
            {":message-type": "exception", ":exception-type": "accessDeniedException"},
            b'{"Message":"User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel"}',
            {
                "type": "permission_error",
                "message": "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel",
            },
        ),
        (
            {":message-type": "error", ":error-code": "InternalFailure", ":error-message": "Broken"},
            b"",
            {"type": "api_error", "message": "Broken"},
        ),
    ],
)
def test_an_exception_is_an_error_event(headers: dict[str, str], payload: bytes, error: dict[str, str]) -> None:
    assert read(encode_message(headers, payload)) == [{"type": "error", "error": error}]


@pytest.mark.parametrize(
    ("headers", "payload"),
    [
        ({":message-type": "event", ":event-type": "initial-response"}, b""),
        ({":message-type": "event", ":event-type": "chunk"}, b'{"bytes":""}'),
    ],
)
def test_a_message_without_an_event_is_skipped(headers: dict[str, str], payload: bytes) -> None:
    assert read(encode_message(headers, payload)) == []


@pytest.mark.parametrize("payload", [b'{"bytes":"%"}', b"[]", b"{", b'{"bytes":"bm8ganNvbg=="}', b'{"bytes":1}'])
def test_what_is_no_event_is_an_error(payload: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="an event that is not JSON"):
        EventStreamReader().feed(encode_message({":message-type": "event"}, payload))


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_text_of_the_provider_adds_no_line(end: str) -> None:
    inner = f'{{{end}"type":"ping",{end}"a"{end}:{end}"b"{end}{end}}}'.encode()
    payload = json.dumps({"bytes": base64.b64encode(inner).decode()}).encode()
    found = EventStreamReader().feed(encode_message({":message-type": "event"}, payload))
    name, data, *rest = re.split(rb"\r\n|\r|\n", found)
    assert (name, data[:6], rest) == (b"event: ping", b"data: ", [b"", b""])
    with pytest.raises(UpstreamProtocolError, match="an event with an invalid name"):
        EventStreamReader().feed(encode_chunk({"type": f"ping{end}data: {{}}{end}{end}event: message_stop"}))


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (b"\x01a\x00", "skipped"),
        (b"\x01a\x04\0\0\0\x01", "skipped"),
        (b"\x01a\x06\0\x02xy", "skipped"),
        (b"\x01a\x09" + bytes(16), "skipped"),
        (b"\x01a\x0a", "error"),
        (b"\x05a", "error"),
        (b"\x01a\x07\0", "error"),
    ],
)
def test_headers_of_every_type_are_read(block: bytes, found: str) -> None:
    payload = json.dumps({"bytes": ""}).encode()
    prelude = struct.pack("!II", 16 + len(block) + len(payload), len(block))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + block + payload
    message += struct.pack("!I", zlib.crc32(message))
    if found == "skipped":
        assert EventStreamReader().feed(message) == b""
    else:
        with pytest.raises(UpstreamProtocolError, match="invalid headers"):
            EventStreamReader().feed(message)


@pytest.mark.parametrize(("size", "header_size"), [(MAX_FRAME_BYTES + 1, 0), (15, 0), (40, 30), (0xFFFFFFFF, 0)])
def test_a_message_of_an_impossible_size_is_refused_before_it_is_held(size: int, header_size: int) -> None:
    prelude = struct.pack("!II", size, header_size)
    with pytest.raises(UpstreamProtocolError, match="a message of"):
        EventStreamReader().feed(prelude + struct.pack("!I", zlib.crc32(prelude)))


def test_a_message_may_come_byte_by_byte() -> None:
    event = {"type": "content_block_delta", "delta": {"text": "x" * 100_000}}
    stream = encode_chunk(event)
    assert read(*(stream[place : place + 1] for place in range(len(stream)))) == [event]
