"""Bytes of a reply on their way to the client, and what the proxy reads from them.

The relay forwards a reply as it came, so that nothing of it is lost. Four functions edit or split the forwarded bytes.
Beside them, `RelayInspector` reads usage, stop reason and errors. Most events contain none of these, and
`select_frames_to_inspect` finds the others by a search for bytes, without decoding. Clients accept more than `msgspec`
does. So an event with values of unexpected types is no error: the values are read one by one, and odd ones ignored.

`EventStreamReader` converts the binary event stream of AWS to server-sent events. A message of it has a length,
headers, a payload and two checksums (CRC-32). The payload of an event is a JSON object, whose member `bytes` is one
event of the Messages API in base64. An exception ends the stream. Source: docs.aws.amazon.com/transcribe "Event stream
encoding"; botocore/eventstream.py, read 2026-11.
"""

import base64
import binascii
import json
import re
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.deltas import Delta, Iteration, Stop, Usage, clamp_count
from anthropic_proxy.engine.messages.models import ABSENT
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.contract import Decoder
from anthropic_proxy.engine.wires.failures import (
    KnownTokenCounts,
    UpstreamFault,
    build_upstream_error,
    decode_error_body,
    find_bare_error,
    read_error_field,
    read_own_words,
)
from anthropic_proxy.engine.wires.framing import MAX_FRAME_BYTES
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_repaired, parse_token_count, repair_json
from anthropic_proxy.engine.wires.stated_costs import StatedCost
from anthropic_proxy.errors import InvalidRequest, UpstreamError, UpstreamProtocolError
from anthropic_proxy.secrets import redact_key_patterns

