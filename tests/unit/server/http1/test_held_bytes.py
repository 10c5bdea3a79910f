"""What connections hold for clients that stop in the middle has a bound: who is ended beyond it."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from msgspec import structs

from anthropic_proxy.engine.hooks import Client, Receipt
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState
from anthropic_proxy.gateway.server.http1.cycle import CYCLE_EXTENSION
from anthropic_proxy.gateway.server.http1.held_bytes import GRACE_SECONDS, UNBEGUN, UNREAD, HeldBytes
from anthropic_proxy.gateway.server.listener import open_listener
from tests.support.http1_server import CLOSE, Echo
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import WAIT_SECONDS, wait_for_async


class Connected:
    """A connection that can be ended."""

    def __init__(self, name: str, ended: list[str]) -> None:
        self.name = name
        self._ended = ended
        self.transport = cast(asyncio.Transport, self)
        self.loop = asyncio.get_running_loop()

    def abort(self) -> None:
        self._ended.append(self.name)


@in_virtual_time
async def test_what_is_held_for_a_moment_is_not_ended() -> None:
    names = list[str]()
    held = HeldBytes(structs.replace(UNREAD, places=10), GRACE_SECONDS)
    held.hold(Connected("a1", names), "a", 6)
    await asyncio.sleep(GRACE_SECONDS)
    held.hold(Connected("b1", names), "b", 8)
    held.hold(Connected("b2", names), "b", 8)
    await asyncio.sleep(GRACE_SECONDS / 2)
    assert names == []
    await asyncio.sleep(GRACE_SECONDS)
    assert names == ["b1", "b2"]  # although nobody else has begun to wait


@in_virtual_time
async def test_of_a_burst_as_much_is_ended_as_is_beyond_the_bound() -> None:
    names = list[str]()
    held = HeldBytes(structs.replace(UNREAD, places=10), GRACE_SECONDS)
    for name in ("a1", "a2", "b1", "a3", "a4"):
        held.hold(Connected(name, names), name[0], 4)
        await asyncio.sleep(GRACE_SECONDS / 10)
    assert names == []
    await asyncio.sleep(GRACE_SECONDS)
    assert names == ["a1", "a2", "a3"]


@pytest.mark.parametrize(
    ("steps", "ended"),
    [
        ("a1=4 b1=4", ""),
        ("a1=4 b1=4 c1=4", "a1"),
        ("a1=2 a2=2 a3=2 b1=4", ""),
        ("a1=2 a2=2 a3=2 b1=5", "a1"),
        ("a1=2 a2=2 b1=5 b2=2", "b1"),
        ("a1=2 a2=2 a1=6 b1=3", "a1"),  # it is still the oldest
        ("a1=5 a1=0 a2=5 a1=1 b1=5", "a2"),  # it has begun again
        ("a1=9 a1=9 a1=9 b1=1", ""),
        ("a1=11", "a1"),
        ("a1=1 b1=1 b2=1 b3=9", "b1 b2"),
        ("a1=6 b1=4 -a1 a2=6", ""),
    ],
)
async def test_the_oldest_of_the_payer_with_the_most_is_ended(steps: str, ended: str) -> None:
    names, holders = list[str](), dict[str, Connected]()
    held = HeldBytes(structs.replace(UNREAD, places=10))
    for step in steps.split():
        name, _, size = step.strip("-").partition("=")
        holder = holders.setdefault(name, Connected(name, names))
        if size:
            held.hold(holder, name[0], int(size))
        else:
            held.release(holder)
    await asyncio.sleep(0)
    assert names == ended.split()


class Big:
    """Application that answers with much. The path is the name of the key."""

    def __init__(self) -> None:
        self.answered = 0

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        key = scope["path"].strip("/")
        receipt = Receipt(request_id="req", client=Client(key_id=key), started_at=0.0)
        scope["extensions"][CYCLE_EXTENSION].receipt = receipt
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 2_000_000})
        self.answered += 1

    def log_rejected_request(self, error: Exception) -> str:
        raise AssertionError(error)


@asynccontextmanager
async def serving(state: ServerState) -> AsyncIterator[int]:
    listener = open_listener("127.0.0.1", 0)
    server = await asyncio.get_running_loop().create_server(lambda: Http1Connection(state), sock=listener)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()


async def connect(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1)
    writer.write(data)
    return reader, writer


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Return what arrives until the end of a connection."""
    received = b""
    async with asyncio.timeout(WAIT_SECONDS):
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                received += data
    return received


@pytest.mark.parametrize(
    "unbegun",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 60_000,
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 400,  # small, but many objects
        b"GET / HTTP/1.1\r\n\r\n" + b"GET / HTTP/1.1\r\nx: %b\r\n\r\n" % (b"a" * 60_000),
        b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 70000\r\n\r\n" + b"a" * 60_000,
        b"GET / HTTP/1.1\r\n\r\n" + b"GET / HTTP/1.1\r\nx: " + b"a" * 60_000,
    ],
    ids=["one header", "many headers", "a waiting head", "a waiting body", "an unfinished head that waits"],
)
async def test_the_oldest_requests_that_do_not_begin_are_ended(unbegun: bytes) -> None:
    app = Echo()
    app.go_on.clear()
    state = ServerState(app, unbegun=HeldBytes(structs.replace(UNBEGUN, places=220_000)))
    async with serving(state) as port:
        clients = [await connect(port, unbegun) for _ in range(6)]
        ends = [asyncio.create_task(read_to_end(reader)) for reader, _ in clients]
        for end in itertools.islice(asyncio.as_completed(ends), 3):
            assert await end == b""
        for _, writer in clients:
            writer.close()
        await asyncio.gather(*ends)


async def test_a_complete_head_holds_nothing() -> None:
    state = ServerState(Echo(), unbegun=HeldBytes(structs.replace(UNBEGUN, places=100_000)))
    async with serving(state) as port:
        for _ in range(4):
            reader, writer = await connect(port, b"GET / HTTP/1.1\r\nx: " + b"a" * 60_000)
            writer.write(b"\r\nhost: x\r\n\r\n" + CLOSE)
            assert (await read_to_end(reader)).count(b"HTTP/1.1 200 OK") == 2
            writer.close()


async def test_replies_that_nobody_reads_are_ended_and_none_of_others() -> None:
    app = Big()
    state = ServerState(app, unread=HeldBytes(structs.replace(UNREAD, places=7_500_000)))
    async with serving(state) as port:
        request = b"GET /key_%b HTTP/1.1\r\nconnection: close\r\n\r\n"
        clients = [await connect(port, request % key) for key in (b"ann", *[b"mallory"] * 4)]
        await wait_for_async(lambda: app.answered == len(clients))
        sizes = [len(await read_to_end(reader)) > 2_000_000 for reader, _ in clients]
        assert sizes[0]
        assert sizes.count(True) == 3
        for _, writer in clients:
            writer.close()
