"""One HTTP/1.1 connection to a provider, with one request at a time."""

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from anthropic_proxy.upstream.http.response import HttpResponse
from anthropic_proxy.upstream.http.url import Origin

if TYPE_CHECKING:
    from anthropic_proxy.upstream.http.pool import ConnectionPool

MAX_RESPONSE_HEAD_BYTES = 256 * 1024
"""Maximum size of a response head with its 1xx heads. Gateways send long policies and cookies.

Also limits chunk sizes and extensions between two fragments of a body, and trailers.
"""
MAX_UNREAD_BYTES = 64 * 1024
"""Number of received, unread bytes at which reading pauses."""
MAX_TLS_WRITE_BYTES = 16 * 1024
"""Bytes of a body per TLS write. OpenSSL keeps a buffer of the maximum write size per connection."""
_SWITCHING = 101


def new_response_parser(protocol: object) -> httptools.HttpResponseParser:
    """Return a response parser. It accepts common deviations of servers, as most clients do.

    These are lines without carriage return, folded headers, and spaces after a chunk size.
    """
    parser = httptools.HttpResponseParser(protocol)
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


class ConnectionLost(Exception):
    """The connection ended before a complete response head.

    `begun`: True if bytes of a response had arrived. `cause`: error of the operating system. None: closed by the peer.
    """

    def __init__(self, *, begun: bool = False, cause: Exception | None = None) -> None:
        super().__init__()
        self.begun = begun
        self.cause = cause


class InvalidHttp(Exception):
    """The received bytes are not valid HTTP. The message states the reason."""


class Connection(asyncio.Protocol):
    """One connection. It returns to its owner after a complete response."""

    def __init__(self, origin: Origin, owner: "ConnectionPool") -> None:
        self.origin = origin
        """Server, also behind a proxy."""
        self.idle_since = 0.0
        """Loop time at which the connection became idle."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = new_response_parser(self)
        self._pending: asyncio.Future[HttpResponse] | None = None
        """Pending response head. None: no request."""
        self._response: HttpResponse | None = None
        """Response with an incomplete body. None: none."""
        self._early: bytes | None = b""
        """Bytes received before the first request, such as an immediate rejection. None: a request was sent."""
        self._headers: dict[str, str] = {}
        self._repeated_headers: dict[str, list[str]] = {}
        """Repeated header → all of its values."""
        self._head_bytes = 0
        """Bytes since the request was sent, or since the last fragment of the body."""
        self._can_reuse = False
        """True if the last response permits another request."""

    async def send_request(self, head: bytes, body: bytes) -> HttpResponse:
        """Send a request and wait for the response head. Raises `ConnectionLost` or `InvalidHttp`."""
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
        """Return True if another request can be sent. False while the last one is still being written."""
        transport = self._transport
        return (
            self._can_reuse
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def abort(self) -> None:
        """Close the connection immediately."""
        self._can_reuse = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport. Called again when TLS starts in a tunnel."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. Bytes after a complete response close the connection."""
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
        """Close the connection. Sending more of a request is useless without a response."""
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the pending response. A body without stated length ends with the connection."""
        self._transport = self._parser = None
        self._owner.remove_closed(self)
        response, self._response = self._response, None
        if response is not None:
            response.end_body(exc or (EOFError() if _has_stated_end(response) else None))
        elif self._pending is not None and not self._pending.done():
            self._pending.set_exception(ConnectionLost(begun=self._head_bytes > 0, cause=exc))

    def on_message_begin(self) -> None:
        """Start a response. After a complete one it is unrequested, so the connection is not reused."""
        self._can_reuse = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header. Trailers are ignored."""
        if self._response is None:
            key, text = name.decode("latin-1").lower(), value.decode(errors="surrogateescape")
            if key in self._headers:
                self._repeated_headers.setdefault(key, [self._headers[key]]).append(text)
            else:
                self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Resolve the pending request. A response without a pending request is ignored."""
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
        """Pass on a fragment of the body."""
        self._head_bytes = 0
        if self._response is not None:
            self._response.append_body(data)

    def on_message_complete(self) -> None:
        """End the response. After a 1xx head the final response follows."""
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
    """Return True if a body has a stated end. Otherwise it ends with the connection (RFC 9112, 6.3)."""
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
