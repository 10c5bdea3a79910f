"""The client of the bench: keep-alive connections on a bare protocol; every reply is checked."""

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from typing import cast

from msgspec import Struct, field

from bench.bodies import Body
from bench.replies import BEGINNING, Wanted, find_defect

_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_LENGTH = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\ntransfer-encoding: *chunked", re.IGNORECASE)
_numbers = itertools.count()


class BenchError(Exception):
    """A reply was wrong, or none came."""


class RequestSample(Struct, frozen=True, kw_only=True):
    """A request that is sent again and again, each time with another number."""

    path: str
    body: Body
    wanted: Wanted
    headers: str = ""
    exact: bytes = b""
    """The body of the reply to the byte, where that is known."""
    separate: bool = False
    """True if each piece of a stream must come by itself, as the upstream sent it."""

    def bytes(self) -> bytes:
        """Return the next request."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{self.headers}"
            f"Content-Length: {self.body.size}\r\n\r\n"
        )
        return head.encode() + self.body.numbered(next(_numbers))


class Outcome(Struct):
    """Results of a volley."""

    seconds: list[float] = field(default_factory=list)
    """From the last byte of a request to the last of its reply."""
    first: list[float] = field(default_factory=list)
    """From the last byte of a request to the first that carries content."""


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.buffer = bytearray()
        self.done: asyncio.Future[bytes] | None = None
        self.first: float | None = None
        self.head = -1
        self.length = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done and not self.done.done():
            self.done.set_exception(BenchError(f"the connection closed in the middle of a reply: {exc}"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.head < 0:
            self.head = self.buffer.find(b"\r\n\r\n")
            if self.head < 0:
                return
            found = _LENGTH.search(self.buffer, 0, self.head)
            self.length = int(found[1]) if found else -1
            if not found and not _CHUNKED.search(self.buffer, 0, self.head):
                self.transport.close()
        body = len(self.buffer) - self.head - 4
        if self.first is None and (BEGINNING in data or body == self.length):
            self.first = time.perf_counter()
        complete = body == self.length if self.length >= 0 else self.buffer.endswith(b"\r\n0\r\n\r\n")
        if complete and self.done and not self.done.done():
            self.done.set_result(bytes(self.buffer))

    def send(self, request: bytes) -> "asyncio.Future[bytes]":
        self.buffer.clear()
        self.first, self.head, self.length = None, -1, -1
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.done


async def fire(
    port: int, shot: RequestSample, *, count: int, connections: int, outcome: Outcome | None = None
) -> Outcome:
    """Send `count` requests over so many connections, each waiting for its reply. Raises `BenchError`."""
    outcome = outcome or Outcome()
    left = itertools.count()
    loop = asyncio.get_running_loop()

    async def one() -> None:
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
        try:
            while next(left) < count:
                await _ask(connection, shot, outcome)
        finally:
            connection.transport.close()

    async with asyncio.timeout(120):
        await asyncio.gather(*(one() for _ in range(connections)))
    return outcome


async def _ask(connection: _Connection, shot: RequestSample, outcome: Outcome) -> None:
    request = shot.bytes()
    start = time.perf_counter()
    reply = await connection.send(request)
    end = time.perf_counter()
    check(reply, shot)
    outcome.seconds.append(end - start)
    outcome.first.append((connection.first or end) - start)


def check(reply: bytes, shot: RequestSample) -> None:
    """Raise `BenchError` unless a reply is whole and right."""
    head, _, body = reply.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if status is None or status[1] != b"200":
        raise BenchError(f"it answered {reply[:400].decode(errors='replace')}")
    if _CHUNKED.search(head):
        body = _unchunk(body)
    fault = "" if body == shot.exact else find_defect(body, shot.wanted, separate=shot.separate)
    if fault or (shot.exact and body != shot.exact):
        raise BenchError(f"{fault or 'a byte differs'}: {body[:300]!r} … {body[-300:]!r}")


async def wait_for_reply(port: int, shot: RequestSample, alive: Callable[[], bool], seconds: float = 60) -> None:
    """Ask until the first right reply. Raises `BenchError` where the process ended or nothing came in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await fire(port, shot, count=1, connections=1)
        except OSError as error:
            if not alive() or time.monotonic() > deadline:
                raise BenchError(f"no server responds at port {port}: {error}") from error
            await asyncio.sleep(0.002)
        else:
            return


def _unchunk(body: bytes) -> bytes:
    parts = []
    place = 0
    while place < len(body):
        end = body.index(b"\r\n", place)
        size = int(body[place:end], 16)
        parts.append(body[end + 2 : end + 2 + size])
        place = end + 4 + size
    return b"".join(parts)
