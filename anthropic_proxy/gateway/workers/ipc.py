"""Messages between a worker process and the hub in the supervisor process, over a pair of sockets.

`IpcChannel` is one end of the sockets.

Statistics: `StatsReport` contains those of one worker. A worker sends a `StatsQuery` to get the sum of all workers,
which `StatsTotal` contains. The hub first asks the other workers for their reports with a `StatsRequest`.

Client requests: a worker that shows requests to a user sends `RequestsWatch`. The other workers then send theirs as
`RequestsUpdate` for a limited time.

`SharedObservation` contains a fact about a model, an API key or a provider address. `ReloadRequest` makes all workers
read the settings again. `StoreCall` is a call of the store of limits in the hub, and `StoreResult` its result
(`shared_store.py`).
"""

import socket
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""Unsent bytes of a channel above which new messages are dropped, because the receiving process does not read."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Maximum size of an encoded message. The sender drops a larger message."""
_READ_BYTES = 256 * 1024
_LENGTH_BYTES = 4


class StatsReport(Struct, tag="report"):
    stats: bytes
    """Statistics of the worker, encoded by `metrics.encode_snapshot`."""
    query_number: int = 0
    """`query_number` of the `StatsRequest` that this report answers. 0: a periodic report without a request."""


class StatsQuery(Struct, tag="query"):
    query_number: int
    stats: bytes


class StatsRequest(Struct, tag="request"):
    query_number: int


class StatsTotal(Struct, tag="total"):
    query_number: int
    stats: bytes
    unresponsive_count: int
    """Number of workers that did not report in time. `stats` contains their previous reports."""


class SharedObservation(Struct, tag="observation", frozen=True):
    """Message with a fact that one worker has observed for the others, such as a key in cooldown."""

    kind: str
    """Type of the fact: `MODEL_OBSERVATION`, `KEY_COOLDOWN` or `CIRCUIT_STATE` of `gateway/workers/link.py`."""
    settings_digest: str
    """Digest of the settings for which the fact is valid. Workers with other settings ignore the message.
    "": valid for all settings."""
    name: str
    """Model and fact, digest of the API key, or name of the address. A newer message replaces this one."""
    value: str
    """Fact about a model, status and error of a failure (`503 api_error`), or the client for which alone an API key is
    skipped. "": a key that is skipped for all, or a closed circuit."""
    lifetime_seconds: float
    """Seconds until the fact expires. 0: revoked, for example because a circuit has closed."""


class ReloadRequest(Struct, tag="reload"):
    """Message from a worker to the hub: the settings files have changed, so all workers must read them again."""


class RequestsWatch(Struct, tag="watch"):
    duration_seconds: float
    needs_recent: bool
    """True if each other worker first sends all of its recent requests. False: only changes from now on."""


class RequestsUpdate(Struct, tag="requests"):
    worker: int
    requests: bytes
    """Requests of the worker: a `RequestSnapshot` as JSON, with keys redacted."""
    contains_recent: bool
    """True if `requests` contains all recent requests of the worker. False: only those since its last message."""


class StoreCall(Struct, tag="call"):
    number: int
    """Number of the call, which `StoreResult` repeats."""
    method: str
    arguments: bytes
    """Arguments of the method as a MessagePack array."""


class StoreResult(Struct, tag="result"):
    number: int
    result: bytes
    """Result of the method as MessagePack."""


Message = (
    StatsReport
    | StatsQuery
    | StatsRequest
    | StatsTotal
    | SharedObservation
    | ReloadRequest
    | RequestsWatch
    | RequestsUpdate
    | StoreCall
    | StoreResult
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class IpcChannel:
    """One end of the pair of sockets between the hub and a worker. `send`, `flush` and `receive` never block."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.ended = False
        """True if no more messages can be received: the other process closed its end, or a message was damaged."""

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def socket(self) -> socket.socket:
        return self._end

    @property
    def has_unsent(self) -> bool:
        """Call `flush` when the socket is writable."""
        return bool(self._outgoing)

    def send(self, message: Message) -> bool:
        """`flush` sends what the socket does not accept. Return False if the message is lost."""
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
        """Return False if the connection is broken and the bytes are lost."""
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
        """Read the available bytes from the socket, and return the messages that are complete. After a damaged message
        the channel ends, because the beginning of the next message is unknown.
        """
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

    def close(self, flush_timeout_seconds: float = 0.0) -> None:
        """`flush_timeout_seconds`: maximum time to send the unsent bytes first. 0: they are lost."""
        if flush_timeout_seconds and self._outgoing:
            self._end.settimeout(flush_timeout_seconds)
            with suppress(OSError):  # the peer does not read any more
                self._end.sendall(self._outgoing)
        self._end.close()

    def _stop_reading(self) -> None:
        self.ended = True
        self._incoming.clear()
        with suppress(OSError):  # the peer has already closed
            self._end.shutdown(socket.SHUT_RDWR)
