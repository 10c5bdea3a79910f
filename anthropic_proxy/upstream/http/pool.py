"""Connections that wait for the next request."""

import asyncio

from anthropic_proxy.upstream.http.address import Origin
from anthropic_proxy.upstream.http.connection import Connection

KEEP_ALIVE_SECONDS = 60.0
"""How long a connection waits; providers close theirs later."""
_LOOK_SECONDS = 15.0


class Pool:
    """Keeps connections, by the server that they lead to; knows all that are open."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._free: dict[Origin, list[Connection]] = {}
        """The one used last stands last, and is used first: so that the others can grow old."""
        self._look: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        """Know a connection that was opened."""
        self._open.add(connection)

    def take(self, origin: Origin) -> Connection | None:
        """Return a free connection to a server, if there is one."""
        waiting = self._free.get(origin)
        while waiting:
            connection = waiting.pop()
            if connection.is_free():
                return connection
            connection.cut()
        return None

    def keep(self, connection: Connection) -> None:
        """Take back a connection over which another request can be sent."""
        self._free.setdefault(connection.origin, []).append(connection)
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._close_old)

    def forget(self, connection: Connection) -> None:
        """Know that a connection has ended."""
        self._open.discard(connection)
        waiting = self._free.get(connection.origin)
        if waiting and connection in waiting:
            waiting.remove(connection)

    def close(self) -> None:
        """Close every connection."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._free.clear()
        for connection in list(self._open):
            connection.cut()

    def _close_old(self) -> None:
        loop, self._look = asyncio.get_running_loop(), None
        for origin, waiting in list(self._free.items()):
            for connection in waiting:
                if connection.free_since + KEEP_ALIVE_SECONDS <= loop.time():
                    connection.cut()
            self._free[origin] = [connection for connection in waiting if connection.is_free()]
        self._free = {origin: waiting for origin, waiting in self._free.items() if waiting}
        if self._free:
            self._look = loop.call_later(_LOOK_SECONDS, self._close_old)
