"""Pages and links that the proxy fetches itself, over real sockets and real TLS."""

import ast
import asyncio
import gzip
import socket
import ssl
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import structs

from anthropic_proxy.engine.messages.models.structs import IMAGE_TYPES
from anthropic_proxy.engine.upstream.contract import DEFAULT_MEDIA_TYPES
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.http.dialer import is_public_address
from anthropic_proxy.engine.upstream.web_fetch import (
    HTML_CONVERTER,
    MAX_PAGE_BYTES,
    GuardedDialer,
    PageFetcher,
)
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import WebFetchFailed
from tests.support.bound_requests import CLIENT, bound
from tests.support.golden_texts import Check
from tests.support.waiting import WAIT_SECONDS, wait_for_async

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
HTML = "<title>Cheese</title><h1>Brie</h1><p>Soft, <a href='/camembert'>like this</a>."
STATIC = {
    "html": (HTML.encode(), "text/html; charset=utf-8"),
    "plain": ("naïve".encode("latin-1"), "text/plain; charset=iso-8859-1"),
    "russian": ('<meta charset="windows-1251"><title>Сыр</title><p>Бри'.encode("windows-1251"), "text/html"),
    "punycode": (b"<meta charset=punycode><p>x-abc", "text/html"),
    "json": (b'{"brie": 1}', "application/json"),
    "pdf": (PDF, "application/pdf"),
    "png": (PNG, "application/octet-stream"),
    "misnamed": (PNG, "image/jpeg"),
    "lie": (HTML.encode(), "image/png"),
    "film": (b"...", "video/mp4"),
}
"""Name of a page → body and content type."""
AUTHORITY = trustme.CA()
HERE = [ip_network("127.0.0.2/32")]
"""Networks that the tests let pass: the server listens there too, and 127.0.0.1 stays closed."""


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


