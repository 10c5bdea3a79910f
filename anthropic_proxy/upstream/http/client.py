"""Sends requests to providers, and says in words how that failed."""

from collections.abc import Mapping

from msgspec import Struct

from anthropic_proxy.errors import Stopping, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from anthropic_proxy.upstream.http.address import Address, Origin, encode_head, join_address, read_address
from anthropic_proxy.upstream.http.connection import NoAnswer, NoHttp
from anthropic_proxy.upstream.http.opening import Opener
from anthropic_proxy.upstream.http.pool import Pool
from anthropic_proxy.upstream.http.response import HttpResponse, describe
from anthropic_proxy.upstream.proxies import find_proxy
from anthropic_proxy.wire.contract import LENT, Credential, UpstreamRequest

_MOST_HEADS = 256
"""Heads that are kept; relayed requests may each have another."""


class _Head(Struct, frozen=True):
    """What stands before every body that goes to one place, and where that is."""

    method: str
    headers: Mapping[str, str]
    credential: Credential | None
    origin: Origin
    proxy: str | None
    """The proxy on the way; None: none."""
    said: bytes
    """Without the length of a body, and the empty line."""

    def __repr__(self) -> str:
        return f"_Head({self.origin})"  # what it says has a key in it

    def serves(self, request: UpstreamRequest, credential: Credential | None) -> bool:
        """Whether it says what this request says."""
        return self.credential == credential and self.headers == request.headers and self.method == request.method

    def before(self, body: bytes) -> bytes:
        """Return it with the length of a body."""
        return (
            b"%b\r\n" % self.said if self.method == "GET" else b"%bcontent-length: %d\r\n\r\n" % (self.said, len(body))
        )


class HttpUpstream:
    """Sends requests to providers; its connections belong to the loop that runs when they are opened."""

    def __init__(
        self, connect_timeout: float, *, proxies: Mapping[str, str] | None = None, unproxied: str = ""
    ) -> None:
        self._pool = Pool()
        self._opener = Opener(connect_timeout, self._pool)
        self._proxies = proxies or {}
        """Scheme of an address → the proxy on the way there."""
        self._unproxied = unproxied
        """Hosts by comma that are reached without one."""
        self._chosen: dict[Origin, str | None] = {}
        self._heads: dict[tuple[str, str], _Head] = {}
        """Base address and path → the head that was last sent there: most requests say the same."""
        self._closed = False

    async def send(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> HttpResponse:
        """Send and wait for status and headers.

        Repeats once, at no cost, where a kept connection turns out to be closed before any byte of an answer: the
        provider cannot have begun, it had closed an idle connection.
        """
        if self._closed:
            raise Stopping
        found = self._heads.get((base_url, request.path))
        if found is None or not found.serves(request, credential):
            found = self._new_head(base_url, request, credential)
        origin, head = found.origin, found.before(request.body)
        try:
            if connection := self._pool.take(origin):
                try:
                    return await connection.ask(head, request.body)
                except NoAnswer as error:
                    if error.begun:
                        raise
            connection = await self._opener.open(origin, found.proxy)
            self._pool.add(connection)
            if self._closed:
                connection.cut()
                raise Stopping
            return await connection.ask(head, request.body)
        except (NoAnswer, NoHttp, OSError, ValueError) as error:
            raise _failure(origin, error) from error

    async def close(self) -> None:
        """Close every connection, and open none from here on."""
        self._closed = True
        self._pool.close()

    def _new_head(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> _Head:
        url = join_address(base_url, request.path)
        try:
            address = read_address(url)
            proxy = self._proxy(url, address.origin)
            said = _encode_head(address, proxy, request, credential)
        except ValueError as error:
            raise UpstreamUnreachable(f"nothing can be sent to {_shown(base_url)} ({error})") from error
        head = _Head(request.method, dict(request.headers), credential, address.origin, proxy, said)
        if credential is None or credential.origin != LENT:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            self._heads[base_url, request.path] = head
        return head

    def _proxy(self, url: str, origin: Origin) -> str | None:
        """Return the proxy on the way to a server, chosen once."""
        if origin not in self._chosen:
            self._chosen[origin] = find_proxy(url, self._proxies, self._unproxied)
        return self._chosen[origin]


def _encode_head(address: Address, proxy: str | None, request: UpstreamRequest, credential: Credential | None) -> bytes:
    headers, target = dict(request.headers), address.target
    if credential is not None:
        headers[credential.header] = credential.value
        headers.update(credential.further)
    if address.credentials:
        headers.setdefault("authorization", address.credentials)
    if proxy is not None and not address.origin.uses_tls:  # of a request that it reads, a proxy wants the whole address
        target = f"{address.origin}{target}"
        if proof := read_address(proxy).credentials:
            headers["proxy-authorization"] = proof
    return encode_head(request.method, target, address.origin.netloc, headers)


def _failure(origin: Origin, error: Exception) -> UpstreamError:
    if isinstance(error, NoHttp):
        return UpstreamProtocolError(f"what answers at {origin} does not speak HTTP as it should ({error})")
    if isinstance(error, NoAnswer) and error.cause is None:
        return UpstreamUnreachable(f"{origin} closed the connection without an answer")
    if isinstance(error, TimeoutError):
        return UpstreamUnreachable(f"nothing answers at {origin} (no connection in time)")
    return UpstreamUnreachable(f"nothing answers at {origin} ({describe(getattr(error, 'cause', error))})")


def _shown(url: str) -> str:
    """Return an address without its password and its query, where secrets are."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if rest else scheme
