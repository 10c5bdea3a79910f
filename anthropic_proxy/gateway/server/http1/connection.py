"""HTTP/1.1 connection of a client: an `asyncio.Protocol` that parses client requests with httptools, within limits.

Theory of operation. asyncio passes received bytes to `data_received`. httptools calls the `on_*` methods for each
parsed element, within its `feed_data`. Almost every read of a socket is one complete head, one head with its body, or
one piece of a body: `_parse_ordinary` passes such bytes to the parser without a copy. All other bytes go through a
buffer and `_parse`, which cuts them into pieces. The connection does more than pass bytes to httptools, for two
reasons: httptools has no limits, and it accepts request lines that another HTTP program could read differently (request
smuggling). So each head is counted and its request line is checked before the parser reads it, parsing pauses after a
number of callbacks, and it stops while too many requests wait for the response of an earlier one. The bytes that then
stay unparsed are limited too, by pausing the socket.

Clients repeat the heads of their requests, which often differ in the length of the body only. Such a head is compared
with the one before (`RepeatableHead`): it is neither parsed nor checked again, and its body does not pass the parser.

`_reading` says which part of a request the next byte belongs to (`ReadingState`). The callbacks of the parser lead
from "nothing" to "head", "body" and back. The bytes of a large body of known length ("direct body") go to the request
directly, because the parser would copy them, as do those behind a repeated head. A parser that has seen the head does
not see the end of such a request, so it is replaced.

A client may send several requests without waiting for the responses. `unfinished` are the parsed requests without a
complete response: the first one is what the application answers, and the last one is what a body belongs to. Without
any, a body is the rest of a request that was answered before its end, and is dropped. Each complete response
starts the next request. At most one of these times counts at any moment: the head timer while a head is incomplete, the
keep-alive timer between requests, the drain timer while the rest of a body is read after its response. The write
timeout runs whenever the client does not read.

`_input` says what becomes of the bytes that the client sends (`InputState`). It is "open" at first. `eof_received`
leads to "ended" if the client still gets responses. `_ignore_input` leads to "ignored", which is the last state: after
a request that is no valid HTTP, and in `_close_gracefully`.

Closing has three forms, and the choice matters to clients. `close` sends what is buffered. `abort` drops it, for
clients that do not read. `_close_gracefully` ends the sending direction only and discards what still arrives for a
while: a close with unread bytes would make the kernel reset the connection, and the client would lose the response.
"""

import asyncio
import re
import urllib.parse
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from typing import Literal, Protocol, cast

import httptools
from msgspec import Struct, field

