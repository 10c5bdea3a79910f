"""The servers and clients that a proxy could be made of, each by itself, for `bench.microbenchmarks`."""

import asyncio
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop

from bench.load import RequestSample, fire, wait_for_reply
from bench.measures import percentile_99
from bench.processes import Process, free_port
from bench.replies import read_wanted
from bench.subjects import CHECKOUT, DIRECT, PROXY, bare_environment, start_upstream
from bench.wires import CHAT

_UVICORN = ("uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--port", "{port}")
_SERVERS = {
    "uvicorn, a bare callable": (*_UVICORN, "bench.asgi:bare"),
    "… below one middleware that changes nothing": (*_UVICORN, "bench.asgi:layered"),
    "… Starlette in its place": (*_UVICORN, "--factory", "bench.asgi:on_starlette"),
    "granian, a bare callable": ("granian", "--interface", "asgi", "--port", "{port}", "bench.asgi:bare"),
    "hypercorn, a bare callable": ("hypercorn", "-k", "uvloop", "--bind", "127.0.0.1:{port}", "bench.asgi:bare"),
}
_ROUNDS = 5
_TURNS = 20
"""In which two proxies are asked for 50 replies each."""
_FEW, _MANY = 10, 400
_STREAMS = 16
_UNTUNED = "import gc\ngc.freeze = lambda: None\ngc.set_threshold = lambda *_: None\n"

Rows = dict[str, tuple[float, ...]]
Table = tuple[str, tuple[str, ...], Rows]
Ask = Callable[[str], Awaitable[int]]
"""Asks the upstream for a reply; returns how many bytes came."""
_Bodies = Callable[[str], bytes]
"""Reply → the body that asks for it."""


