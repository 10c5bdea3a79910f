"""Accepts clients up to the number that the limit of open files and the memory allow. Further ones wait in the kernel's
backlog.
"""

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.gateway.platforms.processes import max_client_connections
from anthropic_proxy.gateway.platforms.sockets import SocketEvents
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState

if TYPE_CHECKING:
    import ssl

MAX_ACCEPTS_PER_ITERATION = 64
"""Maximum number of client connections accepted in one iteration of the event loop."""
MAX_ACCEPTS_AT_SHUTDOWN = 4096
"""Maximum number of client connections accepted from the backlog when the server stops: more than its maximum size."""
ACCEPT_PAUSE_SECONDS = 0.1
"""Seconds without accepting connections after the maximum number of connections or file descriptors is reached."""
WAIT_UNDER_PRESSURE_SECONDS = 1.0
"""Maximum seconds for a client to end its TLS handshake, or to send its request headers, or the rest of a request that
has its response, while the number of connections is at its maximum."""
HANDSHAKE_TIMEOUT_SECONDS = 10.0
OPENING_GRACE_WAITS, OPENING_WAIT_SECONDS = 20, 0.05
"""Number and length of the waits for connections that are being opened, such as in a TLS handshake, when the server
stops. On a busy machine each wait takes longer, but the event loop still runs between two waits."""
WARNING_INTERVAL_SECONDS = 60.0
_FD_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Acceptor of client connections on one listening socket. `find_tls_context` returns None for no TLS."""

    def __init__(
        self,
        listener: socket.socket,
        new_protocol: Callable[[], Http1Connection],
        state: ServerState,
        log_warning: Callable[[str], None],
        find_tls_context: Callable[[], "ssl.SSLContext | None"] = lambda: None,
        *,
        max_connections: int = sys.maxsize,
    ) -> None:
        """`max_connections`: those for which the memory suffices."""
        self._loop = asyncio.get_running_loop()
        self._events = SocketEvents(self._loop)
        self._listener = listener
        self._new_protocol = new_protocol
        self._connections = state.connections
        self._places = state.places
        self._log_warning = log_warning
        self._find_tls_context = find_tls_context
        self._max_connections = min(max_client_connections(), max_connections)
        self._remedy = "A higher limit on open files allows more."
        if self._max_connections == max_connections:
            self._remedy = "More memory (MEMORY_LIMIT_MB) allows more."
        self._places.bound(self._max_connections, self._connections)
        self._opening: dict[asyncio.Task[None], float] = {}
        """Connections that are being opened, each with the time of the event loop since which it is."""
        self._resume_timer: asyncio.TimerHandle | None = None
        self._warned_at = -WARNING_INTERVAL_SECONDS
        self._closed = False

    def start(self) -> None:
        self._resume_timer = None
        self._events.on_readable(self._listener, self._accept)

    async def close(self) -> None:
        """Close the socket after the connections in its backlog are accepted. The kernel would reset them."""
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        else:
            self._events.ignore_readable(self._listener)
        self._closed = True
        self._accept(MAX_ACCEPTS_AT_SHUTDOWN)
        self._listener.close()
        waits = 0
        while self._opening and waits < OPENING_GRACE_WAITS:
            await asyncio.wait(self._opening, timeout=OPENING_WAIT_SECONDS)
            waits += 1
        for task in self._opening:
            task.cancel()

    def _accept(self, limit: int = MAX_ACCEPTS_PER_ITERATION) -> None:
        for number in range(limit):
            if len(self._connections) + len(self._opening) >= self._max_connections:
                if not number:  # behind an accepted one, perhaps nobody waits
                    self._pause(f"{self._max_connections:,} clients are connected")
                return
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _FD_ERRORS:
                    self._pause(describe_os_error(error))
                return  # also if the backlog is empty or a client has disconnected
            client.setblocking(False)
            task = self._loop.create_task(self._open(client))
            self._opening[task] = self._loop.time()
            task.add_done_callback(self._opening.pop)

    async def _open(self, client: socket.socket) -> None:
        try:
            context = self._find_tls_context()
            if context is None:
                await self._loop.connect_accepted_socket(self._new_protocol, client)
            else:
                timeout = HANDSHAKE_TIMEOUT_SECONDS
                await self._loop.connect_accepted_socket(
                    self._new_protocol, client, ssl=context, ssl_handshake_timeout=timeout
                )
        except OSError:
            client.close()  # the client has disconnected, or the TLS handshake failed

    def _pause(self, reason: str) -> None:
        """Stop accepting for a while, because somebody is in the backlog. Close connections that are idle, or that send
        a head, or the rest of an answered request, slowly.
        """
        if self._closed:
            return
        self._events.ignore_readable(self._listener)
        self._resume_timer = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self.start)
        for connection in list(self._connections):
            connection.close_if_idle()
        for task, since in self._opening.items():
            if self._loop.time() >= since + WAIT_UNDER_PRESSURE_SECONDS:
                task.cancel()
        slow = [
            connection
            for connection in self._connections
            if connection.elapsed_wait_seconds() >= WAIT_UNDER_PRESSURE_SECONDS
        ]
        for connection in sorted(slow, key=Http1Connection.elapsed_wait_seconds, reverse=True)[
            :MAX_ACCEPTS_PER_ITERATION
        ]:
            connection.transport.abort()
        self._places.make_room()
        if time.monotonic() - self._warned_at >= WARNING_INTERVAL_SECONDS:
            self._warned_at = time.monotonic()
            self._log_warning(f"No more clients can be served for now: {reason}. {self._remedy}")
