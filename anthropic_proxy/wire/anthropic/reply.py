"""What is read along in an answer that passes: usage, end, failure; and the one name in it that may differ."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.errors import UpstreamError, UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.messages.types.structs import ABSENT
from anthropic_proxy.wire.anthropic import spans
from anthropic_proxy.wire.anthropic.dialect import Dialect
from anthropic_proxy.wire.anthropic.spans import Edit
from anthropic_proxy.wire.contract import Call, Decoder, Healing
from anthropic_proxy.wire.failures import decode_fault, judge, mask_keys
from anthropic_proxy.wire.mending import UNREADABLE, mend_json

_OF_MESSAGE, _OF_FAILURE = b"message_", b'"error"'
"""Stand in every event that says something of usage, end or failure, and hardly ever in others.

The first has no quotes: some servers name an event only in its `event:` line.
"""
_EVENT_END = b"\n\n"
_BORDER = re.compile(rb"\r?\n\r?\n")
_DATA = re.compile(rb"^data: ?(\{.*\})", re.MULTILINE)
_SIGNATURE_REFUSED = re.compile(r"\bsignature\b.*\bthinking\b|\bthinking\b.*\bsignature\b", re.IGNORECASE)
_DROP_THINKING = "drop thinking"


def find_telling(frames: bytes) -> bytes:
    """Return of whole frames those that may say more than text and tool input; b"": none may.

    Frames with other ends of line are not told apart: all or none of them are returned.
    """
    if not (_OF_MESSAGE in frames or _OF_FAILURE in frames):
        return b""
    parts = frames.split(_EVENT_END)
    return _EVENT_END.join([part for part in parts if _OF_MESSAGE in part or _OF_FAILURE in part])


def with_reply_model(reply: bytes, model: str) -> bytes:
    """Return a message, or the bytes of a stream from its first event on, as the reply of that model."""
    at, end = 0, len(reply)
    if not reply.lstrip().startswith(b"{"):
        frame_start, frame_end = _find_start(reply)
        data = _DATA.search(reply, frame_start, frame_end)
        if data is None:
            return reply
        at, end = data.span(1)
    try:
        return spans.apply(reply, _rename(reply, at, end, model))
    except (msgspec.DecodeError, RecursionError, spans.RepeatedKeyError):
        return reply  # not ours to judge


def without_start(reply: bytes) -> bytes:
    """Return the bytes of a stream from its first event on without `message_start`."""
    start, end = _find_start(reply)
    return reply[:start] + reply[end:]


def _find_start(reply: bytes) -> tuple[int, int]:
    """Return where the frame of `message_start` stands; twice the same where there is none."""
    start = 0
    for border in _BORDER.finditer(reply):
        if reply.find(b'"message_start"', start, border.start()) >= 0:
            return start, border.end()
        start = border.end()
    return 0, 0


def _rename(text: bytes, at: int, end: int, model: str) -> list[Edit]:
    edits: list[Edit] = []
    for member in spans.find_members(text, at, end):
        if member.key == "model":
            edits.append(Edit(member.value, member.end, msgspec.json.encode(model)))
        elif member.key == "message" and text[member.value] == ord("{"):
            edits += _rename(text, member.value, member.end, model)
    return edits


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Read an answer whose status is not 2xx. Anthropic's goes to the client as it is, keys masked."""
    error = judge(decode_fault(status, headers, body), call.provider, window=call.most_input, estimate=call.estimate)
    if headers.get("x-should-retry") == "false":
        error.retryable = False
    if call.dialect.speaks_errors:
        error.status = status
        if _is_object(body):
            error.body = mask_keys(body.decode(errors="replace")).encode()
    return error


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except UNREADABLE:
        return False


def find_healing(call: Call, error: UpstreamError) -> Healing | None:
    """Return how to go on where a signature was refused that another server of this language had made."""
    if error.status == 400 and call.dialect.keeps_thinking and _SIGNATURE_REFUSED.search(error.message):
        return Healing(_DROP_THINKING, lasts=False)
    return None


