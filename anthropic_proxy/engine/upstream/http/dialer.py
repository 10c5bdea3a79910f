"""Opening of TCP connections: name lookup, then connection attempts to the addresses of the host.

`SocksDialer` lets a SOCKS 5 proxy open them (RFC 1928), without or with user and password (RFC 1929).
"""

import asyncio
import errno
import socket
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import zip_longest
from typing import Protocol

from anthropic_proxy.engine.platforms.os_errors import is_connection_refused
from anthropic_proxy.engine.upstream.http.names import NAMES, AddressInfo
from anthropic_proxy.engine.upstream.http.url import Origin, Url, parse_url

_MISSING_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address whose family this machine lacks, such as ::1 in a container without IPv6."""
SocketFactory = Callable[[AddressInfo], socket.socket]


# asyncio has Happy Eyeballs only in `create_connection`, and uvloop has it without a delay.
async def connect_first(
    addresses: Sequence[AddressInfo], new_socket: SocketFactory, *, delay_seconds: float
) -> socket.socket:
    """Return a non-blocking socket. If an attempt takes longer than `delay_seconds`, the next address is tried at the
    same time. Raises `OSError` if no address accepts.
    """
    if len(addresses) == 1:
        return await _connect(addresses[0], new_socket)
    # IPv4 and IPv6 in alternation (RFC 8305, section 4); each family keeps its order
    families: dict[int, list[AddressInfo]] = {}
    for info in addresses:
        families.setdefault(info[0], []).append(info)
    waiting = deque([info for rank in zip_longest(*families.values()) for info in rank if info is not None])
    errors = []
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
    if not errors:
        raise OSError("the host name has no address")
    errors = [error for error in errors if error.errno not in _MISSING_FAMILY] or errors
    raise errors[0] if len({error.errno for error in errors}) == 1 else OSError(", ".join(map(str, errors)))


async def _connect(info: AddressInfo, new_socket: SocketFactory) -> socket.socket:
    opened = new_socket(info)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, info[4])
    except BaseException:
        opened.close()
        raise
    return opened


def _close_result(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


DNS_CACHE_SECONDS = 300.0
HAPPY_EYEBALLS_DELAY_SECONDS = 0.25
"""Number of seconds after which the next address of a host is tried while an attempt is still running (RFC 8305)."""
SOCKET_RECEIVE_BUFFER_BYTES = 64 * 1024
"""Size of the receive buffer of a socket in the operating system. The usual default is several MiB."""


class LocalConnectionRefused(ConnectionRefusedError):
    """Error: a connection was refused at an address of this machine or of a private network."""


class Dialer(Protocol):
    async def dial(self, origin: Origin) -> socket.socket:
        """Return a connected non-blocking socket. Raises `OSError` if no address accepts."""


class DnsCachingDialer:
    """Dialer for TCP connections to any address. It caches the addresses of each host name."""

    def __init__(self) -> None:
        self._addresses: dict[Origin, tuple[float, Sequence[AddressInfo]]] = {}
        """Server → expiry by the loop's clock, and its addresses."""

    async def dial(self, origin: Origin) -> socket.socket:
        """If the connection was refused and all tried addresses are private, the error is `LocalConnectionRefused`."""
        infos: Sequence[AddressInfo] = ()
        try:
            loop = asyncio.get_running_loop()
            expires_at, infos = self._addresses.get(origin, (0.0, infos))
            if expires_at <= loop.time():
                infos = await NAMES.find_addresses(origin.host, origin.port)
                self._addresses[origin] = (loop.time() + DNS_CACHE_SECONDS, infos)
            return await connect_first(infos, _new_socket, delay_seconds=HAPPY_EYEBALLS_DELAY_SECONDS)
        except (OSError, asyncio.CancelledError) as error:
            self._addresses.pop(origin, None)  # the host may have moved; a connection that takes too long is cancelled
            if is_local_connection_refused(error, [info[4][0] for info in infos]):
                raise LocalConnectionRefused(errno.ECONNREFUSED, str(error)) from error
            raise


async def open_socket(host: str, port: int) -> socket.socket:
    """Return a connected non-blocking socket. Raises `OSError`."""
    infos = await NAMES.find_addresses(host, port)
    return await connect_first(infos, _new_socket, delay_seconds=HAPPY_EYEBALLS_DELAY_SECONDS)


async def accepts_connections(url: str, timeout_seconds: float) -> bool:
    """Return True if a server listens at the host and port of `url`. Nothing is sent to it."""
    try:
        async with asyncio.timeout(timeout_seconds):
            origin = parse_url(url).origin
            opened = await open_socket(origin.host, origin.port)
    except (OSError, TimeoutError):
        return False
    opened.close()
    return True


def is_local_connection_refused(error: BaseException, addresses: Sequence[str]) -> bool:
    """True if `error` is a refused connection and all tried `addresses` are private."""
    return is_connection_refused(error) and not any(map(is_public_address, addresses))


def _new_socket(info: AddressInfo) -> socket.socket:
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_RECEIVE_BUFFER_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made


IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