from anthropic_proxy.engine.exchange.client_side import encode_error, error_headers
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import (
    HeadersTooLarge,
    MalformedHttp,
    ProxyError,
    RequestTimeout,
    ShuttingDown,
    UriTooLong,
)
from anthropic_proxy.gateway.error_catalog import error_help_headers
from anthropic_proxy.gateway.platforms.heap import HeapTrimmer
from anthropic_proxy.gateway.server.http1.cycle import (
    HEADER_OVERHEAD_BYTES,
    STATUS_LINES,
    AsgiApp,
    FlowControl,
    RepeatableHead,
    RequestResponseCycle,
    Target,
)
from anthropic_proxy.gateway.server.http1.held_bytes import GRACE_SECONDS, UNBEGUN, UNREAD, HeldBytes
from anthropic_proxy.gateway.server.http1.places import Places

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of an incomplete request head (request line and headers). A larger one is rejected with 414 or 431."""
MAX_HEADERS = 1000
"""Maximum number of headers. They take up to 40 times the memory of their bytes. More are rejected with 431."""
MAX_PIPELINED_REQUESTS = 16
"""Maximum number of parsed requests that wait for the response of an earlier one. Further bytes stay unparsed."""
MAX_PIPELINED_BYTES = 1024 * 1024
MIN_DIRECT_BODY_BYTES = 64 * 1024
"""Minimum `content-length` of a body that does not pass the parser."""
MAX_UNPARSED_BYTES = 64 * 1024
"""Maximum number of unparsed bytes with which the socket is still read. Reading is necessary to detect a disconnect."""
MAX_PARSE_STEPS_PER_ITERATION = 4096
"""Number of body pieces, header lines and trailers after which parsing pauses, so that other connections are served."""
_VERSIONS = ("1.1", "1.0")
_ASGI = {"version": "3.0", "spec_version": "2.3"}
# the longer time avoids requests on a connection that the server is closing
KEEP_ALIVE_SECONDS = 75.0
"""Idle time after which the server closes a client connection. Clients close theirs earlier, after at most 60 s."""
HEAD_TIMEOUT_SECONDS = 30.0
"""Seconds for a client to send request line and headers. Then incomplete headers are rejected with 408."""
# some clients read the response only after they have sent the whole body
BODY_DRAIN_TIMEOUT_SECONDS = 10.0
"""Seconds for the rest of the request body after the response. Then the connection is closed."""
WRITE_TIMEOUT_SECONDS = 300.0
"""Seconds after which a connection is aborted if its client reads no byte of a response that waits to be sent."""
NEW_CONNECTION_GRACE_SECONDS = 0.5
"""Seconds for a new connection to send its first request while the server stops. Then the connection is closed."""
_SAFE_METHODS = frozenset(("GET", "HEAD"))


BEHIND_BYTES = 384 * 1024
"""What waits of a stream behind the full buffer of its connection: pieces that are read, and those behind them."""
UNBEGUN_REQUEST_BYTES = 4096
"""What a head needs beside its bytes and headers."""
_WRITE_POLLS = 10


class OneShotTimer:
    __slots__ = ("_loop", "_since", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        """Timer of the event loop. None: not started, or stopped."""

    def start(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        self.stop()
        self._since = self._loop.time()
        self.timer = self._loop.call_later(seconds, on_timeout)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def elapsed_seconds(self) -> float:
        return 0.0 if self.timer is None else self._loop.time() - self._since


class KeepAliveTimer:
    """Calls `on_timeout` when a connection has been idle (without a request) for `seconds`. The loop's timer is not
    restarted for each request, which would be slower than one check when it ends.
    """

    __slots__ = ("_idle_since", "_loop", "_on_timeout", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_timeout: Callable[[], None] | None = on_timeout
        self._idle_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin_idle(self) -> None:
        self._idle_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._poll)

    def end_idle(self) -> None:
        self._idle_since = None

    def cancel(self) -> None:
        self._idle_since = None
        self._on_timeout = None
        if self._timer is not None:
            self._timer.cancel()

    def _poll(self) -> None:
        self._timer = None
        if self._idle_since is None or self._on_timeout is None:
            return
        left = self._idle_since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._poll)
        else:
            self._on_timeout()


class WriteTimeout:
    """Aborts a client connection if its client reads no byte of a pending response for `seconds`."""

    __slots__ = ("_loop", "_progress_at", "_seconds", "_timer", "_transport", "_unread")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._progress_at = 0.0

    def start(self) -> None:
        """A repeated call has no effect."""
        if self._timer is None and (unread := self._transport.get_write_buffer_size()):
            self._unread = unread
            self._progress_at = self._loop.time()
            self._timer = self._loop.call_later(self._seconds / _WRITE_POLLS, self._poll)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._timer = None
        unread, now = self._transport.get_write_buffer_size(), self._loop.time()
        if unread < self._unread:
            self._unread = unread
            self._progress_at = now
        elif now - self._progress_at >= self._seconds:
            self._transport.abort()
            return
        if unread:
            self._timer = self._loop.call_later(self._seconds / _WRITE_POLLS, self._poll)


class HttpApplication(AsgiApp, Protocol):
    """Interface of the ASGI application that answers client requests, and logs those that the HTTP parser rejects."""

    def log_rejected_request(self, error: ProxyError) -> str:
        """Log a request that the HTTP parser rejected, and return the request id for the error body."""
        ...


ReadingState = Literal["nothing", "head", "upgrade", "body", "direct body"]
"""Part of a request that has begun on a connection and is not complete. "upgrade": the parser has read a head that
offers another protocol, and is about to read it again without the offer. "direct body": it does not pass the parser."""
_BODY_STATES = ("body", "direct body")


InputState = Literal["open", "ended", "ignored"]
"""What a connection does with the bytes that its client sends. "ended": the client has ended its sending direction,
and received bytes are still unparsed. "ignored": a request was rejected, or the last response was sent while the client
could still send; further bytes are dropped."""


class ServerState(Struct, eq=False):
    app: HttpApplication
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    heap_trimmer: HeapTrimmer = field(default_factory=HeapTrimmer)
    unread: HeldBytes = field(default_factory=lambda: HeldBytes(UNREAD, GRACE_SECONDS))
    """What waits for clients that do not read."""
    unbegun: HeldBytes = field(default_factory=lambda: HeldBytes(UNBEGUN))
    """What clients have sent of requests whose turn has not come."""
    connections: set["Http1Connection"] = field(default_factory=set)
    places: Places = field(default_factory=Places)
    request_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Tasks in which the application runs."""
    draining: bool = False
    """True while the server still accepts requests after a stop signal. Each response then closes its connection."""
    default_headers: bytes = b""
    """Encoded headers that every response contains, such as `date: …`. Replaced once a second."""


