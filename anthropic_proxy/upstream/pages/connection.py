"""Connections that lead to public addresses only, checked where they are made.

The name is looked up once and each address of it judged; only those are connected to, and the address at the far end of
the connected socket is judged again before a byte of the request leaves. A name that says another address the second
time (DNS rebinding) changes nothing: nobody asks it twice.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection

from anthropic_proxy.errors import FetchFailed
from anthropic_proxy.upstream.pages.addresses import Network, is_public

AddressInfo = tuple[Any, Any, Any, str, tuple[Any, ...]]
"""One of those that `socket.getaddrinfo` gives."""


LookUp = Callable[..., Sequence[AddressInfo]]
"""Finds the addresses of a name, and blocks: `socket.getaddrinfo`, or what stands for it in a test."""


class GuardedResolver(AbstractResolver):
    """Looks names up in threads of its own, so that slow names do not hold up those of the providers."""

    def __init__(self, threads: ThreadPoolExecutor, allowed: Sequence[Network], look_up: LookUp) -> None:
        self._threads = threads
        self._allowed = allowed
        self._look_up = look_up

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name. One that is not public closes the whole name.

        Raises `FetchFailed` there, `OSError` where nobody knows the name.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: self._look_up(host, port, family=family, type=socket.SOCK_STREAM)
        )
        addresses = [(info[0], str(info[4][0])) for info in found]
        if not all(is_public(address, self._allowed) for _, address in addresses):
            raise closed(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for family, address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held open."""


class GuardedConnector(aiohttp.TCPConnector):
    """Opens one connection a request, past the guard."""

    def __init__(self, resolver: GuardedResolver, allowed: Sequence[Network], tls: ssl.SSLContext | None) -> None:
        super().__init__(
            resolver=resolver,
            socket_factory=self._new_socket,
            use_dns_cache=False,
            force_close=True,
            limit=0,
            ssl=True if tls is None else tls,
        )
        self._allowed = allowed

    async def connect(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109
        """Return a connection whose far end has been judged. Raises `FetchFailed` where it may not be reached."""
        connection = await super().connect(req, traces, timeout)
        transport = connection.transport
        far = transport.get_extra_info("peername") if transport else None
        near = transport.get_extra_info("sockname") if transport else None
        if not far or not near or not self._may_reach(far[0], near[0]):
            connection.close()
            raise closed(str(req.url.host))
        return connection

    def _new_socket(self, info: AddressInfo) -> socket.socket:
        """Return a socket for an address; the last place where an address as such, without a name, is judged."""
        family, kind, protocol, _, address = info
        if not is_public(address[0], self._allowed):
            raise PermissionError(errno.EACCES, f"{address[0]} is not a public address")
        return socket.socket(family, kind, protocol)

    def _may_reach(self, far: str, near: str) -> bool:
        """Whether the far end is public and not this machine under its own public address."""
        if is_public(far, self._allowed):
            return far != near or not is_public(far)
        return False


def closed(host: str) -> FetchFailed:
    """Return the refusal of a host that is not public."""
    return FetchFailed(f"{host} is not a public address; pages are fetched from public ones only", "url_not_allowed")
