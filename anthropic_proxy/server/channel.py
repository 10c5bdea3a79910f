"""What the process in front and a worker tell each other: whole messages over a pair of sockets, and nobody waits."""

import socket
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

MOST_WAITING_BYTES = 16 * 1024 * 1024
"""For an end that does not read; what comes after that is lost."""
_READ_BYTES = 256 * 1024
_LENGTH_BYTES = 4


class Count(Struct, tag="count"):
    """A worker's: what it has counted since it was started."""

    reading: bytes
    number: int = 0
    """Of the `Look` that it answers; 0: it comes by itself."""


class Ask(Struct, tag="ask"):
    """A worker's: what have all of us counted?"""

    number: int
    reading: bytes
    """Its own."""


class Look(Struct, tag="look"):
    """To a worker: count now."""

    number: int


class Sum(Struct, tag="sum"):
    """To a worker: what all have counted."""

    number: int
    """Of its `Ask`."""
    reading: bytes
    silent: int
    """Workers that did not answer."""


class Fact(Struct, tag="fact", frozen=True):
    """Either's: something that one worker has learned."""

    kind: str
    scope: str
    """For which settings it is true; others do not heed it."""
    name: str
    value: str
    seconds: float
    """How long it is true; 0: not any more."""


Message = Count | Ask | Look | Sum | Fact
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Channel:
    """One end. It never waits: what the other one does not read is kept, within bounds, until `flush`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.ended = False
        """Whether all was read that there is to read: the other end is closed, or what it says is damaged."""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._end.fileno()

    @property
    def waiting(self) -> bool:
        """Whether there is something for `flush` to do when the socket can be written."""
        return bool(self._outgoing)

    def send(self, message: Message) -> bool:
        """Say something; False: it is lost, because the other end is closed or does not read, or it is no text."""
        if len(self._outgoing) > MOST_WAITING_BYTES:
            return False
        try:
            body = _encode(message)
        except UnicodeEncodeError:  # half a character: what others wrote is not always mended on its way here
            return False
        self._outgoing += len(body).to_bytes(_LENGTH_BYTES, "big") + body
        return self.flush()

    def flush(self) -> bool:
        """Write what can be written now; False: the other end is closed."""
        while self._outgoing:
            try:
                written = self._end.send(self._outgoing)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                self._outgoing.clear()
                return False
            del self._outgoing[:written]
        return True

    def receive(self) -> Sequence[Message]:
        """Return the messages that have come whole; one that cannot be read is the end."""
        while not self.ended:
            try:
                data = self._end.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            self._incoming += data
            self.ended = not data
        return self._take_whole()

    def close(self, last_seconds: float = 0.0) -> None:
        """Close it; what waits is given so much time to leave."""
        if last_seconds and self._outgoing:
            self._end.settimeout(last_seconds)
            with suppress(OSError):  # nobody reads it any more
                self._end.sendall(self._outgoing)
        self._end.close()

    def _take_whole(self) -> list[Message]:
        messages: list[Message] = []
        start, incoming = 0, self._incoming
        while len(incoming) >= start + _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            end = body + int.from_bytes(incoming[start:body], "big")
            if len(incoming) < end:
                break
            try:
                messages.append(_decode(bytes(incoming[body:end])))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._break_off()
                return messages
            start = end
        del incoming[:start]
        return messages

    def _break_off(self) -> None:
        """Hear no more: where one message is damaged, nobody knows where the next one begins."""
        self.ended = True
        self._incoming.clear()
        with suppress(OSError):  # the other end is closed already
            self._end.shutdown(socket.SHUT_RDWR)


def new_channels() -> tuple[socket.socket, socket.socket]:
    """Return the two ends, to be made a `Channel` each in its own process."""
    return socket.socketpair()