class Http1Connection(asyncio.Protocol):
    """Client connection with one `RequestResponseCycle` for each request. Offers such as `Upgrade: h2c` are ignored."""

    # class attributes, so that tests can use shorter timeouts
    head_timeout_seconds = HEAD_TIMEOUT_SECONDS
    body_drain_timeout_seconds = BODY_DRAIN_TIMEOUT_SECONDS
    write_timeout_seconds = WRITE_TIMEOUT_SECONDS

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self.loop = loop = asyncio.get_running_loop()
        self.unfinished: deque[RequestResponseCycle] = deque()
        """Requests with complete headers and without a complete response, in their order. The application answers the
        first one; the others wait.
        """
        self._idle: tuple[asyncio.Task[None], asyncio.Future[RequestResponseCycle]] | None = None
        """Task that waits for the next request, and what it waits for. None: there is none."""
        self._buffer = ReceiveBuffer()
        self._reading: ReadingState = "nothing"
        self._input: InputState = "open"
        self._stopping = False
        """True after a stop of the server: each response ends its connection."""
        self._head_timer = OneShotTimer(loop)
        self._drain_timer = OneShotTimer(loop)
        self._keep_alive_timer = KeepAliveTimer(loop, state.keep_alive_seconds, self._close)
        self._parser = self._new_parser()
        self._received_url = bytearray()
        self._headers: list[tuple[bytes, bytes]] = []
        self._steps = 0
        """Number of callbacks of the parser since the last pause."""
        self._head_bytes = 0
        """Received bytes of the head that is incomplete."""
        self._parsing_scheduled = False
        """True while the rest of the buffer waits for the next iteration of the event loop."""
        self._repeated: RepeatableHead | None = None
        """Latest head of the usual form. None: the latest head has another one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flow = FlowControl(self.transport)
        self._write_timer = WriteTimeout(self.loop, self.transport, self.write_timeout_seconds)
        self._state.connections.add(self)
        self._head_timer.start(self.head_timeout_seconds, self._abort)
        address, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._scope = {
            "type": "http",
            "asgi": _ASGI,
            "server": address[:2] if address else None,
            "client": peer[:2] if peer else None,
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
            "root_path": "",
        }

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.stop()
        self._drain_timer.stop()
        self._write_timer.stop()
        self._keep_alive_timer.cancel()
        self._buffer.clear()
        self._disconnect()
        self._state.connections.discard(self)
        self._state.unread.release(self)
        self._state.unbegun.release(self)
        if self._idle is not None:
            self._idle[1].cancel()
        self.flow.resume_writing()
        del self._parser  # breaks a reference cycle

    def data_received(self, data: bytes) -> None:
        if self._input == "ignored":
            return
        self._steps = 0
        if self._reading != "head" and len(self.unfinished) < 2 and not self._buffer.data:
            data = self._parse_ordinary(data)
        if data:
            self._buffer.append(data)
            self._parse()

    def on_message_begin(self) -> None:
        self._reading = "head"
        self._repeated = None
        self._keep_alive_timer.end_idle()

    def on_url(self, url: bytes) -> None:
        self._received_url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises `HeadersTooLarge`."""
        if self._reading == "head":
            self._headers.append((name.lower(), value))
            if len(self._headers) > MAX_HEADERS:
                raise HeadersTooLarge(f"The request has more than {MAX_HEADERS:,} headers.")
        else:
            self._steps += 1

    def on_headers_complete(self) -> None:
        """Begin a request, whose body may follow. Raises `MalformedHttp` for an unsupported HTTP version or method."""
        parser = self._parser
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise MalformedHttp(f"HTTP/{version} is not supported; use HTTP/1.1.")
        method = parser.get_method()
        if method == b"CONNECT":
            raise MalformedHttp("CONNECT is not served: this proxy forwards requests of the Messages API only.")
        target = bytes(self._received_url)
        if not target.startswith(b"/"):
            target = normalize_request_target(target, self._headers)
        self._head_bytes = 0
        self._steps += len(self._headers)
        if self._head_timer.timer is not None:
            self._head_timer.stop()
            self._state.unbegun.release(self)
        if parser.should_upgrade():
            self._reading = "upgrade"
            self._received_url = bytearray(target)
            return
        keep_alive = parser.should_keep_alive()
        fields = dict(self._headers)
        body: ReadingState = "body"
        if (length := fields.get(b"content-length", b"")).isdigit():
            self._buffer.body_left = size = int(length)
            # after a request with `Connection: close`, the parser ignores what follows
            if size >= MIN_DIRECT_BODY_BYTES and keep_alive:
                body = "direct body"
                self._parser = self._new_parser()  # the one before would wait for the body
        awaits_continue = fields.get(b"expect", b"").lower() == b"100-continue"
        self._begin_request(
            method.decode("ascii"),
            split_target(target),
            version,
            body,
            keep_alive=keep_alive,
            awaits_continue=awaits_continue,
        )

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self._steps += 1
        if self.unfinished:
            self.unfinished[-1].feed_body(body)

    def on_message_complete(self) -> None:
        if self._reading == "upgrade":
            return
        self._reading = "nothing"
        self._head_bytes = 0
        self._buffer.begin_request_line()
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._drain_timer.timer is not None:
            self._drain_timer.stop()
        if self.unfinished:
            self.unfinished[-1].finish_body()
        else:
            self._keep_alive_timer.begin_idle()

    def _begin_request(
        self, method: str, target: Target, version: str, body: ReadingState, *, keep_alive: bool, awaits_continue: bool
    ) -> RequestResponseCycle:
        path, raw_path, query = target
        scope = {
            **self._scope,
            "http_version": version,
            "method": method,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
        }
        cycle = RequestResponseCycle(
            scope,
            self.transport,
            self.flow,
            default_headers=self._state.default_headers,
            keep_alive=keep_alive and version != "1.0" and not (self._stopping or self._state.draining),
            awaits_continue=awaits_continue and version != "1.0",
            count_freed_bytes=self._state.heap_trimmer.count_freed_bytes,
            on_response=self._end_response,
            close_connection=self._close_gracefully,
        )
        self._drop_head()
        self._reading = body
        if not self.unfinished:
            self._start(cycle)
        else:
            self.loop.call_soon(self._hold_unbegun)  # when all that was received is parsed
        self.unfinished.append(cycle)
        return cycle

    def _begin_repeated_request(self, head: RepeatableHead, length: bytes) -> None:
        """Begin a request with the head of the one before, except for the length of its body."""
        self._keep_alive_timer.end_idle()
        self._headers = head.list_headers(length)
        self._steps += len(self._headers)
        self._buffer.body_left = int(length)
        cycle = self._begin_request("POST", head.target, "1.1", "direct body", keep_alive=True, awaits_continue=False)
        cycle.head = head

    def _parse_ordinary(self, data: bytes) -> bytes:
        """Parse the bytes of one socket read if they have a common structure. Return the unparsed ones."""
        buffer = self._buffer
        start = 0
        if self._reading == "nothing":
            repeated = self._repeated
            if repeated is not None and (digits := repeated.find_length(data)) and buffer.accept_repeated_head():
                start = repeated.size + len(digits)
                self._begin_repeated_request(repeated, digits)
            else:
                start = buffer.accept_complete_head(data)
                if not start:
                    return data
                head = data[:start]
                if error := self._read_bytes(head):
                    self._send_error(error)
                    return b""
                if self._reading in _BODY_STATES:
                    cycle = self.unfinished[-1]
                    cycle.head = self._repeated = find_repeatable_head(head, cycle)
        length = len(data) - start
        if not length:
            return b""
        if length > buffer.body_left:
            return data[start:]
        buffer.body_left -= length
        if error := self._read_bytes(memoryview(data)[start:] if start else data):
            self._send_error(error)
        elif self._reading in _BODY_STATES and self.unfinished:
            self.unfinished[-1].schedule_wakeup(self.loop)
        return b""

    def _parse(self) -> None:
        buffer = self._buffer
        has_ended = self._input == "ended"
        while buffer.data and self._input != "ignored" and not self._is_full():
            if self._steps > MAX_PARSE_STEPS_PER_ITERATION:
                self._schedule_parsing()
                break
            piece = buffer.pop_piece(min(MAX_HEAD_BYTES + 1 - self._head_bytes, MAX_PIECE_BYTES))
            self._head_bytes += len(piece)
            if error := self._find_error(piece):
                self._send_error(error)
        hold = False
        if self._input != "ignored":
            hold = self._parsing_scheduled or len(buffer) > MAX_UNPARSED_BYTES
            if self._reading == "head" and self._head_timer.timer is None:
                self._head_timer.start(self.head_timeout_seconds, self._abort)
            elif self._reading in _BODY_STATES and self.unfinished:
                self.unfinished[-1].schedule_wakeup(self.loop)
            if self._reading == "head" or len(self.unfinished) > 1:
                self._hold_unbegun()
        if hold != self.flow.paused_for_unparsed:
            self.flow.set_paused_for_unparsed(hold)
        if has_ended and not self.eof_received():
            self._close()

    def _is_full(self) -> bool:
        waiting = len(self.unfinished) - 1
        if waiting < 1 or self._reading != "nothing":
            return False
        return waiting >= MAX_PIPELINED_REQUESTS or self.count_waiting_bytes() > MAX_PIPELINED_BYTES

    def count_waiting_bytes(self) -> int:
        """Return the estimated memory of the requests that wait for the response of an earlier one."""
        return sum(cycle.estimate_memory_bytes() for cycle in islice(self.unfinished, 1, None))

    def _hold_unbegun(self) -> None:
        """Note what the client has sent of requests whose turn has not come."""
        if self not in self._state.connections:
            return
        size = len(self._buffer) + self.count_waiting_bytes()
        if self._reading == "head":
            size += UNBEGUN_REQUEST_BYTES + self._head_bytes + HEADER_OVERHEAD_BYTES * len(self._headers)
        peer = cast("tuple[str, int] | None", self._scope["client"])
        self._state.unbegun.hold(self, peer[0] if peer else "", size)

    def _schedule_parsing(self) -> None:
        if not self._parsing_scheduled:
            self._parsing_scheduled = True
            self.loop.call_soon(self._resume_parsing)

    def _resume_parsing(self) -> None:
        self._parsing_scheduled = False
        self._steps = 0
        if not self.transport.is_closing():
            self._parse()

    def _find_error(self, piece: memoryview) -> ProxyError | None:
        """Return the error if the piece is invalid or exceeds a limit."""
        if not self._buffer.feed_request_line(piece):
            return MalformedHttp(
                describe_parse_error(piece, "method, address and HTTP/1.1 must have one space between each")
            )
        if error := self._read_bytes(piece):
            return error
        if self._head_bytes <= MAX_HEAD_BYTES:
            return None
        if self._reading == "head" and len(self._received_url) > MAX_HEAD_BYTES // 2:
            return UriTooLong(f"The address has more than {MAX_HEAD_BYTES:,} bytes.")
        return HeadersTooLarge(f"The headers have more than {MAX_HEAD_BYTES:,} bytes.")

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # otherwise, bytes after a request with `Connection: close` would make that request fail too
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _read_bytes(self, piece: bytes | memoryview) -> ProxyError | None:
        """Pass bytes to the parser, or to the request. Return the error of the parser or of a callback."""
        if self._reading == "direct body":
            # no error is returned here: `on_body` and `on_message_complete` raise none
            self.on_body(piece if isinstance(piece, bytes) else bytes(piece))
            if not self._buffer.body_left:
                self.on_message_complete()
            return None
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            return self._ignore_upgrade(piece[offer.args[0] :]) if self._reading == "upgrade" else None
        except httptools.HttpParserError as error:
            cause = error.__context__  # the error that an `on_*` callback raised
            return cause if isinstance(cause, ProxyError) else MalformedHttp(describe_parse_error(piece, str(error)))
        return None

    def _ignore_upgrade(self, remaining: bytes | memoryview) -> ProxyError | None:
        """Parse the request head again without its offer of another protocol, then `remaining`."""
        parser = self._parser
        target = bytes(self._received_url)
        head = encode_head_without_upgrade(parser.get_method(), target, parser.get_http_version(), self._headers)
        self._drop_head()
        self._parser = self._new_parser()
        return self._read_bytes(head) or self._read_bytes(remaining)

    def eof_received(self) -> bool:
        """Return True to keep the connection open for responses."""
        unfinished = self.unfinished
        self._write_timer.start()
        if (
            self._scope["scheme"] == "https"
            or self._reading != "nothing"
            or any(cycle.scope["method"] not in _SAFE_METHODS or cycle.is_event_stream for cycle in unfinished)
        ):
            # A useless call to a provider costs money, so all unfinished requests count as disconnected. So does the
            # reader of an event stream, which has no end: a browser closes a page in this way.
            self._disconnect()
        elif self._buffer.data:
            if self._input == "open":
                self._input = "ended"
            return True
        elif unfinished:
            unfinished[-1].keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._write_timer.start()
        receipt = self.unfinished[0].receipt if self.unfinished else None
        payer = "" if receipt is None else receipt.client.payer
        size = self.transport.get_write_buffer_size()
        self._state.unread.hold(self, payer, size + BEHIND_BYTES)

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._state.unread.release(self)
        if not self.transport.is_closing():
            self._write_timer.stop()

    def close_after_responses(self) -> None:
        """Close the connection after the responses to its current requests, because the server stops.

        A client without a request yet has `NEW_CONNECTION_GRACE_SECONDS` to send one.
        """
        self._stopping = True
        if self._reading == "head":
            return
        if self.unfinished:
            self.unfinished[-1].keep_alive = False
        elif self._waits_for_first_request():
            self._head_timer.start(min(NEW_CONNECTION_GRACE_SECONDS, self.head_timeout_seconds), self._abort)
        else:
            self.transport.close()

    def close_if_idle(self) -> None:
        if not (self.unfinished or self._is_mid_request() or self._waits_for_first_request()):
            self._close()

    def elapsed_wait_seconds(self) -> float:
        """Return for how many seconds the server has waited for the rest of a request head, or of a request that has
        its response. 0: for none.
        """
        return self._head_timer.elapsed_seconds() or self._drain_timer.elapsed_seconds()

    def _start(self, cycle: RequestResponseCycle) -> None:
        if len(self._state.request_tasks) >= self._state.places.unreserved:
            cycle.places = self._state.places
        if self._idle is None:  # also while the task of the request before still runs
            task = self.loop.create_task(self._run_requests(cycle), name="request")  # to format a name takes time
            task.add_done_callback(self._state.request_tasks.discard)
        else:
            task, next_cycle = self._idle
            self._idle = None
            next_cycle.set_result(cycle)
        self._state.request_tasks.add(task)

    async def _run_requests(self, cycle: RequestResponseCycle) -> None:
        """Run the application for a request, then for the next ones: a task for each would cost as much as its head."""
        task = asyncio.current_task()
        assert task is not None
        while True:
            await cycle.run_app(self._state.app)
            self._state.request_tasks.discard(task)
            if self._idle is not None or task.cancelling() or self not in self._state.connections:
                return
            next_cycle: asyncio.Future[RequestResponseCycle] = self.loop.create_future()
            self._idle = task, next_cycle
            del cycle
            cycle = await next_cycle

    def _end_response(self) -> None:
        self.unfinished.popleft()
        if self.transport.is_closing():
            self._write_timer.start()
            return
        if self.unfinished:
            self._start(self.unfinished[0])
            self._hold_unbegun()
        elif self._reading == "nothing":
            self._keep_alive_timer.begin_idle()
        elif self._reading in _BODY_STATES:  # the time of a head is limited already
            self.flow.resume_reading()
            if self._drain_timer.timer is None:
                self._drain_timer.start(self.body_drain_timeout_seconds, self._close)
        if self._buffer.data:
            self._schedule_parsing()

    def _is_mid_request(self) -> bool:
        return self._reading != "nothing" or bool(self._buffer.data)

    def _waits_for_first_request(self) -> bool:
        return self._reading == "nothing" and self._head_timer.timer is not None

    def _drop_head(self) -> None:
        """Keep nothing of the head that was read last: a connection may be idle for long."""
        self._received_url = bytearray()
        self._headers = []

    def _disconnect(self) -> None:
        for cycle in self.unfinished:
            cycle.mark_disconnected()
        self._drop_waiting_requests()

    def _drop_waiting_requests(self) -> None:
        while len(self.unfinished) > 1:
            self.unfinished.pop().release_resources()

    def _close(self) -> None:
        self.transport.close()
        self._write_timer.start()

    def _abort(self) -> None:
        self._head_timer.stop()
        if self._reading == "head":
            timeout = RequestTimeout(f"The headers were not complete after {self.head_timeout_seconds:g} s.")
            self._send_error(ShuttingDown() if self._stopping else timeout)
        else:
            self.transport.abort()

    def _send_error(self, error: ProxyError) -> None:
        """Reject the current request: send an error response and close the connection. If earlier requests are
        unfinished, only their responses are sent before the close. A request that has its response gets no second one.
        """
        if self._input == "ignored":
            return
        self._ignore_input()
        request_id = self._state.app.log_rejected_request(error)
        unfinished = self.unfinished
        earlier = len(unfinished)
        if unfinished and self._reading in _BODY_STATES and unfinished[-1].response in ("awaits continue", "not begun"):
            unfinished[-1].mark_disconnected()  # the request with the invalid body gets the error as its response
            earlier -= 1
            if earlier:
                unfinished.pop().release_resources()
        if earlier:
            unfinished[-1].keep_alive = False
            return
        if not unfinished and self._reading in _BODY_STATES:
            self._close_gracefully()
            return
        body = encode_error(error, request_id)
        headers = {**error_headers(error, request_id), **error_help_headers(error)}
        headers |= {"content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINES[error.status] + head.encode("latin-1") + b"\r\n" + body)
        self._close_gracefully()

    def _ignore_input(self) -> None:
        self._input = "ignored"
        self._head_timer.stop()
        self._drop_head()

    def _close_gracefully(self) -> None:
        """Close the connection. If the client may still send, end only the sending direction, and discard data until
        the drain timer ends, so that the client can read the response.
        """
        self._head_timer.stop()
        self._drop_waiting_requests()
        if not self._is_mid_request() or self.transport.is_closing():
            self._close()
            return
        self._ignore_input()
        self._buffer.clear()
        self.flow.resume_reading()
        self.flow.set_paused_for_unparsed(False)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._drain_timer.start(self.body_drain_timeout_seconds, self._close)


# limits the number of parser callbacks for a body of tiny chunks
MAX_PIECE_BYTES = 16 * 1024
"""Maximum size of a piece for the parser, except for bodies of known length."""
_MAX_KEPT_LINE_BYTES = 1024
_HEAD_END = b"\r\n\r\n"
_REQUEST_LINE = compile_anchored(rb"[^\x00\t-\r ]+ [^\x00\t-\r ]+ HTTP/[0-9]\.[0-9]\r\n")


class ReceiveBuffer:
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
        self.body_left = 0
        """Number of unparsed bytes of the current request body, by its `content-length`. 0: none, or a chunked body."""

    def __len__(self) -> int:
        return len(self.data) - self._start + len(self._later)

    def append(self, data: bytes) -> None:
        if self._start < len(self.data):
            self._later += data
        else:
            self.data = data
            self._start = 0

    def accept_complete_head(self, data: bytes) -> int:
        """Length of a complete head that needs neither `append` nor `pop_piece`. 0: the caller must use them."""
        if self._request_line is None or self._request_line:
            return 0
        if not data.startswith(self._last_request_line):  # a client repeats its request line, which is checked once
            line = _REQUEST_LINE.match(data)
            if line is None:
                return 0
            if len(line[0]) <= _MAX_KEPT_LINE_BYTES:
                self._last_request_line = line[0]
        found = data.find(_HEAD_END, 0, MAX_HEAD_BYTES)
        if found < 0:
            return 0
        self._request_line = None
        return found + len(_HEAD_END)

    def accept_repeated_head(self) -> bool:
        """Return True if a head that was checked before begins a request here."""
        if self._request_line is None or self._request_line:
            return False
        self._request_line = None
        return True

    def clear(self) -> None:
        self.data, self._start = b"", 0
        if self._later:
            self._later = bytearray()

    def pop_piece(self, max_piece_bytes: int) -> memoryview:
        """Remove the next piece and return it. It ends after a request head, after `max_piece_bytes` or with the
        buffered bytes, whichever comes first. Within a body of known length, it contains all buffered bytes of it.
        """
        if self._later:
            self.data = self.data[self._start :] + self._later
            self._start = 0
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
        self._request_line = bytearray()
        self._tail = b""

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
        data = self.data
        start = self._start
        tail = self._tail
        if tail and (found := (tail + data[start : start + 3]).find(_HEAD_END)) >= 0:
            return start + found + len(_HEAD_END) - len(tail)
        found = data.find(_HEAD_END, start)
        return len(data) if found < 0 else found + len(_HEAD_END)


_MAX_REPEATED_BYTES = 8 * 1024
"""Estimated memory of a head that a connection keeps while it is idle."""


def find_repeatable_head(head: bytes, cycle: RequestResponseCycle) -> RepeatableHead | None:
    """Return the head of a request whose body has not begun. None: the head has not the usual form."""
    scope = cycle.scope
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    fields = dict(headers)
    length = fields.get(b"content-length", b"")
    colon = head.find(b": %b\r\n" % length)
    is_usual = (
        len(fields) == len(headers)
        and b"transfer-encoding" not in fields
        and head[:colon].lower().endswith(b"\r\ncontent-length")
        and len(head) + HEADER_OVERHEAD_BYTES * len(headers) <= _MAX_REPEATED_BYTES
        and scope["method"] == "POST"
        and scope["http_version"] == "1.1"
        and cycle.keep_alive
        and b"expect" not in fields
    )
    if not is_usual:
        return None
    start = colon + len(b": ")
    place = [*fields].index(b"content-length")
    target = scope["path"], scope["raw_path"], scope["query_string"]
    return RepeatableHead(head[:start], head[start + len(length) :], target, headers, place)


_TLS_HANDSHAKE = b"\x16"
_UPGRADE_HEADERS = frozenset((b"connection", b"upgrade", b"http2-settings"))
_ABSOLUTE_FORM = compile_anchored(rb"([^:/?]+)://([^/?]*)(.*)", re.DOTALL)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


@lru_cache(maxsize=16)
def split_target(target: bytes) -> Target:
    """Raises `MalformedHttp`."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise MalformedHttp("The address in the request line is neither a path nor a complete URL.") from None
    path = url.path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, url.path, url.query or b""


def normalize_request_target(target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Add the path `/` to a URL without one. Raises `MalformedHttp` if a URL contradicts `Host` (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE_FORM.fullmatch(target)
    if found is None:
        return target
    scheme, authority, remainder = found.groups()
    port = _DEFAULT_PORTS.get(scheme.lower(), b":")
    for name, value in headers:
        if name == b"host" and value.lower().removesuffix(port) != authority.lower().removesuffix(port):
            raise MalformedHttp("The address in the request line names another host than the Host header.")
    return target if remainder[:1] == b"/" else b"%b://%b/%b" % (scheme, authority, remainder)


def encode_head_without_upgrade(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> bytes:
    """The parser reads this head in place of the received one. A header `Connection: close` is kept."""
    closes = any(name == b"connection" and b"close" in value.lower() for name, value in headers)
    kept = [header for header in headers if header[0] not in _UPGRADE_HEADERS]
    if closes:
        kept.append((b"connection", b"close"))
    lines = b"".join(b"%b: %b\r\n" % header for header in kept)
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), lines)


def describe_parse_error(data: bytes | memoryview, error: str) -> str:
    if data[:1] == _TLS_HANDSHAKE:
        return "The request is TLS instead of HTTP: the address of this proxy begins with http://, not https://."
    return f"The request is not valid HTTP: {error}."