def measure() -> Iterator[Table]:
    """Yield the tables."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        place = Path(directory)
        yield ("a server", ("µs a request of 1 KB", "µs an event, a send each"), uvloop.run(_measure_servers(place)))
        yield ("a client", ("µs a request of 1 KB", "µs a paced event"), uvloop.run(_measure_clients(place)))
        yield ("a request of 1 MB to the proxy", ("ms p50", "ms p99"), uvloop.run(_measure_collector(place)))


async def _measure_servers(directory: Path) -> Rows:
    found: Rows = {}
    for title, (module, *options) in _SERVERS.items():
        if importlib.util.find_spec(module):
            port = free_port()
            command = [sys.executable, "-m", module, *(option.format(port=port) for option in options)]
            environment = {**bare_environment(), "PYTHONPATH": str(CHECKOUT)}
            with Process(command, CHECKOUT, environment, f"server-{port}", directory) as server:
                await wait_for_reply(port, _shot("bench-whole"), server.alive)
                await fire(port, _shot("bench-whole"), count=500, connections=4)
                rounds = [await _cost_of_server(server, port) for _ in range(_ROUNDS)]
            found[title] = tuple(statistics.median(values) for values in zip(*rounds, strict=True))
    return found


def _shot(reply: str) -> RequestSample:
    wanted = read_wanted(reply)
    body = DIRECT.shot(1_000, "bench-whole").body
    return RequestSample(path=f"/{reply}", body=body, wanted=wanted, exact=CHAT.body(wanted))


async def _cost_of_server(server: Process, port: int) -> tuple[float, float]:
    spent = []
    for reply, count in (("bench-whole", 1000), (f"bench-text-{_FEW}", 40), (f"bench-text-{_MANY}", 40)):
        before = server.cpu_seconds()
        await fire(port, _shot(reply), count=count, connections=4)
        spent.append(1e6 * (await server.settle() - before) / count)
    whole, few, many = spent
    return whole, (many - few) / (_MANY - _FEW)


async def _measure_clients(directory: Path) -> Rows:
    port, found = free_port(), {}
    with start_upstream(directory, port) as upstream:
        await wait_for_reply(port, DIRECT.shot(1_000, "bench-whole"), upstream.alive)
        async with AsyncExitStack() as opened:
            for title, ask in _clients(f"http://127.0.0.1:{port}", opened):
                await asyncio.gather(*(ask("bench-whole") for _ in range(8)))
                rounds = [await _cost_of_client(ask) for _ in range(_ROUNDS)]
                found[title] = tuple(statistics.median(values) for values in zip(*rounds, strict=True))
    return found


async def _cost_of_client(ask: Ask) -> tuple[float, float]:
    async def spend(reply: str, count: int, at_once: int) -> float:
        async def one_after_another() -> None:
            for _ in range(count // at_once):
                assert await ask(reply) == len(CHAT.body(read_wanted(reply)))

        before = time.process_time()
        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        return 1e6 * (time.process_time() - before) / count

    whole = await spend("bench-whole", 400, 4)
    few, many = [await spend(f"bench-text-{events}-paced", _STREAMS, _STREAMS) for events in (_FEW, _MANY)]
    return whole, (many - few) / (_MANY - _FEW)


def _clients(origin: str, opened: AsyncExitStack) -> Iterator[tuple[str, Ask]]:
    bodies: dict[str, bytes] = {}

    def body_for(reply: str) -> bytes:
        if reply not in bodies:
            bodies[reply] = DIRECT.shot(1_000, reply).body.numbered(0)
        return bodies[reply]

    with suppress(ImportError):
        yield "httpx", _ask_with_httpx(origin, body_for, opened)
    with suppress(ImportError):
        yield "aiohttp", _ask_with_aiohttp(origin, body_for, opened)
    yield "our own (`engine/upstream/http/`)", _ask_with_our_own(origin, body_for, opened)
    yield "asyncio's streams, HTTP read by hand", _ask_by_hand(origin, body_for)


def _ask_with_httpx(origin: str, body_for: _Bodies, opened: AsyncExitStack) -> Ask:
    httpx = import_module("httpx")
    client = httpx.AsyncClient(timeout=None, trust_env=False, limits=httpx.TargetLimits(max_connections=None))
    opened.push_async_callback(client.aclose)

    async def ask(reply: str) -> int:
        async with client.stream("POST", origin + CHAT.path, content=body_for(reply)) as response:
            return sum([len(data) async for data in response.aiter_raw()])

    return ask


def _ask_with_aiohttp(origin: str, body_for: _Bodies, opened: AsyncExitStack) -> Ask:
    aiohttp = import_module("aiohttp")
    jar, connector = aiohttp.DummyCookieJar(), aiohttp.TCPConnector(limit=0)
    session: Any = aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=aiohttp.ClientTimeout())
    opened.push_async_callback(session.close)

    async def ask(reply: str) -> int:
        async with session.post(origin + CHAT.path, data=body_for(reply)) as response:
            return sum([len(data) async for data in response.content.iter_any()])

    return ask


def _ask_with_our_own(origin: str, body_for: _Bodies, opened: AsyncExitStack) -> Ask:
    from anthropic_proxy.engine.upstream.http.client import HttpTransport  # noqa: PLC0415
    from anthropic_proxy.engine.wires.bound_requests import BoundRequest  # noqa: PLC0415
    from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin  # noqa: PLC0415
    from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest  # noqa: PLC0415

    upstream = HttpTransport(10.0)
    opened.push_async_callback(upstream.close)

    async def ask(reply: str) -> int:
        request = UpstreamRequest(path=CHAT.path, body=body_for(reply))
        response = await upstream.send(BoundRequest(OperatorOrigin("setup"), origin, request))
        size = 0
        while data := await response.read():
            size += len(data)
        await response.close()
        return size

    return ask


def _ask_by_hand(origin: str, body_for: _Bodies) -> Ask:
    host, _, port = origin.removeprefix("http://").partition(":")
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(reply: str) -> int:
        reader, writer = free.pop() if free else await asyncio.open_connection(host, int(port))
        body = body_for(reply)
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.path.encode(), len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size, found = 0, head.partition(b"content-length: ")[2]
        if found:
            size = len(await reader.readexactly(int(found.partition(b"\r\n")[0])))
        else:
            while length := int(await reader.readline(), 16):
                size += len((await reader.readexactly(length + 2))[:-2])
            await reader.readline()
        free.append((reader, writer))
        return size

    return ask


async def _measure_collector(directory: Path) -> Rows:
    """Ask both in turns, so that a busy moment hits both."""
    port = free_port()
    variants = {"Python's collector with default settings": _UNTUNED, "start-up frozen, rarer collections": ""}
    waits: dict[str, list[float]] = {title: [] for title in variants}
    with ExitStack() as running:
        upstream = running.enter_context(start_upstream(directory, port))
        await wait_for_reply(port, DIRECT.shot(1_000, "bench-whole"), upstream.alive)
        proxies = {}
        for title, code in variants.items():
            proxy, proxies[title] = running.enter_context(_proxy(directory, port, code))
            await wait_for_reply(proxies[title], PROXY.shot(1_000, "bench-whole"), proxy.alive)
        for number in range(1 + _TURNS):
            for title, at in proxies.items():
                outcome = await fire(at, PROXY.shot(1_000_000, "bench-whole"), count=50, connections=1)
                waits[title] += outcome.seconds if number else []
    return {title: (1e3 * statistics.median(found), 1e3 * percentile_99(found)) for title, found in waits.items()}


@contextmanager
def _proxy(directory: Path, upstream: int, code: str) -> Iterator[tuple[Process, int]]:
    """Start the proxy after a line of code."""
    port = free_port()
    (directory / "sitecustomize.py").write_text(code)
    variables = {name: value.format(origin=f"http://127.0.0.1:{upstream}") for name, value in CHAT.settings.items()}
    paths = {"PYTHONPATH": os.pathsep.join((str(directory), str(CHECKOUT)))}
    command = [sys.executable, "-m", "anthropic_proxy", "serve", "--port", str(port)]
    with Process(
        command, directory, {**bare_environment(), **paths, **variables}, f"proxy-{port}", directory
    ) as process:
        yield process, port