# The tables are our own, because the results of `ipaddress` differ between Python versions. Sources: IANA's registries
# of special-purpose addresses (IPv4 and IPv6, read 2026-11), RFC 6052 (NAT64), RFC 4291 (mapped addresses) and the
# cloud providers' pages on their metadata services.
_PRIVATE_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; Linux treats 0.0.0.0 as loopback
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's own services, on a public address
            "169.254.0.0/16",  # link-local; the metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments; Oracle's metadata
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays, deprecated
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # measurements
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")
"""Public IPv6 addresses (global unicast). All others are loopback, unique local (metadata of AWS and Google),
link-local or multicast."""
_PRIVATE_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments; Teredo, which wraps IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which wraps IPv4
            "3fff::/20",  # documentation
        ),
    )
)
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that contain an IPv4 address (NAT64), used in networks without IPv4. Only the contained IPv4 address
is checked."""
_LOW_32 = 0xFFFFFFFF


def is_public_address(address: str, allowed: Sequence[IpNetwork] = ()) -> bool:
    """Return True if an IP address is public, or is in one of the networks `allowed`. False: a private address, or a
    text that is no address.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in network for network in allowed) or _is_global(found)


def _is_global(address: IpAddress) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _PRIVATE_4)
    if address in _MAPPED or address in _NAT64:
        return _is_global(IPv4Address(int(address) & _LOW_32))
    return address in _GLOBAL_6 and not any(address in network for network in _PRIVATE_6)


_SOCKS_VERSION, _CONNECT, _PASSWORD_VERSION = 5, 1, 1
_WITHOUT_PASSWORD, _WITH_PASSWORD = 0, 2
_IPV4, _HOST_NAME, _IPV6 = 1, 3, 4
_MAX_SOCKS_BYTES = 255
"""Maximum length of a host name, a user name and a password, each with one byte for the length."""
_SOCKS_FAILURES = {
    1: "a general failure",
    2: "its rules do not allow this server",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the server refused the connection",
    6: "no answer in time",
    7: "it does not support this command",
    8: "it does not support this kind of address",
}
"""Reply field (RFC 1928, section 6) → its meaning."""


class SocksDialer:
    """Dialer that lets a proxy open the connection. The proxy looks up the host name, also for `socks5://`."""

    def __init__(self, dialer: Dialer, proxy: Url) -> None:
        self._dialer = dialer
        self._proxy = proxy

    async def dial(self, origin: Origin) -> socket.socket:
        """Raises `OSError` if the proxy rejects the connection, and `ValueError` for too long texts."""
        opened = await self._dialer.dial(self._proxy.origin)
        try:
            await self._negotiate(opened, origin)
        except BaseException:
            opened.close()
            raise
        return opened

    async def _negotiate(self, opened: socket.socket, origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        _, _, encoded = self._proxy.authorization.partition(" ")
        user, _, password = b64decode(encoded).partition(b":")
        methods = bytes([_WITHOUT_PASSWORD, _WITH_PASSWORD] if user else [_WITHOUT_PASSWORD])
        await loop.sock_sendall(opened, bytes([_SOCKS_VERSION, len(methods)]) + methods)
        version, method = await _read_exactly(opened, 2)
        if version != _SOCKS_VERSION:
            raise ConnectionRefusedError("it is no SOCKS 5 proxy")
        if method == _WITH_PASSWORD and user:
            await loop.sock_sendall(opened, bytes([_PASSWORD_VERSION]) + _prefixed(user) + _prefixed(password))
            if (await _read_exactly(opened, 2))[1]:
                raise ConnectionRefusedError("the SOCKS proxy rejects the user or the password")
        elif method != _WITHOUT_PASSWORD:
            advice = "" if user else "; set them in its address: socks5://user:password@host:port"
            raise ConnectionRefusedError(f"the SOCKS proxy requires user and password{advice}")
        if origin.has_host_name:
            host = bytes([_HOST_NAME]) + _prefixed(origin.host.encode("ascii"))
        else:
            address = ip_address(origin.host)
            host = bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
        await loop.sock_sendall(opened, bytes([_SOCKS_VERSION, _CONNECT, 0]) + host + origin.port.to_bytes(2, "big"))
        _, status, _, kind = await _read_exactly(opened, 4)
        if status:
            raise ConnectionRefusedError(f"the SOCKS proxy answers: {_SOCKS_FAILURES.get(status, f'error {status}')}")
        length = {_IPV4: 4, _IPV6: 16}.get(kind)
        await _read_exactly(opened, (length if length is not None else (await _read_exactly(opened, 1))[0]) + 2)


def _prefixed(text: bytes) -> bytes:
    if len(text) > _MAX_SOCKS_BYTES:
        raise ValueError(f"a SOCKS proxy accepts at most {_MAX_SOCKS_BYTES} bytes for a host, a user and a password")
    return bytes([len(text)]) + text


async def _read_exactly(opened: socket.socket, count: int) -> bytes:
    """Return exactly `count` bytes, and read no more: what follows belongs to the connection."""
    loop = asyncio.get_running_loop()
    read = b""
    while len(read) < count:
        piece = await loop.sock_recv(opened, count - len(read))
        if not piece:
            raise ConnectionAbortedError("the SOCKS proxy closed the connection")
        read += piece
    return read
