"""HTTP as uvicorn reads it, with what it leaves open: a time and a size for the head of a request, refusals in the
envelope, upgrades that are not taken up, and answers whose head does not travel alone.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from anthropic_proxy.errors import AddressTooLong, HeadersTooLarge, ProxyError, RequestTimeout, UnreadableRequest
from anthropic_proxy.server.replies import encode_error, error_headers

HEAD_SECONDS = 30.0
"""The longest time for request line and headers; a connection that says nothing at all is closed after it too."""
HEAD_BYTES = 64 * 1024
"""What of an unfinished head is kept; a finished one is the guard's to judge. Also what may come between two pieces of
a body, or behind it: sizes and extensions of chunks, and trailers, which nobody reads."""
LINGER_SECONDS = 10.0
"""How long a body may still come after its request was answered: a client that writes does not read the answer yet."""
_OF_AN_UPGRADE = frozenset((b"connection", b"upgrade", b"http2-settings"))
_VERSIONS = ("1.1", "1.0")
_TLS_HANDSHAKE = b"\x16"


class Refusing(Protocol):
    """What the application does for requests that cannot be read."""

    def note_refusal(self, error: ProxyError) -> str:
        """Write the line of such a request and return its id."""
        ...


class GuardedHttp(HttpToolsProtocol):
    """One connection of a client."""

    head_seconds = HEAD_SECONDS
    linger_seconds = LINGER_SECONDS
    app: Any
    """The ASGI application, which is `Refusing` too."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._in_head = self._in_body = self._upgrading = self._unreadable = self._stopping = False
        self._head_bytes = 0
        self._linger_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(self.head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop_timer()
        self._stop_lingering()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Answer what was asked, or is being asked, and hang up then."""
        self._stopping = True
        if not self._in_head:
            super().shutdown()

    def close_if_idle(self) -> None:
        """Hang up where a client keeps the connection for later."""
        if self.cycle is not None and self.cycle.response_complete and not (self._in_head or self._in_body):
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Read what came; unlike uvicorn's own, go on in HTTP where an upgrade was offered."""
        if self._unreadable:
            return
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._upgrading:
                self._stay_in_http(data[offer.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__  # what a method below raised
            self._refuse(cause if isinstance(cause, ProxyError) else UnreadableRequest(_describe(data, error)))
            return
        if self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)
        if self._head_bytes > HEAD_BYTES and (self._in_head or self._in_body):
            self._refuse(
                AddressTooLong(f"The address has more than {HEAD_BYTES:,} bytes.")
                if self._in_head and len(self.url) > HEAD_BYTES // 2
                else HeadersTooLarge(f"The headers have more than {HEAD_BYTES:,} bytes.")
            )

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        self._in_head = True
        self._head_bytes = 0
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the application, unless the parser takes the body for another protocol's."""
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise UnreadableRequest(f"HTTP/{version} is not spoken here; HTTP/1.1 is.")
        self._in_head = False
        self._in_body = True
        self._head_bytes = 0
        self._stop_timer()
        self._upgrading = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._upgrading:
            return
        super().on_headers_complete()
        self.headers = []  # what comes behind the body is none of the headers that the guard judges
        if self._stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._in_body = False
        if self._upgrading:
            return
        super().on_message_complete()
        if self._linger_timer is not None:
            self._stop_lingering()
        if self.cycle.response_complete:
            self._rest()

    def on_response_complete(self) -> None:
        """Go on with the next request; one whose body still comes may not take for ever."""
        super().on_response_complete()
        if self._in_body and self._linger_timer is None and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(self.linger_seconds, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["method"] == "POST" and not cycle.waiting_for_100_continue:
            cycle.transport = _HeadWithBody(cycle.transport, self._hang_up)  # type: ignore[assignment]
        if cycle.scope["http_version"] == "1.0":
            app = _without_chunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _stay_in_http(self, rest: bytes) -> None:
        """Read the request again without its offer to speak another protocol: nobody has to take that up."""
        closes = any(name == b"connection" and b"close" in value.lower() for name, value in self.headers)
        headers = [(name, value) for name, value in self.headers if name not in _OF_AN_UPGRADE]
        if closes:
            headers.append((b"connection", b"close"))
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        request_line = b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(request_line + head + b"\r\n" + rest)

    def _give_up(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(RequestTimeout(f"The headers were not complete after {self.head_seconds:g} s."))
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _rest(self) -> None:
        """Wait for the next request, for a while."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _stop_lingering(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def _refuse(self, error: ProxyError) -> None:
        """Answer in the envelope and hang up; where an earlier request is being answered, let that end first."""
        self._unreadable = True
        self._stop_timer()
        request_id = self.app.note_refusal(error)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body):
            cycle.keep_alive = False
            return
        if cycle is not None and not cycle.response_complete:  # its body is what cannot be read: it gets this answer
            cycle.disconnected = True
            cycle.message_event.set()
        body = encode_error(error, request_id)
        headers = {**error_headers(error, request_id), "content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + head.encode("latin-1") + b"\r\n" + body)
        self._hang_up()

    def _hang_up(self) -> None:
        """Close; where the client may still write, first say that we have ended, and let it read why.

        A connection that is closed before all was read is reset, and what its client has not read yet is lost.
        """
        if not (self._in_head or self._in_body) or self.transport.is_closing():
            self.transport.close()
            return
        self._unreadable = True
        self.transport.write_eof()
        self._stop_lingering()
        self._linger_timer = self.loop.call_later(self.linger_seconds, self.transport.close)


class _HeadWithBody:
    """The transport of one response whose head leaves with the first bytes of its body: one packet in place of two.

    For methods whose answers have a body, which follows its head at once here.
    """

    __slots__ = ("_hang_up", "_head", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, hang_up: Callable[[], None]) -> None:
        self._transport = transport
        self._hang_up = hang_up
        self._head: bytes | None = None
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Keep the head; then write it with what comes next, and from there on what comes."""
        if self._head is None:
            self._head = data
        elif self._head:
            self._head, data = b"", self._head + data
            self._transport.write(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Hang up; a head that nothing followed goes out all the same."""
        if self._head:
            self._transport.write(self._head)
        self._hang_up()


def _without_chunks(app: Any, cycle: RequestResponseCycle) -> Any:
    """Return the application for a client of HTTP/1.0, which knows no chunks: the end of its answer is the end of the
    connection.
    """
    cycle.chunked_encoding = False  # else its absence, like that of a length, decides for chunks

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        async def send_plainly(message: Any) -> None:
            cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plainly)

    return serve


def _describe(data: bytes, error: Exception) -> str:
    if data.startswith(_TLS_HANDSHAKE):
        return "This is no HTTP but TLS: the address of this proxy begins with http://, not https://."
    return f"The request is not HTTP as it can be read here: {error}."
