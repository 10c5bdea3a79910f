"""Stop of a server: clients that had connected before are served, however late the event loop runs. And the bound of
connections: one payer keeps no other out.
"""

import asyncio
import importlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import trustme

from anthropic_proxy.errors import WorkerBusy
from anthropic_proxy.gateway.server.http1 import acceptor as acceptors
from anthropic_proxy.gateway.server.http1 import places
from anthropic_proxy.gateway.server.http1.acceptor import Acceptor
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState
from anthropic_proxy.gateway.server.http1.cycle import CYCLE_EXTENSION
from anthropic_proxy.gateway.server.process import end_connections
from anthropic_proxy.plugins import Client
from tests.support.http1_server import GET, Echo
from tests.support.ledger import new_receipt
from tests.support.platform_marks import needs_uvloop
from tests.support.waiting import WAIT_SECONDS, wait_for_async

CLIENTS = 40


@pytest.mark.parametrize("make_loop", ["asyncio", pytest.param("uvloop", marks=needs_uvloop)])
def test_clients_in_the_backlog_are_served_although_the_machine_is_busy(
    make_loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptors, "OPENING_WAIT_SECONDS", 0.01)
    factory = asyncio.new_event_loop if make_loop == "asyncio" else importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner, ExitStack() as sockets:
        replies = runner.run(stop_while_blocked(sockets))
    assert replies == [b"HTTP/1.1 200 OK"] * CLIENTS


async def stop_while_blocked(stack: ExitStack) -> list[bytes]:
    """Stop a server, and block its event loop after each turn for longer than it waits for the opening clients."""
    loop = asyncio.get_running_loop()
    state = ServerState(Echo())
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CLIENTS))
    listener.setblocking(False)
    acceptor = Acceptor(listener, lambda: Http1Connection(state), state, print)
    clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(CLIENTS)]
    for client in clients:
        client.sendall(GET)
        client.settimeout(WAIT_SECONDS)
    blocking = loop.create_task(block_often())
    await acceptor.close()
    await end_connections(state, WAIT_SECONDS, asyncio.Event(), print)
    await blocking
    return [client.recv(15) for client in clients]


async def block_often() -> None:
    for _ in range(5):
        time.sleep(0.1)  # noqa: ASYNC251  # the busy machine
        await asyncio.sleep(0)


async def test_the_memory_limits_the_number_of_connections() -> None:
    app, warnings = Echo(), list[str]()
    app.go_on.clear()
    state = ServerState(app)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        new_protocol = partial(Http1Connection, state)
        acceptor = Acceptor(listener, new_protocol, state, warnings.append, max_connections=2)
        acceptor.start()
        for _ in range(3):
            stack.enter_context(socket.create_connection(listener.getsockname())).sendall(GET)
        await wait_for_async(lambda: warnings)
        assert len(state.connections) == 2
        app.go_on.set()
        await acceptor.close()
        await end_connections(state, WAIT_SECONDS, asyncio.Event(), print)
    assert warnings == [
        "No more clients can be served for now: 2 clients are connected. More memory (MEMORY_LIMIT_MB) allows more."
    ]


class Payers(Echo):
    """The path of a request is its payer. A response begins at once, and ends with `end`."""

    def __init__(self) -> None:
        super().__init__()
        self.running = Counter[str]()
        self._ends: dict[str, list[asyncio.Event]] = {}

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        cycle = scope["extensions"][CYCLE_EXTENSION]
        payer = scope["path"].strip("/")
        cycle.receipt = new_receipt(client=Client(payer, person=payer))
        if cycle.places is not None:
            try:
                await cycle.places.enter(cycle)
            except WorkerBusy as error:
                cycle.start_response(error.status, {("connection", "close"), ("content-length", "0")})
                self.refused.append(error)
                await cycle.write_body(b"", is_last=True)
                return
        self.running[payer] += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        end = asyncio.Event()
        self._ends.setdefault(payer, []).append(end)
        await end.wait()
        await send({"type": "http.response.body", "body": b"last"})

    def end(self, payer: str) -> None:
        self.running[payer] -= 1
        self._ends[payer].pop(0).set()


