"""HTTP/1.1 connection of a client, based on uvicorn. It adds limits for request heads and stalled writes, Anthropic
error bodies, and ignores protocol upgrades. `cycle` contains the ASGI side.
"""

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from anthropic_proxy.errors import ProxyError, RequestTimeout, ShuttingDown
from anthropic_proxy.server.http1.cycle import RequestResponseCycle
from anthropic_proxy.server.http1.parsing import HEAD_BYTES, ParsingHttp
from anthropic_proxy.server.http1.timers import WriteTimeout
from anthropic_proxy.server.responses import encode_error, error_headers

HEAD_TIMEOUT_SECONDS = 30.0
"""Time for request line and headers. A new connection without a request is closed after it too."""
BODY_DRAIN_SECONDS = 10.0
"""Time to read the remaining body after the response: a client that is still sending does not read the response."""
WRITE_TIMEOUT_SECONDS = 300.0
"""Time without progress of a write after which the connection is aborted."""
NEW_CONNECTION_GRACE_SECONDS = 0.5
"""Time for the first request of a new connection while the server stops."""
_SAFE_METHODS = frozenset(("GET", "HEAD"))


__all__ = ["HEAD_BYTES", "HEAD_TIMEOUT_SECONDS", "Http1Connection"]


class RejectionLogger(Protocol):
    """Log of requests that cannot be parsed."""

    def log_rejected_request(self, error: ProxyError) -> str:
        """Log such a request and return its id."""
        ...


class Http1Connection(ParsingHttp):
    """One connection of a client."""

    head_seconds = HEAD_TIMEOUT_SECONDS
    drain_seconds = BODY_DRAIN_SECONDS
    write_seconds = WRITE_TIMEOUT_SECONDS
    app: Any
    """The ASGI application, which also is a `RejectionLogger`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._running: RequestResponseCycle | None = None
        """Request with the current response. The pipelined ones wait for its end."""
        self._write_timer = WriteTimeout(self.loop, transport, self.write_seconds)
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers and notify the running requests."""
        self._head_timer.stop()
        self._drain_timer.stop()
        self._write_timer.stop()
        self._keep_alive_timer.drop()
        self._intake.clear()
        self._disconnect()
        self.connections.discard(self)
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]

    def eof_received(self) -> bool:  # type: ignore[override]
        """Treat a half-closed connection as a disconnect, unless only GET or HEAD responses are pending.

        Half-closed and closed connections look the same until the next write, and a needless upstream call costs money.
        """
        unfinished = self._unfinished()
        self._write_timer.start()
        if self._in_head or self._in_body or any(cycle.scope["method"] not in _SAFE_METHODS for cycle in unfinished):
            self._disconnect()
        elif self._intake.data:
            self._ended = True
            return True
        elif unfinished:
            unfinished[-1].keep_alive = False
            return True
        return False

    def shutdown(self) -> None:
        """Close after the responses to all requests that have begun."""
        self._stopping = True
        if self.cycle is None and not self._in_head:
            self._head_timer.start(min(NEW_CONNECTION_GRACE_SECONDS, self.head_seconds), self._abort)
        elif not self._in_head:
            super().shutdown()

    def close_if_idle(self) -> None:
        """Close the connection if no request is in progress."""
        if self.cycle is not None and self.cycle.response_complete and not self._is_mid_request():
            self._close()

    def head_wait_seconds(self) -> float:
        """Return the seconds since the wait for a request head began. 0: no wait."""
        return self._head_timer.seconds()

    def pause_writing(self) -> None:
        """Pause writing and start the write timeout."""
        super().pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        """Resume writing and stop the write timeout."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._write_timer.stop()

    def on_response_complete(self) -> None:
        """Continue with the next request. Limit the time for the remaining body of the current one."""
        if self.transport.is_closing():
            self._write_timer.start()
            return
        if self.pipeline:
            self._start(self.pipeline.popleft())
        elif not self._in_body:
            self._keep_alive_timer.start()
        else:
            self.flow.resume_reading()
            if self._drain_timer.timer is None:
                self._drain_timer.start(self.drain_seconds, self._close)
        if self._intake.data:
            self._yield()

    def _limit_head(self) -> None:
        self._head_timer.start(self.head_seconds, self._abort)

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._running = cycle
        task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _unfinished(self) -> list[RequestResponseCycle]:
        """Return the requests without a complete response, in their order."""
        running = self._running
        return [*self.pipeline] if running is None or running.response_complete else [running, *self.pipeline]

    def _disconnect(self) -> None:
        """Send `http.disconnect` to every request of this connection."""
        for cycle in self._unfinished():
            cycle.disconnected = True
            cycle.wake_receiver()
        self._drop_pipeline()

    def _drop_pipeline(self) -> None:
        while self.pipeline:
            self.pipeline.pop().release()

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
            timeout = RequestTimeout(f"The headers were not complete after {self.head_seconds:g} s.")
            self._send_error(ShuttingDown() if self._stopping else timeout)
        else:
            self.transport.abort()

    def _send_error(self, error: ProxyError) -> None:
        """Send an error body and close. Earlier requests are answered first, and then no error body is sent."""
        if self._rejected:
            return
        self._rejected = True
        self._head_timer.stop()
        request_id = self.app.log_rejected_request(error)
        unfinished = self._unfinished()
        if unfinished and self._in_body and not self.cycle.response_started:
            broken = unfinished.pop()  # its body is unreadable; the error is its response
            broken.disconnected = True
            broken.wake_receiver()
            if unfinished:
                self.pipeline.pop().release()
        if unfinished:
            self.cycle = unfinished[-1]
            self.cycle.keep_alive = False
            return
        body = encode_error(error, request_id)
        headers = {**error_headers(error, request_id), "content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + head.encode("latin-1") + b"\r\n" + body)
        self._close_gracefully()

    def _close_gracefully(self) -> None:
        """Close. If the client may still be sending, half-close first and drain its data for `drain_seconds`.

        Closing with unread data resets the connection, so that the client loses the unread response.
        """
        self._head_timer.stop()
        self._drop_pipeline()
        if not self._is_mid_request() or self.transport.is_closing():
            self._close()
            return
        self._rejected = True
        self._intake.clear()
        self.flow.resume_reading()
        self.flow.hold_unparsed(False)
        self.transport.write_eof()
        self._drain_timer.start(self.drain_seconds, self._close)
