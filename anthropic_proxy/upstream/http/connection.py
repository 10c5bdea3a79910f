"""`Connection`: one HTTP/1.1 connection to a provider, with one request at a time.

`send_request` sends a request and returns its `HttpResponse`, which receives the bytes of the body later. After a
complete response the connection is idle and can send another request. `abort` closes it at once. `ConnectionLost` and
`InvalidHttp` are its errors. The response parser calls the methods `on_…`. asyncio calls `connection_…`,
`data_received` and `eof_received`.
"""

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from anthropic_proxy.upstream.http.response import HttpResponse
from anthropic_proxy.upstream.http.url import Origin

if TYPE_CHECKING:
    from anthropic_proxy.upstream.http.client import ConnectionPool

MAX_RESPONSE_HEAD_BYTES = 256 * 1024
"""Maximum size of a response head, 1xx heads included. A larger head fails with `InvalidHttp`.

The limit also applies to chunk sizes and extensions between two fragments of a body, and to trailers.
"""
MAX_UNREAD_BYTES = 64 * 1024
"""Maximum number of received bytes that the caller has not read. Above it, the connection stops reading from its
socket."""
MAX_TLS_WRITE_BYTES = 16 * 1024
"""Maximum bytes of a request body per TLS write. OpenSSL keeps a buffer of the maximum write size per connection."""
_SWITCHING = 101


def new_response_parser(callbacks: object) -> httptools.HttpResponseParser:
    """Return a parser for HTTP responses, which accepts some deviations, such as missing carriage returns.

    The parser calls the `on_…` methods of the object `callbacks`.
    """
    parser = httptools.HttpResponseParser(callbacks)
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


class ConnectionLost(Exception):
    """Error: the connection ended before the status and headers of a response were complete.

    `cause` is None if the server closed the connection.
    """

    def __init__(self, *, begun: bool = False, cause: Exception | None = None) -> None:
        super().__init__()
        self.begun = begun
        self.cause = cause


class InvalidHttp(Exception):
    """Error: the received bytes are not valid HTTP or exceed a limit. The message states the reason."""


