"""One request and its answer, as ASGI tells an application of the one and is told of the other."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from anthropic_proxy.memory import SLACK
from anthropic_proxy.server.body import WHOLE_BODY

AHEAD_BYTES = 1024 * 1024
"""What of a body may wait for an application that does not ask for it."""
GATHERED_BYTES = 8 * 1024 * 1024
"""What of a body is gathered for one that does, so that most bodies are put together once."""
TOLD_SECONDS = 0.05
"""How long a piece may wait for the next ones, before the application hears of it."""
_SMALL_BYTES = 4096
"""Pieces below this are gathered in one buffer, so that thousands of them take no more than what they hold."""
_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_BODILESS = (204, 304)
_BROKEN = b"Internal Server Error"


class Cycle:
    """What HTTP holds of one request and its answer.

    A body is handed over when it is whole; one that comes slowly, or is large, in several pieces. The head of an answer
    leaves with the first bytes of its body: one packet in place of two.
    """

    __slots__ = (
        "_chunked",
        "_default_headers",
        "_event",
        "_flow",
        "_hang_up",
        "_head",
        "_held",
        "_left",
        "_on_response",
        "_pieces",
        "_taken",
        "_timer",
        "_told",
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
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        default_headers: Sequence[tuple[bytes, bytes]],
        keep_alive: bool,
        waits_for_continue: bool,
        on_response: Callable[[], None],
        hang_up: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._on_response = on_response
        self._hang_up = hang_up
        self.scope: dict[str, Any] = {}
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = waits_for_continue
        self.disconnected = self.response_started = self.response_complete = False
        self.more_body = True
        self._pieces: list[bytes | bytearray] = []
        self._held = self._taken = 0
        self._told = self._waiting = False
        self._event: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head = b""
        self._chunked = False
        self._left: int | None = None
        """What of a body of known length is still to be sent."""

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body."""
        pieces = self._pieces
        self._held += len(piece)
        if len(piece) >= _SMALL_BYTES or not pieces:
            pieces.append(piece)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))
        if self._held > (GATHERED_BYTES if self._waiting else AHEAD_BYTES):
            if not self._waiting:
                self._flow.pause_reading()
            self.tell()

    def finish(self) -> None:
        """Say that the body is whole."""
        self.more_body = False
        self.tell()

    def tell_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell the application what came, unless more comes first."""
        if self._timer is None and self._held and not self._told:
            self._timer = loop.call_later(TOLD_SECONDS, self.tell)

    def tell(self) -> None:
        """Wake the application, where it waits: something came, or nothing will."""
        self._told = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._event is not None:
            self._event.set()

    async def run(self, app: Any) -> None:
        """Have the application answer; where it does not, say so or hang up."""
        self.scope["extensions"] = {WHOLE_BODY: self._take_whole}
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            if not (self.response_complete or self.disconnected):
                await self._give_up()
            del self.scope["extensions"]
            self.drop()

    def drop(self) -> None:
        """Let go of the connection and the body: this has run, or never will."""
        self._on_response = self._hang_up = _do_nothing  # no circle stays for the collector of garbage
        self._pieces = []
        SLACK.let_go(self._taken + self._held)

    async def receive(self) -> dict[str, Any]:
        """Return what came of the body, or that nobody waits for the answer any more (ASGI)."""
        if self.waiting_for_100_continue and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete):
            self._flow.resume_reading()
            if not self._told:
                await self._wait()
            self._told = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._take(), "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Send a head, then a body in pieces (ASGI)."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
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
            raise RuntimeError("the body has another length than its header says")
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._transport.write(data)
        if not more:
            self.response_complete = True
            self._pieces = []  # nobody asks for them any more, and the connection may rest for long
            self.tell()
            if not self.keep_alive:
                self._hang_up()
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
        said = b"".join(lines)
        if said.count(b"\n") != len(lines) or _HEADERS.fullmatch(said) is None:
            raise RuntimeError("a header cannot be sent as it is")
        if not self.keep_alive:
            said += b"connection: close\r\n"
        if self._left is None and self.scope["http_version"] != "1.0":  # which knows no chunks: the end is the end
            self._chunked = self.scope["method"] != "HEAD" and status not in _BODILESS
        if self._chunked:
            said += b"transfer-encoding: chunked\r\n"
        return b"%b%b\r\n" % (STATUS_LINE[status], said)

    async def _wait(self) -> None:
        if self._event is None:
            self._event = asyncio.Event()
        self._event.clear()
        self._waiting = True
        try:
            await self._event.wait()
        finally:
            self._waiting = False

    def _take_whole(self) -> bytes | None:
        """Return the body, if it is whole and nobody has begun to read it; else None."""
        if self.more_body or self.disconnected or not self._told:
            return None
        self._told = False
        return self._take()

    def _take(self) -> bytes:
        self._taken += self._held
        pieces, self._pieces, self._held = self._pieces, [], 0
        if len(pieces) == 1:
            return bytes(pieces[0])
        return b"".join(pieces)

    async def _give_up(self) -> None:
        """End an answer that its application did not end."""
        if self.response_started:
            if self._head:
                self._transport.write(self._head)
            self._hang_up()
            return
        length = str(len(_BROKEN)).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", length), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _BROKEN})


def _do_nothing() -> None:
    """Stand in for what nobody waits for any more."""
