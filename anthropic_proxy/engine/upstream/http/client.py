"""`HttpTransport`: sends HTTP requests to providers, with connection reuse and support for HTTP proxies.

Theory of operation. A request first tries the idle connection that was used last. A server may close an idle connection
at any time, also while the request is on its way. If nothing of a response has arrived, the server has most probably
not begun to work, so the request is sent once more, on a new connection; after the first byte it is never repeated.
That is no proof, so a request that must not be repeated (`UpstreamRequest.may_repeat`) always gets a new connection.
There is no limit and no queue of connections: the proxy limits calls elsewhere. Most requests to a path have the same
headers, so the encoded head is cached, except with a credential of a client.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from functools import partial
from typing import cast

import httptools
from msgspec import Struct, structs

from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.options import CallOptions
from anthropic_proxy.engine.platforms.os_errors import describe_os_error, is_about_client_certificate
from anthropic_proxy.engine.upstream.http.connection import (
    KEEP_ALIVE_SECONDS,
    MAX_RESPONSE_HEAD_BYTES,
    Connection,
    ConnectionLost,
    ConnectionPool,
    HttpResponse,
    InvalidHttp,
    new_response_parser,
)
from anthropic_proxy.engine.upstream.http.dialer import Dialer, DnsCachingDialer, LocalConnectionRefused, SocksDialer
from anthropic_proxy.engine.upstream.http.url import (
    Origin,
    Url,
    encode_header_lines,
    encode_request_head,
    find_proxy,
    join_url,
    parse_proxy_url,
    parse_url,
)
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, CallProgress
from anthropic_proxy.engine.wires.upstream_http import CLIENT_CREDENTIAL_ORIGIN, Credential, UpstreamRequest
from anthropic_proxy.errors import ShuttingDown, UpstreamError, UpstreamProtocolError, UpstreamUnreachable

_MAX_BYTES_SIGNED_ON_LOOP = 1024 * 1024
"""Maximum size of a request body whose signature is computed on the event loop: 3 ms. A thread computes others."""
_MAX_REJECTION_SECONDS = 5.0
"""Maximum time after which a server that requires a client certificate closes a connection with a request."""
_REJECTION_WAIT_SECONDS = 2.0
"""Time in which such a server closes a connection without a request."""
_MAX_CACHED_HEADS = 256
"""Maximum number of cached request heads. A full cache is emptied, because relayed requests may all differ."""


PROXY_VARIABLES = "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
"""Settings of the proxy for all providers, for messages."""


class _Head(Struct, frozen=True):
    method: str
    headers: Mapping[str, str]
    credential: Credential | None
    origin: Origin
    proxy: str | None
    """URL of the HTTP proxy. None: the server is connected directly."""
    is_sent_to_proxy: bool
    """True if an HTTP proxy reads the request itself, because there is no TLS."""
    header_bytes: bytes
    """Request line and headers, without `content-length` and the final empty line."""

    def __repr__(self) -> str:
        return f"_Head({self.origin})"  # the header bytes contain a key

    def complete(self, request: UpstreamRequest) -> bytes:
        """Return the bytes of the head for a request, with the length of its body.

        Raises `ValueError` for a line break in a header.
        """
        length = b"" if self.method == "GET" else b"content-length: %d\r\n" % len(request.body)
        if not request.trace_headers:
            return b"%b%b\r\n" % (self.header_bytes, length)
        return b"%b%b%b\r\n" % (self.header_bytes, encode_header_lines(request.trace_headers), length)


class HttpTransport:
    """Sender of requests over reused connections.

    An idle connection is closed after `keep_alive_seconds`; 0: no reuse.
    """

    def __init__(
        self,
        connect_timeout: float,
        *,
        proxies: Mapping[str, str] | None = None,
        no_proxy_hosts: str = "",
        dialer: Dialer | None = None,
        tls: ssl.SSLContext | None = None,
        tls_files: CallOptions | None = None,
        proxy_setting: str = PROXY_VARIABLES,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._pool = ConnectionPool(keep_alive_seconds)
        self._connector = Connector(
            connect_timeout, self._pool, dialer=dialer, tls=tls, tls_files=tls_files, proxy_setting=proxy_setting
        )
        self._proxy_setting = proxy_setting
        self._proxies = proxies or {}
        self._no_proxy_hosts = no_proxy_hosts
        self._heads = BoundedDict[tuple[str, str], _Head](_MAX_CACHED_HEADS)
        """Base URL and path → head of the last request."""
        self._closed = False

    async def send(self, bound: BoundRequest) -> HttpResponse:
        """Send a request, and return its response when status and headers have arrived.

        Raises `UpstreamUnreachable`, `UpstreamProtocolError` or `ShuttingDown`.
        """
        if self._closed:
            raise ShuttingDown
        base_url, request, credential = bound.base_url, bound.request, bound.credential
        if (credential is not None and credential.sign is not None) or request.compute_headers is not None:
            if len(request.body) > _MAX_BYTES_SIGNED_ON_LOOP:
                request, credential = await asyncio.to_thread(_complete_headers, base_url, request, credential)
            else:
                request, credential = _complete_headers(base_url, request, credential)
            cached = None
            is_reusable = False
        else:
            cached = self._heads.get((base_url, request.path))
            is_reusable = True
        if (
            cached is None
            or cached.credential != credential
            or cached.headers != request.headers
            or cached.method != request.method
        ):
            cached = self._new_head(base_url, request, credential, is_reusable=is_reusable)
        origin = cached.origin
        head = cached.complete(request)
        response, sent_at = None, None
        try:
            connection = self._pool.pop_idle(origin)
            if connection is not None and not request.may_repeat:
                connection.abort()  # the new one takes its place in the pool
            elif connection is not None:
                try:
                    response = await connection.send_request(head, request.body)
                except ConnectionLost as error:
                    if error.begun:  # otherwise the server closed the idle connection before it got the request
                        raise
            if response is None:
                progress = bound.progress or CallProgress()
                progress.is_connecting = True
                connection = await self._connector.connect(origin, cached.proxy)
                progress.is_connecting = False
                self._pool.add_open(connection)
                if self._closed:
                    connection.abort()
                    raise ShuttingDown
                sent_at = connection.loop.time()
                response = await connection.send_request(head, request.body)
            if response.status == PROXY_AUTHENTICATION_REQUIRED and cached.is_sent_to_proxy:
                await response.close()
                raise proxy_status_error(response.status, self._proxy_setting)
        except (ConnectionLost, InvalidHttp, OSError, ValueError) as error:
            raise await self._explain_failure(error, cached, sent_at) from error
        return response

    async def _explain_failure(self, error: Exception, head: _Head, sent_at: float | None) -> UpstreamError:
        advice = ""
        if sent_at is not None and isinstance(error, ConnectionLost) and not (error.begun or _is_alert(error.cause)):
            seconds = asyncio.get_running_loop().time() - sent_at
            advice = await self._connector.find_certificate_advice(head.origin, head.proxy, seconds)
        failure = _failure(head.origin, error, head.proxy, advice)
        if head.proxy is not None and sent_at is None and self._proxy_setting == PROXY_VARIABLES:
            failure.add_advice(f"; to call {head.origin.host} directly, add it to NO_PROXY")
        return failure

    def encode_head(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> bytes:
        """Return the head exactly as `send` sends it. Raises `UpstreamUnreachable` if the base URL is invalid."""
        request, credential = _complete_headers(base_url, request, credential)
        return self._new_head(base_url, request, credential).complete(request)

    async def close(self) -> None:
        """Later calls of `send` raise `ShuttingDown`."""
        self._closed = True
        self._pool.close()

    def _new_head(
        self, base_url: str, request: UpstreamRequest, credential: Credential | None, *, is_reusable: bool = True
    ) -> _Head:
        url = join_url(base_url, request.path)
        try:
            target_url = parse_url(url)
            proxy = find_proxy(url, self._proxies, self._no_proxy_hosts) if self._proxies else None
            headers = dict(request.headers)
            target = target_url.request_target
            if credential is not None:
                headers[credential.header] = credential.value
                headers.update(credential.extra_headers)
            if target_url.authorization:
                headers.setdefault("authorization", target_url.authorization)
            proxy_url = None if proxy is None else parse_proxy_url(proxy)
            is_sent_to_proxy = proxy_url is not None and not (target_url.origin.uses_tls or proxy_url.origin.uses_socks)
            if proxy_url is not None and is_sent_to_proxy:  # without TLS, a proxy requires the absolute URL
                target = f"{target_url.origin}{target}"
                if proxy_url.authorization:
                    headers["proxy-authorization"] = proxy_url.authorization
            header_bytes = encode_request_head(request.method, target, target_url.origin.host_header, headers)
        except ValueError as error:
            raise UpstreamUnreachable(f"no request can be sent to {_redacted(base_url)} ({error})") from error
        origin = target_url.origin
        given = dict(request.headers)
        head = _Head(request.method, given, credential, origin, proxy, is_sent_to_proxy, header_bytes)
        if credential is not None and credential.origin == CLIENT_CREDENTIAL_ORIGIN:
            is_reusable = False
        if self._pool.keep_alive_seconds and is_reusable:
            self._heads[base_url, request.path] = head
        return head


def _complete_headers(
    base_url: str, request: UpstreamRequest, credential: Credential | None
) -> tuple[UpstreamRequest, Credential | None]:
    """Return the request with the headers that depend on its bytes, and the credential that its head still needs.

    A signature replaces other headers. Computed headers replace none, because the settings may have set them.
    """
    url = join_url(base_url, request.path)
    headers = request.headers
    if request.compute_headers is not None:
        computed = request.compute_headers(method=request.method, url=url, headers=headers, body=request.body)
        headers = {**computed, **headers}
    if credential is not None and credential.sign is not None:
        headers = {**headers, **credential.extra_headers}
        signature = credential.sign(method=request.method, url=url, headers=headers, body=request.body)
        headers = {**headers, **signature}
        credential = None
    return structs.replace(request, headers=headers), credential


def _is_alert(error: Exception | None) -> bool:
    """True if TLS itself gives a reason."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)