class Connection(asyncio.Protocol):
    """One connection to the server `origin`, for one request at a time.

    `owner` is the pool to which the connection returns after a complete response.
    """

    def __init__(self, origin: Origin, owner: "ConnectionPool") -> None:
        self.origin = origin
        """Server to which the requests are sent, also if the connection leads through an HTTP proxy."""
        self.idle_since = 0.0
        """Time of the event loop's clock, in seconds, at which the connection became idle."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = new_response_parser(self)
        self._pending: asyncio.Future[HttpResponse] | None = None
        """Future of the response to the current request, until the response head arrives. None: no request waits."""
        self._response: HttpResponse | None = None
        """Response with a body that is still being received. None: no such response."""
        self._early: bytes | None = b""
        """Bytes that the server sent before the first request, such as an immediate rejection. None: a request was
        sent."""
        self._headers: dict[str, str] = {}
        self._repeated_headers: dict[str, list[str]] = {}
        """Name of a repeated response header → all values of that header."""
        self._head_bytes = 0
        """Number of bytes received since the request was sent, or since the last fragment of the body."""
        self._can_reuse = False
        """True if the last response permits another request on this connection."""

    async def send_request(self, head: bytes, body: bytes) -> HttpResponse:
        """Send a request, and return the response once its status and headers have arrived.

        `head` has the request line and headers. Raises `InvalidHttp` for an invalid response, and `ConnectionLost` if
        the connection ends before the response headers.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionLost
        self._head_bytes = 0
        self._pending = self._loop.create_future()
        _write(transport, head, body, split_body=self.origin.uses_tls)
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

    def is_idle(self) -> bool:
        """Return True if the connection can send another request: it is open, and the last response is complete."""
        transport = self._transport
        return (
            self._can_reuse
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def abort(self) -> None:
        """Close the connection immediately and discard all data that is not sent yet."""
        self._can_reuse = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the asyncio transport, by which bytes are sent (callback of asyncio for a new connection)."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes of a response (callback of asyncio).

        Bytes that arrive before the first request are buffered. Bytes between two requests are invalid, so the
        connection is closed.
        """
        if self._parser is None or (self._response is None and self._pending is None):
            self._buffer_early_data(data)
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._can_reuse = False  # the following bytes are an unrequested protocol
            return
        except httptools.HttpParserError as error:
            self._fail(InvalidHttp(str(error)))
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
        elif response is not None and response.unread_bytes > MAX_UNREAD_BYTES and self._transport is not None:
            self._transport.pause_reading()
            response.mark_reading_paused()

    def eof_received(self) -> None:
        """Close the connection, because the server has closed its side (callback of asyncio)."""
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response, because the connection is closed (callback of asyncio).

        `exc` is the error that closed the connection. Without an error, a body is complete if the headers do not state
        its end, by a length or as chunks. Such a body ends with the connection.
        """
        self._transport = self._parser = None
        self._owner.remove_closed(self)
        response, self._response = self._response, None
        if response is not None:
            response.end_body(exc or (EOFError() if _has_stated_end(response) else None))
        elif self._pending is not None and not self._pending.done():
            self._pending.set_exception(ConnectionLost(begun=self._head_bytes > 0, cause=exc))

    def on_message_begin(self) -> None:
        """Mark the connection as not reusable, because a response has begun (callback of the parser)."""
        self._can_reuse = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store one response header (callback of the parser). Headers after the body (trailers) are ignored."""
        if self._response is None:
            key, text = name.decode("latin-1").lower(), value.decode(errors="surrogateescape")
            if key in self._headers:
                self._repeated_headers.setdefault(key, [self._headers[key]]).append(text)
            else:
                self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Return the response to the waiting `send_request` (callback of the parser after the last header).

        Responses with a status 1xx, and responses that no request expects, are ignored.
        """
        assert self._parser is not None
        status, headers = self._parser.get_status_code(), self._headers
        self._headers = {}
        if self._repeated_headers:
            headers.update((name, ", ".join(values)) for name, values in self._repeated_headers.items())
            self._repeated_headers = {}
        if (100 <= status < 200 and status != _SWITCHING) or self._pending is None or self._pending.done():
            return  # an interim or unrequested response
        self._head_bytes = 0
        self._response = HttpResponse(
            status, headers, loop=self._loop, on_release=self._release, resume_reading=self._resume_reading
        )
        self._pending.set_result(self._response)

    def on_body(self, data: bytes) -> None:
        """Append received bytes to the body of the response (callback of the parser)."""
        self._head_bytes = 0
        if self._response is not None:
            self._response.append_body(data)

    def on_message_complete(self) -> None:
        """End the body of the response (callback of the parser at its last byte).

        The end of an ignored response, such as one with a status 1xx, has no effect.
        """
        if self._response is None:
            return
        assert self._parser is not None
        self._can_reuse = self._parser.should_keep_alive()
        self._response.end_body()
        self._response = None

    def _buffer_early_data(self, data: bytes) -> None:
        if self._early is None or self._transport is None:
            self.abort()
        else:
            self._early += data
            self._transport.pause_reading()

    def _fail(self, error: InvalidHttp) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.end_body(error)
        elif self._pending is not None and not self._pending.done():
            self._pending.set_exception(error)
        self.abort()

    def _resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _release(self, complete: bool) -> None:
        if complete and self.is_idle():
            self.idle_since = self._loop.time()
            self._owner.put_idle(self)
        else:
            self.abort()


def _has_stated_end(response: HttpResponse) -> bool:
    """Return True if the headers of a response state the end of its body.

    Without such headers the body ends with the connection (RFC 9112, 6.3).
    """
    coding = response.headers.get("transfer-encoding")
    return "content-length" in response.headers if coding is None else coding.lower().endswith("chunked")


def _write(transport: asyncio.Transport, head: bytes, body: bytes, *, split_body: bool) -> None:
    if not split_body or len(body) <= MAX_TLS_WRITE_BYTES:
        transport.writelines((head, body) if body else (head,))
        return
    transport.write(head)
    view = memoryview(body)
    for start in range(0, len(body), MAX_TLS_WRITE_BYTES):
        if transport.is_closing():
            return
        transport.write(view[start : start + MAX_TLS_WRITE_BYTES])
