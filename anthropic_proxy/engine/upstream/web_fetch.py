"""Web fetch: the proxy fetches web pages for a model, from public addresses only."""

import asyncio
import re
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import msgspec
from msgspec import structs

from anthropic_proxy.engine.memory_plan import MAX_PROCESSES, PAGE_BYTES
from anthropic_proxy.engine.messages.server_blocks import ascii_host, is_url_allowed
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms import sandbox
from anthropic_proxy.engine.platforms.sandbox import SandboxedProgram, SandboxFailed
from anthropic_proxy.engine.text_encodings import (
    UTF_8,
    TextEncoding,
    find_charset,
    find_codec,
    find_encoding,
    find_mark,
)
from anthropic_proxy.engine.turns import SharedWorker, Turns
from anthropic_proxy.engine.upstream import html_to_markdown
from anthropic_proxy.engine.upstream.contract import (
    DEFAULT_MEDIA_TYPES,
    MAX_URL_CHARACTERS,
    PDF_MEDIA_TYPE,
    FetchedPage,
)
from anthropic_proxy.engine.upstream.html_to_markdown import MAX_HTML_CHARACTERS, PageText
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.http.connection import Decompressor, HttpResponse
from anthropic_proxy.engine.upstream.http.dialer import (
    HAPPY_EYEBALLS_DELAY_SECONDS,
    IpNetwork,
    connect_first,
    is_public_address,
)
from anthropic_proxy.engine.upstream.http.names import AddressInfo, NameLookup, NameLookups
from anthropic_proxy.engine.upstream.http.url import Origin, find_proxy, parse_url
from anthropic_proxy.engine.wires.bound_requests import WEB, BoundRequest, ClientOrigin
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import FetchErrorCode, UpstreamError, WebFetchFailed, build_extra_install_command


class GuardedDialer:
    """Opens TCP connections to public addresses only, for URLs that clients or models choose. Addresses in
    `allowed_networks` are permitted too. `lookup` looks up host names; None: the operating system.
    """

    def __init__(self, allowed_networks: Sequence[IpNetwork], lookup: NameLookup | None = None) -> None:
        self._names = NameLookups(lookup)
        self._allowed = allowed_networks

    async def dial(self, origin: Origin) -> socket.socket:
        """Raises `WebFetchFailed` for a host with a private address, and `OSError` if no address accepts."""
        opened = await connect_first(
            await self.resolve_public_addresses(origin),
            lambda info: socket.socket(info[0], info[1], info[2]),
            delay_seconds=HAPPY_EYEBALLS_DELAY_SECONDS,
        )
        try:
            peer, local = opened.getpeername()[0], opened.getsockname()[0]
            # this machine may have a public address
            if not is_public_address(peer, self._allowed) or (peer == local and is_public_address(peer)):
                raise private_address_error(origin.host)  # noqa: TRY301
        except BaseException:
            opened.close()
            raise
        return opened

    async def resolve_public_addresses(self, origin: Origin) -> Sequence[AddressInfo]:
        """Return the addresses of a host, if all are public or in an allowed network. Raises `WebFetchFailed` for a
        private address, `OSError` for an unknown host.
        """
        infos = await self._names.find_addresses(origin.host, origin.port)
        if not all(is_public_address(info[4][0], self._allowed) for info in infos):
            raise private_address_error(origin.host)
        return infos


def private_address_error(host: str) -> WebFetchFailed:
    return WebFetchFailed(f"{host} is not a public address; pages are fetched from public ones only", "url_not_allowed")