class Site:
    """A site with a page for every case. It keeps the requests that it received."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.contexts: list[ssl.SSLContext] = []
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.2") -> str:
        return f"https://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        name = request.path.split("/")[1]
        if name in STATIC:
            body, kind = STATIC[name]
            return web.Response(body=body, headers={"content-type": kind})
        return await getattr(self, name)(request)

    async def packed(self, request: web.Request) -> web.StreamResponse:
        encoding_name = request.path.split("/")[2]
        packers: dict[str, Callable[[bytes], bytes]] = {
            "gzip": gzip.compress,
            "deflate": zlib.compress,
            "raw": lambda data: zlib.compress(data, wbits=-15),
            "twice": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]) + bytes(8),
            "torn": lambda data: b"\x1f\x8b" + bytes(40),
            "br": lambda data: data,
        }
        encoding = {"raw": "deflate", "twice": "gzip", "torn": "gzip"}.get(encoding_name, encoding_name)
        body = packers[encoding_name](HTML.encode())
        return web.Response(body=body, content_type="text/html", headers={"content-encoding": encoding})

    async def hurts(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<b></i>" * 200_000, content_type="text/html")

    async def bomb(self, request: web.Request) -> web.StreamResponse:
        body = gzip.compress(bytes(MAX_PAGE_BYTES + 1))
        return web.Response(body=body, content_type="text/plain", headers={"content-encoding": "gzip"})

    async def large(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/plain", "content-length": str(MAX_PAGE_BYTES + 1)})
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 20))
            await asyncio.sleep(0)  # a write into a connection that is being closed does not wait

    async def unresponsive(self, request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def drips(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b".")
            await asyncio.sleep(0.01)

    async def status(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.path.split("/")[2]), text="no", content_type="text/html")

    async def hops(self, request: web.Request) -> web.StreamResponse:
        left = int(request.path.split("/")[2])
        raise web.HTTPFound(f"/hops/{left - 1}" if left else "/html")

    async def to(self, request: web.Request) -> web.StreamResponse:
        response = web.Response(status=int(request.query.get("status", "302")))
        response.headers["location"] = request.query["place"]
        response.set_cookie("session", "1")
        return response


@asynccontextmanager
async def serving_site() -> AsyncIterator[Site]:
    site = Site()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", site.answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = ("127.0.0.1", "127.0.0.2", "localhost", "pages.test", "www.pages.test", "::1")
    AUTHORITY.issue_cert(*names).configure_cert(context)
    site.contexts.append(context)
    server = TestServer(application, host="0.0.0.0", scheme="https")
    await server.start_server(ssl=context, shutdown_timeout=0.1)
    site.port = server.port or 0
    yield site
    await server.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving_site() as site:
        yield site


@asynccontextmanager
async def fetching(**options: Any) -> AsyncIterator[PageFetcher]:
    pages = PageFetcher(**{"allowed_networks": HERE, "tls": _trusting(), **options})
    try:
        yield pages
    finally:
        await pages.close()


@pytest.fixture
async def pages() -> AsyncIterator[PageFetcher]:
    async with fetching() as pages:
        yield pages


async def refusal(pages: PageFetcher, url: str, **options: Any) -> WebFetchFailed:
    with pytest.raises(WebFetchFailed) as caught:
        await pages.fetch(CLIENT, url, **options)
    return caught.value


# What comes back.


def test_golden_pages(golden: Check) -> None:
    """`golden_texts/pages`: an address or path of the site, and `image` if images are requested."""

    async def fetch(given: str) -> str:
        async with serving_site() as site, fetching() as pages:
            address, *kinds = ast.literal_eval(f"({given},)")
            url = site.url(address) if address.startswith("/") else address
            media_types = frozenset(IMAGE_TYPES) if kinds else DEFAULT_MEDIA_TYPES
            try:
                page = await pages.fetch(CLIENT, url, media_types=media_types)
            except WebFetchFailed as error:
                shown = f"{error.error_code}: {error.message}"
            else:
                content = page.body[:8] or page.text
                shown = f"{page.media_type} {page.title!r} {content!r} from {page.url}, {len(site.asked)} requests"
            return shown.replace(f":{site.port}", ":PORT")

    golden("pages", lambda given: asyncio.run(fetch(given)))


async def test_a_request_identifies_no_client(site: Site, pages: PageFetcher) -> None:
    await pages.fetch(CLIENT, site.url("/to?place=/html"))
    assert [request.path for request in site.asked] == ["/to", "/html"]
    for request in site.asked:
        names = {name.lower() for name in request.headers}
        assert names == {"host", "user-agent", "accept", "accept-encoding", "accept-language", "connection"}
        assert "anthropic-proxy" in request.headers["user-agent"]


async def test_a_page_in_several_forms_is_asked_for_as_people_read_it(site: Site, pages: PageFetcher) -> None:
    await pages.fetch(CLIENT, site.url("/html"))
    first, *_, last = site.asked[0].headers["accept"].split(", ")
    assert (first, last) == ("text/markdown", "*/*;q=0.1")
    await pages.fetch(CLIENT, site.url("/png"), media_types=frozenset(IMAGE_TYPES))
    assert "text" not in site.asked[1].headers["accept"]


async def test_a_signed_address_arrives_as_it_was_signed(site: Site, pages: PageFetcher) -> None:
    await pages.fetch(CLIENT, site.url("/html/a%2Fb+c?X=%2B%3A%7E/~&sig=a+b=="))
    assert site.asked[0].raw_path == "/html/a%2Fb+c?X=%2B%3A%7E/~&sig=a+b=="


# What is refused.


@pytest.mark.parametrize("path", ["/unresponsive", "/drips", "/endless?never"])
async def test_all_of_a_page_has_one_time_limit(site: Site, path: str) -> None:
    async with fetching(timeout_seconds=0.2 if "never" not in path else 0.0) as pages:
        failure = await refusal(pages, site.url(path))
    assert failure.error_code == "url_not_accessible"
    assert "within" in failure.message


async def test_an_address_of_http_is_asked_for_as_https(site: Site, pages: PageFetcher) -> None:
    plain = site.url("/html").replace("https://", "http://")
    assert (await pages.fetch(CLIENT, plain)).url == site.url("/html")
    assert (await pages.fetch(CLIENT, site.url(f"/to?place={plain}"))).url == site.url("/html")
    assert {request.scheme for request in site.asked} == {"https"}


async def test_the_usual_port_of_http_is_not_kept() -> None:
    looked_up: list[Any] = []

    def lookup(host: str, port: Any, *_: Any, **__: Any) -> Any:
        looked_up.append(port)
        raise OSError

    pages = PageFetcher(lookup=lookup)
    await refusal(pages, "http://cheese.test:80/")
    await pages.close()
    assert looked_up == [443]


async def test_a_page_made_to_hurt_is_given_up(site: Site) -> None:
    async with fetching(html_converter=structs.replace(HTML_CONVERTER, cpu_seconds=1)) as pages:
        failure = await refusal(pages, site.url("/hurts"))
    assert (failure.error_code, "HTML" in failure.message) == ("url_not_accessible", True)


async def test_without_the_extra_only_html_is_refused(site: Site) -> None:
    async with fetching(html_converter=structs.replace(HTML_CONVERTER, imports_packages=False)) as pages:
        failure = await refusal(pages, site.url("/html"))
        assert (await pages.fetch(CLIENT, site.url("/plain"))).text == "naïve"
        assert (await pages.fetch(CLIENT, site.url("/pdf"))).body == PDF
    assert (failure.error_code, failure.message) == (
        "unavailable",
        f"{site.url('/html')} is HTML; lxml, which reads it, is not installed. "
        "Install it with: anthropic-proxy add fetch",
    )


async def test_an_unknown_certificate_is_refused(site: Site) -> None:
    async with fetching(tls=None) as pages:
        assert (await refusal(pages, site.url("/html"))).error_code == "url_not_accessible"
    assert site.asked == []


async def test_domains_hold_for_redirections_too(site: Site) -> None:
    pages = PageFetcher(
        allowed_networks=HERE,
        tls=_trusting(),
        lookup=telling({"pages.test": "127.0.0.2", "www.pages.test": "127.0.0.2"}),
    )
    url = site.url("/html", "www.pages.test")
    assert (await pages.fetch(CLIENT, url, allowed_domains=["pages.test"])).title == "Cheese"
    assert (await refusal(pages, url, blocked_domains=["pages.test"])).error_code == "url_not_allowed"
    moved = site.url(f"/to?place={site.url('/html', '127.0.0.2')}", "pages.test")
    assert (await refusal(pages, moved, allowed_domains=["pages.test"])).error_code == "url_not_allowed"
    assert (await refusal(pages, url, allowed_domains=["https://x"])).error_code == "invalid_tool_input"
    await pages.close()


_CONVERTER = """\
import time
def main(query):
    while "Cheese" not in query["html"]:
        time.sleep(60)
    return ["quick", "text"]
