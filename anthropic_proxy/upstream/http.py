"""The way out over HTTP: one pooled client session behind the three calls `send`, `read` and `close`.

Why aiohttp, and which of its defaults are changed: docs/decisions (the HTTP client).
"""

import asyncio
import socket
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection

from anthropic_proxy.errors import Stopping, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from anthropic_proxy.upstream.proxies import find_proxy
from anthropic_proxy.wire.contract import Credential, UpstreamRequest

KEEP_ALIVE_SECONDS = 60.0
HEADER_LINE_BYTES = 64 * 1024
"""Gateways send policies and cookies that are longer than aiohttp's 8 KB."""
UNREAD_BYTES = 64 * 1024
"""What the operating system is asked to hold of an answer that nobody reads; left to itself it holds MiBs."""
READ_BYTES = 32 * 1024
"""From twice as much on, which was received and not read yet, no more is received."""
UNPACKED_BYTES = 64 * 1024 * 1024
"""What an answer may have that comes packed though nobody asked for that."""
DRAIN_SECONDS = 0.25
"""How long `close` waits for the last bytes of an answer that is complete, so that its connection can be used again."""

_connection_was_reused: ContextVar[bool] = ContextVar("connection_was_reused", default=False)
"""Set by the connector in the task of `send`: aiohttp does not say it on the exception."""


def _new_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
    return made


class _Connector(aiohttp.TCPConnector):
    """A connector that says whether a connection had been used before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: WeakSet[Any] = WeakSet()

    async def connect(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        _connection_was_reused.set(protocol in self._known)
        if protocol is not None:
            self._known.add(protocol)
        return connection


class HttpResponse:
    """An `UpstreamResponse` over an aiohttp response."""

    __slots__ = ("_closed", "_packed", "_response", "_unpacked", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        """Look-up ignores case."""
        self._packed = response.headers.get("content-encoding", "identity").lower() != "identity"
        self._unpacked = 0
        protocol = response.connection.protocol if response.connection is not None else None
        self._closed = protocol.closed if protocol is not None else None
        if self._closed is not None:
            self._closed.add_done_callback(self._lose)

    def _lose(self, _: object) -> None:
        """End the wait for a body of which nothing more can come: malformed chunks leave aiohttp's own open."""
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection is closed"))

    async def read(self) -> bytes:
        """Return what has arrived, waiting only where nothing has; b"" at the end."""
        try:
            piece = await self._response.content.readany()
        except aiohttp.ClientPayloadError as error:
            raise UpstreamProtocolError("the reply broke off before it was complete") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamProtocolError(
                f"the connection broke in the middle of the reply ({_reason(error)})"
            ) from error
        if self._packed:
            await self._count(piece)
        return piece

    async def _count(self, piece: bytes) -> None:
        """Count what was unpacked, and let others have their turn: a MiB may hold a GiB, ready to be read at once."""
        self._unpacked += len(piece)
        if self._unpacked > UNPACKED_BYTES:
            said = f"the reply is larger than {UNPACKED_BYTES >> 20} MiB when it is unpacked"
            raise UpstreamProtocolError(said, retryable=False)
        await asyncio.sleep(0)

    async def close(self, *, complete: bool = False) -> None:
        """Give the connection back if the answer was read whole, or is `complete` and ends at once; else cut it."""
        content = self._response.content
        if self._closed is not None:
            self._closed.remove_done_callback(self._lose)
        if complete and not (self._packed or content.is_eof() or self._response.closed):
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    while await content.readany():
                        pass
            except (TimeoutError, aiohttp.ClientError, OSError):
                pass
        if content.is_eof():
            self._response.release()
        else:
            self._response.close()


class HttpUpstream:
    """Sends requests to providers; its session is made with the first one, because it belongs to the running loop."""

    def __init__(
        self, connect_timeout: float, *, proxies: Mapping[str, str] | None = None, unproxied: str = ""
    ) -> None:
        self._connect_timeout = connect_timeout
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._proxies = proxies or {}
        """Scheme of an address → the proxy on the way there."""
        self._unproxied = unproxied
        """Hosts by comma that are reached without one."""
        self._chosen: dict[str, str | None] = {}

    async def send(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> HttpResponse:
        """Send and wait for status and headers.

        Repeats once, at no cost, where a reused connection turns out to be closed before any byte of an answer: the
        provider cannot have begun, it had closed an idle connection.
        """
        url = join_address(base_url, request.path)
        headers = dict(request.headers)
        if credential is not None:
            headers[credential.header] = credential.value
            headers.update(credential.further)
        try:
            return await self._request(url, request, headers)
        except aiohttp.ServerDisconnectedError as error:
            if not _connection_was_reused.get():
                raise UpstreamUnreachable(f"{_origin(url)} closed the connection without an answer") from error
        except (aiohttp.ClientOSError, ConnectionResetError) as error:
            if isinstance(error, aiohttp.ClientConnectorError) or not _connection_was_reused.get():
                raise UpstreamUnreachable(f"nothing answers at {_origin(url)} ({_reason(error)})") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _failure(url, error) from error
        try:
            return await self._request(url, request, headers)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _failure(url, error) from error

    async def close(self) -> None:
        """Close every connection, and open none from here on."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(self, url: str, request: UpstreamRequest, headers: Mapping[str, str]) -> HttpResponse:
        if self._closed:
            raise Stopping
        session = self._session or self._open()
        response = await session.request(
            request.method,
            url,
            data=request.body or None,
            headers=headers,
            proxy=self._proxy(url),
            allow_redirects=False,
        )
        return HttpResponse(response)

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ttl_dns_cache=300, socket_factory=_new_socket
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
            # identity: inflating costs more than it saves on a stream; no user agent of a library's own
            headers={"accept-encoding": "identity", "user-agent": "anthropic-proxy"},
            trust_env=False,
            read_bufsize=READ_BYTES,
            max_line_size=HEADER_LINE_BYTES,
            max_field_size=HEADER_LINE_BYTES,
        )
        return self._session

    def _proxy(self, url: str) -> str | None:
        """Return the proxy on the way to this address, chosen once an address."""
        parts = urlsplit(url)
        if parts.netloc not in self._chosen:
            self._chosen[parts.netloc] = find_proxy(url, self._proxies, self._unproxied)
        return self._chosen[parts.netloc]


def join_address(base_url: str, path: str) -> str:
    """Return the address of a path below a base; a query of the base (Azure's `api-version`) stays at the end."""
    if "?" not in base_url:
        return base_url + path
    base, _, query = base_url.partition("?")
    return f"{base}{path}{'&' if '?' in path else '?'}{query}"


def _failure(url: str, error: Exception) -> UpstreamError:
    if isinstance(error, aiohttp.ClientResponseError):
        return UpstreamProtocolError(
            f"what answers at {_origin(url)} does not speak HTTP as it should ({_first_line(error.message)})"
        )
    return UpstreamUnreachable(f"nothing answers at {_origin(url)} ({_reason(error)})")


def _first_line(text: str) -> str:
    """Return what a parser complains of, without the bytes that it quotes: they may be anybody's."""
    return text.strip().partition("\n")[0].rstrip(": ")[:200]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error) or type(error).__name__
    return str(error) or type(error).__name__


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
