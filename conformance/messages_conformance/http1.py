"""HTTP/1.1 as the client of one request reads it: each wait has an end, and each size a limit.

A server that does not keep to HTTP raises `BrokenReply` with a sentence about it, because the check has to say what
was wrong. The client of the standard library skips interim replies and trailers without an end.
"""

import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from messages_conformance.texts import shorten

MAX_HEAD_BYTES = 256 * 1024
"""Maximum size of a head with all interim replies before it, and of the trailers of a body."""
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_READS = 100_000
"""Maximum number of pieces in which a reply comes."""
MAX_CHUNKS = 500_000
_READ_BYTES = 65_536
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n]*)?")
_FIELD_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")


class BrokenReply(Exception):
    """What came is no complete reply; the text says what is wrong with it."""


class TimeIsOver(BrokenReply):
    """The reply was still coming at the end of the time for it."""


@dataclass(frozen=True)
class Head:
    status: int
    headers: tuple[tuple[str, str], ...]
    version: int
    """Minor version of HTTP: 0 or 1."""


class Connection:
    """An open connection for one request and its reply."""

    def __init__(self, opened: socket.socket, *, silence: float, seconds: float) -> None:
        """`silence`: maximum time without a byte; `seconds`: maximum time of request and reply."""
        self._socket = opened
        self._silence = silence
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._reads = 0
        self._rest = b""
        """What came behind the head."""

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._set_time_limit()
            try:
                view = view[self._socket.send(view[:_READ_BYTES]) :]
            except TimeoutError:
                raise BrokenReply(f"the server does not read the request within {self._silence:g} seconds") from None

    def read_head(self) -> Head:
        """Return the head of the reply; interim replies before it are skipped."""
        buffer = bytearray()
        begin = 0
        searched = 0
        while True:
            end = _find_head_end(buffer, max(begin, searched - 3))
            if end:
                head = _decode_head(bytes(buffer[begin:end]))
                if head.status >= 200 or head.status == 101:
                    self._rest = bytes(buffer[end:])
                    return head
                begin = searched = end
                continue
            searched = len(buffer)
            if searched > MAX_HEAD_BYTES:
                raise BrokenReply(f"the head of the reply has more than {MAX_HEAD_BYTES:,} bytes")
            data = self._receive()
            if not data:
                place = "in the head of the reply" if buffer else "without a reply"
                raise BrokenReply(f"the connection was closed {place}")
            buffer += data

    def read_body(self, head: Head, method: str) -> Iterator[bytes]:
        """Yield the body in the pieces in which it comes."""
        body = _choose_body(head, method)
        size = 0
        data = self._rest
        while True:
            piece = body.feed(data)
            size += len(piece)
            if piece:
                yield piece
            if body.ended:
                return
            if size > MAX_BODY_BYTES:
                raise BrokenReply(f"the reply has more than {MAX_BODY_BYTES:,} bytes")
            data = self._receive()
            if not data:
                body.finish()
                return

    def _receive(self) -> bytes:
        """Return the next bytes; none: the server has closed the connection."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise BrokenReply(f"the reply came in more than {MAX_READS:,} pieces")
        self._set_time_limit()
        try:
            return self._socket.recv(_READ_BYTES)
        except TimeoutError:
            self._require_time()
            raise BrokenReply(f"no further byte within {self._silence:g} seconds") from None

    def _set_time_limit(self) -> None:
        self._require_time()
        self._socket.settimeout(min(self._silence, self._deadline - time.monotonic()) + 0.001)

    def _require_time(self) -> None:
        if time.monotonic() >= self._deadline:
            raise TimeIsOver(f"the reply does not end within {self._seconds:g} seconds")


def _find_head_end(buffer: bytearray, start: int) -> int:
    """Return the place behind the empty line. 0: it has not come."""
    ends = [place + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if (place := buffer.find(mark, start)) >= 0]
    return min(ends, default=0)


def _decode_head(data: bytes) -> Head:
    first, *lines = [line.removesuffix(b"\r") for line in data.rstrip(b"\r\n").split(b"\n")]
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise BrokenReply(f"the reply begins with {_show(first)} instead of HTTP/1.1 and a status")
    return Head(int(match[2]), tuple(map(_decode_field, lines)), int(match[1]))


def _decode_field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not _FIELD_NAME.fullmatch(name):
        raise BrokenReply(f"the head of the reply has the line {_show(line)}, which is no header")
    text = value.strip(b" \t").decode("utf-8", "replace")
    if "\0" in text or "\r" in text:
        raise BrokenReply(f"the header {name.decode()} of the reply has a zero or a carriage return in its value")
    return name.decode(), text


class _Body(Protocol):
    ended: bool

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body that these bytes of the connection contain."""
        ...

    def finish(self) -> None:
        """Raise `BrokenReply` unless the body may end with the connection."""
        ...