"""


async def test_pages_of_one_payer_that_are_slow_leave_a_process_for_others(site: Site, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(_CONVERTER, "utf-8")
    converter = structs.replace(HTML_CONVERTER, path=str(tmp_path / "endless.py"))
    async with fetching(html_converter=converter) as pages:
        ann, bob = (structs.replace(CLIENT, payer=name) for name in ("key ann", "key bob"))
        slow = [asyncio.ensure_future(pages.fetch(ann, site.url("/hurts"))) for _ in range(4)]
        await wait_for_async(lambda: len(site.asked), lambda count: count == 4)
        page = await asyncio.wait_for(pages.fetch(bob, site.url("/html")), WAIT_SECONDS)
        assert (page.title, page.text) == ("quick", "text")
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


# Addresses that are not public.


CLOSED = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254
169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1
203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1
100::1 2001::1 2001:0:7f00:1:: 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1
fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
localhost 1 0x7f000001 127.1 010.0.0.1
"""
OPEN = "1.1.1.1 8.8.8.8 172.32.0.1 100.128.0.1 ::ffff:8.8.8.8 64:ff9b::808:808 2606:4700::1111 2a00:1450::1"


@pytest.mark.parametrize("address", CLOSED.split())
def test_an_address_that_is_not_public_is_closed(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", OPEN.split())
def test_a_public_address_is_open(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "LOCALHOST."],
)
async def test_this_machine_is_closed_whatever_it_is_called(site: Site, host: str) -> None:
    async with fetching(allowed_networks=()) as pages:
        failure = await refusal(pages, site.url("/html", host))
    assert failure.error_code in ("url_not_allowed", "url_not_accessible", "invalid_tool_input")
    if host in ("127.0.0.1", "localhost", "[::1]"):
        assert failure.error_code == "url_not_allowed"
    assert site.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "pages.test"])
async def test_a_redirection_to_what_is_closed_is_refused(site: Site, host: str) -> None:
    async with fetching(lookup=telling({"localhost": "127.0.0.1", "pages.test": "127.0.0.1"})) as pages:
        failure = await refusal(pages, site.url(f"/to?place={site.url('/html', host)}"))
    assert failure.error_code == "url_not_allowed"
    assert len(site.asked) == 1


