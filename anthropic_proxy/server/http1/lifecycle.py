"""Lifecycle of one client connection: order of responses, timeouts, error responses, closing."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from anthropic_proxy.errors import ProxyError, RequestTimeout, ShuttingDown
from anthropic_proxy.platforms.heap import HeapTrimmer
from anthropic_proxy.server.http1.cycle import STATUS_LINES, AsgiApp, RequestResponseCycle
from anthropic_proxy.server.http1.flow_control import FlowControl
from anthropic_proxy.server.http1.receive_buffer import ReceiveBuffer
from anthropic_proxy.server.http1.timers import KeepAliveTimer, Timeout, WriteTimeout
from anthropic_proxy.server.responses import encode_error, error_headers

KEEP_ALIVE_SECONDS = 75.0
"""Idle time after which a connection is closed. Clients close idle connections after at most 60 s, so that they do not
send a request on a connection that the server is closing."""
HEAD_TIMEOUT_SECONDS = 30.0
"""Time for request line and headers. A new connection without a request is closed after it too."""
BODY_DRAIN_TIMEOUT_SECONDS = 10.0
"""Time to read the remaining request body after the response: a client that is still sending does not read it."""
WRITE_TIMEOUT_SECONDS = 300.0
"""Time without progress of a write after which the connection is aborted."""
NEW_CONNECTION_GRACE_SECONDS = 0.5
"""Time for the first request of a new connection while the server stops."""
_SAFE_METHODS = frozenset(("GET", "HEAD"))


class HttpApplication(AsgiApp, Protocol):
    """ASGI application that also logs the requests that cannot be parsed."""

    def log_rejected_request(self, error: ProxyError) -> str:
        """Log a request that was rejected before decoding, and return its id."""
        ...


@dataclass(eq=False)
class ServerState:
    """State that all client connections of a server process share."""

    app: HttpApplication
    """Application that serves the requests."""
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    """Idle time after which a connection is closed."""
    heap_trimmer: HeapTrimmer = field(default_factory=HeapTrimmer)
    """Trimmer that counts the memory of finished requests."""
    connections: set["ConnectionLifecycle"] = field(default_factory=set)
    """All open connections."""
    request_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Tasks of the requests in progress."""
    default_headers: Sequence[tuple[bytes, bytes]] = ()
    """Headers that are added to every response, such as `date`."""