def _failure(origin: Origin, error: Exception, proxy: str | None, advice: str = "") -> UpstreamError:
    """Return the error for a request that got no response.

    `advice`: a better reason than the text of `error`. "": none.
    """
    if isinstance(error, InvalidHttp):
        return UpstreamProtocolError(f"the server at {origin} violates HTTP ({error})")
    if isinstance(error, ConnectionLost) and error.cause is None and not advice:
        return UpstreamUnreachable(f"{origin} closed the connection without an answer")
    location = str(origin) if proxy is None else f"{origin} through the proxy {_redacted(proxy)}"
    # Claude Code retries a 502 for three minutes without a message. A stopped local server stays down, and a proxy that
    # asks for a password refuses again.
    should_retry = False if isinstance(error, LocalConnectionRefused | _RefusedByProxy) else None
    cause = getattr(error, "cause", error)
    reason, field = advice or describe_os_error(cause), "client_certificate" if advice else ""
    if isinstance(error, TimeoutError):
        reason = "no connection in time"
    elif isinstance(cause, ssl.SSLCertVerificationError):
        reason += "; for an authority of your network, set ca_file in [providers.NAME], or SSL_CERT_FILE"
        field = "ca_file"
    elif isinstance(cause, socket.gaierror):
        reason += "; check its spelling, and the network or VPN of this machine"
    elif is_about_client_certificate(cause):
        field = "client_certificate"
    failure = UpstreamUnreachable(f"no server responds at {location} ({reason})", should_retry=should_retry)
    failure.concerned_field = field if proxy is None else "proxy"
    return failure


