"""`Connector`: opens connections to servers by TCP and TLS, directly or through an HTTP proxy.

`connect` opens one connection within a time limit. For `https`, the HTTP proxy opens a tunnel (CONNECT).
`proxy_status_error` returns the error if the HTTP proxy itself sends an error status.
"""

import asyncio
import ssl
from typing import cast

import httptools

from anthropic_proxy.upstream.http.connection import Connection, new_response_parser
from anthropic_proxy.upstream.http.dialer import Dialer, DnsCachingDialer
from anthropic_proxy.upstream.http.pool import ConnectionPool
from anthropic_proxy.upstream.http.url import Origin, Url, parse_url

PROXY_AUTHENTICATION_REQUIRED = 407
"""HTTP status of a proxy that requires a user and password."""


class Connector:
    """Opener of connections to servers, directly or through an HTTP proxy, each within `timeout_seconds`.

    `dialer` opens the TCP connections that use no HTTP proxy. None: a dialer that accepts any address is used.
    """

    def __init__(
        self,
        timeout_seconds: float,
        owner: ConnectionPool,
        *,
        dialer: Dialer | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._seconds = timeout_seconds
        self._owner = owner
        self._proxy_dialer = DnsCachingDialer()
        self._dialer = self._proxy_dialer if dialer is None else dialer
        self._tls = tls

    async def connect(self, origin: Origin, proxy: str | None) -> Connection:
        """Return a new connection to the server `origin`.

        Raises `OSError` (including `TimeoutError`), or `ValueError` for an unsupported URL of the HTTP `proxy`.
        """
        async with asyncio.timeout(self._seconds):
            if proxy is None:
                return await self._connect(self._dialer, origin, origin)
            proxy_url = parse_url(proxy)
            if origin.uses_tls:
                return await self._tunnel(origin, proxy_url)
            return await self._connect(self._proxy_dialer, proxy_url.origin, origin)

    async def _connect(self, dialer: Dialer, near: Origin, origin: Origin) -> Connection:
        """Return a connection to the server `origin`.

        `near`: peer of the TCP connection, which is the server or a proxy.
        """
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(origin, self._owner),
            sock=await dialer.dial(near),
            ssl=self._context() if near.uses_tls else None,
            server_hostname=near.host if near.uses_tls else None,
        )
        return connection

    async def _tunnel(self, origin: Origin, proxy_url: Url) -> Connection:
        loop, near = asyncio.get_running_loop(), proxy_url.origin
        transport, tunnel = await loop.create_connection(
            _Tunnel,
            sock=await self._proxy_dialer.dial(near),
            ssl=self._context() if near.uses_tls else None,
            server_hostname=near.host if near.uses_tls else None,
        )
        try:
            await tunnel.request(origin, proxy_url.authorization)
            connection = Connection(origin, self._owner)
            encrypted = await loop.start_tls(transport, connection, self._context(), server_hostname=origin.host)
        except BaseException:
            transport.abort()
            raise
        if encrypted is None:
            raise ConnectionAbortedError("the proxy closed the connection")
        connection.connection_made(encrypted)
        return connection

    def _context(self) -> ssl.SSLContext:
        """Return the TLS context of the connector.

        It is created at first use, because loading the certificates is slow.
        """
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


def proxy_status_error(status: int) -> ConnectionRefusedError:
    """Return the error for a status that the HTTP proxy itself has sent, for example because it needs a password."""
    advice = ""
    if status == PROXY_AUTHENTICATION_REQUIRED:
        advice = "; set user and password in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: http://user:password@host:port"
    return ConnectionRefusedError(f"the proxy answers with HTTP {status}{advice}")


class _Tunnel(asyncio.Protocol):
    """Asyncio protocol of a CONNECT request, which opens a tunnel through an HTTP proxy."""

    def __init__(self) -> None:
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = new_response_parser(self)

    async def request(self, origin: Origin, credentials: str) -> None:
        """Open a tunnel to `origin` by a CONNECT request, and wait until the HTTP proxy has accepted it.

        `credentials`: value of the header `proxy-authorization`. Raises `ConnectionError` if the proxy rejects the
        tunnel.
        """
        authorization = f"proxy-authorization: {credentials}\r\n" if credentials else ""
        head = f"CONNECT {origin.host_and_port} HTTP/1.1\r\nhost: {origin.host_and_port}\r\n{authorization}\r\n"
        self._transport.write(head.encode())
        await self._opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(ConnectionError(f"the proxy violates HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionAbortedError("the proxy closed the connection"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # an interim response
        self._end(None if 200 <= status < 300 else proxy_status_error(status))

    def _end(self, error: Exception | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._transport.pause_reading()  # the following bytes are TLS
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)
            self._opened.exception()  # mark as retrieved: a cancelled `request` never awaits the future