EVENT_STREAM_TYPE = "application/vnd.amazon.eventstream"
_PRELUDE = struct.Struct("!III")
"""Length of the message, length of its headers, and checksum of these eight bytes."""
_CHECKSUM = struct.Struct("!I")
_MIN_BYTES = _PRELUDE.size + _CHECKSUM.size
_VALUE_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Type of a header value → its size. The types 6 (bytes) and 7 (text) begin with their length."""
_EVENT_NAME = compile_anchored(r"[\w.-]+", re.ASCII)
_WITHOUT_LINES = bytes.maketrans(b"\r\n", b"  ")


class _Payload(Struct):
    bytes: str = ""


class _AwsEvent(Struct):
    type: str = ""


_decode_payload = msgspec.json.Decoder(_Payload).decode
_decode_aws_event = msgspec.json.Decoder(_AwsEvent).decode


class EventStreamReader:
    """Holds at most one unfinished message, of at most `MAX_FRAME_BYTES`."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Return the complete events as server-sent events. b"": none yet.

        Raises `UpstreamProtocolError` for a wrong checksum and for a message that is too large.
        """
        held = self._held
        events = list[bytes]()
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
        if kind == "event":
            decoded = _decode_payload(payload) if payload else _Payload()
            event = base64.b64decode(decoded.bytes, validate=True)
            name = _decode_aws_event(event).type if event else ""
        else:
            failure = headers.get(":exception-type") or headers.get(":error-code") or ""
            text = decode_error_body(None, {}, payload).message or headers.get(":error-message") or failure
            name = "error"
            fault = UpstreamFault(
                codes=frozenset((failure[:1].upper() + failure[1:],))
            )  # the text may quote the client
            error_type = build_upstream_error(fault, "").error_type
            event = msgspec.json.encode({"type": name, "error": {"type": error_type, "message": text}})
    except (*DECODE_ERRORS, binascii.Error) as error:
        raise _invalid("an event that is not JSON") from error
    if not name:
        return b""  # such as an event without bytes
    if not _EVENT_NAME.fullmatch(name):
        raise _invalid("an event with an invalid name")
    return b"event: %b\ndata: %b\n\n" % (name.encode(), event.translate(_WITHOUT_LINES))


def _read_headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    position = 0
    try:
        while position < len(data):
            start = position + 1
            position = start + data[position]
            name = data[start:position].decode()
            kind = data[position]
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


_DONE = b"[DONE]"
"""Data of the last event of servers that also have the API Chat Completions. Clients skip it: it has no name."""
_OF_MESSAGE, _OF_FAILURE = b"message_", b"error"
"""Byte strings of the SSE events to decode. Each event with usage, an end or an error contains one of them. The first
has no quotes, because some servers name an event only in its `event:` line."""
_FAILURES = (b'"error"', b"'error'", b"error\n", b"error\r")
"""Byte strings of an error: a member or a type, also as Python prints it, or the name of the event, which has an end of
line that JSON has not."""
_EVENT_END = b"\n\n"
_END, _OF_BLOCK = b"message_stop", b"content_block_"
_FRAMES = compile_later(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_EVENT = compile_later(rb"^(?:event:|data: ?\{)", re.MULTILINE)
_BORDER = compile_later(rb"\r?\n\r?\n")
_DATA = compile_later(rb"^data: ?(\{.*\})", re.MULTILINE)


def select_frames_to_inspect(frames: bytes) -> bytes:
    """Return the SSE events in `frames` that may contain usage, a stop reason or an error. b"": none."""
    if not (_OF_MESSAGE in frames or _OF_FAILURE in frames):
        return b""
    # If the server ends lines with CRLF, the events are not separated, and all or none are returned.
    parts = frames.split(_EVENT_END)
    return _EVENT_END.join(
        [
            part
            for part in parts
            if _OF_MESSAGE in part or (_OF_FAILURE in part and any(map(part.__contains__, _FAILURES)))
        ]
    )


def split_after_message_end(frames: bytes) -> tuple[bytes, bytes]:
    """Split forwarded SSE bytes after the event `message_stop`. Without that event the second value is b""."""
    at = frames.find(_END)
    while at >= 0 and (border := _BORDER.search(frames, at)):
        start = max(frames.rfind(b"\n\n", 0, at), frames.rfind(b"\n\r\n", 0, at), 0)
        if frames.find(_OF_BLOCK, start, border.start()) < 0:
            return frames[: border.end()], frames[border.end() :]
        at = frames.find(_END, border.end())
    return frames, b""


def remove_events_after_end(trailing_bytes: bytes) -> bytes:
    """Return the bytes after the event `message_stop` without SSE events such as pings, which clients do not expect
    there. Blank lines and comments remain.
    """
    if not trailing_bytes.strip():
        return trailing_bytes
    return b"".join(part for part in _FRAMES.split(trailing_bytes) if not _EVENT.search(part))


def replace_reply_model(reply: bytes, model: str) -> bytes:
    """Return a message body, or the start of a stream, with its `model` replaced by the given name."""
    at = 0
    end = len(reply)
    if not reply.lstrip().startswith(b"{"):
        frame_start, frame_end = _find_start(reply)
        data = _DATA.search(reply, frame_start, frame_end)
        if data is None:
            return reply
        at, end = data.span(1)
    with suppress(InvalidRequest):  # what is no JSON is not ours to judge
        renamed = json_spans.edit(reply[at:end], lambda text: _rename(text, 0, len(text), model))
        return reply[:at] + renamed + reply[end:]
    return reply


def remove_message_start(reply: bytes) -> bytes:
    """Return the start of a stream without `message_start`, which the client already received."""
    start, end = _find_start(reply)
    return reply[:start] + reply[end:]


def _find_start(reply: bytes) -> tuple[int, int]:
    """Return start and end of the SSE event `message_start` in the bytes of a reply. (0, 0): the event is missing."""
    start = 0
    for border in _BORDER.finditer(reply):
        if reply.find(b'"message_start"', start, border.start()) >= 0:
            return start, border.end()
        start = border.end()
    return 0, 0


def _rename(text: bytes, at: int, end: int, model: str) -> list[Edit]:
    edits: list[Edit] = []
    for member in json_spans.find_members(text, at, end):
        if member.key == "model":
            edits.append(Edit(member.value, member.end, msgspec.json.encode(model)))
        elif member.key == "message" and text[member.value] == ord("{"):
            edits += _rename(text, member.value, member.end, model)
    return edits


class _Ending(Struct, gc=False):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Message(_Ending, gc=False):
    usage: Raw = ABSENT
    """Token counts as JSON. They are decoded separately, so that an invalid count does not hide the stop reason."""


class _Kind(Struct, gc=False):
    type: Any = ""
    """Type of the event or body. Any JSON value is accepted, so that an invalid type does not hide the other fields."""
    error: Raw = ABSENT
    """Error object as JSON. Every error contains it, even from servers that omit `type`."""
    content: Raw = ABSENT

    @property
    def is_error(self) -> bool:
        if self.type == "error":
            return True
        return self.error is not ABSENT and self.content == ABSENT and read_error_field(self.error) is not None


class _Reply(_Kind, gc=False):
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Raw = ABSENT


class _Event(_Kind, gc=False):
    message: _Message | None = None
    delta: _Ending | None = None
    usage: Raw = ABSENT


_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_reply = msgspec.json.Decoder(_Reply).decode


class RelayInspector(Decoder):
    """Decoder of a forwarded response. It reads usage and stop reason, and raises errors in the response."""

    def __init__(self, call: RelayCall[Dialect]) -> None:
        self._call = call
        self._has_delta = False
        """True if the reply had an event `message_delta`, without which a client knows no reason of the end."""
        self._billed_tier: str | None = None
        """Service tier of the latest event with one. Fast mode counts as a tier. None: not reported."""
        self.finished = False

    def decode_frame(self, frame: bytes) -> list[Delta]:
        try:
            frame.isascii() or str(frame, "utf-8")  # the decoder skips unknown fields, whatever their bytes are
            event = _decode_event(frame)
        except DECODE_ERRORS:
            if frame == _DONE:
                return []
            try:
                decoded = json.loads(frame.decode())  # accepts as much as clients do, for example lone surrogates
            except (ValueError, RecursionError):
                raise self._read_no_json(frame) from None
            self._raise_stated_error(frame)
            event_type = decoded.get("type") if isinstance(decoded, dict) else None
            return self._follow(event_type, _read_odd(frame, self._billed_tier))
        if event.is_error:
            raise self._build_error(frame)
        return self._follow(event.type, _read(event.message, event.usage, event.delta, self._billed_tier))

    def decode_error_event(self, data: bytes) -> tuple[UpstreamError, bool]:
        """Return the error of an SSE event named `error`, whose `data` may have any form, and True if clients can read
        this form.
        """
        try:
            json.loads(data.decode())
        except (ValueError, RecursionError):
            if data.lstrip().startswith(b"{"):
                return self._read_no_json(data), False
            data = msgspec.json.encode(data.decode(errors="replace"))
        return self._build_error(data), _has_error_form(data)

    def _read_no_json(self, data: bytes) -> UpstreamError:
        fault = find_bare_error(data)
        if fault is None:
            return self._call.build_protocol_error(" sent an event that is not JSON.")
        return self._build_error(data, fault)

    def decode_end(self) -> list[Delta]:
        if not self.finished:
            raise self._call.build_protocol_error(": the reply ended before it was complete", code="incomplete-reply")
        return []

    def decode_body(self, body: bytes) -> list[Delta]:
        self.finished = True
        try:
            reply = _decode_reply(body)
        except DECODE_ERRORS:
            return self._decode_odd_body(body)
        return self._read_reply(reply, body)

    def _decode_odd_body(self, body: bytes) -> list[Delta]:
        if _read_members(body) is None:
            # The client gets the bytes as they came: it may read them, and only the provider knows the character.
            body = repair_json(body)
        try:
            reply = _decode_reply(body)
        except DECODE_ERRORS:
            self._raise_stated_error(body)
            if b'"content"' in body and _read_members(body) is not None:
                return _read_odd(body)
            reply = _Reply()
        return self._read_reply(reply, body)

    def _read_reply(self, reply: _Reply, body: bytes) -> list[Delta]:
        if reply.is_error or (reply.content == ABSENT and find_bare_error(body) is not None):
            raise self._build_error(body)
        if reply.content == ABSENT:
            raise self._call.build_protocol_error(" sent an invalid message.")
        return _read(reply, reply.usage, None)

    def _follow(self, event_type: Any, deltas: list[Delta]) -> list[Delta]:
        """Store what later events need of this one, and return the same deltas. Raises `UpstreamProtocolError` for the
        end of an incomplete message.
        """
        for delta in deltas:
            if isinstance(delta, Usage) and delta.billed_tier is not None:
                self._billed_tier = delta.billed_tier
            elif isinstance(delta, Stop):
                self._has_delta = True
        if event_type == "message_delta":
            self._has_delta = True
        elif event_type == "message_stop":
            if not self._has_delta:
                self.decode_end()
            self.finished = True
        return deltas

    def _raise_stated_error(self, frame: bytes) -> None:
        """For JSON that the other decoders cannot read."""
        try:
            kind = _decode_kind(frame)
        except DECODE_ERRORS:
            return
        if kind.is_error:
            raise self._build_error(frame)

    def _build_error(self, frame: bytes, fault: UpstreamFault | None = None) -> UpstreamError:
        self.finished = True
        known = KnownTokenCounts(self._call.effective_max_input_tokens)
        fault = read_own_words(fault or decode_error_body(None, {}, frame), self._call)
        error = build_upstream_error(fault, self._call.provider_prefix, known)
        if self._call.dialect.has_anthropic_errors:
            keep_error_body(error, frame)
        return error


class _ErrorDetails(Struct):
    type: str
    message: str


class _ErrorBody(Struct):
    type: Literal["error"]
    error: _ErrorDetails


_decode_error_body = msgspec.json.Decoder(_ErrorBody).decode


_MAX_ERROR_BYTES = 64 * 1024
"""Length of an error body that is searched for keys and sent on. Of a longer one, the client receives the message."""


def keep_error_body(error: UpstreamError, body: bytes) -> None:
    """Give the client the provider's own text of an error, unless it is long or that of a gateway with another API."""
    if len(body) <= _MAX_ERROR_BYTES and _has_error_form(body):
        error.body = redact_key_patterns(body.decode(errors="replace")).encode()


