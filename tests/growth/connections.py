"""Operations of the table: bytes on connections, from clients to the server and from providers to the HTTP client."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anthropic_proxy.engine.upstream.http.connection import Connection, InvalidHttp
from anthropic_proxy.engine.upstream.http.url import Origin
from anthropic_proxy.errors import ProxyError, UpstreamProtocolError
from anthropic_proxy.gateway.server.http1.connection import Http1Connection
from anthropic_proxy.gateway.server.http1.lifecycle import ServerState
from tests.growth.measure import Build, Run, read_outcome

READ_BYTES = 64 * 1024
"""Bytes of one read of a socket, at most."""
_ORIGIN = Origin("http", "127.0.0.1", 9)
_ANSWER = [(b"content-length", b"2")]


class Wire(asyncio.Transport):
    """The transport of a connection in the process.

    It keeps the written bytes, and the state of reading (paused or not).
    """

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.closed = self.ended = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += map(bytes, list_of_data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Application:
    """Reads each request and answers with two bytes; `go_on` holds its answers back."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.answers = 0

    def log_rejected_request(self, error: ProxyError) -> str:
        return "req_growth"

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[..., Any]) -> None:
        """Answer one request (ASGI)."""
        while (await receive()).get("more_body"):
            pass
        await self.go_on.wait()
        self.answers += 1
        await send({"type": "http.response.start", "status": 200, "headers": _ANSWER})
        await send({"type": "http.response.body", "body": b"ok"})


class Sink:
    """Accepts connections and does not use them again."""

    def put_idle(self, connection: Connection) -> None:
        """Take a connection back."""

    def remove_closed(self, connection: Connection) -> None:
        """Forget a connection that ended."""


async def feed(wire: Wire, protocol: asyncio.Protocol, reads: Sequence[bytes]) -> None:
    for data in reads:
        while wire.paused and not wire.closed:  # noqa: ASYNC110 (a transport has no event to wait for)
            await asyncio.sleep(0)
        if wire.closed:
            break
        protocol.data_received(data)


def reads_of(data: bytes, size: int = READ_BYTES) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def server(
    data: Callable[[int], bytes], requests: Callable[[int], int] = lambda n: 1, **how: Any
) -> Callable[[str], Build]:
    """Return an operation: a client that sends bytes which hold so many requests.

    `size`: bytes of one read; `slow`: no request is answered before all bytes were read, as far as reads are accepted.
    """
    return lambda name: lambda n: _serve(reads_of(data(n), how.get("size", READ_BYTES)), requests(n), how.get("slow"))


def _serve(reads: list[bytes], requests: int, slow: bool | None) -> Run:
    async def run() -> str:
        app, wire = Application(), Wire()
        connection = Http1Connection(ServerState(app))
        connection.connection_made(wire)
        if not slow:
            app.go_on.set()
        sending = asyncio.create_task(feed(wire, connection, reads))
        while slow and not (sending.done() or wire.paused):  # noqa: ASYNC110 (a transport has no event)
            await asyncio.sleep(0)
        app.go_on.set()
        await sending
        while app.answers < requests and not (wire.closed or wire.ended):  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return _read_answers(wire.written)

    return run


def _read_answers(written: list[bytes]) -> str:
    last = b"".join(written[-3:])
    head, _, body = last[last.rfind(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    return read_outcome(int(head[9:12]), body)


def provider(data: Callable[[int], bytes], size: int = READ_BYTES) -> Callable[[str], Build]:
    """Return an operation: a provider that answers with these bytes, in reads of so many bytes."""
    return lambda name: lambda n: _ask(reads_of(data(n), size))


def _ask(reads: list[bytes]) -> Run:
    async def run() -> str:
        wire = Wire()
        connection = Connection(_ORIGIN, Sink())
        connection.connection_made(wire)
        sending: asyncio.Task[None] | None = None
        try:
            asking = asyncio.create_task(connection.send_request(b"GET / HTTP/1.1\r\n\r\n", b""))
            await asyncio.sleep(0)
            sending = asyncio.create_task(feed(wire, connection, reads))
            response = await asking
            while await response.read():
                pass
            await response.close()
        except (InvalidHttp, UpstreamProtocolError) as error:
            return f"rejected: {error.__cause__ or error}"
        finally:
            if sending is not None:
                await sending
            connection.connection_lost(None)
        return "served"

    return run