FETCH_TIMEOUT_SECONDS = 5.0
"""Maximum number of seconds for one fetch: name lookups, connections, redirects and the body."""
MAX_PAGE_BYTES = 20 * 1024 * 1024
"""Maximum size of a body after decompression. A larger page is rejected with `content_too_large`."""
MAX_REDIRECTS = 5
FETCHES = SharedWorker(
    name="the places for fetches of web pages", places=16, share=8, max_waiting=200, max_wait_seconds=8.0
)
HTML_CONVERTER = SandboxedProgram(
    path=html_to_markdown.__file__,
    timeout_seconds=20.0,
    cpu_seconds=4,
    memory_bytes=PAGE_BYTES,
    imports_packages=True,
)
"""Sandboxed program that converts HTML to Markdown. Its time limit is twice the time of the slowest benign page. It is
not included in `FETCH_TIMEOUT_SECONDS`."""
CONVERSIONS = SharedWorker(
    name="the processes that read web pages", places=2, share=1, max_waiting=16, max_wait_seconds=20.0
)
_MAX_NORMALIZED_URL_LENGTH = 8 * 1024
"""Maximum number of characters of a normalized URL: the URL of the caller, or the target of a redirect."""
_HTTP_PORT = 80
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "%/:?@!$&'()*+,;=-._~"
"""Characters that are not encoded in a path or query, so that signed URLs stay valid."""
_HEADERS = {
    "user-agent": "Mozilla/5.0 (compatible; anthropic-proxy)",
    "accept-encoding": "gzip, deflate",
    "accept-language": "en, *;q=0.5",
    "connection": "close",
}


class _FetchOptions(NamedTuple):
    media_types: Collection[str]
    allowed_domains: Sequence[str]
    blocked_domains: Sequence[str]


class PageFetcher:
    """Client that fetches web pages for a model, from public networks and from `allowed_networks`. `html_converter` is
    the program that converts HTML to Markdown.
    """

    def __init__(
        self,
        *,
        allowed_networks: Sequence[IpNetwork] = (),
        tls: ssl.SSLContext | None = None,
        proxies: Mapping[str, str] | None = None,
        no_proxy_hosts: str = "",
        lookup: NameLookup | None = None,
        timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
        html_converter: SandboxedProgram = HTML_CONVERTER,
        processes: int = MAX_PROCESSES,
    ) -> None:
        self._dialer = GuardedDialer(allowed_networks, lookup)
        self._http = HttpTransport(
            timeout_seconds,
            proxies=proxies,
            no_proxy_hosts=no_proxy_hosts,
            dialer=self._dialer,
            tls=tls,
            keep_alive_seconds=0,
        )
        self._proxies = proxies or {}
        self._no_proxy_hosts = no_proxy_hosts
        self._seconds = timeout_seconds
        self._text_threads = ThreadPoolExecutor(CONVERSIONS.places, thread_name_prefix="pages")
        self._fetches = Turns(FETCHES)
        self._reader = html_converter
        self._conversions = Turns(structs.replace(CONVERSIONS, places=processes))

    async def fetch(
        self,
        origin: ClientOrigin,
        url: str,
        *,
        media_types: Collection[str] = DEFAULT_MEDIA_TYPES,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        max_url_length: int = MAX_URL_CHARACTERS,
    ) -> FetchedPage:
        """Fetch a page for a model.

        Raises `WebFetchFailed`, or `WorkerBusy`. The parameters are described in the interface `WebFetch`.
        """
        if len(url) > max_url_length:
            text = f"the address has {len(url)} characters; it can have {max_url_length} at most"
            raise WebFetchFailed(text, "url_too_long")
        options = _FetchOptions(media_types, allowed_domains, blocked_domains)
        async with self._fetches.hold(origin.payer):
            try:
                async with asyncio.timeout(self._seconds):
                    found = await self._follow(origin, url, options)
            except TimeoutError:
                raise _fetch_error(url, f"gave nothing whole within {self._seconds:g} s") from None
            except UpstreamError as error:
                raise _fetch_error(url, f"cannot be read: {error.message}") from error
            except ValueError as error:  # from an invalid URL, such as "https://[x"
                raise _fetch_error(url, "redirects to an invalid URL, or is one") from error
            return await self._page(origin.payer, found, options)

    async def close(self) -> None:
        await self._http.close()
        self._text_threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, origin: ClientOrigin, url: str, options: _FetchOptions) -> "_Found":
        address = _normalize_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            try:
                allowed = is_url_allowed(address, options.allowed_domains, options.blocked_domains)
            except ValueError as error:
                raise WebFetchFailed(str(error), "invalid_tool_input") from None
            if not allowed:
                host = parse_url(address).origin.host
                raise WebFetchFailed(f"{host} is not among the domains that the request lets pass", "url_not_allowed")
            target = parse_url(address)
            if find_proxy(address, self._proxies, self._no_proxy_hosts) is not None:
                # the HTTP proxy looks up the name itself, so a private address is only found here
                with suppress(OSError):  # a name that is unknown here may be known to the proxy
                    await self._dialer.resolve_public_addresses(target.origin)
            kinds = sorted(options.media_types)
            accepted = [*kinds, "*/*;q=0.1"]
            if "text/*" in kinds:  # prefer Markdown, then HTML
                others = (f"{kind};q=0.8" for kind in kinds if kind != "text/*")
                accepted = ["text/markdown", "text/html", "text/*;q=0.9", *others, "*/*;q=0.1"]
            headers = _HEADERS | {"accept": ", ".join(accepted)}
            request = UpstreamRequest(method="GET", path=target.request_target, headers=headers, body=b"")
            response = await self._http.send(BoundRequest(origin, str(target.origin), request, server=WEB))
            try:
                location = response.headers.get("location") if response.status in _REDIRECTS else None
                if location is None:
                    return await _read(response, address, options)
            finally:
                await response.close()
            address = _normalize_url(urljoin(address, location))
        raise _fetch_error(url, f"redirects more than {MAX_REDIRECTS} times")

    async def _page(self, payer: str, found: "_Found", options: _FetchOptions) -> FetchedPage:
        kind = detect_media_type(found.media_type, found.body)
        if not matches_media_types(kind, options.media_types):
            raise _unwanted(found.url, kind or f"not the {found.media_type} that it says", options)
        if not is_text_media_type(kind):
            return FetchedPage(url=found.url, media_type=kind, body=found.body)
        decode = partial(decode_text, found.body, found.charset, is_html=kind in HTML_MEDIA_TYPES)
        async with self._conversions.hold(payer):
            text = await asyncio.get_running_loop().run_in_executor(self._text_threads, decode)
            if kind not in HTML_MEDIA_TYPES or not text.strip():
                return FetchedPage(url=found.url, media_type=kind, text=text)
            try:
                # one more character, so that the program detects the truncation
                query = {"html": text[: MAX_HTML_CHARACTERS + 1], "url": found.url}
                output = await sandbox.run_sandboxed(self._reader, query)
            except (TimeoutError, SandboxFailed, OSError):
                raise _fetch_error(found.url, "takes too much time or memory to be read as HTML") from None
        page_text = msgspec.json.decode(output, type=PageText | None)
        if page_text is None:
            install = build_extra_install_command("fetch")
            reason = f"is HTML; lxml, which reads it, is not installed. Install it with: {install}"
            raise _fetch_error(found.url, reason, "unavailable")
        return FetchedPage(url=found.url, media_type=kind, title=page_text.title, text=page_text.markdown)


