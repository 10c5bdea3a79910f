"""Splitting of streamed provider responses into frames. A frame is the data of one SSE event, or one NDJSON line.

Network reads may end at any byte of a frame. Readers return frames for decoders. `EventSplitter` is for relays, which
forward bytes: it returns whole events unchanged.
"""

from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.foreign_lines import MAX_LINES, ForeignLines, has_foreign_line
from anthropic_proxy.errors import UpstreamProtocolError

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Maximum size of an unfinished frame, which is held in memory. A larger one raises `UpstreamProtocolError`. No known
provider sends frames of this size."""

EVENT_BORDER = compile_later(rb"(?:\r?\n){2}|\r\r|\n\r(?=[^\n])")
"""The end of an SSE event in bytes that are forwarded. Each of its two line ends is LF, CRLF or CR."""
EVENT_DATA = compile_later(rb"(?:\A|[\r\n])data: ?([^\r\n]*)")
"""A data line of an SSE event, with its text as group 1."""


def divide_events(events: bytes) -> Iterator[bytes]:
    """Return each SSE event in forwarded bytes, and what follows the last one."""
    start = 0
    for border in EVENT_BORDER.finditer(events):
        yield events[start : border.end()]
        start = border.end()
    yield events[start:]


_CR, _LF = b"\r\n"
"""Numbers, because `number in bytes` is six times as fast as `bytes in bytes`."""


class FrameReader(ABC):
    """Splits one streamed body into frames. Lines end with LF, CRLF or CR. An unfinished frame is held."""

    __slots__ = ("_after_cr", "_begun", "_foreign", "_held_bytes", "_limit", "_pieces")
    _end: ClassVar[bytes]
    """Bytes that end a frame: one or two LF."""

    def __init__(self, limit: int = MAX_FRAME_BYTES, foreign: ForeignLines | None = None) -> None:
        """`limit`: maximum size of an unfinished frame in bytes. `foreign`: reads the lines that belong to no frame.
        None: they are skipped.
        """
        self._limit = limit
        self._foreign = foreign
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._begun = self._after_cr = False

    @abstractmethod
    def _split(self, whole: bytes) -> list[bytes]:
        """Return the frames in bytes that end with `_end`."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that are now complete. Raises `UpstreamProtocolError` above the maximum size."""
        if self._after_cr or _CR in data:  # JSON text escapes CR, so each CR byte ends a line
            if self._after_cr and data:
                data = data.removeprefix(b"\n")
                self._after_cr = False
            if data.endswith(b"\r"):
                self._after_cr = True
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if pieces := self._pieces:
            if self._end not in data and pieces[-1][-1:] + data[:1] != self._end:
                self._hold(data)
                return []
            data = b"".join((*pieces, data))
            self._pieces = []
            self._held_bytes = 0
        if (end := data.rfind(self._end)) < 0:
            self._hold(data)
            return []
        end += len(self._end)
        if end < len(data):
            self._hold(data[end:])
            data = data[:end]
        if not self._begun:
            self._begun = True
            data = data.removeprefix(BOM_UTF8)
        return self._split(data)

    def finish(self) -> list[bytes]:
        """Return the last frame if the body ended without `_end`. Empty list: none."""
        return self.feed(b"\n" + self._end) if self._pieces else []

    def _hold(self, data: bytes) -> None:
        if not data:
            return
        self._pieces.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > self._limit:
            message = f"The provider sent a single event of more than {self._limit:,} bytes."
            raise UpstreamProtocolError(message, retryable=False)


