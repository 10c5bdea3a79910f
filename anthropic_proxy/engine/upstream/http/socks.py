"""`SocksDialer`: TCP connections through a SOCKS 5 proxy (RFC 1928), without or with user and password (RFC 1929)."""

import asyncio
import socket
from base64 import b64decode
from ipaddress import ip_address

from anthropic_proxy.engine.upstream.http.dialer import Dialer
from anthropic_proxy.engine.upstream.http.url import Origin, Url

_VERSION, _CONNECT, _PASSWORD_VERSION = 5, 1, 1
_WITHOUT_PASSWORD, _WITH_PASSWORD = 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4
_MAX_BYTES = 255
"""Maximum length of a host name, a user name and a password, each with one byte for the length."""
_FAILURES = {
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
        await loop.sock_sendall(opened, bytes([_VERSION, len(methods)]) + methods)
        version, method = await _read(opened, 2)
        if version != _VERSION:
            raise ConnectionRefusedError("it is no SOCKS 5 proxy")
        if method == _WITH_PASSWORD and user:
            await loop.sock_sendall(opened, bytes([_PASSWORD_VERSION]) + _prefixed(user) + _prefixed(password))
            if (await _read(opened, 2))[1]:
                raise ConnectionRefusedError("the SOCKS proxy rejects the user or the password")
        elif method != _WITHOUT_PASSWORD:
            advice = "" if user else "; set them in its address: socks5://user:password@host:port"
            raise ConnectionRefusedError(f"the SOCKS proxy requires user and password{advice}")
        await loop.sock_sendall(
            opened, bytes([_VERSION, _CONNECT, 0]) + _encode_host(origin) + origin.port.to_bytes(2, "big")
        )
        _, status, _, kind = await _read(opened, 4)
        if status:
            raise ConnectionRefusedError(f"the SOCKS proxy answers: {_FAILURES.get(status, f'error {status}')}")
        length = {_IPV4: 4, _IPV6: 16}.get(kind)
        await _read(opened, (length if length is not None else (await _read(opened, 1))[0]) + 2)


def _encode_host(origin: Origin) -> bytes:
    if origin.has_host_name:
        return bytes([_NAME]) + _prefixed(origin.host.encode("ascii"))
    address = ip_address(origin.host)
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


def _prefixed(text: bytes) -> bytes:
    if len(text) > _MAX_BYTES:
        raise ValueError(f"a SOCKS proxy accepts at most {_MAX_BYTES} bytes for a host, a user and a password")
    return bytes([len(text)]) + text


async def _read(opened: socket.socket, count: int) -> bytes:
    """Return exactly `count` bytes, and read no more: what follows belongs to the connection."""
    loop, read = asyncio.get_running_loop(), b""
    while len(read) < count:
        piece = await loop.sock_recv(opened, count - len(read))
        if not piece:
            raise ConnectionAbortedError("the SOCKS proxy closed the connection")
        read += piece
    return read
