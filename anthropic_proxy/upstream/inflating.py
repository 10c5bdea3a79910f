"""Bodies that were packed, inflated within a limit."""

import zlib
from collections.abc import Iterator
from typing import Any

_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_PIECE = 256 * 1024


class Inflater:
    """Takes a `content-encoding` off, piece by piece, so that whoever counts can stop in time.

    Knows `gzip` and `deflate`, the latter with and without zlib's head, because servers send both.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        self._stream: Any = None

    @property
    def known(self) -> bool:
        """Whether this encoding can be taken off."""
        return self._encoding in ("", "identity", "gzip", "x-gzip", "deflate")

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what so many bytes inflate to, at most 256 KiB at a time. Raises `zlib.error`."""
        if self._encoding in ("", "identity"):
            yield data
            return
        stream, full = self._stream, False
        while data or full:
            if stream is None or (stream.eof and data.strip(b"\0")):
                stream = self._stream = zlib.decompressobj(_RAW if self._is_raw(data) else _GZIP_OR_ZLIB)
            if stream.eof:  # zeros fill up what follows a whole body
                return
            piece = stream.decompress(data, _PIECE)
            data = stream.unconsumed_tail or stream.unused_data
            full = len(piece) == _PIECE and not stream.eof
            if piece:
                yield piece

    def _is_raw(self, data: bytes) -> bool:
        return self._encoding == "deflate" and data[0] & 0x0F != zlib.DEFLATED
