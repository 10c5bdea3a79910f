"""One HTTP request and its response: ASGI `receive` and `send`, body buffer, encoding of the response."""

import asyncio
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from anthropic_proxy.server.http1.flow_control import FlowControl
from anthropic_proxy.server.request_body import COMPLETE_BODY_EXTENSION

MAX_BUFFERED_BODY_BYTES = 1024 * 1024
"""Buffered bytes of a request body at which reading pauses while the application does not receive."""
MAX_JOINED_BODY_BYTES = 8 * 1024 * 1024
"""Buffered bytes at which a waiting application receives them. Most bodies are smaller and are joined once."""
WAKEUP_DELAY_SECONDS = 0.05
"""Time in which further body pieces are joined before the application receives them."""
HEADER_OVERHEAD_BYTES = 160
"""Memory of one parsed header besides its text: a tuple and two objects."""
_SMALL_BYTES = 4096
"""Size below which pieces are joined in one buffer, to avoid the overhead of thousands of objects."""
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)}
"""HTTP status → encoded status line."""
_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_BODILESS = (204, 304)
_INTERNAL_ERROR_BODY = b"Internal Server Error"


class AsgiApp(Protocol):
    """An application with the ASGI interface."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        ...


class RequestResponseCycle:
    """One request of a connection and its response, served by one task of the application.

    The application receives a complete body; a slow or large one in several pieces. The head of a response is sent with
    the first bytes of its body, in one packet.
    """

    __slots__ = (
        "_chunked",
        "_close_connection",
        "_consumed",
        "_default_headers",
        "_event",
        "_flow",
        "_head",
        "_held",
        "_left",
        "_note_freed",
        "_notified",
        "_on_response",
        "_pieces",
        "_timer",
        "_transport",
        "_waiting",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "waiting_for_100_continue",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        default_headers: Sequence[tuple[bytes, bytes]],
        keep_alive: bool,
        waits_for_continue: bool,
        note_freed: Callable[[int], None],
        on_response: Callable[[], None],
        close_connection: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._note_freed = note_freed
        self._on_response = on_response
        self._close_connection = close_connection
        self.scope = scope
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = waits_for_continue
        self.disconnected = self.response_started = self.response_complete = False
        self.more_body = True
        self._pieces: list[bytes | bytearray] = []
        self._held = self._consumed = 0
        self._notified = self._waiting = False
        self._event: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head = b""
        self._chunked = False
        self._left: int | None = None
        """Unsent bytes of a response of known length."""

    def buffered_bytes(self) -> int:
        """Return the memory in bytes of this request while it waits in the pipeline."""
        return self._held + HEADER_OVERHEAD_BYTES * len(self.scope["headers"])

    def feed_body(self, piece: bytes) -> None:
        """Add a piece of the request body to the buffer. A full buffer wakes the application and pauses reading."""
        pieces = self._pieces
        self._held += len(piece)
        if len(piece) >= _SMALL_BYTES or not pieces:
            pieces.append(piece)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))
        if self._held > (MAX_JOINED_BODY_BYTES if self._waiting else MAX_BUFFERED_BODY_BYTES):
            if not self._waiting:
                self._flow.pause_reading()
            self.wake_receiver()

    def finish_body(self) -> None:
        """Mark the request body as complete and wake the application."""
        self.more_body = False
        self.wake_receiver()

    def schedule_wakeup(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the application after `WAKEUP_DELAY_SECONDS`, in which more of the body may arrive."""
        if self._timer is None and self._held and not self._notified:
            self._timer = loop.call_later(WAKEUP_DELAY_SECONDS, self.wake_receiver)

    def wake_receiver(self) -> None:
        """Wake the application if it waits in `receive`, because body bytes or a disconnect are available."""
        self._notified = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._event is not None:
            self._event.set()

    def mark_disconnected(self) -> None:
        """Mark the client as disconnected: the application receives `http.disconnect`, and responses are dropped."""
        self.disconnected = True
        self.wake_receiver()

    async def run_app(self, app: AsgiApp) -> None:
        """Run the application. If it leaves the response incomplete, send status 500 or close the connection."""
        self.scope["extensions"] = {COMPLETE_BODY_EXTENSION: self._pop_complete_body}
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            if not (self.response_complete or self.disconnected):
                await self._end_incomplete()
            del self.scope["extensions"]
            self.release_resources()

    def release_resources(self) -> None:
        """Drop the references to the connection and to the body, after the run or without one."""
        self._on_response = self._close_connection = _do_nothing  # breaks a reference cycle
        self._pieces = []
        self._note_freed(self._consumed + self._held)

    async def receive(self) -> dict[str, Any]:
        """Return the next piece of the body, or `http.disconnect` (ASGI)."""
        if self.waiting_for_100_continue and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete):
            if self.more_body:
                self._flow.resume_reading()
            if not self._notified:
                await self._wait()
            self._notified = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._pop_pieces(), "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Send the response head or a piece of the response body (ASGI). Waits while the write buffer is full."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.wait_writable()
        if self.disconnected:
            return
        if self.response_started and not self.response_complete and message["type"] == "http.response.body":
            self._send_body(message.get("body", b""), message.get("more_body", False))
        elif not self.response_started and message["type"] == "http.response.start":
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._encode_head(message["status"], message["headers"])
        else:
            raise RuntimeError(f"{message['type']!r} has no place here")

    def _send_body(self, body: bytes, more: bool) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += b"0\r\n\r\n"
        elif self.scope["method"] == "HEAD":
            data, self._left = b"", 0
        else:
            data = body
            if self._left is not None:
                self._left -= len(body)
        if self._left and (self._left < 0 or not more):
            raise RuntimeError("the length of the body differs from its content-length")
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._transport.write(data)
        if not more:
            self.response_complete = True
            self._pieces = []  # not needed any more, and the connection may stay idle for long
            self.wake_receiver()
            if not self.keep_alive:
                self._close_connection()
            self._on_response()

    def _encode_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        lines = [b"%b: %b\r\n" % header for header in self._default_headers]
        for name, value in headers:
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        encoded = b"".join(lines)
        if encoded.count(b"\n") != len(lines) or _HEADERS.fullmatch(encoded) is None:
            raise RuntimeError("a header cannot be sent as it is")
        if not self.keep_alive:
            encoded += b"connection: close\r\n"
        if self._left is None and self.scope["http_version"] != "1.0":  # without chunks: closing ends the body
            self._chunked = self.scope["method"] != "HEAD" and status not in _BODILESS
        if self._chunked:
            encoded += b"transfer-encoding: chunked\r\n"
        return b"%b%b\r\n" % (STATUS_LINES[status], encoded)

    async def _wait(self) -> None:
        if self._event is None:
            self._event = asyncio.Event()
        self._event.clear()
        self._waiting = True
        try:
            await self._event.wait()
        finally:
            self._waiting = False

    def _pop_complete_body(self) -> bytes | None:
        """Return the complete body. None: incomplete, or already received in part."""
        if self.more_body or self.disconnected or not self._notified:
            return None
        self._notified = False
        return self._pop_pieces()

    def _pop_pieces(self) -> bytes:
        self._consumed += self._held
        pieces, self._pieces, self._held = self._pieces, [], 0
        if len(pieces) == 1:
            return bytes(pieces[0])
        return b"".join(pieces)

    async def _end_incomplete(self) -> None:
        """End a response that the application left incomplete."""
        if self.response_started:
            if self._head:
                self._transport.write(self._head)
            self._close_connection()
            return
        length = str(len(_INTERNAL_ERROR_BODY)).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", length), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _INTERNAL_ERROR_BODY})


def _do_nothing() -> None:
    """Replace a released callback."""
