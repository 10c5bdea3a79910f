"""Splitting of streamed provider responses into frames. A frame is the data of one SSE event, or one NDJSON line.

Network reads may end at any byte of a frame. Readers return frames for decoders. `EventSplitter` is for relays, which
forward bytes: it returns whole events unchanged.
"""

from typing import Literal

from anthropic_proxy.errors import UpstreamProtocolError

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Maximum size of an unfinished frame, which is held in memory. A larger one raises `UpstreamProtocolError`. No known
provider sends frames of this size."""

_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r\n"


class _Lines:
    """Splits bytes into lines that end with LF, CRLF or CR. An unfinished line is kept."""

    __slots__ = ("_after_cr", "_begun", "_held", "_limit", "_pieces")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        """`limit`: maximum size of a frame in bytes."""
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0
        self._begun = False
        self._after_cr = False

    def _split(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete after the received bytes `data`, without line ends."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if _CR in data:  # JSON text escapes CR, so each CR byte ends a line
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        pieces = self._pieces
        if pieces and len(lines) > 1:
            pieces.append(lines[0])
            lines[0] = b"".join(pieces)
            pieces.clear()
        remainder = lines.pop()
        if remainder:
            pieces.append(remainder)
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _hold(self, count: int) -> None:
        self._held += count
        if self._held > self._limit:
            message = f"The provider sent a single event of more than {self._limit:,} bytes."
            raise UpstreamProtocolError(message, retryable=False)


class SSEReader(_Lines):
    """Splits a Server-Sent Events body into the data of its events (WHATWG HTML, section 9.2.6)."""

    __slots__ = ("_values",)

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        super().__init__(limit)
        self._values: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of each event that is now complete. Raises `UpstreamProtocolError` above the maximum size."""
        values = self._values
        start = data.find(b"\n") + 1 if data[:6] == b"event:" else 0
        if data[start : start + 6] == b"data: " and not (values or self._pieces or self._after_cr):
            end = len(data) - 2
            if data.find(b"\n", start) == end and data[-1] == _LF and _CR not in data:
                self._begun = True
                return [data[start + 6 : end]]  # fast path: most providers send one whole event per network read
        frames: list[bytes] = []
        for line in self._split(data):
            if not line:
                if values:
                    frames.append(values[0] if len(values) == 1 else b"\n".join(values))
                    values.clear()
            elif line[:6] == b"data: ":
                values.append(line[6:])
            elif line[:4] == b"data" and (line[4:5] == b":" or len(line) == 4):
                values.append(line[5:])
        if frames or not (values or self._pieces):
            self._held = 0
        else:
            self._hold(len(data))
        return frames

    def finish(self) -> list[bytes]:
        """Return the data of the last event if the body ended without a blank line after it. Empty list: none."""
        return self.feed(b"\n\n") if self._pieces or self._values else []


class NDJSONReader(_Lines):
    """Splits a newline-delimited JSON body (Ollama) into its lines. Empty lines are skipped."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        """Return each line that is now complete. Raises `UpstreamProtocolError` above the maximum size."""
        frames = [line for line in self._split(data) if line]
        if frames or not self._pieces:
            self._held = 0
        else:
            self._hold(len(data))
        return frames

    def finish(self) -> list[bytes]:
        return self.feed(b"\n") if self._pieces else []


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
        self._pieces, self._overlap, self.pending_bytes = [], b"", 0
        return pending

    def peek_pending(self) -> bytes:
        return b"".join(self._pieces)


FrameReader = SSEReader | NDJSONReader
"""Reader of one streamed body. `feed` and `finish` return lists of complete frames (SSE data or NDJSON lines)."""


def new_frame_reader(framing: Literal["sse", "ndjson"]) -> FrameReader:
    """Return a new reader for one streamed body of SSE events (`sse`) or lines of JSON (`ndjson`)."""
    return SSEReader() if framing == "sse" else NDJSONReader()
