"""Opening of TCP connections: name lookup, then connection attempts to the addresses of the host.

`Dialer` is the interface; its method `dial` returns a connected socket. `DnsCachingDialer` implements it for providers.
`connect_first` tries several addresses and uses the first that accepts (Happy Eyeballs, RFC 8305, section 5).
`LocalConnectionRefused` means that no server listens at a local address.
"""

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, Protocol

from anthropic_proxy.platforms.os_errors import is_connection_refused
from anthropic_proxy.upstream.http.url import Origin
from anthropic_proxy.upstream.public_addresses import is_public_address

AddressInfo = tuple[Any, ...]
"""One result of `socket.getaddrinfo`: family, type, protocol, canonical name, address."""
SocketFactory = Callable[[AddressInfo], socket.socket]
"""Function that creates an unconnected socket for an address."""


# asyncio has Happy Eyeballs only in `create_connection`, and uvloop has it without a delay.
async def connect_first(
    addresses: Sequence[AddressInfo], new_socket: SocketFactory, *, delay_seconds: float
) -> socket.socket:
    """Return a non-blocking socket, connected to the first of the `addresses` that accepts.

    If an attempt takes longer than `delay_seconds`, the next address is tried at the same time. Raises `OSError` if no
    address accepts.
    """
    if len(addresses) == 1:
        return await _connect(addresses[0], new_socket)
    waiting, errors = deque(_interleave(addresses)), []
    running: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_connect(waiting.popleft(), new_socket)))
            timeout = delay_seconds if waiting else None
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                running.remove(attempt)
                try:
                    return attempt.result()
                except OSError as error:
                    errors.append(error)
    finally:
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_close_result)
    raise _combine(errors)


async def _connect(info: AddressInfo, new_socket: SocketFactory) -> socket.socket:
    opened = new_socket(info)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, info[4])
    except BaseException:
        opened.close()
        raise
    return opened


def _interleave(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Return the addresses with IPv4 and IPv6 in alternation (RFC 8305, section 4). Each family keeps its order."""
    families: dict[int, list[AddressInfo]] = {}
    for info in addresses:
        families.setdefault(info[0], []).append(info)
    return [info for rank in zip_longest(*families.values()) for info in rank if info is not None]


def _close_result(attempt: "asyncio.Task[socket.socket]") -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _combine(errors: Sequence[OSError]) -> OSError:
    """Return one error for all failed connection attempts. If all have the same error number: the first error."""
    if not errors:
        return OSError("the host name has no address")
    if len({error.errno for error in errors}) == 1:
        return errors[0]
    return OSError(", ".join(map(str, errors)))


DNS_CACHE_SECONDS = 300.0
"""Number of seconds for which the addresses of a host name are cached."""
HAPPY_EYEBALLS_DELAY_SECONDS = 0.25
"""Number of seconds after which the next address of a host is tried while an attempt is still running (RFC 8305)."""
SOCKET_RECEIVE_BUFFER_BYTES = 64 * 1024
"""Size of the receive buffer of a socket in the operating system. The usual default is several MiB."""


class LocalConnectionRefused(ConnectionRefusedError):
    """Error: a connection was refused at an address of this machine or of a private network."""


class Dialer(Protocol):
    """Interface of an object that opens TCP connections to servers."""

    async def dial(self, origin: Origin) -> socket.socket:
        """Return a connected non-blocking socket to the server `origin`. Raises `OSError` if no address accepts."""
        ...


class DnsCachingDialer:
    """Dialer for TCP connections to any address. It caches the addresses of each host name."""

    def __init__(self) -> None:
        self._lookups: dict[Origin, tuple[float, asyncio.Task[Sequence[AddressInfo]]]] = {}
        """Server → expiry of its addresses by the event loop's clock, and the name lookup, which concurrent connections
        share."""

    async def dial(self, origin: Origin) -> socket.socket:
        """Return a connected non-blocking socket to the server `origin`. Raises `OSError` if no address accepts.

        If the connection was refused and all tried addresses are private, the error is `LocalConnectionRefused`.
        """
        infos: Sequence[AddressInfo] = ()
        try:
            infos = await self._resolve(origin)
            return await connect_first(infos, _new_socket, delay_seconds=HAPPY_EYEBALLS_DELAY_SECONDS)
        except (OSError, asyncio.CancelledError) as error:
            self._lookups.pop(origin, None)  # the host may have moved; a connection that takes too long is cancelled
            if is_local_connection_refused(error, [info[4][0] for info in infos]):
                raise LocalConnectionRefused(errno.ECONNREFUSED, str(error)) from error
            raise

    async def _resolve(self, origin: Origin) -> Sequence[AddressInfo]:
        loop = asyncio.get_running_loop()
        expires_at, lookup = self._lookups.get(origin, (0.0, None))
        if lookup is None or expires_at <= loop.time() or _has_failed(lookup):
            lookup = loop.create_task(_resolve(origin))
            lookup.add_done_callback(_retrieve_exception)
            self._lookups[origin] = (loop.time() + DNS_CACHE_SECONDS, lookup)
        return await asyncio.shield(lookup)  # other connections may wait for it too


def is_local_connection_refused(error: BaseException, addresses: Sequence[str]) -> bool:
    """Return True if `error` is a refused connection and all tried `addresses` are private."""
    return is_connection_refused(error) and not any(map(is_public_address, addresses))


async def _resolve(origin: Origin) -> Sequence[AddressInfo]:
    flags = socket.AI_ADDRCONFIG if origin.has_host_name else socket.AI_NUMERICHOST
    return await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=flags)


def _has_failed(lookup: "asyncio.Task[Sequence[AddressInfo]]") -> bool:
    return lookup.done() and (lookup.cancelled() or lookup.exception() is not None)


def _retrieve_exception(lookup: "asyncio.Task[Sequence[AddressInfo]]") -> None:
    """Mark the exception of a failed name lookup as retrieved.

    Otherwise asyncio would log it if no request waits for it.
    """
    if not lookup.cancelled():
        lookup.exception()


def _new_socket(info: AddressInfo) -> socket.socket:
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_RECEIVE_BUFFER_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made
