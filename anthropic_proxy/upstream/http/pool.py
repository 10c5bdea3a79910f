"""`ConnectionPool`: keeps idle connections to providers, so that later requests reuse them.

A connection is idle after a complete response. `put_idle` stores an idle connection, and `pop_idle` returns one for the
next request. After some time without a request, an idle connection is closed. `add_open` and `remove_closed` keep the
set of all open connections, which `close` closes.
"""

import asyncio

from anthropic_proxy.upstream.http.connection import Connection
from anthropic_proxy.upstream.http.url import Origin

KEEP_ALIVE_SECONDS = 60.0
"""Number of seconds after which an idle connection is closed. Providers close idle connections later."""
_CLEANUP_INTERVAL_SECONDS = 15.0


class ConnectionPool:
    """Idle connections by server, for reuse, and the set of all open connections.

    An idle connection is closed after `keep_alive_seconds`; 0: no reuse.
    """

    def __init__(self, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self.keep_alive_seconds = keep_alive_seconds
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        """Server → its idle connections, the last used one at the end. That one is reused first, so that the others
        expire."""
        self._cleanup_timer: asyncio.TimerHandle | None = None

    def add_open(self, connection: Connection) -> None:
        """Add a new connection to the set of open connections, so that `close` closes it."""
        self._open.add(connection)

    def pop_idle(self, origin: Origin) -> Connection | None:
        """Return an idle connection to a server for the next request, and remove it from the idle ones.

        None: no connection to this server is idle.
        """
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_idle():
                return connection
            connection.abort()
        return None

    def put_idle(self, connection: Connection) -> None:
        """Keep a connection for a later request. Call this after a complete response."""
        if not self.keep_alive_seconds:
            connection.abort()
            return
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._cleanup_timer is None:
            self._cleanup_timer = asyncio.get_running_loop().call_later(_CLEANUP_INTERVAL_SECONDS, self._close_expired)

    def remove_closed(self, connection: Connection) -> None:
        """Remove a closed connection from the pool."""
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        """Close all connections of the pool, idle or in use."""
        if self._cleanup_timer is not None:
            self._cleanup_timer.cancel()
            self._cleanup_timer = None
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()

    def _close_expired(self) -> None:
        loop, self._cleanup_timer = asyncio.get_running_loop(), None
        for origin, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since + self.keep_alive_seconds <= loop.time():
                    connection.abort()
            self._idle[origin] = [connection for connection in idle if connection.is_idle()]
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        if self._idle:
            self._cleanup_timer = loop.call_later(_CLEANUP_INTERVAL_SECONDS, self._close_expired)
