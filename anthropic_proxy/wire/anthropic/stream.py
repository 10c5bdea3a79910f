"""`RelayInspector`: reads usage, stop reason and errors from responses that a relay forwards to the client.

`select_frames_to_inspect` selects the few SSE events that contain these values, because all others need no decoding.
`decode_frame` then reads one event, and `decode_body` reads a complete message. Four functions edit or split the
forwarded bytes: `replace_reply_model`, `remove_message_start`, `remove_events_after_end` and `split_after_message_end`.
For an error response, `decode_error` returns the error for the client. An adaptation is a named change of the dialect,
the description of the server, so that the next request avoids an error. `find_adaptation` chooses it, and
`apply_adaptation` returns the changed dialect.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.errors import InvalidRequest, UpstreamError, UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.messages.models.block_structs import ABSENT
from anthropic_proxy.wire.anthropic import json_spans
from anthropic_proxy.wire.anthropic.dialect import Dialect
from anthropic_proxy.wire.anthropic.json_spans import Edit
from anthropic_proxy.wire.anthropic.request import has_system_messages, list_signature_digests
from anthropic_proxy.wire.contract import Adaptation, Call, Decoder
from anthropic_proxy.wire.failures import build_upstream_error, decode_error_body, redact_key_patterns
from anthropic_proxy.wire.json_repair import DECODE_ERRORS, decode_repaired, parse_token_count, repair_json

_DONE = b"[DONE]"
"""Data of the last event of servers that also have the API Chat Completions. Clients skip it: it has no name."""
_OF_MESSAGE, _OF_FAILURE = b"message_", b'"error"'
"""Byte strings of the SSE events to decode. Each event with usage, an end or an error contains one of them. The first
has no quotes, because some servers name an event only in its `event:` line."""
_EVENT_END = b"\n\n"
_END, _OF_BLOCK = b"message_stop", b"content_block_"
_FRAMES = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_EVENT = re.compile(rb"^(?:event:|data: ?\{)", re.MULTILINE)
_BORDER = re.compile(rb"\r?\n\r?\n")
_DATA = re.compile(rb"^data: ?(\{.*\})", re.MULTILINE)
_SIGNATURE_REFUSED = re.compile(r"^(?=.*\bsignature\b)(?=.*\bthinking\b)", re.IGNORECASE | re.MULTILINE)
_ROLE_REFUSED = re.compile(
    r"['\"`]?user['\"`]?\s*(?:or|,|\||and)\s*['\"`]?assistant\b"
    r"|\brole\b.{0,80}\bsystem\b|\bsystem\b.{0,80}\brole\b",
    re.IGNORECASE | re.DOTALL,
)
"""Pattern of error messages about the role of a message: Ollama "unknown variant 'system', expected 'user' or
'assistant'", vLLM and mlx-vlm "Input should be 'user' or 'assistant'", LM Studio "Expected 'user' | 'assistant'",
Anthropic 'Unexpected role "system"'. Sources: ollama issue 16372, vllm issue 44000, lmstudio-bug-tracker issue 2204."""
_DROP_THINKING, _REMIND = "drop thinking", "role user"


def select_frames_to_inspect(frames: bytes) -> bytes:
    """Return those of the SSE events in `frames` that may contain usage, a stop reason or an error. b"": none."""
    if not (_OF_MESSAGE in frames or _OF_FAILURE in frames):
        return b""
    # If the server ends lines with CRLF, the events are not separated, and all or none are returned.
    parts = frames.split(_EVENT_END)
    return _EVENT_END.join([part for part in parts if _OF_MESSAGE in part or _OF_FAILURE in part])


def split_after_message_end(frames: bytes) -> tuple[bytes, bytes]:
    """Split SSE bytes after the event `message_stop`. Without that event the second value is b""."""
    at = frames.find(_END)
    while at >= 0 and (border := _BORDER.search(frames, at)):
        start = max(frames.rfind(b"\n\n", 0, at), frames.rfind(b"\n\r\n", 0, at), 0)
        if frames.find(_OF_BLOCK, start, border.start()) < 0:
            return frames[: border.end()], frames[border.end() :]
        at = frames.find(_END, border.end())
    return frames, b""


def remove_events_after_end(trailing_bytes: bytes) -> bytes:
    """Return `trailing_bytes`, the bytes after the event `message_stop`, without SSE events such as pings.

    Clients expect no event there. Blank lines and comments remain.
    """
    if not trailing_bytes.strip():
        return trailing_bytes
    return b"".join(part for part in _FRAMES.split(trailing_bytes) if not _EVENT.search(part))


def replace_reply_model(reply: bytes, model: str) -> bytes:
    """Return a message body, or the start of a stream, with `model` as its model name.

    Invalid JSON is returned unchanged.
    """
    at, end = 0, len(reply)
    if not reply.lstrip().startswith(b"{"):
        frame_start, frame_end = _find_start(reply)
        data = _DATA.search(reply, frame_start, frame_end)
        if data is None:
            return reply
        at, end = data.span(1)
    try:
        return json_spans.apply_edits(reply, _rename(reply, at, end, model))
    except (*DECODE_ERRORS, json_spans.RepeatedKeyError, InvalidRequest):
        return reply  # not ours to judge


def remove_message_start(reply: bytes) -> bytes:
    """Return the start of a stream without the event `message_start`, which the client has already received."""
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


def decode_error(
    call: Call[Dialect], status: int, headers: Mapping[str, str], body: bytes
) -> UpstreamError | list[Delta]:
    """Return the error for the client after an upstream response with a status other than 2xx.

    If the server has Anthropic's error format, the client receives the server's status and body, with API keys
    redacted.
    """
    error = build_upstream_error(
        decode_error_body(status, headers, body),
        call.provider,
        context_window=call.effective_max_input_tokens,
        estimate_input=call.estimate_input_tokens,
    )
    if headers.get("x-should-retry") == "false":
        error.retryable = False
    if call.dialect.has_anthropic_errors:
        error.status = status
        if status == 429 and error.cause is not None:
            error.should_retry = None  # the provider itself states when to retry
        if _is_object(body):
            error.body = redact_key_patterns(body.decode(errors="replace")).encode()
    return error


def _is_object(body: bytes) -> bool:
    try:
        decode_members(body)
    except DECODE_ERRORS:
        return False
    return True


def _is_decodable(frame: bytes) -> bool:
    """Return True if clients can decode an SSE event. They accept more than `msgspec`, for example lone surrogates."""
    try:
        json.loads(frame.decode())
    except (ValueError, RecursionError):
        return False
    return True


def find_adaptation(call: Call[Dialect], error: UpstreamError) -> Adaptation | None:
    """Return the adaptation that avoids a rejected thinking signature or `system` message. None: no change applies."""
    if error.status == 400 and call.dialect.sends_past_thinking and _SIGNATURE_REFUSED.search(error.message):
        return Adaptation(_DROP_THINKING, persistent=False, refused_signatures=list_signature_digests(call))
    refuses_role = error.status in (400, 422) and _ROLE_REFUSED.search(error.message) is not None
    if refuses_role and call.dialect.accepts_system_messages and has_system_messages(call.client_body):
        return Adaptation(_REMIND)
    return None


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect changed by the adaptation `name`. An unknown name returns the dialect unchanged."""
    if name == _REMIND:
        return structs.replace(dialect, accepts_system_messages=False)
    return structs.replace(dialect, sends_past_thinking=False) if name == _DROP_THINKING else dialect


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
_decode_reply = msgspec.json.Decoder(_Reply).decode


