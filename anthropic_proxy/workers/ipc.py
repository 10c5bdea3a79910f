"""Messages between the supervisor and a worker over a pair of sockets. Neither side ever blocks."""

import socket
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""Unsent bytes of a channel up to which messages are accepted. Later messages are dropped: the peer does not read."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Maximum size of an encoded message. A longer one counts as damaged, so that buffers stay bounded."""
_READ_BYTES = 256 * 1024
_LENGTH_BYTES = 4


class StatsReport(Struct, tag="report"):
    """Message of a worker to the hub: the statistics of this worker since its start."""

    stats: bytes
    """Encoded statistics (`metrics.encode_snapshot`), here and in the other messages."""
    query_number: int = 0
    """Number of the answered `StatsRequest`. 0: not requested."""


class StatsQuery(Struct, tag="query"):
    """Message of a worker to the hub: a query for the statistics of all workers."""

    query_number: int
    """Number that the answer repeats."""
    stats: bytes
    """Encoded statistics of the sender."""


class StatsRequest(Struct, tag="request"):
    """Message of the hub to a worker: a request for a `StatsReport`."""

    query_number: int
    """Number that the report repeats."""


class StatsTotal(Struct, tag="total"):
    """Message of the hub to a worker: the sum of the statistics of all workers, the answer to a `StatsQuery`."""

    query_number: int
    """Number of the answered `StatsQuery`."""
    stats: bytes
    """Encoded sum."""
    unresponsive_count: int
    """Number of workers that did not report in time."""


class SharedObservation(Struct, tag="observation", frozen=True):
    """Message of a worker to the hub, which forwards it to the others: a fact about a model, an API key or an upstream.

    `shared_state` defines the values of the fields.
    """

    kind: str
    """Type of the observed object: model, key or upstream."""
    scope: str
    """Digest of the settings for which the observation is valid. Workers with other settings ignore it."""
    name: str
    """Observed object. A newer observation of the same object replaces this one."""
    value: str
    """Observed state."""
    seconds: float
    """Time in seconds until the observation expires. 0: revoked."""


Message = StatsReport | StatsQuery | StatsRequest | StatsTotal | SharedObservation
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class IpcChannel:
    """One end of a connection between the supervisor and a worker, for messages in both directions.

    No method blocks: unsent bytes are kept, within bounds, until `flush`.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.ended = False
        """True if no more messages will come: the peer has closed, or a message was damaged."""

    def fileno(self) -> int:
        """Return the file descriptor of the socket, for `select`."""
        return self._end.fileno()

    @property
    def has_unsent(self) -> bool:
        """True if `flush` must be called when the socket is writable."""
        return bool(self._outgoing)

    def send(self, message: Message) -> bool:
        """Send a message. False: it is lost because the peer does not read or the message cannot be encoded."""
        if len(self._outgoing) > MAX_UNSENT_BYTES:
            return False
        try:
            body = _encode(message)
        except UnicodeEncodeError:  # a lone surrogate from foreign text
            return False
        if len(body) > MAX_MESSAGE_BYTES:
            return False
        self._outgoing += len(body).to_bytes(_LENGTH_BYTES, "big") + body
        return self.flush()

    def flush(self) -> bool:
        """Write the unsent bytes, as far as possible without blocking. False: the peer has closed."""
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
        """Read what has arrived and return its complete messages. A damaged message ends the channel."""
        while not self.ended:
            try:
                data = self._end.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            self._incoming += data
            self.ended = not data
            if len(self._incoming) > MAX_MESSAGE_BYTES:
                break
        return self._pop_complete()

    def close(self, flush_timeout_seconds: float = 0.0) -> None:
        """Close the channel. `flush_timeout_seconds`: time to send the unsent bytes; 0: they are lost."""
        if flush_timeout_seconds and self._outgoing:
            self._end.settimeout(flush_timeout_seconds)
            with suppress(OSError):  # the peer does not read any more
                self._end.sendall(self._outgoing)
        self._end.close()

    def _pop_complete(self) -> list[Message]:
        messages: list[Message] = []
        start, incoming = 0, self._incoming
        while len(incoming) >= start + _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            end = body + int.from_bytes(incoming[start:body], "big")
            if end - body > MAX_MESSAGE_BYTES:
                self._stop_reading()
                return messages
            if len(incoming) < end:
                break
            try:
                messages.append(_decode(bytes(incoming[body:end])))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._stop_reading()
                return messages
            start = end
        del incoming[:start]
        return messages

    def _stop_reading(self) -> None:
        """Stop reading. After a damaged message the next message boundary is unknown."""
        self.ended = True
        self._incoming.clear()
        with suppress(OSError):  # the peer has already closed
            self._end.shutdown(socket.SHUT_RDWR)
