"""One connection to a provider: one request at a time, and its answer as it comes."""

import asyncio
from typing import Protocol, cast

import httptools

from anthropic_proxy.upstream.http.address import Origin
from anthropic_proxy.upstream.http.response import HttpResponse

HEAD_BYTES = 256 * 1024
"""What the head of an answer may have, with all that only announce it: gateways send long policies and cookies."""
UNREAD_BYTES = 64 * 1024
"""From which on, received and not read yet, no more is received."""
PIECE_BYTES = 16 * 1024
"""What of a body is encrypted at a time: for each connection OpenSSL keeps a buffer as large as the largest piece."""
_SWITCHING = 101


def new_parser(protocol: object) -> httptools.HttpResponseParser:
    """Return what reads answers for a protocol; it forgives what clients usually do, because servers do it.

    Lines may end without a carriage return or go on in the next one, spaces may stand behind the size of a chunk.
    """
    parser = httptools.HttpResponseParser(protocol)
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


class NoAnswer(Exception):
    """The connection ended before the head of an answer was whole.

    `begun`: after a part of it had come; `cause`: what the operating system says, None: it was closed.
    """

    def __init__(self, *, begun: bool = False, cause: Exception | None = None) -> None:
        super().__init__()
        self.begun = begun
        self.cause = cause


class NoHttp(Exception):
    """What came is not HTTP; the message says in which way."""


class Keeper(Protocol):
    """Keeps connections for later requests."""

    def keep(self, connection: "Connection") -> None:
        """Take one over which another request can be sent."""
        ...

    def forget(self, connection: "Connection") -> None:
        """Learn that one has ended."""
        ...


class Connection(asyncio.Protocol):
    """One connection, which its keeper gets back when an answer was received whole."""

    def __init__(self, origin: Origin, keeper: Keeper) -> None:
        self.origin = origin
        """What it leads to; not the proxy on the way."""
        self.free_since = 0.0
        """When it was kept, by the loop's clock, in seconds."""
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = new_parser(self)
        self._asked: asyncio.Future[HttpResponse] | None = None
        """Whoever waits for the head of an answer; None: nobody does."""
        self._answer: HttpResponse | None = None
        """The answer whose body comes."""
        self._early: bytes | None = b""
        """What came before the first request: who refuses all connections may say so at once. None: it was sent."""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._lasts = False
        """Whether the last answer left it open for another request."""

    async def ask(self, head: bytes, body: bytes) -> HttpResponse:
        """Send a request and wait for the head of its answer. Raises `NoAnswer` or `NoHttp`."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise NoAnswer
        self._head_bytes = 0
        self._asked = self._loop.create_future()
        _write(transport, head, body, in_pieces=self.origin.uses_tls)
        early, self._early = self._early, None
        if early:
            transport.resume_reading()
            self.data_received(early)
        try:
            return await self._asked
        except asyncio.CancelledError:
            self.cut()
            raise
        finally:
            self._asked = None

    def is_free(self) -> bool:
        """Whether another request can be sent; not where the last one has not even left yet."""
        transport = self._transport
        return (
            self._lasts
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def cut(self) -> None:
        """End it at once."""
        self._lasts = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called again where TLS begins in a tunnel."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read what came. Bytes that nobody asked for, behind an answer, end the connection."""
        if self._parser is None or (self._answer is None and self._asked is None):
            self._take_unasked(data)
            return
        if self._answer is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._lasts = False  # what comes next is another protocol, which nobody asked for
            return
        except httptools.HttpParserError as error:
            self._fail(NoHttp(str(error)))
            return
        answer = self._answer
        if answer is not None:
            if answer.unread > UNREAD_BYTES and self._transport is not None:
                self._transport.pause_reading()
                answer.hold_back()
        elif self._head_bytes > HEAD_BYTES and self._asked is not None and not self._asked.done():
            self._fail(NoHttp(f"its head has more than {HEAD_BYTES:,} bytes"))

    def eof_received(self) -> None:
        """End it: nothing is gained by sending the rest of a request to who will say no more."""
        self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way: the end of a connection is that of a body which says no other."""
        self._transport = self._parser = None
        self._keeper.forget(self)
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end(exc or (EOFError() if _says_its_end(answer) else None))
        elif self._asked is not None and not self._asked.done():
            self._asked.set_exception(NoAnswer(begun=self._head_bytes > 0, cause=exc))

    def on_message_begin(self) -> None:
        """Begin to read an answer. Where it follows another one that is complete, nobody asked for it."""
        self._lasts = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes behind a body is none of the answer's."""
        if self._answer is None:
            key, said = name.decode("latin-1").lower(), value.decode(errors="surrogateescape")
            self._headers[key] = f"{self._headers[key]}, {said}" if key in self._headers else said

    def on_headers_complete(self) -> None:
        """Give the answer to whoever waits for it. Nobody waits for what a server says unasked."""
        assert self._parser is not None
        status, headers = self._parser.get_status_code(), self._headers
        self._headers = {}
        if (100 <= status < 200 and status != _SWITCHING) or self._asked is None or self._asked.done():
            return  # it only announces an answer, or nobody asked for it
        self._answer = HttpResponse(status, headers, loop=self._loop, let_go=self._end_use, read_on=self._read_on)
        self._asked.set_result(self._answer)

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self._answer is not None:
            self._answer.feed(data)

    def on_message_complete(self) -> None:
        """End the answer, or go on to the one that was announced."""
        if self._answer is None:
            return
        assert self._parser is not None
        self._lasts = self._parser.should_keep_alive()
        self._answer.end()
        self._answer = None

    def _take_unasked(self, data: bytes) -> None:
        if self._early is None or self._transport is None:
            self.cut()
        else:
            self._early += data
            self._transport.pause_reading()

    def _fail(self, error: NoHttp) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end(error)
        elif self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
        self.cut()

    def _read_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _end_use(self, whole: bool) -> None:
        if whole and self.is_free():
            self.free_since = self._loop.time()
            self._keeper.keep(self)
        else:
            self.cut()


def _says_its_end(answer: HttpResponse) -> bool:
    """Whether a body says where it ends; else that is where the connection does (RFC 9112, 6.3)."""
    coding = answer.headers.get("transfer-encoding")
    return "content-length" in answer.headers if coding is None else coding.lower().endswith("chunked")


def _write(transport: asyncio.Transport, head: bytes, body: bytes, *, in_pieces: bool) -> None:
    if not in_pieces or len(body) <= PIECE_BYTES:
        transport.writelines((head, body) if body else (head,))
        return
    transport.write(head)
    view = memoryview(body)
    for start in range(0, len(body), PIECE_BYTES):
        if transport.is_closing():
            return
        transport.write(view[start : start + PIECE_BYTES])