class ConnectionLifecycle(asyncio.Protocol):
    """Base class of a client connection: everything but the parser of requests.

    A subclass sets `cycle`, `_in_head` and `_in_body`, and calls `_start` or fills `pipeline`.
    """

    # tests of timeouts use shorter ones
    head_timeout_seconds = HEAD_TIMEOUT_SECONDS
    body_drain_timeout_seconds = BODY_DRAIN_TIMEOUT_SECONDS
    write_timeout_seconds = WRITE_TIMEOUT_SECONDS

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._loop = loop = asyncio.get_running_loop()
        self.cycle: RequestResponseCycle | None = None
        """Latest request with a complete head. None: no request yet."""
        self.pipeline: deque[RequestResponseCycle] = deque()
        """Requests that wait for the response of an earlier one."""
        self._running: RequestResponseCycle | None = None
        """Request with the current response. The pipelined ones wait for its end."""
        self._buffer = ReceiveBuffer()
        self._in_head = self._in_body = self._rejected = self._stopping = False
        self._ended = False
        """True after a half-close by the client, while received bytes are still unparsed."""
        self._head_timer = Timeout(loop)
        self._drain_timer = Timeout(loop)
        self._keep_alive_timer = KeepAliveTimer(loop, state.keep_alive_seconds, self._close)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer for the first request."""
        self.transport = cast(asyncio.Transport, transport)
        self.flow = FlowControl(self.transport)
        self._write_timer = WriteTimeout(self._loop, self.transport, self.write_timeout_seconds)
        self._state.connections.add(self)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers and notify the running requests."""
        self._head_timer.stop()
        self._drain_timer.stop()
        self._write_timer.stop()
        self._keep_alive_timer.release()
        self._buffer.clear()
        self._disconnect()
        self._state.connections.discard(self)
        self.flow.resume_writing()

    def eof_received(self) -> bool:
        """Treat a half-closed connection as a disconnect, unless only GET or HEAD responses are pending.

        Half-closed and closed connections look the same until the next write, and a needless upstream call costs money.
        """
        unfinished = self._unfinished()
        self._write_timer.start()
        if self._in_head or self._in_body or any(cycle.scope["method"] not in _SAFE_METHODS for cycle in unfinished):
            self._disconnect()
        elif self._buffer.data:
            self._ended = True
            return True
        elif unfinished:
            unfinished[-1].keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        """Block writers, because the write buffer is full, and start the write timeout (asyncio)."""
        self.flow.pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        """Unblock writers and stop the write timeout (asyncio)."""
        self.flow.resume_writing()
        if not self.transport.is_closing():
            self._write_timer.stop()

    def close_after_responses(self) -> None:
        """Close after the responses to all requests that have begun. A new connection has a moment to send one."""
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
        """Close the connection if no request is in progress."""
        if self.cycle is not None and self.cycle.response_complete and not self._is_mid_request():
            self._close()

    def head_wait_seconds(self) -> float:
        """Return the seconds since the wait for a request head began. 0: no wait."""
        return self._head_timer.elapsed_seconds()

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._running = cycle
        task = self._loop.create_task(cycle.run_app(self._state.app))
        self._state.request_tasks.add(task)
        task.add_done_callback(self._state.request_tasks.discard)

    def _end_response(self) -> None:
        """Continue with the next request. Limit the time for the remaining body of the current one."""
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
        """Parse the remaining bytes in a later iteration of the event loop."""
        raise NotImplementedError

    def _is_mid_request(self) -> bool:
        return self._in_head or self._in_body or bool(self._buffer.data)

    def _start_head_timer(self) -> None:
        self._head_timer.start(self.head_timeout_seconds, self._abort)

    def _unfinished(self) -> list[RequestResponseCycle]:
        """Return the requests without a complete response, in their order."""
        running = self._running
        return [*self.pipeline] if running is None or running.response_complete else [running, *self.pipeline]

    def _disconnect(self) -> None:
        """Send `http.disconnect` to every request of this connection."""
        for cycle in self._unfinished():
            cycle.mark_disconnected()
        self._drop_pipeline()

    def _drop_pipeline(self) -> None:
        while self.pipeline:
            self.pipeline.pop().release_resources()

    def _end(self) -> None:
        """Close after the responses to requests that were parsed after a half-close."""
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
        """Send an error body and close. Earlier requests are answered first, and then no error body is sent."""
        if self._rejected:
            return
        self._rejected = True
        self._head_timer.stop()
        request_id = self._state.app.log_rejected_request(error)
        unfinished = self._unfinished()
        if unfinished and self._in_body and not unfinished[-1].response_started:
            unfinished.pop().mark_disconnected()  # its body is unreadable; the error is its response
            if unfinished:
                self.pipeline.pop().release_resources()
        if unfinished:
            self.cycle = unfinished[-1]
            self.cycle.keep_alive = False
            return
        body = encode_error(error, request_id)
        headers = {**error_headers(error, request_id), "content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINES[error.status] + head.encode("latin-1") + b"\r\n" + body)
        self._close_gracefully()

    def _close_gracefully(self) -> None:
        """Close. If the client may still be sending, half-close first and drain its data for a limited time.

        Closing with unread data resets the connection, so that the client loses the unread response.
        """
        self._head_timer.stop()
        self._drop_pipeline()
        if not self._is_mid_request() or self.transport.is_closing():
            self._close()
            return
        self._rejected = True
        self._buffer.clear()
        self.flow.resume_reading()
        self.flow.pause_for_unparsed(False)
        self.transport.write_eof()
        self._drain_timer.start(self.body_drain_timeout_seconds, self._close)
