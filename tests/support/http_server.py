"""A scripted HTTP server for the HTTP client, and requests to it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.http.connection import HttpResponse
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.bound_requests import bound


class Server:
    """Answers each request by the next of `acts`, the last one repeatedly. Counts the requests."""

    def __init__(self, *acts: Callable[["Server", asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.acts = list(acts)
        self.connections = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.lost = asyncio.Event()
        """Set when a client has closed a connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:-1])
                self.bodies.append(await reader.readexactly(int(fields.get("content-length", "0"))))
                await (self.acts.pop(0) if len(self.acts) > 1 else self.acts[0])(self, writer)
        self.lost.set()
        writer.close()


@asynccontextmanager
async def serving(
    *acts: Callable[[Server, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, int]]:
    server = Server(*acts)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


@asynccontextmanager
async def asking(**options: Any) -> AsyncIterator[HttpTransport]:
    upstream = HttpTransport(5.0, **options)
    try:
        yield upstream
    finally:
        await upstream.close()


async def post(upstream: HttpTransport, port: int, body: bytes = b"{}", scheme: str = "http") -> HttpResponse:
    return await upstream.send(bound(f"{scheme}://127.0.0.1:{port}/v1", UpstreamRequest(path="/chat", body=body)))


async def read_all(response: HttpResponse) -> bytes:
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    await response.close()
    return b"".join(pieces)


async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Connect a client to `port` of this machine until both sides have closed."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(_forward(reader, far_writer), _forward(far_reader, writer))


async def _forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()
