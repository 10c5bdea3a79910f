"""Connections of redis-py to a Redis whose host name may not be known, and whose replies may have any size."""

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import InvalidResponse

from anthropic_proxy.engine.upstream.http.dialer import open_socket

MAX_REPLY_BYTES = 16 * 1024 * 1024
"""Maximum size of one reply. The largest ones list the observations of all instances."""
_ITEM_BYTES = 64
"""Memory of an item of a list, besides its text."""


class _BoundedReader:
    """What the parsers of redis-py use of a stream, with a limit for one reply."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.left = MAX_REPLY_BYTES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def readexactly(self, count: int) -> bytes:
        self._take(count)
        return await self._reader.readexactly(count)

    async def readline(self) -> bytes:
        line = await self._reader.readline()
        self._take(len(line) + _ITEM_BYTES)
        return line

    async def read(self, count: int) -> bytes:
        data = await self._reader.read(count)
        self._take(len(data))
        return data

    def _take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise InvalidResponse(f"it has more than {MAX_REPLY_BYTES >> 20} MiB")


class _WithBoundedReplies(AbstractConnection):
    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[safe-super,no-untyped-call]  # each subclass has another base with it
        self._reader: Any = _BoundedReader(self._reader)

    async def read_response(self, *arguments: Any, **others: Any) -> Any:
        if self._reader is not None:
            self._reader.left = MAX_REPLY_BYTES
        return await super().read_response(*arguments, **others)


class _TcpConnection(_WithBoundedReplies, Connection):
    """redis-py would look up the host name in the threads that the event loop has for everything."""

    async def _connect(self) -> None:
        self._opened = await open_socket(self.host, int(self.port))
        await super()._connect()

    def _connection_arguments(self) -> Mapping[str, Any]:
        given = {name: value for name, value in super()._connection_arguments().items() if name not in ("host", "port")}
        return given | {"sock": self._opened} | ({"server_hostname": self.host} if "ssl" in given else {})


class _TlsConnection(_TcpConnection, SSLConnection):
    pass


class _UnixConnection(_WithBoundedReplies, UnixDomainSocketConnection):
    pass


OWN_CLASSES = {Connection: _TcpConnection, SSLConnection: _TlsConnection, UnixDomainSocketConnection: _UnixConnection}
"""Class of redis-py → our own."""