def _redacted(url: str) -> str:
    """Return a URL without user, password and query, which may contain secrets, for an error message."""
    scheme, _, remainder = url.partition("?")[0].partition("://")
    return f"{scheme}://{remainder.rpartition('@')[2]}" if remainder else scheme


PROXY_AUTHENTICATION_REQUIRED = 407


class Connector:
    """Opener of connections to servers, directly or through an HTTP proxy, each within `timeout_seconds`. `dialer`
    opens the TCP connections that use no HTTP proxy. None: a dialer that accepts any address is used. `tls_files` has
    the PEM files for TLS.
    """

    def __init__(
        self,
        timeout_seconds: float,
        owner: ConnectionPool,
        *,
        dialer: Dialer | None = None,
        tls: ssl.SSLContext | None = None,
        tls_files: CallOptions | None = None,
        proxy_setting: str = PROXY_VARIABLES,
    ) -> None:
        self._tls_files = tls_files
        self._proxy_setting = proxy_setting
        self._seconds = timeout_seconds
        self._owner = owner
        self._proxy_dialer = DnsCachingDialer()
        self._dialer = self._proxy_dialer if dialer is None else dialer
        self._tls = tls

    async def connect(self, origin: Origin, proxy: str | None) -> Connection:
        """Open a connection to a server.

        Raises `OSError` (including `TimeoutError`), or `ValueError` for an unsupported URL of the HTTP `proxy`.
        """
        async with asyncio.timeout(self._seconds):
            if proxy is None:
                return await self._connect(self._dialer, origin, origin)
            proxy_url = parse_proxy_url(proxy)
            if proxy_url.origin.uses_socks:
                return await self._connect(SocksDialer(self._proxy_dialer, proxy_url), origin, origin)
            if origin.uses_tls:
                return await self._tunnel(origin, proxy_url)
            return await self._connect(self._proxy_dialer, proxy_url.origin, origin)

    async def find_certificate_advice(self, origin: Origin, proxy: str | None, seconds: float) -> str:
        """Return what a new connection says about the client certificate, after the server closed one without a reply,
        `seconds` after the handshake.

        In TLS 1.3 a server reads the client certificate after the client's handshake, so a request can be on its way
        when the server closes. The system then drops the reason, and the client sees a reset. Without a request, a
        server that accepts the certificate keeps the connection open, and another one gives its reason.

        "": the certificate is not the reason.
        """
        if not origin.uses_tls or seconds > _MAX_REJECTION_SECONDS:
            return ""
        try:
            async with asyncio.timeout(2 * _REJECTION_WAIT_SECONDS):
                connection = await self.connect(origin, proxy)
                self._owner.add_open(connection)
                closing = await connection.find_closing(_REJECTION_WAIT_SECONDS)
        except (OSError, ValueError):
            return ""
        if closing is None:
            return ""
        if closing.cause is not None and _is_alert(closing.cause):
            return describe_os_error(closing.cause)
        has_certificate = self._tls_files is not None and self._tls_files.certificate_file
        requires, change = ("rejects the", "change") if has_certificate else ("requires a", "set")
        return (
            "the server closes each connection after the TLS handshake; "
            f"if it {requires} client certificate, {change} client_certificate in [providers.NAME]"
        )

    async def _connect(self, dialer: Dialer, near: Origin, origin: Origin) -> Connection:
        """Open a TCP connection, with TLS if the near end uses it.

        `near`: peer of the TCP connection, which is the server or a proxy.
        """
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(origin, self._owner),
            sock=await dialer.dial(near),
            ssl=self._context() if near.uses_tls else None,
            server_hostname=near.server_name if near.uses_tls else None,
        )
        return connection

    async def _tunnel(self, origin: Origin, proxy_url: Url) -> Connection:
        loop = asyncio.get_running_loop()
        near = proxy_url.origin
        transport, tunnel = await loop.create_connection(
            partial(_Tunnel, self._proxy_setting),
            sock=await self._proxy_dialer.dial(near),
            ssl=self._context() if near.uses_tls else None,
            server_hostname=near.server_name if near.uses_tls else None,
        )
        try:
            await tunnel.request(origin, proxy_url.authorization)
            connection = Connection(origin, self._owner)
            encrypted = await loop.start_tls(transport, connection, self._context(), server_hostname=origin.server_name)
        except BaseException:
            transport.abort()
            raise
        if encrypted is None:
            raise ConnectionAbortedError("the proxy closed the connection")
        connection.connection_made(encrypted)
        return connection

    def _context(self) -> ssl.SSLContext:
        """Created at first use, because loading the certificates is slow."""
        if self._tls is None:
            context = ssl.create_default_context()
            files = self._tls_files
            context.set_alpn_protocols(["http/1.1"])
            if files is not None and files.ca_file:
                context.load_verify_locations(files.ca_file)
            if files is not None and files.certificate_file:
                context.load_cert_chain(files.certificate_file, files.certificate_key_file or None)
            self._tls = context
        return self._tls


