"""One connection to the provider, and the acts that a script is made of.

An act is a function of a `Call`, and a script a sequence of them. Methods of `Call` that need nothing are acts
themselves: `(Call.receive, head(), Call.begin, Call.reset)` reads a request, sends a head and the first words, and
resets the connection. After its last act a connection ends as a polite server ends it: nothing more is sent, and
actions of the other side are recorded until it closes too.
"""

import json
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from tests.faults.protocols import ANSWERED, PIECES, WHOLE, ProviderProtocol, literal

if TYPE_CHECKING:
    from tests.faults.upstream import FaultyUpstream

GUARD_SECONDS = 60.0
"""Time after which a wait counts as hanging: far beyond the waits of a loaded machine."""
RESET = struct.pack("ii", 1, 0)
"""Value of `SO_LINGER` with which a connection that is closed is reset."""
_READ_BYTES = 262_144

Act = Callable[["Call"], None]
Script = Sequence[Act]
Framing = Literal["chunked", "length", "close"]


class _Over(Exception):
    """The other side has gone, or the row has ended: the rest of the script is not played."""


class Call:
    """One connection to the provider, and its history."""

    def __init__(self, upstream: "FaultyUpstream", connection: socket.socket) -> None:
        self._upstream = upstream
        self._connection = connection
        self._received = b""
        self._chunked = False
        self.protocol: ProviderProtocol
        self.streams = False
        """True if the last request asked for a stream."""
        self.body: Any = None
        """The last request's body."""
        self.sent = 0
        """Bytes that the operating system took from us."""
        self.asked = 0
        """Requests that came on this connection."""
        self.left_at: float | None = None
        """When the other side was seen to close, on the monotonic clock."""
        self.open = True
        """True if the connection still stands on our side."""
        self.rests = False
        """True if it waits for a request, or for the other side to close."""

    # Acts

    def receive(self) -> None:
        """Read a whole request; questions beside it are answered at once."""
        self._mark_idle()
        path, raw = self._read_request()
        self.rests = False
        if path in ANSWERED:
            self._upstream.forget(self)
            answer = ANSWERED[path]
            self.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
            raise _Over
        self.body = json.loads(raw) if raw else {}
        self.protocol = next(
            (protocol for protocol in self._upstream.protocols if protocol.serves_path(path)),
            self._upstream.protocols[0],
        )
        self.streams = self.protocol.streams(path, self.body)
        with self._upstream.changed:
            self.asked += 1
            self._upstream.asked += 1
            self._upstream.changed.notify_all()

    def begin(self) -> None:
        """Send the first words; where no stream was asked for, the first half of the reply."""
        self.send_chunk(self.begun)

    def go_on(self) -> None:
        """Send all other words, without the end."""
        self.send_chunk(self.remaining)

    def end(self) -> None:
        """Send the end mark of a complete reply."""
        self.send_chunk(self.last)

    def finish(self) -> None:
        """End the body."""
        if self._chunked:
            self.send(b"0\r\n\r\n")

    def arrive(self) -> None:
        """Wait until the client has the first text, if it streams: a later failure occurs after that text."""
        if self.streams:
            self._upstream.words_came.wait(GUARD_SECONDS)

    def reset(self) -> None:
        """Break the connection: the other side gets a reset, not an end."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._close()
        raise _Over

    def shut(self) -> None:
        """End the response here, regardless of the announced length."""
        raise _Over

    def wait(self) -> None:
        """Send nothing more until the other side closes, or the row ends."""
        self._watch()
        raise _Over

    # What acts are made of

    @property
    def begun(self) -> bytes:
        whole = self.whole
        return (
            self.protocol.opening + self.protocol.words(literal(PIECES[0]))
            if self.streams
            else whole[: len(whole) // 2]
        )

    @property
    def remaining(self) -> bytes:
        whole = self.whole
        if not self.streams:
            return whole[len(whole) // 2 :]
        return b"".join(self.protocol.words(literal(piece)) for piece in PIECES[1:])

    @property
    def last(self) -> bytes:
        return self.protocol.ending() if self.streams else b""

    @property
    def whole(self) -> bytes:
        """The body of a reply that is not streamed."""
        return self.protocol.body(literal(WHOLE))

    @property
    def content_type(self) -> str:
        if not self.streams:
            return "application/json"
        return "text/event-stream" if self.protocol.framing == "sse" else "application/x-ndjson"

    def start(self, status: int, headers: Sequence[str], framing: Framing, length: int | None, *, keep: bool) -> None:
        """Send the head of an answer."""
        self._chunked = framing == "chunked"
        lines = [f"HTTP/1.1 {status} Whatever", *headers]
        if not any(line.lower().startswith("content-type:") for line in headers):
            lines.append(f"content-type: {self.content_type}")
        if framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif framing == "length":
            size = len(self.begun + self.remaining + self.last) if length is None else length
            lines.append(f"content-length: {size}")
        if not keep:
            lines.append("connection: close")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send_chunk(self, data: bytes) -> None:
        """Send a piece of the body."""
        if data:
            self.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def send(self, data: bytes) -> None:
        """Send bytes as they are; counts those that were taken."""
        remaining = memoryview(data)
        while remaining:
            try:
                count = self._connection.send(remaining)
            except OSError:
                self._leave()
                raise _Over from None
            self.sent += count
            remaining = remaining[count:]

    def play(self, script: Script) -> None:
        """Play a script, then end the connection."""
        try:
            for act in script:
                act(self)
        except _Over:
            pass
        finally:
            self._end()

    def stop(self) -> None:
        """Close the connection, regardless of the state of the exchange."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        if self.open:
            try:
                self._connection.shutdown(socket.SHUT_WR)
                self._watch()
            except OSError:
                self._leave()
            self._close()

    def _mark_idle(self) -> None:
        with self._upstream.changed:
            self.rests = True
            self._upstream.changed.notify_all()

    def _watch(self) -> None:
        """Return when the other side has closed."""
        self._mark_idle()
        try:
            while self._connection.recv(_READ_BYTES):
                pass
        except OSError:
            pass
        self._leave()

    def _leave(self) -> None:
        with self._upstream.changed:
            self.left_at = self.left_at or time.monotonic()
            self._upstream.changed.notify_all()

    def _close(self) -> None:
        self._connection.close()
        with self._upstream.changed:
            self.open = False
            self._upstream.changed.notify_all()

    def _read_request(self) -> tuple[str, bytes]:
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        size = int(headers.get("content-length", 0))
        while len(self._received) < size:
            self._receive()
        body, self._received = self._received[:size], self._received[size:]
        return lines[0].split(" ")[1], body

    def _receive(self) -> None:
        try:
            data = self._connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._leave()
            raise _Over
        self._received += data


def head(
    status: int = 200, *headers: str, framing: Framing = "chunked", length: int | None = None, keep: bool = False
) -> Act:
    """Send a status and headers. `length`: announced length, by default that of the complete reply."""
    return lambda call: call.start(status, headers, framing, length, keep=keep)


def raw(data: bytes) -> Act:
    """Send these bytes unchanged, regardless of the announced length."""
    return lambda call: call.send(data)


def send(data: bytes | Callable[[Call], bytes]) -> Act:
    """Send bytes as a piece of the body."""
    return lambda call: call.send_chunk(data if isinstance(data, bytes) else data(call))


def send_slowly(data: bytes | Callable[[Call], bytes]) -> Act:
    """Send the body one byte a packet."""

    def act(call: Call) -> None:
        for byte in data if isinstance(data, bytes) else data(call):
            call.send_chunk(bytes((byte,)))

    return act


def pause(seconds: float) -> Act:
    """Wait, then go on."""
    return lambda _: time.sleep(seconds)


ENDED = (Call.begin, Call.go_on, Call.end)
"""A complete reply in a body without an end."""
HEALTHY: Script = (Call.receive, head(), *ENDED, Call.finish)
"""A reply as it should be."""