class _Found(NamedTuple):
    url: str
    media_type: str
    charset: str
    body: bytes


def _normalize_url(url: str) -> str:
    """Return a validated and normalized URL, so that all later parsers agree on it."""
    try:
        components = urlsplit(url.strip())
        host = ascii_host(components.hostname or "")
        port = components.port
    except ValueError:
        raise WebFetchFailed(f"{_shortened(url)} is no address of a page", "invalid_tool_input") from None
    if components.scheme == "http":
        port = None if port == _HTTP_PORT else port
    elif components.scheme != "https":
        text = f"{_shortened(url)} does not begin with https://; only such pages are fetched"
        raise WebFetchFailed(text, "url_not_allowed")
    if "@" in components.netloc or len(url) > _MAX_NORMALIZED_URL_LENGTH:
        text = f"{_shortened(host)}: an address with a password, or of such length, is not fetched"
        raise WebFetchFailed(text, "url_not_allowed")
    url_host = f"[{host}]" if ":" in host else host
    path = quote(components.path or "/", safe=_SAFE)
    query = quote(components.query, safe=_SAFE)
    return f"https://{url_host}{f':{port}' if port else ''}{path}{query and '?' + query}"


async def _read(response: HttpResponse, url: str, options: _FetchOptions) -> _Found:
    if response.status == 429:
        raise WebFetchFailed(f"{_shortened(url)} says that it is asked too often", "too_many_requests")
    if not 200 <= response.status < 300:
        raise _fetch_error(url, f"answers with HTTP {response.status}")
    content_type = response.headers.get("content-type", "")
    declared = content_type.partition(";")[0].strip().lower()
    if not may_match_media_types(declared, options.media_types):
        raise _unwanted(url, declared, options)
    encoding = response.headers.get("content-encoding", "")
    if not Decompressor(encoding).supports_encoding:
        raise _unwanted(url, f"packed as {encoding[:40]}", options)
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_PAGE_BYTES:
        raise _too_large(url)
    body = bytearray()
    while data := await response.read():
        body += data
        if len(body) > MAX_PAGE_BYTES:
            raise _too_large(url)
    return _Found(url, declared, find_charset(content_type), bytes(body))


