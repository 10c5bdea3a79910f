"""Stop of a server: clients that had connected before are served, however late the event loop runs."""

import asyncio
import importlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from anthropic_proxy.gateway.server.http1 import acceptor as acceptors
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
    acceptor = Acceptor(listener, lambda: Http1Connection(state), state.connections, print)
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
        acceptor = Acceptor(listener, new_protocol, state.connections, warnings.append, max_connections=2)
        acceptor.start()
        clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(3)]
        for client in clients:
            client.sendall(GET)
        await wait_for_async(lambda: app.refused)
        assert len(state.connections) <= 2
        app.go_on.set()
        replies = sorted([await read_reply(client) for client in clients])
        assert [reply.partition(b"\r\n")[0] for reply in replies] == [b"HTTP/1.1 200 OK"] * 2 + [b"HTTP/1.1 529 "]
        assert (
            b"Others need the places for connections, and this client has the most. Try again in a moment."
            in replies[2]
        )
        await acceptor.close()
        await end_connections(state, WAIT_SECONDS, asyncio.Event(), print)
    assert warnings == [
        "No more clients can be served for now: 2 clients are connected. More memory (MEMORY_LIMIT_MB) allows more."
    ]


async def read_reply(client: socket.socket) -> bytes:
    client.setblocking(False)
    loop, data = asyncio.get_running_loop(), b""
    while b"\r\n\r\n" not in data and (piece := await loop.sock_recv(client, 65_536)):
        data += piece
    return data


class Payers(Echo):
    """The path of a request is its payer. No response ends. `begins`: its beginning is sent at once."""

    def __init__(self, *, begins: bool) -> None:
        super().__init__()
        self._begins = begins
        self.served = Counter[str]()

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        payer = scope["path"].strip("/")
        scope["extensions"][CYCLE_EXTENSION].receipt = new_receipt(client=Client(payer, person=payer))
        self.served[payer] += 1
        if self._begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            continue


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("is_complete", [False, True])
async def test_one_payer_keeps_no_other_out(*, begins: bool, is_complete: bool) -> None:
    app = Payers(begins=begins)
    state = ServerState(app)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        acceptor = Acceptor(listener, partial(Http1Connection, state), state.connections, print, max_connections=6)

        def send(payer: str) -> None:
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            length = 0 if is_complete else 100
            client.sendall(f"POST /{payer} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())

        acceptor.start()
        for _ in range(6):
            send("a")
        await wait_for_async(lambda: app.served["a"], lambda count: count == 6)
        for payer in "bc":
            send(payer)
            await wait_for_async(lambda payer=payer: app.served[payer])
        assert sum(connection.payer == "person a" for connection in state.connections) >= 2
        for connection in list(state.connections):
            connection.transport.abort()
        await acceptor.close()
        await end_connections(state, WAIT_SECONDS, asyncio.Event(), print)