def _choose_body(head: Head, method: str) -> _Body:
    lengths = {text.strip() for text in ",".join(_find_values(head, "content-length")).split(",")} - {""}
    codings = [text.strip().lower() for text in ",".join(_find_values(head, "transfer-encoding")).split(",")]
    codings = [text for text in codings if text]
    if method == "HEAD" or head.status in (101, 204, 304):
        return _SizedBody(0)
    if codings:
        if codings != ["chunked"]:
            raise BrokenReply(f"the transfer-encoding of the reply is {_show_text(', '.join(codings))}, not chunked")
        if lengths:
            raise BrokenReply("the reply has a content-length and a transfer-encoding")
        if head.version == 0:
            raise BrokenReply("a reply of HTTP/1.0 has a transfer-encoding")
        return _ChunkedBody()
    if not lengths:
        return _OpenBody()
    if len(lengths) > 1:
        raise BrokenReply(f"the reply has several lengths: {_show_text(', '.join(sorted(lengths)))}")
    length = lengths.pop()
    if not re.fullmatch("[0-9]{1,18}", length):
        raise BrokenReply(f"the content-length of the reply is {_show_text(length)}")
    return _SizedBody(int(length))


def _find_values(head: Head, name: str) -> Sequence[str]:
    return [value for key, value in head.headers if key.lower() == name]


class _SizedBody:
    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        piece = data[: self._left]  # what follows is ignored: whether it has come yet is a matter of time
        self._left -= len(piece)
        self.ended = not self._left
        return piece

    def finish(self) -> None:
        raise BrokenReply("the connection was closed in the middle of the reply")


class _OpenBody:
    """A body that ends with the connection."""

    ended = False

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> None:
        self.ended = True


class _ChunkedBody:
    def __init__(self) -> None:
        self.ended = False
        self._left = 0
        """Bytes of the current chunk that have not come."""
        self._line = bytearray()
        self._awaits_line_end = False
        """A chunk is complete except for the end of its line."""
        self._trailer_bytes = 0
        self._has_last_chunk = False
        self._chunk_count = 0

    def feed(self, data: bytes) -> bytes:
        pieces = list[bytes]()
        place = 0
        while place < len(data) and not self.ended:
            if self._left:
                pieces.append(piece := data[place : place + self._left])
                place += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\n", place) + 1
            self._line += data[place : end or len(data)]
            if len(self._line) + self._trailer_bytes > MAX_HEAD_BYTES:
                raise BrokenReply(f"a line between the chunks of the reply has more than {MAX_HEAD_BYTES:,} bytes")
            if not end:
                break
            place = end
            self._read_line(bytes(self._line).rstrip(b"\r\n"))
            self._line.clear()
        return b"".join(pieces)

    def finish(self) -> None:
        raise BrokenReply("the connection was closed in the middle of the reply")

    def _read_line(self, line: bytes) -> None:
        if self._has_last_chunk:
            self._trailer_bytes += len(self._line)
            self.ended = not line
            if line:
                _decode_field(line)
        elif self._awaits_line_end:
            if line:
                raise BrokenReply(f"a chunk of the reply is longer than its size: {_show(line)}")
            self._awaits_line_end = False
        else:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise BrokenReply(f"a chunk of the reply has the size {_show(line)}")
            self._left = int(match[1], 16)
            self._chunk_count += 1
            if self._chunk_count > MAX_CHUNKS:
                raise BrokenReply(f"the reply has more than {MAX_CHUNKS:,} chunks")
            self._awaits_line_end = self._left > 0
            self._has_last_chunk = self._left == 0


def _show(data: bytes) -> str:
    return _show_text(data[:200].decode("utf-8", "replace"))


def _show_text(text: str) -> str:
    return repr(shorten(text, 80))
