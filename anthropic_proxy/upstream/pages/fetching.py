"""One page, from its address to its text: https only, within five seconds and 20 MiB, redirections judged like links.

An address of `http://` is asked for as `https://`: most sites answer there, and nothing is said in the clear.

What the guard means where a proxy stands on the way (`HTTPS_PROXY`): the far end of the socket is then the proxy, and
it is the proxy that looks names up. Names and addresses that are not public as seen from here are still refused, but a
name that only the proxy knows is the proxy's to judge.
"""

import asyncio
import socket
import ssl
import zlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import msgspec
from yarl import URL

from anthropic_proxy import confined
from anthropic_proxy.confined import Program, ProgramFailed
from anthropic_proxy.errors import FetchErrorCode, FetchFailed
from anthropic_proxy.messages.domains import ascii_host, is_allowed
from anthropic_proxy.upstream.errands import LONGEST_URL, READABLE, Page
from anthropic_proxy.upstream.inflating import Inflater
from anthropic_proxy.upstream.pages import markdown
from anthropic_proxy.upstream.pages.addresses import Network, is_public
from anthropic_proxy.upstream.pages.body import HTML, decode_text, find_type, is_text, is_wanted, may_be
from anthropic_proxy.upstream.pages.connection import GuardedConnector, GuardedResolver, LookUp, closed
from anthropic_proxy.upstream.pages.markdown import MOST_CHARACTERS, Reading
from anthropic_proxy.upstream.proxies import find_proxy

SECONDS = 5.0
"""For all of it: names, connections, redirections and the body."""
MOST_BYTES = 20 * 1024 * 1024
"""Of a body, inflated."""
MOST_REDIRECTS = 5
MOST_AT_ONCE = 16
"""Pages under way in one process; others wait for their turn."""
_NAME_THREADS, _TEXT_THREADS = 4, 2
"""Names that nobody answers for must not keep pages waiting that are here."""
READER = Program(
    path=markdown.__file__, seconds=20.0, processor_seconds=4, memory_bytes=512 * 1024 * 1024, packages=True
)
"""Reads HTML, in seconds of its own: twice what the slowest honest page takes."""
_READERS_AT_ONCE = 2
_HEADER_LINE_BYTES = 64 * 1024
_LONGEST_ADDRESS = 8 * 1024
_HTTP_PORT = 80
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "%/:?@!$&'()*+,;=-._~"
"""What stays as it is in a path or a query: a signed address must arrive as it was signed."""


class _Wish(NamedTuple):
    """What the asker says about a page."""

    media_types: Collection[str]
    allowed_domains: Sequence[str]
    blocked_domains: Sequence[str]