def _has_error_form(body: bytes) -> bool:
    try:
        _decode_error_body(body)
    except DECODE_ERRORS:
        return False
    return True


def _read(
    message: _Message | _Reply | None, usage: Raw, ending: _Ending | None, earlier_tier: str | None = None
) -> list[Delta]:
    counts = read_usage(usage, earlier_tier) or (message and read_usage(message.usage))
    found: list[Delta] = [counts] if counts else []
    end = ending or message
    if end and end.stop_reason:
        found.append(Stop(end.stop_reason, end.stop_sequence))
    return found


def _read_odd(frame: bytes, earlier_tier: str | None = None) -> list[Delta]:
    """Decode usage and stop reason of an event with values of unexpected types. Such values are ignored."""
    whole = _read_members(Raw(frame)) or {}
    message = _read_members(whole.get("message")) or {}
    ending = _read_members(whole.get("delta")) or message or whole
    reason, sequence = _read_string(ending, "stop_reason"), _read_string(ending, "stop_sequence")
    usage = whole.get("usage", message.get("usage", ABSENT))
    return _read(None, usage, _Ending(reason, sequence), earlier_tier)


_FAST = "fast"
"""Value of `speed` with prices of its own, "Fast mode" in Anthropic's price list (2026-11)."""
_STANDARD = "standard"