class RelayInspector(Decoder):
    """Decoder of a forwarded response. It reads usage and stop reason, and raises errors in the response."""

    def __init__(self, call: Call[Dialect]) -> None:
        self._call = call
        self._billed_tier: str | None = None
        """Service tier of the latest event with one, in which fast mode is a tier. None: not reported."""
        self.finished = False

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Return usage and stop reason of one SSE event. Raises `UpstreamError` for an error event.

        Raises `UpstreamProtocolError` for an event that clients cannot decode.
        """
        try:
            frame.isascii() or str(frame, "utf-8")  # the decoder skips unknown fields, whatever their bytes are
            event = _decode_event(frame)
        except DECODE_ERRORS:
            if frame == _DONE:
                return []
            if not _is_decodable(frame):
                provider = self._call.provider
                raise UpstreamProtocolError(f"{provider} sent an event that is not JSON.", provider=provider) from None
            self.finished = self._read_kind(frame).type == "message_stop" or self.finished
            return self._keep_tier(_read_odd(frame, self._billed_tier))
        if event.refuses:
            raise self._refusal(frame)
        if event.type == "message_stop":
            self.finished = True
        return self._keep_tier(list(_read(event.message, event.usage, event.delta, self._billed_tier)))

    def decode_end(self) -> list[Delta]:
        """Check at the end of the response that the event `message_stop` was received. Return an empty list.

        Raises `UpstreamProtocolError` if it was not received.
        """
        if not self.finished:
            provider = self._call.provider
            raise UpstreamProtocolError(f"{provider}: the reply ended before it was complete", provider=provider)
        return []

    def decode_body(self, body: bytes) -> list[Delta]:
        """Return usage and stop reason of a message. Raises `UpstreamError` for an error or invalid JSON."""
        self.finished = True
        reads = _is_object(body)
        if not reads:
            body = repair_json(body)  # passes as it came, and is read along with whole characters
            reads = _is_object(body)
        try:
            reply = _decode_reply(body)
        except DECODE_ERRORS:
            self._read_kind(body)
            if reads:
                return _read_odd(body)
            reply = _Reply()
        if reply.refuses:
            raise self._refusal(body)
        if not reads:
            provider = self._call.provider
            raise UpstreamProtocolError(f"{provider} sent an invalid message.", provider=provider)
        return list(_read(reply, reply.usage, None))

    def flush_pending(self) -> list[Delta]:
        """Return an empty list, because the bytes of the reply were already forwarded."""
        return []

    def _keep_tier(self, deltas: list[Delta]) -> list[Delta]:
        """Store the service tier of an event for later ones, and return the same deltas."""
        for delta in deltas:
            if isinstance(delta, Usage) and delta.billed_tier is not None:
                self._billed_tier = delta.billed_tier
        return deltas

    def _read_kind(self, frame: bytes) -> _Kind:
        """Return type and error of an SSE event or body with unexpected values. Raises `UpstreamError` for an error."""
        try:
            kind = _decode_kind(frame)
        except DECODE_ERRORS:
            return _Kind()
        if kind.refuses:
            raise self._refusal(frame)
        return kind

    def _refusal(self, frame: bytes) -> UpstreamError:
        self.finished = True
        error = build_upstream_error(
            decode_error_body(None, {}, frame),
            self._call.provider,
            context_window=self._call.effective_max_input_tokens,
        )
        if self._call.dialect.has_anthropic_errors:
            error.body = redact_key_patterns(frame.decode(errors="replace")).encode()
        return error


def _read(
    message: _Message | _Reply | None, usage: Raw, ending: _Ending | None, earlier_tier: str | None = None
) -> Iterator[Delta]:
    if counts := decode_usage(usage, earlier_tier) or (message and decode_usage(message.usage)):
        yield counts
    end = ending or message
    if end and end.stop_reason:
        yield Stop(end.stop_reason, end.stop_sequence)


def _read_odd(frame: bytes, earlier_tier: str | None = None) -> list[Delta]:
    """Decode usage and stop reason of an event with values of unexpected types. Such values are ignored."""
    whole = read_members(Raw(frame)) or {}
    message = read_members(whole.get("message")) or {}
    ending = read_members(whole.get("delta")) or message or whole
    reason, sequence = read_string_member(ending, "stop_reason"), read_string_member(ending, "stop_sequence")
    usage = whole.get("usage", message.get("usage", ABSENT))
    return list(_read(None, usage, _Ending(reason, sequence), earlier_tier))


_FAST = "fast"
"""Value of `speed` with prices of its own, "Fast mode" in Anthropic's price list (2026-11)."""
_STANDARD = "standard"
"""Value of `service_tier` for the normal prices."""


