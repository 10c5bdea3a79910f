"""`HttpResponse`: the response of a provider. Its body can be read while it is still being received."""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import UpstreamProtocolError

_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_CHUNK_BYTES = 256 * 1024


class Decompressor:
    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        self._stream: Any = None

    @property
    def supports_encoding(self) -> bool:
        return self._encoding in ("", "identity", "gzip", "x-gzip", "deflate")

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes of a piece of the body, in chunks of at most 256 KiB. Raises `zlib.error`."""
        if self._encoding in ("", "identity"):
            yield data
            return
        stream, full = self._stream, False
        while data or full:
            if stream is None or (stream.eof and data.strip(b"\0")):
                is_raw = self._encoding == "deflate" and data[0] & 0x0F != zlib.DEFLATED
                stream = self._stream = zlib.decompressobj(_RAW if is_raw else _GZIP_OR_ZLIB)
            if stream.eof:  # zero padding may follow a complete body
                return
            chunk = stream.decompress(data, _CHUNK_BYTES)
            data = stream.unconsumed_tail or stream.unused_data
            full = len(chunk) == _CHUNK_BYTES and not stream.eof
            if chunk:
                yield chunk


MAX_DECOMPRESSED_BYTES = 64 * 1024 * 1024
"""Maximum size of a response body after decompression. A larger body fails with `UpstreamProtocolError`."""
DRAIN_TIMEOUT_SECONDS = 0.25
"""Number of seconds that `HttpResponse.close` waits for the last bytes of a complete reply, so that the connection can
be reused."""


class HttpResponse:
    """Response of a provider: the connection appends received bytes, and `read` returns them. If too many bytes are
    unread, the connection pauses until the next `read`.
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
        """Names in lower case. The values of a repeated header are joined by commas."""
        self.unread_bytes = 0
        self.body_received = False
        self._loop = loop
        self._fragments: list[bytes] = []
        self._error: Exception | None = None
        """Error that ended the body early. None: the body is complete, or still being received."""
        self._waiter: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._on_release: Callable[[bool], None] | None = on_release
        self._resume_reading = resume_reading
        decompressor = Decompressor(headers["content-encoding"]) if "content-encoding" in headers else None
        self._decompressor = decompressor if decompressor is not None and decompressor.supports_encoding else None
        self._decompressed: Iterator[bytes] = iter(())
        self._decompressed_bytes = 0

    def append_body(self, data: bytes) -> None:
        self._fragments.append(data)
        self.unread_bytes += len(data)
        if self._waiter is not None:
            self._wake()

    def end_body(self, error: Exception | None = None) -> None:
        """`error` None: the body is complete."""
        self.body_received, self._error = True, error
        if self._waiter is not None:
            self._wake()

    def mark_reading_paused(self) -> None:
        self._reading_paused = True

    async def read(self) -> bytes:
        """Raises `UpstreamProtocolError` if the body is incomplete, damaged or too large."""
        if self._decompressor is not None:
            return await self._read_decompressed(self._decompressor)
        if not (self._fragments or self.body_received):
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._pop_received()

    async def close(self, *, wait_for_end: bool = False) -> None:
        """End the use of the response, and close its connection if the body is still incomplete. `wait_for_end`: wait a
        short time for the end of the body, so that the connection can be reused.
        """
        on_release, self._on_release = self._on_release, None
        if on_release is None:
            return
        try:
            if wait_for_end and not (self.body_received or self._decompressor):
                await self._drain()
        except UpstreamProtocolError:
            pass
        finally:
            self._fragments.clear()
            on_release(self.body_received and self._error is None)

    async def _drain(self) -> None:
        timer = self._loop.call_later(DRAIN_TIMEOUT_SECONDS, self.end_body, TimeoutError())
        try:
            while not self.body_received:
                await self._next_fragment()
                self._pop_received()
        finally:
            timer.cancel()

    def _next_fragment(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter

    def _pop_received(self) -> bytes:
        """Remove and return the received bytes of the body. b"": the end of the body. Raises `UpstreamProtocolError` if
        the body ended early.
        """
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
                f"the connection was lost during the reply ({describe_os_error(self._error)})",
                code="incomplete-reply",
            ) from self._error
        raise UpstreamProtocolError("the reply ended before it was complete", code="incomplete-reply") from self._error

    async def _read_decompressed(self, decompressor: Decompressor) -> bytes:
        """The event loop runs before each chunk, because one MiB of data can decompress to one GiB."""
        try:
            while not (chunk := next(self._decompressed, b"")):
                if not (self._fragments or self.body_received):
                    await self._next_fragment()
                if not (data := self._pop_received()):
                    return b""
                self._decompressed = decompressor.decompress(data)
        except zlib.error as error:
            raise UpstreamProtocolError("the reply ended before it was complete", code="incomplete-reply") from error
        self._decompressed_bytes += len(chunk)
        if self._decompressed_bytes > MAX_DECOMPRESSED_BYTES:
            message = f"the reply is larger than {MAX_DECOMPRESSED_BYTES >> 20} MiB after decompression"
            raise UpstreamProtocolError(message, code="reply-too-large", retryable=False)
        await asyncio.sleep(0)
        return chunk

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
