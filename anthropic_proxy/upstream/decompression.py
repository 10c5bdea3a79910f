"""Decompression of bodies in bounded chunks."""

import zlib
from collections.abc import Iterator
from typing import Any

_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_CHUNK_BYTES = 256 * 1024


class Decompressor:
    """Decoder of a `content-encoding`. Chunks of bounded size let the caller enforce a limit.

    Supports `gzip` and `deflate`, the latter with and without the zlib header, because servers send both.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        self._stream: Any = None

    @property
    def supported(self) -> bool:
        """True if the encoding is supported."""
        return self._encoding in ("", "identity", "gzip", "x-gzip", "deflate")

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed data in chunks of at most 256 KiB. Raises `zlib.error`."""
        if self._encoding in ("", "identity"):
            yield data
            return
        stream, full = self._stream, False
        while data or full:
            if stream is None or (stream.eof and data.strip(b"\0")):
                stream = self._stream = zlib.decompressobj(_RAW if self._is_raw(data) else _GZIP_OR_ZLIB)
            if stream.eof:  # zero padding may follow a complete body
                return
            chunk = stream.decompress(data, _CHUNK_BYTES)
            data = stream.unconsumed_tail or stream.unused_data
            full = len(chunk) == _CHUNK_BYTES and not stream.eof
            if chunk:
                yield chunk

    def _is_raw(self, data: bytes) -> bool:
        return self._encoding == "deflate" and data[0] & 0x0F != zlib.DEFLATED