class Pages:
    """Fetches pages; its sessions are made with the first one, because they belong to the running loop.

    `allowed`: networks that are let pass beside public addresses; `tls`: what certificates are judged by; `proxies` and
    `unproxied`: as for the providers; `look_up`: finds the addresses of a name; `seconds`: for all of a page; `reader`:
    what reads HTML.
    """

    def __init__(
        self,
        *,
        allowed: Sequence[Network] = (),
        tls: ssl.SSLContext | None = None,
        proxies: Mapping[str, str] | None = None,
        unproxied: str = "",
        look_up: LookUp = socket.getaddrinfo,
        seconds: float = SECONDS,
        reader: Program = READER,
    ) -> None:
        self._allowed = allowed
        self._tls = tls
        self._proxies = proxies or {}
        self._unproxied = unproxied
        self._seconds = seconds
        self._names = ThreadPoolExecutor(_NAME_THREADS, thread_name_prefix="names")
        self._texts = ThreadPoolExecutor(_TEXT_THREADS, thread_name_prefix="pages")
        self._resolver = GuardedResolver(self._names, allowed, look_up)
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._reader = reader
        self._readers = asyncio.Semaphore(_READERS_AT_ONCE)
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    async def fetch(
        self,
        url: str,
        *,
        media_types: Collection[str] = READABLE,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        longest_url: int = LONGEST_URL,
    ) -> Page:
        """Return what an address gives: an `errands.Fetch`."""
        if len(url) > longest_url:
            raise FetchFailed(
                f"the address has {len(url)} characters; it can have {longest_url} at most", "url_too_long"
            )
        wish = _Wish(media_types, allowed_domains, blocked_domains)
        async with self._turns:
            try:
                async with asyncio.timeout(self._seconds):
                    found = await self._follow(url, wish)
            except TimeoutError:
                raise _lost(url, f"gave nothing whole within {self._seconds:g} s") from None
            except aiohttp.InvalidURL:
                raise FetchFailed(f"{_shown(url)} is no address", "invalid_tool_input") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _lost(url, f"cannot be reached ({_reason(error)})") from error
            return await self._page(found, wish)

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()
        self._direct = self._proxied = None
        for threads in (self._names, self._texts):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, url: str, wish: _Wish) -> "_Found":
        address = _read_address(url)
        for _ in range(MOST_REDIRECTS + 1):
            self._judge(address, wish)
            async with await self._request(address, wish) as response:
                place = response.headers.get("location") if response.status in _REDIRECTS else None
                if place is None:
                    return await _read(response, str(address), wish)
            address = _read_address(urljoin(str(address), place))
        raise _lost(url, f"redirects more than {MOST_REDIRECTS} times")

    def _judge(self, address: URL, wish: _Wish) -> None:
        host = address.raw_host or ""
        try:
            lets_pass = is_allowed(str(address), wish.allowed_domains, wish.blocked_domains)
        except ValueError as error:
            raise FetchFailed(str(error), "invalid_tool_input") from None
        if not lets_pass:
            raise FetchFailed(f"{host} is not among the domains that the request lets pass", "url_not_allowed")
        if _is_address(host) and not is_public(host, self._allowed):
            raise closed(host)

    async def _request(self, address: URL, wish: _Wish) -> aiohttp.ClientResponse:
        headers = {"accept": _accept(wish.media_types)}
        proxy = find_proxy(str(address), self._proxies, self._unproxied)
        if proxy is None:
            self._direct = self._direct or _open(GuardedConnector(self._resolver, self._allowed, self._tls))
            return await self._direct.get(address, headers=headers, allow_redirects=False)
        await self._judge_name(address)
        if self._proxied is None:
            tls = True if self._tls is None else self._tls
            self._proxied = _open(aiohttp.TCPConnector(force_close=True, limit=0, ssl=tls))
        return await self._proxied.get(address, headers=headers, allow_redirects=False, proxy=proxy)

    async def _judge_name(self, address: URL) -> None:
        """Refuse a name that leads to what is not public, as far as this machine knows it."""
        try:
            await self._resolver.resolve(address.raw_host or "", address.port or 443)
        except OSError:
            return

    async def _page(self, found: "_Found", wish: _Wish) -> Page:
        kind = find_type(found.media_type, found.body)
        if not is_wanted(kind, wish.media_types):
            raise _unwanted(found.url, kind or f"not the {found.media_type} that it says", wish)
        if not is_text(kind):
            return Page(url=found.url, media_type=kind, body=found.body)
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._texts, _text_of, found, kind)
        if kind not in HTML or not text.strip():
            return Page(url=found.url, media_type=kind, text=text)
        reading = await self._read_html(text, found.url)
        return Page(url=found.url, media_type=kind, title=reading.title, text=reading.text)

    async def _read_html(self, html: str, url: str) -> Reading:
        async with self._readers:
            try:
                # one character more, so that the reader sees that the page goes on
                said = await confined.run(self._reader, {"html": html[: MOST_CHARACTERS + 1], "url": url})
            except (TimeoutError, ProgramFailed, OSError):
                raise _lost(url, "takes too much time or memory to be read as HTML") from None
        return msgspec.json.decode(said, type=Reading)


class _Found(NamedTuple):
    """A body with its address and what its server says about it."""

    url: str
    media_type: str
    charset: str | None
    body: bytes


