"""`ForeignLines`: the lines and events of a streamed response that are no part of the reply.

Servers and gateways write an error into a stream that has begun as they write it elsewhere: `error: {…}` (llama.cpp
until 2025-10, ggml-org/llama.cpp issue 16104), a JSON object without `data:` (Lemonade, lemonade-sdk/lemonade issue
2826), a web page, a plain text (read 2026-11). Others mean nothing: `ping`, the size of a chunk, the state of a request
in a queue. Only what says that it is an error is one at once. Any other text is skipped, and becomes the error of a
reply that ends without a stop reason.

The error in a line becomes a frame `{"error": …}`, which all servers send too. So a decoder reads it by the rules of
all errors, and ignores it after the stop reason.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.failures import (
    UpstreamFault,
    begins_as_json,
    decode_error,
    describe_text,
    find_bare_error,
    is_error_stated,
    read_bare_error,
    states_error,
)
from anthropic_proxy.engine.wires.json_repair import decode_repaired

MAX_KEPT_BYTES = 4_096
"""Maximum bytes of the lines that are kept until the end of the stream. An error message is not longer."""
MAX_STATEMENT_BYTES = 65_536
"""Maximum size of an error in JSON. Of a larger one, the beginning is the message."""
MAX_LINES = 2_000
"""Maximum number of lines that are examined: those of one event, and the foreign ones of a response. They take some
20 ms."""
MAX_JOINS = 100
"""Maximum number of times that the kept lines of a response are examined together."""
_FIELDS = (b"", b"data", b"event", b"id", b"retry")
"""Names of the fields of an SSE event. A comment has the name ""."""
_KEEP_ALIVES = (b"ping", b"pong", b"heartbeat", b"keepalive", b"keep-alive", b"keep_alive", b"alive")
"""Names of events, and whole texts, with which a server only keeps the connection open."""
_USUAL_LINE = compile_anchored(rb"(?:data|id|retry|event(?!: *(?i:error|%b)))(?::|\Z)|:|\Z" % b"|".join(_KEEP_ALIVES))
_CUT_NAMES = (name[:length] for name in _FIELDS for length in range(1, len(name)))
_WITHOUT_MEANING = frozenset((b"", b"[DONE]", b"data: [DONE]", b"{", *_CUT_NAMES))
"""Lines that say nothing about a failure, although a reply is incomplete after them: an end mark, or the first bytes of
a line at the end of a stream that was cut."""
_STATEMENT = compile_later(
    rb"^[ \t]*(?:\xef\xbb\xbf)?(?:data: ?)?(?:(?P<field>error)[ \t]*(?::|$)|(?P<json>[\[{])"
    rb"|(?P<page><(?:!doctype|html|head|title|body|center|h1|\?xml|error)\b))",
    re.IGNORECASE | re.MULTILINE,
)
"""Beginning of a line that may state an error."""
_CLOSING = (b"}", b"]", b">")
"""Last characters of an object, a list and a page."""
_BEGINNING = 100
"""Bytes of a frame that show whether it begins as JSON."""
_WITHOUT_TEXT = "the server reported an error without a text"


def has_foreign_line(event: Sequence[bytes]) -> bool:
    """Return True if the lines of an SSE event are not all fields and comments, or name it `error` or a keep-alive."""
    return not all(map(_USUAL_LINE.match, event if len(event) <= MAX_LINES else event[:MAX_LINES]))


def is_end_mark(frame: bytes) -> bool:
    """Return True if a frame that is no JSON is `[DONE]` in another form, such as with a space."""
    return frame.strip(b' \t"').upper() == b"[DONE]"


def is_part_of_reply(frame: bytes) -> bool:
    """Return False if a frame is a text, or a value that has no fields. It may be damaged JSON."""
    begin = frame.lstrip()[:_BEGINNING]
    return begins_as_json(begin.decode(errors="replace")) and begin.rstrip() != b"[]"


class ForeignLines(Struct, eq=False):
    """The foreign lines and events of one response, of which the first `MAX_KEPT_BYTES` are kept."""

    count: int = 0
    """Number of lines and events that stated no error."""
    _joins: int = 0
    _kept: bytes = b""

    @property
    def has_kept(self) -> bool:
        """True if the lines are the error of a reply that ends without a stop reason."""
        return self._kept not in _WITHOUT_MEANING

    def read_event(self, lines: Sequence[bytes], data: Sequence[bytes]) -> list[bytes]:
        """Return the frames of an SSE event for which `has_foreign_line` is true: its `data`, if it has any, and the
        error that it states, in their order.
        """
        foreign: list[bytes] = []
        is_error = is_keep_alive = has_data = follows_data = False
        for line in lines[:MAX_LINES]:
            name, _, value = line.partition(b":")
            if name == b"event":
                event = value.strip().lower()
                is_error, is_keep_alive = event == b"error", event in _KEEP_ALIVES
            elif name == b"data":
                has_data = has_data or bool(value.strip())
            elif name not in _FIELDS and line.strip():
                follows_data = has_data if not foreign else follows_data
                foreign.append(line)
        if is_keep_alive:
            data = []
        if data and follows_data and isinstance(decode_repaired(data[0]), str) and data[0][:1] in (b"{", b"["):
            data, foreign = [b"\n".join((*data, *foreign))], []  # only the first line of a value has the field
        if is_error:
            return [_encode_error(b"\n".join(data or foreign))]
        frames = [*data]
        if foreign and (error := self.read_lines(foreign, are_whole=True)) is not None:
            frames.insert(int(follows_data), error)
        return frames

    def read_lines(self, lines: Sequence[bytes], *, are_whole: bool = False) -> bytes | None:
        """Keep foreign lines. Return a frame with the error that they state. None: they state none.

        `are_whole`: False if the next line may belong to the same error.
        """
        if self.count >= MAX_LINES:
            return None
        text = b"\n".join(lines)
        if text.strip(b' \t"').lower() in _KEEP_ALIVES:
            self.count += 1
            return None
        error = _find_statement(text, are_whole=are_whole)
        is_kept = len(self._kept) < MAX_KEPT_BYTES
        so_far = b"%b\n%b" % (self._kept, text) if is_kept and self._kept else text
        if error is None and is_kept and self._joins < MAX_JOINS and text.rstrip()[-1:] in _CLOSING:
            self._joins += 1
            if _STATEMENT.match(self._kept):
                error = _find_statement(so_far, are_whole=are_whole, are_one=True)  # an object or a page, line by line
        if error is None:
            self.count += len(lines)
            if is_kept:
                self._kept = so_far[:MAX_KEPT_BYTES]
        return error

    def read_frame(self, frame: bytes) -> UpstreamFault | None:
        """Return the error that a frame without a field of a reply states. None: it states none. Its text is kept then,
        if it has one.
        """
        content = decode_error(frame)
        if read_bare_error(content) is None:
            self.count += frame.lstrip()[:1] not in (b"{", b"[")
            return None
        text = content.encode() if isinstance(content, str) else msgspec.json.encode(content)
        error = self.read_lines(text.split(b"\n"), are_whole=True)
        return None if error is None else find_bare_error(error)

    def build_last_frame(self) -> bytes:
        """Return the error of a reply that ends without a stop reason: a frame with the kept lines."""
        error = _find_statement(self._kept, are_whole=True, are_last=True)
        return _encode_reply(self._kept) or _encode_text(self._kept) if error is None else error


def _find_statement(text: bytes, *, are_whole: bool, are_one: bool = False, are_last: bool = False) -> bytes | None:
    """Return a frame with the error that foreign lines state. None: they state none.

    `are_one`: True for the lines of one value. `are_last`: True if no reply follows, so that each text is an error.
    """
    text = text[:MAX_STATEMENT_BYTES]
    is_first = True
    for match in _STATEMENT.finditer(text):
        kind = match.lastgroup
        if kind == "field":
            value = text[match.end() :].lstrip()
            is_open = not are_whole and value[:1] in (b"{", b"[") and isinstance(decode_repaired(value), str)
            return None if is_open else _encode_error(value)
        if kind == "page":
            return _encode_reply(text[match.start("page") :])
        value = text[match.start("json") :]
        if is_first and isinstance(content := decode_repaired(value), dict | list):
            return _encode_statement(content, value, is_last=are_last)  # perhaps of several lines
        if are_one:
            break
        is_first = False
        value = value.partition(b"\n")[0]
        if (error := _encode_statement(decode_repaired(value), value, is_last=are_last)) is not None:
            return error
    return None


def _encode_statement(content: Any, value: bytes, *, is_last: bool) -> bytes | None:
    """Return a frame with the error in a JSON value. None: it has none. `content`: the decoded value."""
    fault = None if isinstance(content, str) else read_bare_error(content)
    if fault is None:
        return _encode_text(value, _list_fields(content)) if _names_error(content) else None
    if fault.is_unreadable_output or states_error(content):
        return value
    return _encode_error(value) if is_last else None


def _names_error(content: Any) -> bool:
    return isinstance(content, dict) and (is_error_stated(content.get("error")) or content.get("type") == "error")


def _list_fields(content: Any) -> Mapping[str, Any]:
    """Return the fields of an error object without a message."""
    if not isinstance(content, dict):
        return {}
    return content["error"] if isinstance(content.get("error"), dict) else content


def _encode_error(value: bytes) -> bytes:
    """Return a frame with an error whose value is JSON or a text. Other lines may follow JSON of one line."""
    value = value.strip().removeprefix(BOM_UTF8)
    for text in (value[:MAX_STATEMENT_BYTES], value.partition(b"\n")[0]):
        content = decode_repaired(text)
        if isinstance(content, dict | list) and content:
            frame = text if isinstance(content, list) or _names_error(content) else b'{"error":%b}' % text
            return frame if find_bare_error(frame) is not None else _encode_text(text, _list_fields(content))
    return _encode_text(value)


def _encode_reply(text: bytes) -> bytes | None:
    """Return a frame with an error whose text, or page, stands in place of a reply. None: the page has no text yet."""
    message, status = describe_text(text[:MAX_KEPT_BYTES].decode(errors="replace"))
    return _encode_text(message.encode(), {"code": status}) if message else None


def _encode_text(text: bytes, fields: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """Return a frame with an error of this text, and with other fields of its object."""
    words = " ".join(text[:MAX_KEPT_BYTES].decode(errors="replace").split())
    message = "".join(filter(str.isprintable, words)) or _WITHOUT_TEXT
    return msgspec.json.encode({"error": {**fields, "message": message}})
