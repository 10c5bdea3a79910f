"""One client request and its response on an HTTP/1.1 connection.

Theory of operation. `run_app` calls the ASGI application in a task. The application reads the body with `receive` and
writes the response with `send`, while the connection adds received pieces of the body with `feed_body` in between. A
body of tiny pieces must not wake the application for each of them. So the pieces are joined, and `receive` returns when
the body is complete, after `WAKEUP_DELAY_SECONDS`, or when much has arrived. `_notified` is True if there is something
to receive, and `_receivers` has an event for each call of `receive` that waits for it. A body that is not read pauses
the socket (`FlowControl`).

`response` is the state of the response (`ResponseState`). `send` leads from one state to the next, and
`mark_disconnected` from each but "complete" to "disconnected", which is the last. The head of a response waits for the
first piece of the body, so that both are one write.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from typing import Any, Literal, Protocol, assert_never

from anthropic_proxy.engine.hooks import Receipt
from anthropic_proxy.engine.memory_plan import SMALL_BODY_BYTES
from anthropic_proxy.engine.patterns import compile_anchored

CYCLE_EXTENSION = "anthropic_proxy.cycle"
"""Key in the ASGI `scope["extensions"]` of the `RequestResponseCycle`, which only the proxy's own server sets.

`pop_complete_body`, `start_response` and `write_body` need no messages, and `head` keeps what is found out about it.
"""


class FlowControl:
    __slots__ = ("_body_unread", "_transport", "_writable", "paused_for_unparsed", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable = asyncio.Event()
        self._body_unread = False
        self.read_paused = False
        self.write_paused = False
        self.paused_for_unparsed = False
        """True while the socket is not read because too many received bytes are unparsed."""

    def pause_reading(self) -> None:
        self._body_unread = True
        self._update()

    def resume_reading(self) -> None:
        """End the pause of `pause_reading`. If too many received bytes are unparsed, the socket stays unread."""
        if self._body_unread:
            self._body_unread = False
            self._update()

    def set_paused_for_unparsed(self, paused: bool) -> None:
        self.paused_for_unparsed = paused
        self._update()

    def _update(self) -> None:
        paused = self._body_unread or self.paused_for_unparsed
        if paused != self.read_paused:
            self.read_paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._writable.set()

    async def wait_writable(self) -> None:
        """Wait until the write buffer accepts bytes. Call this only if `write_paused` is True."""
        await self._writable.wait()


MAX_BUFFERED_BODY_BYTES = SMALL_BODY_BYTES
"""Bytes of buffered request body above which the socket is not read until the application calls `receive`."""
MAX_JOINED_BODY_BYTES = 1024 * 1024
"""Size of the buffered part of a request body that the application receives at once, before the rest has arrived."""
WAKEUP_DELAY_SECONDS = 0.05
"""A waiting application receives the pieces of a request body that arrive within these seconds together."""
HEADER_OVERHEAD_BYTES = 160
"""Estimated memory of one parsed request header: a tuple and two bytes objects."""
_SMALL_BYTES = 4096
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)}
"""HTTP status (100 to 599) → encoded status line of a response: `HTTP/1.1 200 OK`."""
_HEADERS = compile_anchored(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_BODILESS = (204, 304)
_INTERNAL_ERROR_BODY = b"Internal Server Error"


class AsgiApp(Protocol):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


_MAX_LENGTH_DIGITS = 15
Target = tuple[str, bytes, bytes]
"""Address of a request: percent-decoded path, path as received, and query."""


class RepeatableHead:
    """Head of a request whose further ones may differ in the digits of `content-length` only.

    Clients repeat the head of their requests, so that it is parsed once. Any other head is parsed.
    """

    __slots__ = ("_after", "_before", "_end", "_headers", "_start", "facts", "length_place", "size", "target")

    def __init__(
        self, before: bytes, after: bytes, target: Target, headers: Sequence[tuple[bytes, bytes]], place: int
    ) -> None:
        """`before`, `after`: the bytes before and behind the digits. `place`: index of the field in `headers`."""
        self._before = before
        self._after = after
        self._headers = headers
        self.length_place = place
        self.target = target
        self._start = len(before)
        self._end = len(before) + _MAX_LENGTH_DIGITS + 1
        self.size = len(before) + len(after)
        """Number of bytes without the digits."""
        self.facts: object = None
        """What the application found out about the head. None: nothing yet."""

    def find_length(self, data: bytes) -> bytes:
        """Return the length of the body if received bytes begin with this head. b"": they have another head."""
        if not data.startswith(self._before):
            return b""
        end = data.find(b"\r", self._start, self._end)
        length = data[self._start : end] if end > 0 else b""
        is_usual = length.isdigit() and not length.startswith(b"0") and data.startswith(self._after, end)
        return length if is_usual else b""

    def list_headers(self, length: bytes) -> list[tuple[bytes, bytes]]:
        headers = [*self._headers]
        headers[self.length_place] = (b"content-length", length)
        return headers


ResponseState = Literal["awaits continue", "not begun", "begun", "complete", "disconnected"]
"""State of a response. "awaits continue": not begun, and the client sends the body of the request only after an interim
response (`Expect: 100-continue`). "disconnected": the client has left or was refused before the response was complete,
so what the application sends is dropped."""


class Admission(Protocol):
    """Interface of `Places` for a request."""

    async def enter(self, cycle: "RequestResponseCycle") -> None: ...


class RequestResponseCycle:
    """One client request and its response. At its end, `count_freed_bytes` gets the number of its body bytes; after the
    complete response, `on_response` starts the next request.
    """

    __slots__ = (
        "_chunked",
        "_close_connection",
        "_consumed",
        "_count_freed_bytes",
        "_default_headers",
        "_flow",
        "_head",
        "_held",
        "_left",
        "_notified",
        "_on_response",
        "_pieces",
        "_receivers",
        "_timer",
        "_transport",
        "head",
        "is_event_stream",
        "keep_alive",
        "more_body",
        "places",
        "receipt",
        "response",
        "scope",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        default_headers: bytes,
        keep_alive: bool,
        awaits_continue: bool,
        count_freed_bytes: Callable[[int], None],
        on_response: Callable[[], None],
        close_connection: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._count_freed_bytes = count_freed_bytes
        self._on_response = on_response
        self._close_connection = close_connection
        self.scope = scope
        self.head: RepeatableHead | None = None
        """Head that other requests of the connection may repeat. None: it has not the usual form."""
        self.receipt: Receipt | None = None
        """Who asks. None: nobody knows yet."""
        self.places: Admission | None = None
        """It decides when the request may run, as soon as it is known who asks. None: the request may run."""
        self.keep_alive = keep_alive
        self.response: ResponseState = "awaits continue" if awaits_continue else "not begun"
        self.is_event_stream = False
        self.more_body = True
        self._pieces: list[bytes | bytearray] = []
        self._held = 0
        """Bytes of the request body that the application has not received."""
        self._consumed = 0
        """Bytes of the request body that it has received."""
        self._notified = False
        self._receivers: list[asyncio.Event] = []
        """Events that wake the application. Empty: it does not wait in `receive`."""
        self._timer: asyncio.TimerHandle | None = None
        self._head = b""
        self._chunked = False
        self._left: int | None = None
        """Number of unsent bytes of the response body. None: the response has no `content-length`."""

    def estimate_memory_bytes(self) -> int:
        headers = self.scope["headers"]
        return self._held + sum(HEADER_OVERHEAD_BYTES + len(name) + len(value) for name, value in headers)

    def feed_body(self, piece: bytes) -> None:
        """Add a piece of the request body. A full buffer pauses reading unless the application waits in `receive`."""
        pieces = self._pieces
        self._held += len(piece)
        if len(piece) >= _SMALL_BYTES or not pieces:
            pieces.append(piece)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))
        if self._receivers:
            if self._held > MAX_JOINED_BODY_BYTES:
                self.wake_receiver()
        elif self._held > MAX_BUFFERED_BODY_BYTES:
            self._flow.pause_reading()  # the next `receive` gets these pieces together with what it reads then

    def finish_body(self) -> None:
        self.more_body = False
        self.wake_receiver()

    def schedule_wakeup(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and self._held and not self._notified:
            self._timer = loop.call_later(WAKEUP_DELAY_SECONDS, self.wake_receiver)

    def wake_receiver(self) -> None:
        self._notified = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for event in self._receivers:
            event.set()

    def mark_disconnected(self) -> None:
        """Make `receive` return `http.disconnect`, and `send` drop its messages. Call this for unfinished requests."""
        self.response = "disconnected"
        self.wake_receiver()

    async def run_app(self, app: AsgiApp) -> None:
        """Run the application for this request, then release the memory of the request. If the response is incomplete,
        status 500 is sent or the connection is closed.
        """
        self.scope["extensions"] = {CYCLE_EXTENSION: self}
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            if self.response != "complete":
                await self._end_incomplete_response()
            del self.scope["extensions"]
            self.release_resources()

    async def _end_incomplete_response(self) -> None:
        match self.response:
            case "complete" | "disconnected":
                pass
            case "begun":
                if self._head:
                    self._transport.write(self._head)
                self._close_connection()
            case "awaits continue" | "not begun":
                length = str(len(_INTERNAL_ERROR_BODY)).encode()
                headers = [(b"content-type", b"text/plain"), (b"content-length", length), (b"connection", b"close")]
                await self.send({"type": "http.response.start", "status": 500, "headers": headers})
                await self.send({"type": "http.response.body", "body": _INTERNAL_ERROR_BODY})
            case _:
                assert_never(self.response)

    def release_resources(self) -> None:
        self._on_response = self._close_connection = _do_nothing  # breaks a reference cycle
        self._pieces = []
        self._count_freed_bytes(self._consumed + self._held)

    async def receive(self) -> dict[str, Any]:
        """ASGI `receive`. After a disconnect or the complete response, the message is `http.disconnect`."""
        if self.response == "awaits continue" and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.response = "not begun"
        if self.response not in ("complete", "disconnected"):
            if self.more_body:
                self._flow.resume_reading()
            if not self._notified:
                event = asyncio.Event()
                self._receivers.append(event)
                try:
                    await event.wait()
                finally:
                    self._receivers.remove(event)
            self._notified = False
        if self.response in ("complete", "disconnected"):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._pop_pieces(), "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """ASGI `send`. Messages after a disconnect are dropped. Raises `RuntimeError` for a wrong order or length."""
        kind = message["type"]
        if kind == "http.response.start" and self.response in ("awaits continue", "not begun"):
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            self.start_response(message["status"], pairs)
        elif kind == "http.response.body" or self.response == "disconnected":
            await self.write_body(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind!r} has no place here")

    def start_response(self, status: int, headers: Collection[tuple[str, str]]) -> None:
        """Begin the response, whose head is sent with the first piece of its body. After a disconnect, it is dropped.

        Raises `UnicodeEncodeError`, `RuntimeError` or `ValueError` for a header that cannot be sent, and `KeyError` for
        an unknown status. No response has begun then.
        """
        fields = dict(headers)
        status_line = STATUS_LINES[status]
        if fields.get("connection") == "close":
            self.keep_alive = False  # the line for it follows below
            headers = [header for header in headers if header[0] != "connection"]
        encoded = "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")
        if encoded.count(b"\n") != len(headers) or _HEADERS.fullmatch(encoded) is None:
            raise RuntimeError("a header cannot be sent as it is")
        self._left = int(fields["content-length"]) if "content-length" in fields else None
        if self.response in ("awaits continue", "not begun"):
            self.response = "begun"
        if self._left is None:
            self.is_event_stream = fields.get("content-type", "").startswith("text/event-stream")
        if not self.keep_alive:
            encoded += b"connection: close\r\n"
        # HTTP/1.0: closing the connection ends the body
        if self._left is None and self.scope["http_version"] != "1.0":
            self._chunked = self.scope["method"] != "HEAD" and status not in _BODILESS
        if self._chunked:
            encoded += b"transfer-encoding: chunked\r\n"
        self._head = b"%b%b%b\r\n" % (status_line, self._default_headers, encoded)

    async def write_body(self, body: bytes, *, is_last: bool) -> None:
        """Send a piece of the response body. After a disconnect, it is dropped.

        Raises `RuntimeError` without a response that has begun, and for a wrong length.
        """
        if self._flow.write_paused and self.response != "disconnected":
            await self._flow.wait_writable()
        if self.response == "disconnected":
            return
        if self.response != "begun":
            raise RuntimeError("a response body has no place here")
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if is_last:
                data += b"0\r\n\r\n"
        elif self.scope["method"] == "HEAD":
            data, self._left = b"", 0
        else:
            data = body
            if self._left is not None:
                self._left -= len(body)
        if self._left and (self._left < 0 or is_last):
            raise RuntimeError("the length of the body differs from its content-length")
        if self._head:
            data = self._head + data
            self._head = b""
        if data:
            self._transport.write(data)
        if is_last:
            self.response = "complete"
            self._pieces = []  # frees the memory, because the connection may stay idle for a long time
            self.wake_receiver()
            if not self.keep_alive:
                self._close_connection()
            self._on_response()

    def pop_complete_body(self) -> bytes | None:
        """Return the complete request body. None: incomplete, already received, or the client has disconnected."""
        if self.more_body or self.response == "disconnected" or not self._notified:
            return None
        self._notified = False
        return self._pop_pieces()

    def _pop_pieces(self) -> bytes:
        self._consumed += self._held
        pieces = self._pieces
        self._pieces = []
        self._held = 0
        if len(pieces) == 1:
            return bytes(pieces[0])
        return b"".join(pieces)


def _do_nothing() -> None: ...