def _fetch_error(url: str, reason: str, code: FetchErrorCode = "url_not_accessible") -> WebFetchFailed:
    return WebFetchFailed(f"{_shortened(url)} {reason}", code)


def _too_large(url: str) -> WebFetchFailed:
    return _fetch_error(url, f"is larger than {MAX_PAGE_BYTES // 1024 // 1024} MiB", "content_too_large")


def _unwanted(url: str, kind: str, options: _FetchOptions) -> WebFetchFailed:
    wanted = ", ".join(sorted(options.media_types))
    return _fetch_error(url, f"is {kind or 'of no type'}; it can be {wanted}", "unsupported_content_type")


def _shortened(url: str) -> str:
    """Return a URL for a message, without its query, which may contain secrets."""
    text = "".join(character if character.isprintable() else "?" for character in url.partition("?")[0])
    return text if len(text) <= MAX_URL_CHARACTERS else text[:MAX_URL_CHARACTERS] + "…"


HTML_MEDIA_TYPES = ("text/html", "application/xhtml+xml")
_MAGIC = (
    (compile_anchored(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (compile_anchored(rb"\xff\xd8\xff"), "image/jpeg"),
    (compile_anchored(rb"GIF8[79]a"), "image/gif"),
    (compile_anchored(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (compile_anchored(rb"%PDF-"), PDF_MEDIA_TYPE),
)
_BY_MAGIC = frozenset(media_type for _, media_type in _MAGIC)
_GENERIC_TYPES = ("", "application/octet-stream", "binary/octet-stream", "application/x-download")
_TEXTS = ("application/xhtml+xml", "application/json", "application/xml")
_META_CHARSET = compile_later(rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
_MAX_CHARSET_OFFSET_BYTES = 1024
"""Bytes at the start of an HTML page that are searched for a charset (HTML Standard, "encoding sniffing algorithm")."""


def may_match_media_types(declared: str, wanted: Collection[str]) -> bool:
    """Generic types are accepted too, because declarations are often wrong."""
    if declared in _GENERIC_TYPES or matches_media_types(declared, wanted):
        return True
    images = _BY_MAGIC.intersection(wanted) - {PDF_MEDIA_TYPE}
    return any(one.partition("/")[0] == declared.partition("/")[0] for one in images)


def matches_media_types(media_type: str, wanted: Collection[str]) -> bool:
    """The wanted type `text/*` stands for all text types."""
    return media_type in wanted or (media_type.startswith("text/") and "text/*" in wanted)


def detect_media_type(declared: str, body: bytes) -> str:
    """Images and PDFs are recognized by their first bytes. Empty: `declared` is one of these types, and wrong."""
    found = next((media_type for magic, media_type in _MAGIC if magic.match(body)), "")
    return found or ("" if declared in _BY_MAGIC else declared)


def is_text_media_type(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type in _TEXTS or media_type.endswith(("+json", "+xml"))


def decode_text(body: bytes, charset: str, *, is_html: bool) -> str:
    """Charset: byte order mark, `charset` of the `Content-Type` header, `<meta>` tag of an HTML page, else what the
    bytes can be.
    """
    marked = find_mark(body)
    if not (marked or charset) and is_html and (found := _META_CHARSET.search(body[:_MAX_CHARSET_OFFSET_BYTES])):
        charset = found[1].decode("ascii", "replace")
    stated = find_codec(charset)
    encoding = marked or (TextEncoding(stated) if stated else find_encoding(body) or UTF_8)
    return encoding.decode(body)
