"""`GuardedDialer`: opens TCP connections to public addresses only, because clients and models choose the URLs.

`resolve_public_addresses` returns the checked addresses of a host, `dial` a connected socket. A host is looked up once
per connection, so that a second lookup cannot return another address (DNS rebinding). The address of the connected
server is checked again.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from anthropic_proxy.errors import WebFetchFailed
from anthropic_proxy.upstream.http.dialer import HAPPY_EYEBALLS_DELAY_SECONDS, AddressInfo, connect_first
from anthropic_proxy.upstream.http.url import Origin
from anthropic_proxy.upstream.public_addresses import IpNetwork, is_public_address

NameLookup = Callable[..., Sequence[AddressInfo]]
"""Blocking function that looks up a host name, with the signature of `socket.getaddrinfo`."""
_LOOKUP_THREADS = 4
"""Number of threads for the name lookups of web pages. They are separate, so that slow lookups do not delay those of
providers."""


class GuardedDialer:
    """Opens TCP connections to public addresses only, for URLs that clients or models choose.

    Addresses in `allowed_networks` are permitted too. `lookup` looks up host names.
    """

    def __init__(self, allowed_networks: Sequence[IpNetwork], lookup: NameLookup = socket.getaddrinfo) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="names")
        self._allowed = allowed_networks
        self._lookup = lookup

    async def dial(self, origin: Origin) -> socket.socket:
        """Return a non-blocking socket that is connected to a public address of the host.

        Raises `WebFetchFailed` for a host with a private address, and `OSError` if no address accepts.
        """
        opened = await connect_first(
            await self.resolve_public_addresses(origin), _new_socket, delay_seconds=HAPPY_EYEBALLS_DELAY_SECONDS
        )
        try:
            self._require_public_peer(origin, opened.getpeername()[0], opened.getsockname()[0])
        except BaseException:
            opened.close()
            raise
        return opened

    async def resolve_public_addresses(self, origin: Origin) -> Sequence[AddressInfo]:
        """Look up a host and return its addresses, if all are public or in an allowed network.

        Raises `WebFetchFailed` for a private address, `OSError` for an unknown host.
        """
        infos: Sequence[AddressInfo]
        kind = socket.SOCK_STREAM
        if origin.has_host_name:
            infos = await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: self._lookup(origin.host, origin.port, type=kind)
            )
        else:
            infos = socket.getaddrinfo(origin.host, origin.port, type=kind, flags=socket.AI_NUMERICHOST)
        if not all(is_public_address(info[4][0], self._allowed) for info in infos):
            raise private_address_error(origin.host)
        return infos

    def close(self) -> None:
        """End the threads for name lookups, without waiting for running lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _require_public_peer(self, origin: Origin, peer: str, local: str) -> None:
        """Raise `WebFetchFailed` if a connected peer is not public, or is this machine under its own public address.

        `peer`: IP address of the peer. `local`: IP address of this end of the connection.
        """
        if not is_public_address(peer, self._allowed) or (peer == local and is_public_address(peer)):
            raise private_address_error(origin.host)


def private_address_error(host: str) -> WebFetchFailed:
    """Return the error for a web fetch that is rejected because the host has a private address."""
    return WebFetchFailed(f"{host} is not a public address; pages are fetched from public ones only", "url_not_allowed")


def _new_socket(info: AddressInfo) -> socket.socket:
    return socket.socket(info[0], info[1], info[2])
