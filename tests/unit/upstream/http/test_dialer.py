"""Connection to the first of several addresses that accepts one, on both event loops."""

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from anthropic_proxy.engine.upstream.http.dialer import AddressInfo, connect_first
from tests.support.waiting import WAIT_SECONDS, wait_for_async

Run = Callable[[Coroutine[Any, Any, Any]], Any]
LONG_SECONDS = 2.0 * WAIT_SECONDS


def run_on_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    import uvloop

    return uvloop.run(main)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "asyncio":
        return asyncio.run
    pytest.importorskip("uvloop", reason="platform: no uvloop")
    return run_on_uvloop


def info(host: str, port: int, family: int = socket.AF_INET) -> AddressInfo:
    return (family, socket.SOCK_STREAM, 0, "", (host, port))


class Sockets:
    """A socket factory that keeps the order of the addresses and every socket."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.made: list[socket.socket] = []

    def new(self, info: AddressInfo) -> socket.socket:
        self.order.append(info[4][0])
        self.made.append(socket.socket(info[0], info[1]))
        return self.made[-1]

    async def all_closed_except(self, winner: socket.socket | None) -> None:
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=WAIT_SECONDS)
        assert [made for made in self.made if made.fileno() != -1 and made is not winner] == []


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 that accepts; 127.0.0.2 has a full queue there and does not answer; 127.0.0.3 refuses."""
    if sys.platform != "linux":
        pytest.skip("platform: other systems have one loopback address, or refuse connections that exceed the backlog")
    listener = socket.create_server(("127.0.0.1", 0))
    number = int(listener.getsockname()[1])
    full = socket.create_server(("127.0.0.2", number), backlog=0)
    fillers = [socket.socket() for _ in range(2)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    yield number
    for opened in (listener, full, *fillers):
        opened.close()


@pytest.mark.parametrize(
    ("hosts", "delay_seconds", "tried"),
    [
        pytest.param("1", LONG_SECONDS, "1", id="one address"),
        pytest.param("31", LONG_SECONDS, "31", id="the next one at once after a refusal"),
        pytest.param("341", LONG_SECONDS, "341", id="after two refusals"),
        pytest.param("21", 0.01, "21", id="one that does not answer delays the next one only"),
        pytest.param("12", LONG_SECONDS, "1", id="one that accepts in time is the only one"),
    ],
)
def test_the_first_address_that_accepts_is_connected(
    run: Run, port: int, hosts: str, delay_seconds: float, tried: str
) -> None:
    async def main() -> None:
        sockets = Sockets()
        infos = [info(f"127.0.0.{host}", port) for host in hosts]
        async with asyncio.timeout(WAIT_SECONDS):
            opened = await connect_first(infos, sockets.new, delay_seconds=delay_seconds)
        assert opened.getpeername() == ("127.0.0.1", port)
        assert sockets.order == [f"127.0.0.{host}" for host in tried]
        await sockets.all_closed_except(opened)
        opened.close()

    run(main())


def test_a_cancelled_connection_leaves_no_socket(run: Run, port: int) -> None:
    async def main() -> None:
        sockets = Sockets()
        infos = [info("127.0.0.2", port), info("127.0.0.2", port)]
        connecting = asyncio.create_task(connect_first(infos, sockets.new, delay_seconds=0.01))
        await wait_for_async(lambda: sockets.made, lambda made: len(made) == 2)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        await sockets.all_closed_except(None)

    run(main())