def heal(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect under which the request is said again; an unknown name changes nothing."""
    return structs.replace(dialect, keeps_thinking=False) if name == _DROP_THINKING else dialect


def new_decoder(call: Call) -> Decoder:
    """Return a fresh reader of one answer."""
    return ReadingAlong(call)


class _OutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None


class _ServerTools(Struct, gc=False):
    web_search_requests: int | None = None


class _CountedUsage(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None


class _Ending(Struct, gc=False):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Message(_Ending, gc=False):
    usage: Raw = ABSENT
    """Read apart: an odd number in it may not hide why the message ended."""


class _Kind(Struct, gc=False):
    type: Any = ""
    """Of any JSON type: an odd one may not hide the rest."""
    error: Raw = ABSENT
    """Present in every refusal, also of servers that leave its `type` out."""
    content: Raw = ABSENT

    @property
    def refuses(self) -> bool:
        return self.type == "error" or (self.error not in (ABSENT, _NULL) and self.content == ABSENT)


class _Reply(_Kind, gc=False):
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Raw = ABSENT


class _Event(_Kind, gc=False):
    message: _Message | None = None
    delta: _Ending | None = None
    usage: Raw = ABSENT


_NULL = Raw(b"null")

_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_usage = msgspec.json.Decoder(_CountedUsage | None).decode
_decode_reply = msgspec.json.Decoder(_Reply).decode


class ReadingAlong:
    """Takes usage, end and failure from an answer that passes unchanged; its text is not our concern."""

    signature = ""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.finished = False

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Read one event's data. Raises `UpstreamError` where it is an `error`."""
        try:
            event = _decode_event(frame)
        except UNREADABLE:
            self._expect_no_refusal(frame)
            return []  # not ours to judge
        if event.refuses:
            raise self._refusal(frame)
        if event.type == "message_stop":
            self.finished = True
        return list(_read(event.message, event.usage, event.delta))

    def decode_end(self) -> list[Delta]:
        """Raises an `UpstreamError` where the stream ended before `message_stop`."""
        if not self.finished:
            provider = self._call.provider
            raise UpstreamProtocolError(f"{provider}: the reply ended before it was complete", provider=provider)
        return []

    def decode_body(self, body: bytes) -> list[Delta]:
        """Read a whole message. Raises `UpstreamError` where it is an error, or no JSON object at all."""
        self.finished = True
        reads = _is_object(body)
        if not reads:
            body = mend_json(body)  # passes as it came, and is read along with whole characters
            reads = _is_object(body)
        try:
            reply = _decode_reply(body)
        except UNREADABLE:
            self._expect_no_refusal(body)
            reply = _Reply()  # of an object all the same: what is odd in it is not ours to judge
        if reply.refuses:
            raise self._refusal(body)
        if not reads:
            provider = self._call.provider
            raise UpstreamProtocolError(f"{provider} sent what is no message.", provider=provider)
        return list(_read(reply, reply.usage, None))

    def _expect_no_refusal(self, said: bytes) -> None:
        try:
            refuses = _decode_kind(said).refuses
        except UNREADABLE:
            return
        if refuses:
            raise self._refusal(said)

    def _refusal(self, said: bytes) -> UpstreamError:
        self.finished = True
        error = judge(decode_fault(None, {}, said), self._call.provider, window=self._call.most_input)
        if self._call.dialect.speaks_errors:
            error.body = mask_keys(said.decode(errors="replace")).encode()
        return error


def _read(message: _Message | _Reply | None, usage: Raw, ending: _Ending | None) -> Iterator[Delta]:
    if said := _count(usage) or (message and _count(message.usage)):
        details, server_tools = said.output_tokens_details, said.server_tool_use
        yield Usage(
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
            cache_read_tokens=said.cache_read_input_tokens,
            cache_write_tokens=said.cache_creation_input_tokens,
            thinking_tokens=details.thinking_tokens if details else None,
            web_search_requests=server_tools.web_search_requests if server_tools else None,
            service_tier=said.service_tier,
        )
    end = ending or message
    if end and end.stop_reason:
        yield Stop(end.stop_reason, end.stop_sequence)


def _count(usage: Raw) -> _CountedUsage | None:
    """Return the totals; None where nobody counted, or not in numbers that tokens have."""
    try:
        return _decode_usage(usage) if memoryview(usage).nbytes else None
    except UNREADABLE:
        return None
