"""Buffer for received bytes of a client connection, which passes them to the HTTP parser in pieces.

`ReceiveBuffer.append` adds bytes from the socket, and `pop_piece` returns the next piece for the parser. The head of a
request is its request line with the headers. A piece contains the end of at most one head, so that the limits of each
request can be checked. `feed_request_line` detects invalid request lines that the parser would accept.
"""

import re

# limits the number of parser callbacks for a body of tiny chunks
MAX_PIECE_BYTES = 16 * 1024
"""Maximum size of a piece for the parser, except for bodies of known length."""
_HEAD_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"[^\x00\t-\r ]+ [^\x00\t-\r ]+ HTTP/[0-9]\.[0-9]\r\n")


class ReceiveBuffer:
    """Buffer between the socket and the HTTP parser of one client connection."""

    __slots__ = ("_last_request_line", "_later", "_request_line", "_start", "_tail", "body_left", "data")

    def __init__(self) -> None:
        self.data = b""
        """Received bytes that the parser has not completely consumed. Empty: no unparsed bytes."""
        self._start = 0
        self._later = bytearray()
        """Bytes received after `data`, joined with it at the next `pop_piece`."""
        self._tail = b""
        """Last bytes of the previous piece, where the blank line at the end of a head may begin."""
        self._request_line: bytearray | None = bytearray()
        """Received bytes of the incomplete request line. None: the request line is complete."""
        self._last_request_line = b"\n"
        """Request line of the last head that `accept_complete_head` accepted."""
        self.body_left = 0
        """Number of unparsed bytes of the current request body, by its `content-length`. 0: none, or a chunked body."""

    def __len__(self) -> int:
        return len(self.data) - self._start + len(self._later)

    def append(self, data: bytes) -> None:
        """Append bytes that were read from the socket. `pop_piece` returns them."""
        if self._start < len(self.data):
            self._later += data
        else:
            self.data, self._start = data, 0

    def accept_complete_head(self, data: bytes, max_head_bytes: int) -> int:
        """Return the length of the request head at the start of `data`, if it is complete with a valid request line.

        The caller can pass these bytes to the parser without `append` and `pop_piece`. 0: the head is incomplete or
        longer than `max_head_bytes`, its request line is invalid, or its beginning was received earlier. The caller
        must then call `append` with `data`.
        """
        if self._request_line is None or self._request_line:
            return 0
        if not data.startswith(self._last_request_line):  # a client repeats its request line, which is checked once
            line = _REQUEST_LINE.match(data)
            if line is None:
                return 0
            self._last_request_line = line[0]
        found = data.find(_HEAD_END, 0, max_head_bytes)
        if found < 0:
            return 0
        self._request_line = None
        return found + len(_HEAD_END)

    def clear(self) -> None:
        """Drop all buffered bytes of the connection."""
        self.data, self._start = b"", 0
        if self._later:
            self._later = bytearray()

    def pop_piece(self, max_piece_bytes: int) -> memoryview:
        """Remove the next piece of the buffered bytes, and return it for the HTTP parser.

        The piece ends after a request head, after `max_piece_bytes` or with the buffered bytes, whichever comes first.
        Within a body of known length, the piece contains all buffered bytes of the body.
        """
        if self._later:
            self.data, self._start = self.data[self._start :] + self._later, 0
            self._later = bytearray()
        data, start = self.data, self._start
        if self.body_left > 0:
            end = min(start + self.body_left, len(data))
            self.body_left -= end - start
        else:
            end = min(self._find_head_end(), start + max_piece_bytes)
        self._start = end
        self._tail = data[max(end - 3, start) : end]
        piece = memoryview(data)[start:end]
        if end == len(data):
            self.clear()
        return piece

    def begin_request_line(self) -> None:
        """Prepare for the next request on the connection. The next bytes are the beginning of its request line."""
        self._request_line, self._tail = bytearray(), b""

    def feed_request_line(self, piece: memoryview) -> bool:
        """Return False if `piece` completes an invalid request line. Call this for each piece before it is parsed."""
        if self._request_line is None:
            return True
        line = self._request_line
        added = bytes(piece) if line else bytes(piece).lstrip(b"\r\n")
        line += added
        if b"\n" not in added:
            return True
        self._request_line = None
        # The parser itself accepts some invalid lines, such as those with several spaces (RFC 9112, 3).
        return _REQUEST_LINE.match(line) is not None

    def _find_head_end(self) -> int:
        data, start, tail = self.data, self._start, self._tail
        if tail and (found := (tail + data[start : start + 3]).find(_HEAD_END)) >= 0:
            return start + found + len(_HEAD_END) - len(tail)
        found = data.find(_HEAD_END, start)
        return len(data) if found < 0 else found + len(_HEAD_END)