def _open(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={
            "user-agent": "Mozilla/5.0 (compatible; anthropic-proxy)",
            "accept-encoding": "gzip, deflate",
            "accept-language": "en, *;q=0.5",
        },
        auto_decompress=False,
        trust_env=False,
        max_line_size=_HEADER_LINE_BYTES,
        max_field_size=_HEADER_LINE_BYTES,
    )


def _accept(media_types: Collection[str]) -> str:
    """Return an `Accept` header: of a page that comes in several forms the one for readers."""
    if "text/*" not in media_types:
        return ", ".join((*sorted(media_types), "*/*;q=0.1"))
    others = (f"{kind};q=0.8" for kind in sorted(media_types) if kind != "text/*")
    return ", ".join(("text/markdown", "text/html", "text/*;q=0.9", *others, "*/*;q=0.1"))


def _read_address(url: str) -> URL:
    """Return an address whose every part has been looked at, so that nothing is left for two readers to differ on."""
    try:
        parts = urlsplit(url.strip())
        host, port = ascii_host(parts.hostname or ""), parts.port
    except ValueError:
        raise FetchFailed(f"{_shown(url)} is no address of a page", "invalid_tool_input") from None
    if parts.scheme == "http":
        port = None if port == _HTTP_PORT else port
    elif parts.scheme != "https":
        raise FetchFailed(f"{_shown(url)} does not begin with https://; only such pages are fetched", "url_not_allowed")
    if "@" in parts.netloc or len(url) > _LONGEST_ADDRESS:
        raise FetchFailed(
            f"{_shown(host)}: an address with a password, or of such length, is not fetched", "url_not_allowed"
        )
    place = f"[{host}]" if ":" in host else host
    path, query = quote(parts.path or "/", safe=_SAFE), quote(parts.query, safe=_SAFE)
    return URL(f"https://{place}{f':{port}' if port else ''}{path}{query and '?' + query}", encoded=True)


async def _read(response: aiohttp.ClientResponse, url: str, wish: _Wish) -> _Found:
    if response.status == 429:
        raise FetchFailed(f"{_shown(url)} says that it is asked too often", "too_many_requests")
    if not 200 <= response.status < 300:
        raise _lost(url, f"answers with HTTP {response.status}")
    said = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not may_be(said, wish.media_types):
        raise _unwanted(url, said, wish)
    inflater = Inflater(response.headers.get("content-encoding", ""))
    if not inflater.known:
        raise _unwanted(url, f"packed as {response.headers['content-encoding'][:40]}", wish)
    if (response.content_length or 0) > MOST_BYTES:
        raise _too_large(url)
    body = bytearray()
    try:
        async for data in response.content.iter_any():
            for piece in inflater.feed(data):
                body += piece
                if len(body) > MOST_BYTES:
                    raise _too_large(url)
    except zlib.error as error:
        raise _lost(url, "is packed in a way that cannot be read") from error
    return _Found(url, said, response.charset, bytes(body))


def _text_of(found: _Found, kind: str) -> str:
    return decode_text(found.body, found.charset, is_html=kind in HTML)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _lost(url: str, why: str, code: FetchErrorCode = "url_not_accessible") -> FetchFailed:
    return FetchFailed(f"{_shown(url)} {why}", code)


def _too_large(url: str) -> FetchFailed:
    return _lost(url, f"is larger than {MOST_BYTES // 1024 // 1024} MiB", "content_too_large")


def _unwanted(url: str, kind: str, wish: _Wish) -> FetchFailed:
    wanted = ", ".join(sorted(wish.media_types))
    return _lost(url, f"is {kind or 'of no type'}; it can be {wanted}", "unsupported_content_type")


def _shown(url: str) -> str:
    """Return an address for a message: without its query, where secrets are."""
    shown = "".join(character if character.isprintable() else "?" for character in url.partition("?")[0])
    return shown if len(shown) <= LONGEST_URL else shown[:LONGEST_URL] + "…"


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error) or type(error).__name__
    return (str(error) or type(error).__name__)[:LONGEST_URL]
