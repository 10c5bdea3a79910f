"""HTTP response of a provider while its body is being received, and the decompression of the body."""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.platforms.os_errors import describe_os_error

_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_CHUNK_BYTES = 256 * 1024


class Decompressor:
    """Decoder for the `content-encoding` of a body.

    Its output has chunks of bounded size, so that the caller can enforce a limit. Supports `gzip` and `deflate`, the
    latter with and without the zlib header, because servers send both.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        self._stream: Any = None

    @property
    def supported(self) -> bool:
        """True if this class can decode the `content-encoding`."""
        return self._encoding in ("", "identity", "gzip", "x-gzip", "deflate")

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes of a fragment in chunks of at most 256 KiB. Raises `zlib.error`."""
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


MAX_DECOMPRESSED_BYTES = 64 * 1024 * 1024
"""Maximum size of a body after decompression. A larger body fails with `UpstreamProtocolError`."""
DRAIN_TIMEOUT_SECONDS = 0.25
"""Time that `close` waits for the last bytes of a complete reply, so that the connection can be reused."""


class HttpResponse:
    """An `UpstreamResponse`: the connection appends received bytes, and `read` returns them.

    Too many unread bytes pause the connection. `on_release`: called once, with True if the complete response was
    received. `resume_reading`: called when `read` ends a pause.
    """

    __slots__ = (
        "_decompressed",
        "_decompressed_bytes",
        "_decompressor",
        "_error",
        "_fragments",
        "_loop",
        "_on_release",
        "_reading_paused",
        "_resume_reading",
        "_waiter",
        "body_received",
        "headers",
        "status",
        "unread_bytes",
    )

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        loop: asyncio.AbstractEventLoop,
        on_release: Callable[[bool], None],
        resume_reading: Callable[[], None],
    ) -> None:
        self.status = status
        self.headers = headers
        """Names in lower case. Repeated headers are joined by commas."""
        self.unread_bytes = 0
        """Number of received, unread bytes."""
        self.body_received = False
        """True if the body has ended."""
        self._loop = loop
        self._fragments: list[bytes] = []
        self._error: Exception | None = None
        """Error that ended the body early. None: complete or not ended."""
        self._waiter: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._on_release: Callable[[bool], None] | None = on_release
        self._resume_reading = resume_reading
        decompressor = Decompressor(headers["content-encoding"]) if "content-encoding" in headers else None
        self._decompressor = decompressor if decompressor is not None and decompressor.supported else None
        self._decompressed: Iterator[bytes] = iter(())
        self._decompressed_bytes = 0

    def append_body(self, data: bytes) -> None:
        """Append received bytes to the body."""
        self._fragments.append(data)
        self.unread_bytes += len(data)
        if self._waiter is not None:
            self._wake()

    def end_body(self, error: Exception | None = None) -> None:
        """Mark the body as ended. `error`: reason of an early end. None: the body is complete."""
        self.body_received, self._error = True, error
        if self._waiter is not None:
            self._wake()

    def mark_reading_paused(self) -> None:
        """Record that the connection does not read the socket. The next `read` resumes reading."""
        self._reading_paused = True

    async def read(self) -> bytes:
        """Return the received bytes of the body. Wait only if there are none. b"": the end.

        Raises `UpstreamProtocolError` if the body ends early, is damaged, or is too large after decompression.
        """
        if self._decompressor is not None:
            return await self._read_decompressed(self._decompressor)
        if not (self._fragments or self.body_received):
            await self._next_fragment()
        return self._pop_received()

    async def close(self, *, complete: bool = False) -> None:
        """Release the connection for reuse after a complete body, else close it.

        `complete`: the reply was complete, so wait up to `DRAIN_TIMEOUT_SECONDS` for the end of the body.
        """
        on_release, self._on_release = self._on_release, None
        if on_release is None:
            return
        try:
            if complete and not (self.body_received or self._decompressor):
                async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                    while not self.body_received:
                        await self._next_fragment()
                        self._pop_received()
        except (TimeoutError, UpstreamProtocolError):
            pass
        finally:
            self._fragments.clear()
            on_release(self.body_received and self._error is None)

    def _next_fragment(self) -> "asyncio.Future[None]":
        """Return a future that is done when bytes arrive or the body ends."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _pop_received(self) -> bytes:
        """Remove and return the received bytes. b"": the end. Raises `UpstreamProtocolError` if it is early."""
        if fragments := self._fragments:
            data = fragments[0] if len(fragments) == 1 else b"".join(fragments)
            fragments.clear()
            self.unread_bytes = 0
            if self._reading_paused:
                self._reading_paused = False
                self._resume_reading()
            return data
        if self._error is None:
            return b""
        if isinstance(self._error, OSError):
            raise UpstreamProtocolError(
                f"the connection was lost during the reply ({describe_os_error(self._error)})"
            ) from self._error
        raise UpstreamProtocolError("the reply ended before it was complete") from self._error

    async def _read_decompressed(self, decompressor: Decompressor) -> bytes:
        """Return one decompressed chunk. The event loop runs before each: a MiB can decompress to a GiB."""
        try:
            while not (chunk := next(self._decompressed, b"")):
                if not (self._fragments or self.body_received):
                    await self._next_fragment()
                if not (data := self._pop_received()):
                    return b""
                self._decompressed = decompressor.decompress(data)
        except zlib.error as error:
            raise UpstreamProtocolError("the reply ended before it was complete") from error
        self._decompressed_bytes += len(chunk)
        if self._decompressed_bytes > MAX_DECOMPRESSED_BYTES:
            message = f"the reply is larger than {MAX_DECOMPRESSED_BYTES >> 20} MiB after decompression"
            raise UpstreamProtocolError(message, retryable=False)
        await asyncio.sleep(0)
        return chunk

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
