"""TCP connections: name lookup, and the first address that accepts."""

import asyncio
import errno
import socket
from collections.abc import Sequence
from typing import Protocol

from anthropic_proxy.platforms.os_errors import is_refused
from anthropic_proxy.upstream.http.happy_eyeballs import AddressInfo, connect_first
from anthropic_proxy.upstream.http.url import Origin
from anthropic_proxy.upstream.public_addresses import is_public

DNS_CACHE_SECONDS = 300.0
"""Lifetime of the cached addresses of a name."""
HAPPY_EYEBALLS_DELAY_SECONDS = 0.25
"""Delay before the next address of a name is tried beside the one before (RFC 8305)."""
SOCKET_RECEIVE_BUFFER_BYTES = 64 * 1024
"""Limit on unread bytes in the operating system. Its own default is several MiB."""


class LocalRefusal(ConnectionRefusedError):
    """A refused connection to an address of this machine or of a private network: nothing listens there."""


class Dialer(Protocol):
    """Opens TCP connections."""

    async def dial(self, origin: Origin) -> socket.socket:
        """Return a connected non-blocking socket. Raise `OSError` if there is none."""
        ...


class CachingDialer:
    """Opens TCP connections to any address, and caches the addresses of a name."""

    def __init__(self) -> None:
        self._lookups: dict[Origin, tuple[float, asyncio.Task[Sequence[AddressInfo]]]] = {}
        """Origin → expiry by the loop's clock, and the lookup, which all connections share."""

    async def dial(self, origin: Origin) -> socket.socket:
        """Return a connected socket. Raise `LocalRefusal` if an address of this machine or its network refuses."""
        infos: Sequence[AddressInfo] = ()
        try:
            infos = await self._resolve(origin)
            return await connect_first(infos, _new_socket, delay_seconds=HAPPY_EYEBALLS_DELAY_SECONDS)
        except (OSError, asyncio.CancelledError) as error:
            self._lookups.pop(origin, None)  # the host may have moved; a connection that takes too long is cancelled
            if is_local_refusal(error, [info[4][0] for info in infos]):
                raise LocalRefusal(errno.ECONNREFUSED, str(error)) from error
            raise

    async def _resolve(self, origin: Origin) -> Sequence[AddressInfo]:
        loop = asyncio.get_running_loop()
        expires_at, lookup = self._lookups.get(origin, (0.0, None))
        if lookup is None or expires_at <= loop.time() or _has_failed(lookup):
            lookup = loop.create_task(_resolve(origin))
            lookup.add_done_callback(_retrieve_exception)
            self._lookups[origin] = (loop.time() + DNS_CACHE_SECONDS, lookup)
        return await asyncio.shield(lookup)  # other connections may wait for it too


def is_local_refusal(error: BaseException, addresses: Sequence[str]) -> bool:
    """Return whether a connection was refused and every tried address is of this machine or a private network."""
    return is_refused(error) and not any(map(is_public, addresses))


async def _resolve(origin: Origin) -> Sequence[AddressInfo]:
    flags = socket.AI_ADDRCONFIG if origin.is_name else socket.AI_NUMERICHOST
    return await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=flags)


def _has_failed(lookup: "asyncio.Task[Sequence[AddressInfo]]") -> bool:
    return lookup.done() and (lookup.cancelled() or lookup.exception() is not None)


def _retrieve_exception(lookup: "asyncio.Task[Sequence[AddressInfo]]") -> None:
    """Mark the exception as retrieved: asyncio logs a failure that nothing waits for any more."""
    if not lookup.cancelled():
        lookup.exception()


def _new_socket(info: AddressInfo) -> socket.socket:
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_RECEIVE_BUFFER_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made