def telling(names: dict[str, str], *, then: str = "") -> Any:
    """Return a lookup for these names. `then`: address that the second and later lookups return."""
    asked: list[str] = []

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = then if then and len(asked) > 1 else names[host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (part, port)) for part in address.split()]

    lookup.asked = asked  # type: ignore[attr-defined]
    return lookup


async def test_a_name_is_looked_up_once_so_that_it_cannot_change_its_mind(site: Site) -> None:
    lookup = telling({"pages.test": "127.0.0.2"}, then="127.0.0.1")
    async with fetching(lookup=lookup) as pages:
        assert (await pages.fetch(CLIENT, site.url("/html", "pages.test"))).title == "Cheese"
        assert lookup.asked == ["pages.test"]
        assert (await refusal(pages, site.url("/html", "pages.test"))).error_code == "url_not_allowed"


async def test_one_closed_address_closes_the_whole_name(site: Site) -> None:
    async with fetching(lookup=telling({"pages.test": "127.0.0.2 127.0.0.1"})) as pages:
        assert (await refusal(pages, site.url("/html", "pages.test"))).error_code == "url_not_allowed"
    assert site.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_client_itself_reaches_no_closed_address(site: Site, host: str) -> None:
    dialer = GuardedDialer(HERE)
    upstream = HttpTransport(5, dialer=dialer, tls=_trusting())
    request = UpstreamRequest(method="GET", path="/html", body=b"")
    response = await upstream.send(bound(site.url("", "127.0.0.2"), request))
    assert response.status == 200
    await response.close()
    with pytest.raises(WebFetchFailed) as caught:
        await upstream.send(bound(site.url("", host), request))
    assert caught.value.message == f"{host} is not a public address; pages are fetched from public ones only"
    assert len(site.asked) == 1
    await upstream.close()


@pytest.mark.skipif(sys.platform != "linux", reason="platform: only Linux connects to 0.0.0.0")
async def test_the_peer_of_the_connection_is_judged_before_a_byte_is_sent() -> None:
    """Linux connects 0.0.0.0 to 127.0.0.1: the peer has another address than the one that passed."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"https://pages.test:{server.sockets[0].getsockname()[1]}/html"
    pages = PageFetcher(
        allowed_networks=[ip_network("0.0.0.0/32")], tls=_trusting(), lookup=telling({"pages.test": "0.0.0.0"})
    )
    assert (await refusal(pages, url)).error_code == "url_not_allowed"
    await ended.wait()
    assert received == [b""]
    await pages.close()
    server.close()
    await server.wait_closed()


async def test_pages_wait_for_their_turn(site: Site, pages: PageFetcher) -> None:
    found = await asyncio.gather(*(pages.fetch(CLIENT, site.url(f"/html/{number}")) for number in range(24)))
    assert {page.title for page in found} == {"Cheese"}


# A proxy on the way.


async def test_a_page_comes_through_a_proxy_of_the_private_network(site: Site) -> None:
    asked: list[bytes] = []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        site_reader, site_writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, site_writer), pump(site_reader, writer))

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    proxies = {"https": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
    pages = PageFetcher(proxies=proxies, tls=_trusting(), lookup=telling({"pages.test": "8.8.8.8"}))
    page = await pages.fetch(CLIENT, site.url("/to?place=/html", "pages.test"))
    assert (page.url, page.title) == (site.url("/html", "pages.test"), "Cheese")
    assert asked == [f"CONNECT pages.test:{site.port} HTTP/1.1".encode()] * 2
    await pages.close()
    server.close()


async def test_behind_a_proxy_names_and_addresses_are_judged_as_far_as_they_are_known_here() -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        if host == "unknown.test":
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1" if host == "inside.test" else "8.8.8.8", port))]

    pages = PageFetcher(proxies={"https": f"http://127.0.0.1:{port}"}, lookup=lookup)
    assert (await refusal(pages, "https://inside.test/")).error_code == "url_not_allowed"
    assert (await refusal(pages, "https://10.0.0.1/")).error_code == "url_not_allowed"
    assert asked == []
    assert (await refusal(pages, "https://outside.test/")).error_code == "url_not_accessible"
    assert (await refusal(pages, "https://unknown.test/")).error_code == "url_not_accessible"
    assert asked == [b"CONNECT outside.test:443 HTTP/1.1\r\n", b"CONNECT unknown.test:443 HTTP/1.1\r\n"]
    await pages.close()
    server.close()
    await server.wait_closed()
