"""Opens connections: names, addresses, TLS, and the way through a proxy."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import aiohappyeyeballs
import httptools

from anthropic_proxy.upstream.http.address import Address, Origin, read_address
from anthropic_proxy.upstream.http.connection import Connection, Keeper, new_parser

NAME_SECONDS = 300.0
"""How long the addresses of a name are used before it is looked up again."""
HEAD_START_SECONDS = 0.25
"""After which the next address of a name is tried beside the one before (RFC 8305)."""
HELD_BYTES = 64 * 1024
"""What the operating system is asked to hold of an answer that nobody reads; left to itself it holds MiBs."""

_Infos = Sequence[tuple[Any, ...]]


class Opener:
    """Opens connections, each within so many seconds, for one keeper."""

    def __init__(self, seconds: float, keeper: Keeper) -> None:
        self._seconds = seconds
        self._keeper = keeper
        self._names: dict[Origin, tuple[float, asyncio.Task[_Infos]]] = {}
        """Host → when its addresses must be looked up again, and the search for them, which all share."""
        self._tls: ssl.SSLContext | None = None

    async def open(self, origin: Origin, proxy: str | None) -> Connection:
        """Return a connection to a server, through a proxy if there is one.

        Raises `OSError`, `TimeoutError` among them, where there is none, and `ValueError` for a proxy of another kind.
        """
        async with asyncio.timeout(self._seconds):
            if proxy is None:
                return await self._connect(origin, origin)
            door = read_address(proxy)
            if origin.uses_tls:
                return await self._tunnel(origin, door)
            return await self._connect(door.origin, origin)

    async def _connect(self, near: Origin, origin: Origin) -> Connection:
        """Return a connection whose first end is `near` and whose last, after what a proxy does, is `origin`."""
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(origin, self._keeper),
            sock=await self._open_socket(near),
            ssl=self._context() if near.uses_tls else None,
            server_hostname=near.host if near.uses_tls else None,
        )
        return connection

    async def _tunnel(self, origin: Origin, door: Address) -> Connection:
        loop, near = asyncio.get_running_loop(), door.origin
        transport, tunnel = await loop.create_connection(
            _Tunnel,
            sock=await self._open_socket(near),
            ssl=self._context() if near.uses_tls else None,
            server_hostname=near.host if near.uses_tls else None,
        )
        try:
            await tunnel.ask(origin, door.credentials)
            connection = Connection(origin, self._keeper)
            encrypted = await loop.start_tls(transport, connection, self._context(), server_hostname=origin.host)
        except BaseException:
            transport.abort()
            raise
        if encrypted is None:
            raise ConnectionAbortedError("the proxy closed the connection")
        connection.connection_made(encrypted)
        return connection

    async def _open_socket(self, origin: Origin) -> socket.socket:
        infos = await self._look_up(origin)
        try:
            return await aiohappyeyeballs.start_connection(
                infos, happy_eyeballs_delay=HEAD_START_SECONDS, interleave=1, socket_factory=_new_socket
            )
        except (OSError, asyncio.CancelledError):
            self._names.pop(origin, None)  # it may have moved; a connection that takes too long is cancelled
            raise

    async def _look_up(self, origin: Origin) -> _Infos:
        loop = asyncio.get_running_loop()
        until, search = self._names.get(origin, (0.0, None))
        if search is None or until <= loop.time() or (search.done() and (search.cancelled() or search.exception())):
            search = loop.create_task(_find_addresses(origin))
            search.add_done_callback(_note_seen)
            self._names[origin] = (loop.time() + NAME_SECONDS, search)
        return await asyncio.shield(search)  # others may wait for it too

    def _context(self) -> ssl.SSLContext:
        """Return what certificates are judged by; to load those that the system trusts takes a while."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a way to a server."""

    def __init__(self) -> None:
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = new_parser(self)

    async def ask(self, origin: Origin, credentials: str) -> None:
        """Raise `ConnectionError` where the proxy refuses."""
        proof = f"proxy-authorization: {credentials}\r\n" if credentials else ""
        head = f"CONNECT {origin.authority} HTTP/1.1\r\nhost: {origin.authority}\r\n{proof}\r\n"
        self._transport.write(head.encode())
        await self._opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(ConnectionError(f"the proxy does not speak HTTP as it should: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionAbortedError("the proxy closed the connection"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # it only announces an answer
        self._end(None if 200 <= status < 300 else ConnectionRefusedError(f"the proxy answers with HTTP {status}"))

    def _end(self, error: Exception | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._transport.pause_reading()  # what comes next is TLS
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)
            self._opened.exception()  # seen, should whoever wanted the way have left before asking for it


async def _find_addresses(origin: Origin) -> _Infos:
    flags = socket.AI_ADDRCONFIG if origin.is_name else socket.AI_NUMERICHOST
    return await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=flags)


def _note_seen(search: "asyncio.Task[_Infos]") -> None:
    """Keep asyncio from telling of a failure that nobody waited for any more."""
    if not search.cancelled():
        search.exception()


def _new_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HELD_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made