class _OutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None


class _ServerTools(Struct, gc=False):
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None


class _CacheCreation(Struct, gc=False):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _CallCounts(StatedCost, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None


class _CountedUsage(_CallCounts, gc=False):
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    iterations: Raw = ABSENT


class _CountedIteration(_CallCounts, gc=False):
    type: str = ""
    model: str | None = None


_decode_usage = msgspec.json.Decoder(_CountedUsage | None).decode
_decode_iteration = msgspec.json.Decoder(_CountedIteration).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_NESTED_COUNTS = ("cache_creation", "output_tokens_details", "server_tool_use")
_LABELS = ("service_tier", "speed", "inference_geo", "type", "model")
MAX_ITERATIONS, MAX_KINDS_OF_ITERATIONS = 200, 50
"""Number of iterations of a reply that are counted one by one, and of their kinds and models. A further one counts
together with the last of the same kind and model, or with the last of all."""
_MAX_MODEL_CHARACTERS = 200


def read_usage(usage: Raw, earlier_tier: str | None = None) -> Usage | None:
    """Return the token counts of a `usage` object. None: `usage` is missing or null.

    `earlier_tier` is the `billed_tier` of earlier events of the same reply. The tier `fast` remains until an event has
    another `speed`.
    """
    try:
        counts = _decode_usage(usage) if memoryview(usage).nbytes else None
    except DECODE_ERRORS:
        counts = _read_odd_counts(usage, _CountedUsage)
    if counts is None:
        return None
    billed_tier = counts.service_tier
    if (counts.speed or earlier_tier) == _FAST:
        billed_tier = _FAST
    elif earlier_tier == _FAST:
        billed_tier = billed_tier or _STANDARD
    details, server_tools, searches = counts.output_tokens_details, counts.server_tool_use, None
    if server_tools is not None:
        searches = server_tools.web_search_requests
    written, long = counts.cache_creation_input_tokens, None
    if (by_duration := counts.cache_creation) is not None:
        long = by_duration.ephemeral_1h_input_tokens
        written = _complete_writes(written, by_duration)
    return Usage(
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        cache_read_tokens=counts.cache_read_input_tokens,
        cache_write_tokens=written,
        cache_write_1h_tokens=long,
        thinking_tokens=details.thinking_tokens if details else None,
        web_search_requests=searches,
        web_fetch_requests=server_tools.web_fetch_requests if server_tools else None,
        service_tier=counts.service_tier,
        billed_searches=searches,
        billed_tier=billed_tier,
        stated_cost=counts.read_nano_dollars(),
        region=counts.inference_geo,
        iterations=_read_iterations(counts.iterations) if counts.iterations is not ABSENT else None,
    )


def _complete_writes(whole: int | None, by_duration: _CacheCreation) -> int | None:
    """Return the tokens that were written to the cache. Some servers state only those of each duration."""
    short, long = by_duration.ephemeral_5m_input_tokens, by_duration.ephemeral_1h_input_tokens
    return max(whole or 0, clamp_count(short) + clamp_count(long)) if short or long else whole


def _read_iterations(listed: Raw) -> tuple[Iteration, ...] | None:
    """None: there are none, or their list cannot be read."""
    try:
        entries = _decode_list(listed)
    except DECODE_ERRORS:
        return None
    found: list[Iteration] = []
    latest: dict[tuple[str, str], Iteration] = {}
    for entry in entries:
        try:
            counts: _CountedIteration | None = _decode_iteration(entry)
        except DECODE_ERRORS:
            counts = _read_odd_counts(entry, _CountedIteration)
        if counts is None:
            continue
        by_duration, details = counts.cache_creation or _CacheCreation(), counts.output_tokens_details
        one = Iteration(
            input_tokens=clamp_count(counts.input_tokens),
            cache_read_tokens=clamp_count(counts.cache_read_input_tokens),
            cache_write_tokens=clamp_count(_complete_writes(counts.cache_creation_input_tokens, by_duration)),
            cache_write_1h_tokens=clamp_count(by_duration.ephemeral_1h_input_tokens),
            output_tokens=clamp_count(counts.output_tokens),
            thinking_tokens=clamp_count(details.thinking_tokens) if details else 0,
            kind=counts.type[:_MAX_MODEL_CHARACTERS],
            model=(counts.model or "")[:_MAX_MODEL_CHARACTERS],
        )
        before = latest.get((one.kind, one.model))
        if len(found) < MAX_ITERATIONS or (before is None and len(latest) < MAX_KINDS_OF_ITERATIONS):
            found.append(one)
            latest[one.kind, one.model] = one
        else:
            (before or found[-1]).add_call(one)
    return tuple(found) or None


_OddT = TypeVar("_OddT", _CountedUsage, _CountedIteration)


def _read_odd_counts(text: Raw, kind: type[_OddT]) -> _OddT | None:
    """Return token counts, each decoded separately. Values of unexpected types are ignored. None: no object."""
    members = _read_members(text)
    if members is None:
        return None
    names = {field.name for field in structs.fields(kind)}
    kept = {name: members[name] for name in (*StatedCost.__struct_fields__, "iterations") if name in members}
    counts: dict[str, Any] = {}
    for name in members.keys() & names - kept.keys():
        value = decode_repaired(members[name])
        if name in _LABELS:
            counts[name] = value if isinstance(value, str) else None
        elif name in _NESTED_COUNTS:
            inner = value if isinstance(value, dict) else {}
            counts[name] = {key: parse_token_count(one) for key, one in inner.items()}
        else:
            counts[name] = parse_token_count(value)
    if counts.get("type", "") is None:
        del counts["type"]
    return structs.replace(msgspec.convert(counts, kind), **{name: kept[name] for name in kept.keys() & names})


def _read_members(text: Raw | bytes | None) -> Mapping[str, Raw] | None:
    try:
        return None if text is None else _decode_members(text)
    except DECODE_ERRORS:
        return None


def _read_string(members: Mapping[str, Raw], name: str) -> str | None:
    """Return the string value of a member. None: the member is missing, or not a string."""
    text = decode_repaired(members[name]) if name in members else None
    return text if isinstance(text, str) else None