class _OutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None


class _ServerTools(Struct, gc=False):
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None


class _CacheCreation(Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _CountedUsage(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None


_decode_usage = msgspec.json.Decoder(_CountedUsage | None).decode
decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
"""Function that decodes a JSON object to a dictionary: key → JSON text of the value."""


def decode_usage(usage: Raw, earlier_tier: str | None = None) -> Usage | None:
    """Return the token counts of a `usage` object. None: `usage` is missing or null.

    `earlier_tier` is the `billed_tier` of earlier events of the same reply. The tier `fast` remains until an event has
    another `speed`. The billed tier is then the `service_tier` of this event, or `standard` if it has none.
    """
    counts = _count(usage)
    if counts is None:
        return None
    written, details, server_tools = counts.cache_creation, counts.output_tokens_details, counts.server_tool_use
    return Usage(
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        cache_read_tokens=counts.cache_read_input_tokens,
        cache_write_tokens=counts.cache_creation_input_tokens,
        cache_write_1h_tokens=written.ephemeral_1h_input_tokens if written else None,
        thinking_tokens=details.thinking_tokens if details else None,
        web_search_requests=server_tools.web_search_requests if server_tools else None,
        web_fetch_requests=server_tools.web_fetch_requests if server_tools else None,
        service_tier=counts.service_tier,
        billed_searches=server_tools.web_search_requests if server_tools else None,
        billed_tier=_find_billed_tier(counts, earlier_tier),
    )


def _find_billed_tier(counts: _CountedUsage, earlier_tier: str | None) -> str | None:
    """Return the tier by which the call is billed. None: not reported, so the tier of earlier events applies."""
    if (counts.speed or earlier_tier) == _FAST:
        return _FAST
    return counts.service_tier or (_STANDARD if earlier_tier == _FAST else None)


def read_members(text: Raw | None) -> Mapping[str, Raw] | None:
    """Return the members of a JSON object: key → JSON text. None: `text` is missing, or no object."""
    try:
        return None if text is None else decode_members(text)
    except DECODE_ERRORS:
        return None


def read_string_member(members: Mapping[str, Raw], name: str) -> str | None:
    """Return the string value of a member. None: the member is missing, or not a string."""
    text = decode_repaired(members[name]) if name in members else None
    return text if isinstance(text, str) else None


def _count(usage: Raw) -> _CountedUsage | None:
    """Return the token counts of a `usage` object, decoded in one step. None: `usage` is missing or null."""
    try:
        return _decode_usage(usage) if memoryview(usage).nbytes else None
    except DECODE_ERRORS:
        return _count_loosely(usage)


def _count_loosely(usage: Raw) -> _CountedUsage | None:
    """Return the token counts of a `usage` object, each decoded separately. Values of unexpected types are ignored."""
    members = read_members(usage)
    if members is None:
        return None
    written = read_members(members.get("cache_creation")) or {}
    details = read_members(members.get("output_tokens_details")) or {}
    tools = read_members(members.get("server_tool_use")) or {}
    return _CountedUsage(
        input_tokens=_read_number(members, "input_tokens"),
        output_tokens=_read_number(members, "output_tokens"),
        cache_read_input_tokens=_read_number(members, "cache_read_input_tokens"),
        cache_creation_input_tokens=_read_number(members, "cache_creation_input_tokens"),
        cache_creation=_CacheCreation(_read_number(written, "ephemeral_1h_input_tokens")),
        output_tokens_details=_OutputDetails(_read_number(details, "thinking_tokens")),
        server_tool_use=_ServerTools(
            _read_number(tools, "web_search_requests"), _read_number(tools, "web_fetch_requests")
        ),
        service_tier=read_string_member(members, "service_tier"),
        speed=read_string_member(members, "speed"),
    )


def _read_number(members: Mapping[str, Raw], name: str) -> int | None:
    return parse_token_count(decode_repaired(members[name])) if name in members else None
