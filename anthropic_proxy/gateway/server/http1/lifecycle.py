"""Life of one client connection: order of responses, timeouts, error responses, closing.

Theory of operation. A client may send several requests without waiting for the responses. `_running` is the request
that the application answers, `pipeline` the queue of the parsed ones behind it, and `cycle` the latest parsed one. Each
complete response starts the next request. At most one of these times counts at any moment: the head timer while a head
is incomplete, the keep-alive timer between requests, the drain timer while the rest of a body is read after its
response. The write timeout runs whenever the client does not read.

Closing has three forms, and the choice matters to clients. `close` sends what is buffered. `abort` drops it, for
clients that do not read. `_close_gracefully` ends the sending direction only and discards what still arrives for a
while: a close with unread bytes would make the kernel reset the connection, and the client would lose the response.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from anthropic_proxy.engine.exchange.client_side import encode_error, error_headers
from anthropic_proxy.errors import ProxyError, RequestTimeout, ShuttingDown
from anthropic_proxy.gateway.error_catalog import error_help_headers
from anthropic_proxy.gateway.platforms.heap import HeapTrimmer
from anthropic_proxy.gateway.server.http1.cycle import STATUS_LINES, AsgiApp, FlowControl, RequestResponseCycle

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


class HttpApplication(AsgiApp, Protocol):
    """Interface of the ASGI application that answers client requests, and logs those that the HTTP parser rejects."""

    def log_rejected_request(self, error: ProxyError) -> str:
        """Log a request that the HTTP parser rejected, and return the request id for the error body."""
        ...


@dataclass(eq=False)
class ServerState:
    app: HttpApplication
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    heap_trimmer: HeapTrimmer = field(default_factory=HeapTrimmer)
    connections: set["ConnectionLifecycle"] = field(default_factory=set)
    request_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    draining: bool = False
    """True while the server still accepts requests after a stop signal. Each response then closes its connection."""
    default_headers: bytes = b""
    """Encoded headers that every response contains, such as `date: …`. Replaced once a second."""


class ConnectionLifecycle(asyncio.Protocol):
    """Client connection without a parser of requests. The subclass passes requests to `_start` or to `pipeline`."""

    # class attributes, so that tests can use shorter timeouts
    head_timeout_seconds = HEAD_TIMEOUT_SECONDS
    body_drain_timeout_seconds = BODY_DRAIN_TIMEOUT_SECONDS
    write_timeout_seconds = WRITE_TIMEOUT_SECONDS

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._loop = loop = asyncio.get_running_loop()
        self.cycle: RequestResponseCycle | None = None
        """Latest request with complete headers. None: no request yet."""
        self.pipeline: deque[RequestResponseCycle] = deque()
        """Parsed requests that wait until the response to an earlier request is complete, in their order."""
        self._running: RequestResponseCycle | None = None
        """Request that the application is answering, or has answered last. None: no request yet."""
        self._buffer = ReceiveBuffer()
        # The subclass sets `_in_head` and `_in_body`, which are True while the head or body is incomplete.
        self._in_head = self._in_body = self._rejected = self._stopping = False
        self._ended = False
        """True if the client has ended its sending direction while received bytes were still unparsed."""
        self._head_timer = OneShotTimer(loop)
        self._drain_timer = OneShotTimer(loop)
        self._keep_alive_timer = KeepAliveTimer(loop, state.keep_alive_seconds, self._close)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flow = FlowControl(self.transport)
        self._encrypted = transport.get_extra_info("sslcontext") is not None
        self._write_timer = WriteTimeout(self._loop, self.transport, self.write_timeout_seconds)
        self._state.connections.add(self)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.stop()
        self._drain_timer.stop()
        self._write_timer.stop()
        self._keep_alive_timer.cancel()
        self._buffer.clear()
        self._disconnect()
        self._state.connections.discard(self)
        self.flow.resume_writing()

    def eof_received(self) -> bool:
        """Return True to keep the connection open for responses."""
        unfinished = self._unfinished()
        self._write_timer.start()
        if (
            self._encrypted
            or self._in_head
            or self._in_body
            or any(cycle.scope["method"] not in _SAFE_METHODS for cycle in unfinished)
        ):
            # A useless call to a provider costs money, so all unfinished requests count as disconnected.
            self._disconnect()
        elif self._buffer.data:
            self._ended = True
            return True
        elif unfinished:
            unfinished[-1].keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if not self.transport.is_closing():
            self._write_timer.stop()

    def close_after_responses(self) -> None:
        """Close the connection after the responses to its current requests, because the server stops.

        A client without a request yet has `NEW_CONNECTION_GRACE_SECONDS` to send one.
        """
        self._stopping = True
        if self._in_head:
            return
        if self.cycle is None:
            self._head_timer.start(min(NEW_CONNECTION_GRACE_SECONDS, self.head_timeout_seconds), self._abort)
        elif self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def close_if_idle(self) -> None:
        if self.cycle is not None and self.cycle.response_complete and not self._is_mid_request():
            self._close()

    def elapsed_head_seconds(self) -> float:
        """Return for how many seconds the server has waited for the rest of a request head. 0: no head has begun."""
        return self._head_timer.elapsed_seconds()

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._running = cycle
        task = self._loop.create_task(cycle.run_app(self._state.app))
        self._state.request_tasks.add(task)
        task.add_done_callback(self._state.request_tasks.discard)

    def _end_response(self) -> None:
        if self.transport.is_closing():
            self._write_timer.start()
            return
        if self.pipeline:
            self._start(self.pipeline.popleft())
        elif not self._in_body:
            self._keep_alive_timer.begin_idle()
        else:
            self.flow.resume_reading()
            if self._drain_timer.timer is None:
                self._drain_timer.start(self.body_drain_timeout_seconds, self._close)
        if self._buffer.data:
            self._schedule_parsing()

    def _schedule_parsing(self) -> None:
        raise NotImplementedError

    def _is_mid_request(self) -> bool:
        return self._in_head or self._in_body or bool(self._buffer.data)

    def _start_head_timer(self) -> None:
        self._head_timer.start(self.head_timeout_seconds, self._abort)

    def _unfinished(self) -> list[RequestResponseCycle]:
        running = self._running
        return [*self.pipeline] if running is None or running.response_complete else [running, *self.pipeline]

    def _disconnect(self) -> None:
        for cycle in self._unfinished():
            cycle.mark_disconnected()
        self._drop_pipeline()

    def _drop_pipeline(self) -> None:
        while self.pipeline:
            self.pipeline.pop().release_resources()

    def _end(self) -> None:
        """End the client's sending direction, after all bytes received before were parsed."""
        if not self.eof_received():
            self._close()

    def _close(self) -> None:
        self.transport.close()
        self._write_timer.start()

    def _abort(self) -> None:
        self._head_timer.stop()
        if self._in_head:
            timeout = RequestTimeout(f"The headers were not complete after {self.head_timeout_seconds:g} s.")
            self._send_error(ShuttingDown() if self._stopping else timeout)
        else:
            self.transport.abort()

    def _send_error(self, error: ProxyError) -> None:
        """Reject the current request: send an error response and close the connection. If earlier requests are
        unfinished, only their responses are sent before the close.
        """
        if self._rejected:
            return
        self._rejected = True
        self._head_timer.stop()
        request_id = self._state.app.log_rejected_request(error)
        unfinished = self._unfinished()
        if unfinished and self._in_body and not unfinished[-1].response_started:
            unfinished.pop().mark_disconnected()  # the request with the invalid body gets the error as its response
            if unfinished:
                self.pipeline.pop().release_resources()
        if unfinished:
            self.cycle = unfinished[-1]
            self.cycle.keep_alive = False
            return
        body = encode_error(error, request_id)
        headers = {**error_headers(error, request_id), **error_help_headers(error)}
        headers |= {"content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINES[error.status] + head.encode("latin-1") + b"\r\n" + body)
        self._close_gracefully()

    def _close_gracefully(self) -> None:
        """Close the connection. If the client may still send, end only the sending direction, and discard data until
        the drain timer ends, so that the client can read the response.
        """
        self._head_timer.stop()
        self._drop_pipeline()
        if not self._is_mid_request() or self.transport.is_closing():
            self._close()
            return
        self._rejected = True
        self._buffer.clear()
        self.flow.resume_reading()
        self.flow.set_paused_for_unparsed(False)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._drain_timer.start(self.body_drain_timeout_seconds, self._close)


_POLLS = 10


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
        self._idle_since = self._on_timeout = None
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
            self._unread, self._progress_at = unread, self._loop.time()
            self._timer = self._loop.call_later(self._seconds / _POLLS, self._poll)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._timer = None
        unread, now = self._transport.get_write_buffer_size(), self._loop.time()
        if unread < self._unread:
            self._unread, self._progress_at = unread, now
        elif now - self._progress_at >= self._seconds:
            self._transport.abort()
            return
        if unread:
            self._timer = self._loop.call_later(self._seconds / _POLLS, self._poll)


# limits the number of parser callbacks for a body of tiny chunks
MAX_PIECE_BYTES = 16 * 1024
"""Maximum size of a piece for the parser, except for bodies of known length."""
_HEAD_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"[^\x00\t-\r ]+ [^\x00\t-\r ]+ HTTP/[0-9]\.[0-9]\r\n")


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
            self.data, self._start = data, 0

    def accept_complete_head(self, data: bytes, max_head_bytes: int) -> int:
        """Length of a complete head that needs neither `append` nor `pop_piece`. 0: the caller must use them."""
        if self._request_line is None or self._request_line:
            return 0
        if not data.startswith(self._last_request_line):  # a client repeats its request line, which is checked once
            line = _REQUEST_LINE.match(data)
            if line is None:
                return 0
            self._last_request_line = line[0]
        found = data.find(_HEAD_END, 0, max_head_bytes)
        if found < 0:
            return 0
        self._request_line = None
        return found + len(_HEAD_END)

    def clear(self) -> None:
        self.data, self._start = b"", 0
        if self._later:
            self._later = bytearray()

    def pop_piece(self, max_piece_bytes: int) -> memoryview:
        """Remove the next piece and return it. It ends after a request head, after `max_piece_bytes` or with the
        buffered bytes, whichever comes first. Within a body of known length, it contains all buffered bytes of it.
        """
        if self._later:
            self.data, self._start = self.data[self._start :] + self._later, 0
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
        self._request_line, self._tail = bytearray(), b""

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
        data, start, tail = self.data, self._start, self._tail
        if tail and (found := (tail + data[start : start + 3]).find(_HEAD_END)) >= 0:
            return start + found + len(_HEAD_END) - len(tail)
        found = data.find(_HEAD_END, start)
        return len(data) if found < 0 else found + len(_HEAD_END)