class SSEReader(FrameReader):
    """Splits a Server-Sent Events body into the data of its events (WHATWG HTML, section 9.2.6).

    An event with empty data is skipped: some gateways send one as a keep-alive.
    """

    __slots__ = ()
    _end = b"\n\n"

    def feed(self, data: bytes) -> list[bytes]:
        if not (self._pieces or self._after_cr):
            # the usual network read: one whole event, its data in one line
            # `response.…` is the name of an event of the Responses API; `error` and `ping` are read by `_split`
            line = data[data.find(b"\n") + 1 :] if data[:8] == b"event: r" else data
            frame = line.removesuffix(b"\n\n").removeprefix(b"data: ")  # less than half the cost of slices
            if len(frame) == len(line) - 8 and _LF not in frame and _CR not in data:
                self._begun = True
                return [frame] if frame else []
        return super().feed(data)

    def _split(self, whole: bytes) -> list[bytes]:
        if whole[:6] == b"data: ":
            frames = whole.split(b"\n\ndata: ")
            frames[0] = frames[0][6:]
            frames[-1] = frames[-1][:-2]
            if _LF not in b"".join(frames) and all(frames):  # the usual form: each event has one line
                return frames
        frames = []
        foreign = self._foreign
        for event in whole.split(b"\n\n"):
            lines = event.split(b"\n")
            values = [
                line[6:] if line[:6] == b"data: " else line[5:]
                for line in lines
                if line[:5] == b"data:" or line == b"data"
            ]
            found = [values[0] if len(values) == 1 else b"\n".join(values)] if any(values) else []
            if foreign is not None and len(values) < len(lines) and foreign.count < MAX_LINES:
                found = foreign.read_event(lines, found) if has_foreign_line(lines) else found
            frames += found
        return frames


class NDJSONReader(FrameReader):
    """Splits a newline-delimited JSON body (Ollama) into its lines. Empty lines and comments of SSE are skipped."""

    __slots__ = ()
    _end = b"\n"

    def feed(self, data: bytes) -> list[bytes]:
        # the usual network read: one whole line
        is_line = data[:2] == b'{"' and data.find(b"\n") == len(data) - 1 and _CR not in data
        if is_line and not (self._pieces or self._after_cr):
            self._begun = True
            return [data[:-1]]
        return super().feed(data)

    def _split(self, whole: bytes) -> list[bytes]:
        lines = [line for line in whole.split(b"\n") if line]
        if self._foreign is None or whole.count(b'\n{"') + (whole[:2] == b'{"') == len(lines):
            return lines
        frames = []
        for line in lines:
            if line.lstrip()[:1] == b"{" and line.strip() != b"{":
                frames.append(line)
            elif line.strip() and line[:1] != b":" and (error := self._foreign.read_lines([line])) is not None:
                frames.append(error)
        return frames


_BOUNDARIES = (b"\n\n", b"\r\n\r\n", b"\r\r")
_OVERLAP = max(map(len, _BOUNDARIES)) - 1


class EventSplitter:
    """Splitter of an SSE body into the bytes of whole events, for relays, which forward these bytes unchanged."""

    __slots__ = ("_overlap", "_pieces", "pending_bytes")

    def __init__(self) -> None:
        self.pending_bytes = 0
        """Number of bytes that were received since the last event boundary."""
        self._pieces: list[bytes] = []
        self._overlap = b""
        """Last three bytes of the unfinished event. The end of an event may begin in them and be completed by the next
        network read."""

    def feed(self, data: bytes) -> bytes:
        """Add received bytes and return the bytes of all events that are now complete. b"": none.

        Raises `UpstreamProtocolError` if an unfinished event exceeds `MAX_FRAME_BYTES`.
        """
        searched = self._overlap + data
        ends = (at + len(boundary) for boundary in _BOUNDARIES if (at := searched.rfind(boundary)) >= 0)
        end = max(ends, default=0) - len(self._overlap)
        if end <= 0:
            self._hold(data, searched)
            return b""
        complete = self.pop_pending() + data[:end]
        if remainder := data[end:]:
            self._hold(remainder, remainder)
        return complete

    def _hold(self, data: bytes, searched: bytes) -> None:
        self._pieces.append(data)
        self._overlap = searched[-_OVERLAP:]
        self.pending_bytes += len(data)
        if self.pending_bytes > MAX_FRAME_BYTES:
            message = f"The provider sent a single event of more than {MAX_FRAME_BYTES:,} bytes."
            raise UpstreamProtocolError(message, retryable=False)

    def pop_pending(self) -> bytes:
        """Return the bytes of the unfinished event and remove them. b"": none."""
        pending = b"".join(self._pieces)
        self._pieces = []
        self._overlap = b""
        self.pending_bytes = 0
        return pending

    def peek_pending(self) -> bytes:
        return b"".join(self._pieces)


FRAME_READERS: Mapping[Literal["sse", "ndjson"], type[FrameReader]] = {"sse": SSEReader, "ndjson": NDJSONReader}
