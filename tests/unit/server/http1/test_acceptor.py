"""Stop of a server: clients that had connected before are served, however late the event loop runs."""

import asyncio
import importlib
import socket
import time
from contextlib import ExitStack
from functools import partial

import pytest

from anthropic_proxy.gateway.server.http1 import acceptor as acceptors
from anthropic_proxy.gateway.server.http1.acceptor import Acceptor
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState
from anthropic_proxy.gateway.server.process import end_connections
from tests.support.http1_server import GET, Echo
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