class _RefusedByProxy(ConnectionRefusedError):
    """The HTTP proxy asks for a password, or does not allow the server."""


def proxy_status_error(status: int, setting: str = PROXY_VARIABLES) -> ConnectionRefusedError:
    """Return the error for a status that the HTTP proxy itself has sent, for example because it needs a password."""
    advice = ""
    if status in (401, PROXY_AUTHENTICATION_REQUIRED):  # tinyproxy answers 401 to a wrong password
        advice = f"; set user and password in {setting}: http://user:password@host:port"
    kind = _RefusedByProxy if status in (401, 403, PROXY_AUTHENTICATION_REQUIRED) else ConnectionRefusedError
    return kind(f"the proxy answers with HTTP {status}{advice}")


class _Tunnel(asyncio.Protocol):
    """Asyncio protocol of a CONNECT request, which opens a tunnel through an HTTP proxy."""

    def __init__(self, proxy_setting: str) -> None:
        self._proxy_setting = proxy_setting
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = new_response_parser(self)
        self._bytes_left = MAX_RESPONSE_HEAD_BYTES

    async def request(self, origin: Origin, credentials: str) -> None:
        """`credentials`: for `proxy-authorization`. Raises `ConnectionError` if the proxy rejects the tunnel."""
        authorization = f"proxy-authorization: {credentials}\r\n" if credentials else ""
        head = f"CONNECT {origin.host_and_port} HTTP/1.1\r\nhost: {origin.host_and_port}\r\n{authorization}\r\n"
        self._transport.write(head.encode())
        await self._opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._opened.done():
            return
        self._bytes_left -= len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(ConnectionError(f"the proxy violates HTTP: {error}"))
        if self._bytes_left < 0:
            self._end(ConnectionError(f"the proxy sends a head of more than {MAX_RESPONSE_HEAD_BYTES:,} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionAbortedError("the proxy closed the connection"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # an interim response
        self._end(None if 200 <= status < 300 else proxy_status_error(status, self._proxy_setting))

    def _end(self, error: Exception | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._transport.pause_reading()  # the following bytes are TLS
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)
            self._opened.exception()  # mark as retrieved: a cancelled `request` never awaits the future