class Crowd:
    """A server with eight places, one of which is the reserve, and clients."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.app = Payers()
        self.state = ServerState(self.app)
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.setblocking(False)
        new_protocol = partial(Http1Connection, self.state)
        self.acceptor = Acceptor(self._listener, new_protocol, self.state, print, max_connections=8)
        self.clients: list[socket.socket] = []

    def send(self, payer: str, count: int = 1, *, is_complete: bool = True) -> None:
        for _ in range(count):
            client = self._stack.enter_context(socket.create_connection(self._listener.getsockname()))
            length = 0 if is_complete else 100
            client.sendall(f"POST /{payer} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
            client.setblocking(False)
            self.clients.append(client)

    async def wait_running(self, **expected: int) -> None:
        await wait_for_async(lambda: +self.app.running, lambda running: running == Counter(expected))

    async def read(self, number: int) -> bytes:
        """Return what a client gets until the end of its response."""
        loop, data = asyncio.get_running_loop(), b""
        while b"0\r\n\r\n" not in data and (piece := await loop.sock_recv(self.clients[number], 65_536)):
            data += piece
        return data


@pytest.fixture
async def crowd(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    monkeypatch.setattr(acceptors, "ACCEPT_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(acceptors, "WAIT_UNDER_PRESSURE_SECONDS", 0.1)
    monkeypatch.setattr(places, "LOOK_SECONDS", 0.01)
    with ExitStack() as stack:
        found = Crowd(stack)
        found.acceptor.start()
        yield found
        for connection in list(found.state.connections):
            connection.transport.abort()
        await found.acceptor.close()
        await end_connections(found.state, 0, asyncio.Event(), print)


@pytest.mark.parametrize("make_loop", ["asyncio", pytest.param("uvloop", marks=needs_uvloop)])
def test_clients_that_do_not_end_the_handshake_keep_no_other_out(
    make_loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("HANDSHAKE_TIMEOUT_SECONDS", 10_000.0), ("WAIT_UNDER_PRESSURE_SECONDS", 0.1)):
        monkeypatch.setattr(acceptors, name, seconds)
    factory = asyncio.new_event_loop if make_loop == "asyncio" else importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner, ExitStack() as stack:
        assert runner.run(exchange_beside_handshakes(stack)) == b"HTTP/1.1 200 OK"


async def exchange_beside_handshakes(stack: ExitStack) -> bytes:
    """Return the status line for a client behind others whose handshakes do not end."""
    authority = trustme.CA()
    context, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    state = ServerState(Echo())
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.setblocking(False)
    new_protocol = partial(Http1Connection, state)
    acceptor = Acceptor(listener, new_protocol, state, print, lambda: context, max_connections=8)
    acceptor.start()
    place = listener.getsockname()
    silent = [stack.enter_context(socket.create_connection(place)) for _ in range(20)]
    reader, writer = await asyncio.open_connection(*place[:2], ssl=trusting, server_hostname="localhost")
    writer.write(GET)
    status = await reader.readexactly(15)
    writer.close()
    silent[0].setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(silent[0], 1) == b"", "it was closed"
    await acceptor.close()
    await end_connections(state, 0, asyncio.Event(), print)
    return status


@pytest.mark.parametrize("is_complete", [True, False])
async def test_one_payer_keeps_no_other_out_and_keeps_what_has_begun(crowd: Crowd, *, is_complete: bool) -> None:
    crowd.send("ann", 7, is_complete=is_complete)
    await crowd.wait_running(ann=7)
    crowd.send("ann", 4, is_complete=is_complete)
    crowd.send("bob")
    await crowd.wait_running(ann=7, bob=1)
    assert {error.message for error in crowd.app.refused} == {
        "Other requests need the places for connections, and 1 wait. Try again in a moment."
    }
    assert [error.retry_after for error in crowd.app.refused] == [2.0] * 4
    for number in range(7, 11):
        assert (await crowd.read(number)).startswith(b"HTTP/1.1 529 ")
    for _ in range(7):
        crowd.app.end("ann")
    for number in range(7):
        reply = await crowd.read(number)
        assert (reply.startswith(b"HTTP/1.1 200 "), reply.endswith(b"4\r\nlast\r\n0\r\n\r\n")) == (True, True)


async def test_what_a_payer_sends_again_after_a_refusal_holds_nobody_up(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it gets a place: each round of the reserve would be another second."""
    crowd.send("ann", 7)
    await crowd.wait_running(ann=7)
    crowd.send("ann", 2)
    await wait_for_async(lambda: len(crowd.app.refused), lambda count: count == 1)
    monkeypatch.setattr(places, "LOOK_SECONDS", 10_000.0)
    crowd.send("ann", 5)
    crowd.send("bob")
    await crowd.wait_running(ann=7, bob=1)


async def test_a_payer_waits_for_its_own_requests_while_nobody_is_in_the_backlog(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_LOOKS_IN_VAIN", 0)
    crowd.send("ann", 8)
    await crowd.wait_running(ann=7)
    await wait_for_async(lambda: len(crowd.state.request_tasks), lambda count: count == 8)
    crowd.app.end("ann")
    await crowd.wait_running(ann=7)
    assert (await crowd.read(0)).endswith(b"0\r\n\r\n")
    assert crowd.app.refused == []


async def test_as_many_as_come_are_served_while_places_are_given_back(crowd: Crowd) -> None:
    crowd.send("ann", 20)
    for _ in range(13):
        await crowd.wait_running(ann=7)
        crowd.app.end("ann")
    await crowd.wait_running(ann=7)
    assert crowd.app.refused == []


async def test_a_free_place_goes_to_the_payer_with_the_fewest(crowd: Crowd) -> None:
    crowd.send("ann", 4)
    await crowd.wait_running(ann=4)
    crowd.send("bob", 3)
    await crowd.wait_running(ann=4, bob=3)
    crowd.send("bob")
    await wait_for_async(lambda: len(crowd.state.request_tasks), lambda count: count == 8)
    crowd.app.end("ann")
    await crowd.wait_running(ann=3, bob=4)
