"""`Connection`: one HTTP/1.1 connection to a provider, with one request at a time, and its `HttpResponse`.

The body of a response can be read while it is still being received.

Theory of operation. `_pending` is the future of a response while its head is awaited, `_response` the response while
its body arrives; both None: the connection is idle, and `_can_reuse` says if another request may be sent. Some servers
send a rejection before the first request. Such bytes (`_early`) are kept for it. Bytes between two requests are an
error of the server, and the connection is closed. The caller may read slowly, so the socket pauses at
`MAX_UNREAD_BYTES`.
"""

import asyncio
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import httptools
from msgspec import Struct

from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.upstream.http.url import Origin
from anthropic_proxy.errors import UpstreamProtocolError

MAX_RESPONSE_HEAD_BYTES = 256 * 1024
"""Maximum size of a response head, 1xx heads included. A larger head fails with `InvalidHttp`. The limit also applies
to chunk sizes and extensions between two fragments of a body, and to trailers."""
MAX_RESPONSE_HEADERS = 1000
"""Maximum number of headers of a response, 1xx heads included. They take 20 times the memory of their bytes."""
MAX_UNREAD_BYTES = 64 * 1024
"""Maximum number of received bytes that the caller has not read. Above it, the connection stops reading from its
socket."""
MAX_TLS_WRITE_BYTES = 16 * 1024
"""Maximum bytes of a request body per TLS write. OpenSSL keeps a buffer of the maximum write size per connection."""
KEEP_ALIVE_SECONDS = 60.0
"""Number of seconds after which an idle connection is closed. Providers close idle connections later."""
_CLEANUP_INTERVAL_SECONDS = 15.0
_SWITCHING = 101


def new_response_parser(callbacks: object) -> httptools.HttpResponseParser:
    """Return a parser for HTTP responses, which accepts some deviations, such as missing carriage returns."""
    parser = httptools.HttpResponseParser(callbacks)
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


class ConnectionLost(Exception):
    """Error: the connection ended before the head of a response. `cause` None: the server closed it."""

    def __init__(self, *, begun: bool = False, cause: Exception | None = None) -> None:
        super().__init__()
        self.begun = begun
        self.cause = cause


class InvalidHttp(Exception):
    """Error: the received bytes are not valid HTTP or exceed a limit. The message states the reason."""


_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_CHUNK_BYTES = 256 * 1024
_PIECE_BYTES = 8 * 1024
"""Maximum size of what is decompressed at once."""


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
        for start in range(0, len(data), _PIECE_BYTES):  # zlib copies what follows each of many streams in it
            yield from self._decompress_piece(data[start : start + _PIECE_BYTES])

    def _decompress_piece(self, data: bytes) -> Iterator[bytes]:
        stream = self._stream
        full = False
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


