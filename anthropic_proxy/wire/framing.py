"""Network bytes → frames: SSE data fields and NDJSON lines, cut at any byte. What a frame means is not known here."""

from typing import Literal

from anthropic_proxy.errors import UpstreamProtocolError

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""A frame that grows beyond this is refused: no provider sends one, and it would be held in memory."""

_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r\n"


class _Lines:
    """Cuts bytes into lines that end with LF, CRLF or CR; holds an unfinished line as pieces, joined once."""

    __slots__ = ("_after_cr", "_begun", "_held", "_limit", "_pieces")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0
        self._begun = False
        self._after_cr = False

    def _split(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their ends."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if _CR in data:  # JSON text never holds a bare CR, so each one ends a line
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        pieces = self._pieces
        if pieces and len(lines) > 1:
            pieces.append(lines[0])
            lines[0] = b"".join(pieces)
            pieces.clear()
        rest = lines.pop()
        if rest:
            pieces.append(rest)
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _hold(self, count: int) -> None:
        self._held += count
        if self._held > self._limit:
            said = f"The provider sent a single event of more than {self._limit:,} bytes."
            raise UpstreamProtocolError(said, retryable=False)


class SSEReader(_Lines):
    """Cuts a Server-Sent Events body into the data fields of its events (WHATWG HTML, section 9.2.6).

    Comments, `event`, `id` and `retry` fields and events without data are skipped.
    """

    __slots__ = ("_values",)

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        super().__init__(limit)
        self._values: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data fields of the events that these bytes complete.

        Raises `UpstreamProtocolError` where one event grows beyond the limit.
        """
        values = self._values
        start = data.find(b"\n") + 1 if data[:6] == b"event:" else 0
        if data[start : start + 6] == b"data: " and not (values or self._pieces or self._after_cr):
            end = len(data) - 2
            if data.find(b"\n", start) == end and data[-1] == _LF and _CR not in data:
                self._begun = True
                return [data[start + 6 : end]]  # one whole event a read, as most providers send them
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
        """Return the event that the end of the body completes, if one is pending."""
        return self.feed(b"\n\n") if self._pieces or self._values else []


class NDJSONReader(_Lines):
    """Cuts a body into its lines; empty ones are skipped."""

    __slots__ = ()

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        super().__init__(limit)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete. Raises `UpstreamProtocolError` where one outgrows the limit."""
        frames = [line for line in self._split(data) if line]
        if frames or not self._pieces:
            self._held = 0
        else:
            self._hold(len(data))
        return frames

    def finish(self) -> list[bytes]:
        """Return the last line, if its end is missing."""
        return self.feed(b"\n") if self._pieces else []


FrameReader = SSEReader | NDJSONReader
"""`feed(bytes)` and `finish()`, each giving frames."""


def new_reader(framing: Literal["sse", "ndjson"]) -> FrameReader:
    """Return a fresh reader for a wire's `FRAMING`."""
    return SSEReader() if framing == "sse" else NDJSONReader()
