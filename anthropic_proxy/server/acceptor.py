"""Takes connections while there are descriptors for them; more wait in the kernel's queue until one is free."""

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

from anthropic_proxy.server.protocol import GuardedHttp

KEPT_DESCRIPTORS = 64
"""For everything that is no client and no upstream of one: the log, files, name servers, other processes."""
ACCEPTS_AT_ONCE = 64
MOST_WAITING = 4096
"""Whom a server that stops still takes: more than the kernel lets wait."""
PAUSE_SECONDS = 0.1
"""After which it is looked again whether there is room."""
PRESSED_HEAD_SECONDS = 1.0
"""How long a client may take for the head of a request where others wait for its descriptor."""
TOLD_SECONDS = 60.0
"""Between two lines about that there is none."""
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_descriptor_limit() -> None:
    """Take as many descriptors as this user may have: each stream needs two, and many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS names a limit that it then refuses
            return


def count_room() -> int:
    """Return how many clients may be connected, so that each can have an upstream too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max((soft - KEPT_DESCRIPTORS) // 2, soft // 8, 1)


class Acceptor:
    """Accepts on one listening socket. The event loop's own server would drop what it has no descriptor for.

    `connections` are those that are open; `tell` writes a line of the log.
    """

    def __init__(
        self,
        listener: socket.socket,
        new_protocol: Callable[[], GuardedHttp],
        connections: Collection[Any],
        tell: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._new_protocol = new_protocol
        self._connections = connections
        self._tell = tell
        self._room = count_room()
        self._opening: set[asyncio.Task[None]] = set()
        self._resumption: asyncio.TimerHandle | None = None
        self._told_at = -TOLD_SECONDS
        self._closed = False

    def start(self) -> None:
        """Begin to take connections."""
        self._resumption = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def close(self) -> None:
        """Let nobody else connect, and take those who have: who waits in the kernel's queue would be reset."""
        if self._resumption is not None:
            self._resumption.cancel()
        else:
            self._loop.remove_reader(self._listener.fileno())
        self._closed = True
        self._accept(MOST_WAITING)
        self._listener.close()
        if self._opening:
            await asyncio.wait(self._opening)

    def _accept(self, most: int = ACCEPTS_AT_ONCE) -> None:
        for _ in range(most):
            if len(self._connections) + len(self._opening) >= self._room:
                self._pause(f"{self._room:,} clients are connected")
                return
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(error.strerror or "no descriptor is free")
                return  # also where nobody is left, or who was there has gone
            client.setblocking(False)
            task = self._loop.create_task(self._open(client))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._new_protocol, client)
        except OSError:
            client.close()  # it has gone already

    def _pause(self, reason: str) -> None:
        """Let new clients wait, and those go who are connected and want nothing, or do not say what."""
        if self._closed:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._resumption = self._loop.call_later(PAUSE_SECONDS, self.start)
        for connection in list(self._connections):
            connection.close_if_idle()
        slow = [connection for connection in self._connections if connection.seconds_in_head() >= PRESSED_HEAD_SECONDS]
        for connection in sorted(slow, key=GuardedHttp.seconds_in_head, reverse=True)[:ACCEPTS_AT_ONCE]:
            connection.transport.abort()
        if time.monotonic() - self._told_at >= TOLD_SECONDS:
            self._told_at = time.monotonic()
            self._tell(f"No more clients can be served for now: {reason}. A higher limit on open files allows more.")
