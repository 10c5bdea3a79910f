"""The HTTP/1 server with an application that returns the request it received."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.platforms.heap import HeapTrimmer
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState
from tests.support.waiting import WAIT_SECONDS

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


class Echo:
    """Application that answers with the received request. It stores errors of reading."""

    def __init__(self) -> None:
        self.refused: list[ProxyError] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.hasty = False
        """True if it answers before it has read the body."""

    def log_rejected_request(self, error: ProxyError) -> str:
        self.refused.append(error)
        return "req_of_the_refusal"

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        body = b""
        while not self.hasty:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        await self.go_on.wait()
        names = [name.decode() for name, _ in scope["headers"]]
        answer = json.dumps({"path": scope["path"], "body": body.decode(), "headers": names}).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def serving(
    app: Echo, protocol: type[Http1Connection] = Http1Connection, kept: int = 5, heap_trimmer: HeapTrimmer | None = None
) -> AsyncIterator[int]:
    state = ServerState(app, keep_alive_seconds=kept, heap_trimmer=heap_trimmer or HeapTrimmer())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(state), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send pieces, each on its own, and return everything until the server hangs up; then hang up too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()

    async def collect() -> None:
        with contextlib.suppress(ConnectionError):  # a server that closes before it has read all resets the connection
            while piece := await reader.read(65_536):
                received.extend(piece)

    collected = asyncio.create_task(collect())
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # so that each is a read of its own
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await collected
    finally:
        writer.close()
    return bytes(received)


def bodies_of(answers: bytes) -> list[dict[str, Any]]:
    return [json.loads(b"{" + part.split(b"\r\n\r\n{", 1)[1]) for part in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]


CLOSE = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