class HttpResponse(Struct, eq=False):
    """Response of a provider. Its connection appends received bytes, and `read` returns them. If too many bytes are
    unread, the connection pauses until the next `read`.
    """

    connection: "Connection"
    status: int
    headers: Mapping[str, str]
    """Names in lower case. The values of a repeated header are joined by commas."""
    decompressor: Decompressor | None = None
    """None: the body is not compressed, or in a form that the proxy does not know."""
    body_received: bool = False
    fragments: list[bytes] = []
    """Received bytes of the body that were not read."""
    unread_bytes: int = 0
    """Number of bytes received since the last `read`, with the framing of chunks."""
    reading_paused: bool = False
    waiter: asyncio.Future[None] | None = None
    """Future of a `read` that waits for bytes. None: no `read` waits."""
    _closed: bool = False
    _error: Exception | None = None
    """Error that ended the body early. None: the body is complete, or still being received."""
    _decompressed: Iterator[bytes] = iter(())
    _decompressed_bytes: int = 0

    def end_body(self, error: Exception | None = None) -> None:
        """Mark the body as received. `error` None: the body is complete."""
        self.body_received = True
        self._error = error
        if self.waiter is not None:
            self.wake()

    def wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def read(self) -> bytes:
        """Return the next bytes of the body. b"": the body is complete.

        Raises `UpstreamProtocolError` if the body is incomplete, damaged or too large.
        """
        if self.decompressor is not None:
            try:
                while not (chunk := next(self._decompressed, b"")):
                    if not (self.fragments or self.body_received):
                        self.waiter = self.connection.loop.create_future()
                        await self.waiter
                    if not (data := self._pop_received()):
                        return b""
                    self._decompressed = self.decompressor.decompress(data)
            except zlib.error as error:
                raise UpstreamProtocolError(
                    "the reply ended before it was complete", code="incomplete-reply"
                ) from error
            self._decompressed_bytes += len(chunk)
            if self._decompressed_bytes > MAX_DECOMPRESSED_BYTES:
                message = f"the reply is larger than {MAX_DECOMPRESSED_BYTES >> 20} MiB after decompression"
                raise UpstreamProtocolError(message, code="reply-too-large", retryable=False)
            await asyncio.sleep(0)  # before each chunk, because one MiB of data can decompress to one GiB
            return chunk
        if not (self.fragments or self.body_received):
            self.waiter = self.connection.loop.create_future()
            await self.waiter
        if len(self.fragments) == 1 and not self.reading_paused:  # inlined: almost every read of a stream
            self.unread_bytes = 0
            return self.fragments.pop()
        return self._pop_received()

    async def close(self, *, wait_for_end: bool = False) -> None:
        """End the use of the response, and close its connection if the body is still incomplete. `wait_for_end`: wait a
        short time for the end of the body, so that the connection can be reused.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if wait_for_end and not (self.body_received or self.decompressor):
                timer = self.connection.loop.call_later(DRAIN_TIMEOUT_SECONDS, self.end_body, TimeoutError())
                try:
                    while not self.body_received:
                        await self.read()
                finally:
                    timer.cancel()
        except UpstreamProtocolError:
            pass
        finally:
            self.fragments.clear()
            self.connection.owner.take_back(self.connection, complete=self.body_received and self._error is None)

    def _pop_received(self) -> bytes:
        """Remove and return the received bytes of the body. b"": the end of the body. Raises `UpstreamProtocolError` if
        the body ended early.
        """
        if fragments := self.fragments:
            data = fragments[0] if len(fragments) == 1 else b"".join(fragments)
            fragments.clear()
            self.unread_bytes = 0
            if self.reading_paused:
                self.reading_paused = False
                self.connection.resume_reading()
            return data
        if self._error is None:
            return b""
        if isinstance(self._error, OSError):
            raise UpstreamProtocolError(
                f"the connection was lost during the reply ({describe_os_error(self._error)})", code="incomplete-reply"
            ) from self._error
        raise UpstreamProtocolError("the reply ended before it was complete", code="incomplete-reply") from self._error


class Connection(asyncio.Protocol):
    """One connection to a provider. `owner` is the pool to which the connection returns after a complete response."""

    def __init__(self, origin: Origin, owner: "ConnectionPool") -> None:
        self.origin = origin
        """Server to which the requests are sent, also if the connection leads through an HTTP proxy."""
        self.idle_since = 0.0
        """Time of the event loop's clock, in seconds, at which the connection became idle."""
        self.owner = owner
        self._splits_body = origin.uses_tls
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = new_response_parser(self)
        self._pending: asyncio.Future[HttpResponse] | None = None
        """Future of the response to the current request, until the response head arrives. None: no request waits."""
        self._response: HttpResponse | None = None
        """Response with a body that is still being received. None: no such response."""
        self._early: bytes | None = b""
        """Bytes that the server sent before the first request, such as a rejection. None: a request was sent."""
        self._headers: dict[str, str] = {}
        self._repeated_headers: dict[str, list[str]] = {}
        self._header_count = 0
        self._head_bytes = 0
        """Number of bytes received since the request was sent, or since the last fragment of the body."""
        self._can_reuse = False

    async def send_request(self, head: bytes, body: bytes) -> HttpResponse:
        """Send a request, and return its response when the headers have arrived.

        Raises `InvalidHttp` for an invalid response, and `ConnectionLost` if it ends before the headers.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionLost
        self._head_bytes = self._header_count = 0
        self._pending = self.loop.create_future()
        if not self._splits_body or len(body) <= MAX_TLS_WRITE_BYTES:
            transport.writelines((head, body) if body else (head,))
        else:
            transport.write(head)
            view = memoryview(body)
            for start in range(0, len(body), MAX_TLS_WRITE_BYTES):
                if transport.is_closing():
                    break
                transport.write(view[start : start + MAX_TLS_WRITE_BYTES])
        early, self._early = self._early, None
        if early:
            transport.resume_reading()
            self.data_received(early)
        try:
            return await self._pending
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._pending = None

    async def find_closing(self, seconds: float) -> ConnectionLost | None:
        """Send nothing, and return how the server closes the connection. None: it is still open after `seconds`."""
        if self._transport is None or self._transport.is_closing():
            return ConnectionLost()
        self._pending = self.loop.create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._pending
        except ConnectionLost as error:
            return None if error.begun else error
        except (InvalidHttp, TimeoutError):
            return None
        finally:
            self._pending = None
            self.abort()
        return None

    def is_idle(self) -> bool:
        transport = self._transport
        return (
            self._can_reuse
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def abort(self) -> None:
        self._can_reuse = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or (self._response is None and self._pending is None):
            if self._early is None or self._transport is None:
                self.abort()
            else:
                self._early += data
                self._transport.pause_reading()
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._can_reuse = False  # the following bytes are an unrequested protocol
            return
        except httptools.HttpParserError as error:
            cause = error.__context__  # the error that `on_header` raised
            self._fail(cause if isinstance(cause, InvalidHttp) else InvalidHttp(str(error)))
            return
        response = self._response
        if self._head_bytes > MAX_RESPONSE_HEAD_BYTES and (
            response is not None or (self._pending and not self._pending.done())
        ):
            self._fail(
                InvalidHttp(
                    f"its {'head' if response is None else 'trailer'} has more than {MAX_RESPONSE_HEAD_BYTES:,} bytes"
                )
            )
        elif response is not None:
            response.unread_bytes += len(data)
            if response.unread_bytes > MAX_UNREAD_BYTES and response.fragments and self._transport is not None:
                self._transport.pause_reading()
                response.reading_paused = True

    def eof_received(self) -> None:
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response that is being received, or fail the request that waits for one.

        Without an error, a body is complete if the headers do not state its end: it ends with the connection.
        """
        self._transport = None
        self._parser = None
        self.owner.remove_closed(self)
        response, self._response = self._response, None
        if response is not None:
            coding = response.headers.get("transfer-encoding")
            states_end = "content-length" in response.headers
            if coding is not None:  # RFC 9112, 6.3
                states_end = coding.lower().endswith("chunked")
            response.end_body(exc or (EOFError() if states_end else None))
        elif self._pending is not None and not self._pending.done():
            self._pending.set_exception(ConnectionLost(begun=self._head_bytes > 0, cause=exc))

    def on_message_begin(self) -> None:
        self._can_reuse = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises `InvalidHttp`."""
        if self._response is None:
            self._header_count += 1
            if self._header_count > MAX_RESPONSE_HEADERS:
                raise InvalidHttp(f"its head has more than {MAX_RESPONSE_HEADERS:,} headers")
            key = name.decode("latin-1").lower()
            text = value.decode(errors="surrogateescape")
            if key in self._headers:
                self._repeated_headers.setdefault(key, [self._headers[key]]).append(text)
            else:
                self._headers[key] = text

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        headers = self._headers
        self._headers = {}
        if self._repeated_headers:
            headers.update((name, ", ".join(values)) for name, values in self._repeated_headers.items())
            self._repeated_headers = {}
        if (100 <= status < 200 and status != _SWITCHING) or self._pending is None or self._pending.done():
            return  # an interim or unrequested response
        self._head_bytes = 0
        decompressor: Decompressor | None = None
        if "content-encoding" in headers:
            known = Decompressor(headers["content-encoding"])
            decompressor = known if known.supports_encoding else None
        self._response = HttpResponse(self, status, headers, decompressor)
        self._pending.set_result(self._response)

    def on_body(self, data: bytes) -> None:
        self._head_bytes = 0
        if self._response is not None:
            self._response.fragments.append(data)
            if self._response.waiter is not None:
                self._response.wake()

    def on_message_complete(self) -> None:
        if self._response is None:
            return
        assert self._parser is not None
        self._can_reuse = self._parser.should_keep_alive()
        self._response.end_body()
        self._response = None

    def _fail(self, error: InvalidHttp) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.end_body(error)
        elif self._pending is not None and not self._pending.done():
            self._pending.set_exception(error)
        self.abort()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()


class ConnectionPool:
    """Idle connections by server, for reuse, and the set of all open connections. An idle connection is closed after
    `keep_alive_seconds`; 0: no reuse.
    """

    def __init__(self, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self.keep_alive_seconds = keep_alive_seconds
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        """The last used one is at the end and reused first, so that the others expire."""
        self._cleanup_timer: asyncio.TimerHandle | None = None

    def add_open(self, connection: Connection) -> None:
        self._open.add(connection)

    def pop_idle(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_idle():
                return connection
            connection.abort()
        return None

    def take_back(self, connection: Connection, *, complete: bool) -> None:
        """Keep a connection for reuse, or close it. `complete`: the whole body of its response was received."""
        if not (complete and self.keep_alive_seconds and connection.is_idle()):
            connection.abort()
            return
        connection.idle_since = connection.loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._cleanup_timer is None:
            self._cleanup_timer = asyncio.get_running_loop().call_later(_CLEANUP_INTERVAL_SECONDS, self._close_expired)

    def remove_closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        if self._cleanup_timer is not None:
            self._cleanup_timer.cancel()
            self._cleanup_timer = None
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()

    def _close_expired(self) -> None:
        loop = asyncio.get_running_loop()
        self._cleanup_timer = None
        for origin, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since + self.keep_alive_seconds <= loop.time():
                    connection.abort()
            self._idle[origin] = [connection for connection in idle if connection.is_idle()]
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        if self._idle:
            self._cleanup_timer = loop.call_later(_CLEANUP_INTERVAL_SECONDS, self._close_expired)
