"""Received, unparsed bytes of a connection, divided into pieces that complete at most one request head each."""

import re

MAX_PIECE_BYTES = 16 * 1024
"""Maximum size of a piece that may contain chunks. It bounds the callbacks of the parser for tiny chunks."""
_HEAD_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"[^\x00\t-\r ]+ [^\x00\t-\r ]+ HTTP/[0-9]\.[0-9]\r\n")


class ReceiveBuffer:
    """Buffer between the socket and the parser of one connection."""

    __slots__ = ("_last_request_line", "_later", "_request_line", "_start", "_tail", "body_left", "data")

    def __init__(self) -> None:
        self.data = b""
        """Latest received bytes, until the parser has consumed all of them. Empty: all consumed."""
        self._start = 0
        self._later = bytearray()
        """Bytes received after `data`, joined with it at the next `pop_piece`."""
        self._tail = b""
        """Last bytes of the previous piece, where the end of a head may begin."""
        self._request_line: bytearray | None = bytearray()
        """Incomplete request line. None: complete."""
        self._last_request_line = b"\n"
        """Request line of the last measured head."""
        self.body_left = 0
        """Unparsed bytes of a body of known length."""

    def __len__(self) -> int:
        return len(self.data) - self._start + len(self._later)

    def append(self, data: bytes) -> None:
        """Append bytes that were read from the socket."""
        if self._start < len(self.data):
            self._later += data
        else:
            self.data, self._start = data, 0

    def find_head_length(self, data: bytes, limit: int) -> int:
        """Return the length of the request head at the beginning of received bytes.

        0: the head is incomplete, longer than `limit` bytes or without a valid request line; use `append` and
        `pop_piece` instead.
        """
        if self._request_line is None or self._request_line:
            return 0
        if not data.startswith(self._last_request_line):  # clients repeat their requests
            line = _REQUEST_LINE.match(data)
            if line is None:
                return 0
            self._last_request_line = line[0]
        found = data.find(_HEAD_END, 0, limit)
        if found < 0:
            return 0
        self._request_line = None
        return found + len(_HEAD_END)

    def clear(self) -> None:
        """Discard all buffered bytes."""
        self.data, self._start = b"", 0
        if self._later:
            self._later = bytearray()

    def pop_piece(self, limit: int) -> memoryview:
        """Return the next piece: bytes of a body of known length, or at most `limit` bytes up to the end of a head."""
        if self._later:
            self.data, self._start = self.data[self._start :] + self._later, 0
            self._later = bytearray()
        data, start = self.data, self._start
        if self.body_left > 0:
            end = min(start + self.body_left, len(data))
            self.body_left -= end - start
        else:
            end = min(self._find_head_end(), start + limit)
        self._start = end
        self._tail = data[max(end - 3, start) : end]
        piece = memoryview(data)[start:end]
        if end == len(data):
            self.clear()
        return piece

    def begin_request(self) -> None:
        """Begin the next request: the next bytes are a request line."""
        self._request_line, self._tail = bytearray(), b""

    def accepts_request_line(self, piece: memoryview) -> bool:
        """Return False if a piece completes a request line that only a lenient parser accepts.

        Programs differ in their handling of several spaces and of other protocol names (RFC 9112, 3).
        """
        if self._request_line is None:
            return True
        line = self._request_line
        added = bytes(piece) if line else bytes(piece).lstrip(b"\r\n")
        line += added
        if b"\n" not in added:
            return True
        self._request_line = None
        return _REQUEST_LINE.match(line) is not None

    def _find_head_end(self) -> int:
        data, start, tail = self.data, self._start, self._tail
        if tail and (found := (tail + data[start : start + 3]).find(_HEAD_END)) >= 0:
            return start + found + len(_HEAD_END) - len(tail)
        found = data.find(_HEAD_END, start)
        return len(data) if found < 0 else found + len(_HEAD_END)
