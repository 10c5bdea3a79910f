"""Two proxies below paths of one host with https, in one Chromium, which enforces the rules of `__Host-` cookies."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2 as httpx
import pytest
import trustme
from aiohttp import web
from playwright.sync_api import Browser, Page, expect

from tests.pages.browser import TIMEOUT_MILLISECONDS
from tests.support.dashboard import ledger_settings
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.fakes.server import RequestLog, new_application, serving
from tests.support.server_process import running_proxy
from tests.support.sign_in import list_sign_in_settings
from tests.support.tls import NO_AUTHORITIES

FIRST, SECOND = "/first", "/second"
_HOP_HEADERS = ("connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive", "date", "server")


@contextmanager
def running_ingress(upstreams: dict[str, str]) -> Iterator[str]:
    """Yield the address of a server with TLS that removes the path. `upstreams`: path → address of its proxy."""
    client = httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES)

    async def forward(request: web.Request, raw: bytes, _: RequestLog) -> web.StreamResponse:
        path = next((path for path in upstreams if request.path.startswith(f"{path}/")), "")
        if not path:
            return web.Response(status=404)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_HEADERS]
        url = upstreams[path] + request.path_qs.removeprefix(path)
        async with client.stream(request.method, url, content=raw, headers=headers, timeout=None) as answer:
            response = web.StreamResponse(status=answer.status_code)
            for name, value in answer.headers.multi_items():
                if name.lower() not in _HOP_HEADERS:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for piece in answer.aiter_bytes():
                await response.write(piece)
            await response.write_eof()
        return response

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with serving(new_application(forward, RequestLog()), "localhost", context) as running:
        yield running.url


@dataclass
class Host:
    """Two proxies of one host, and the identity provider of both, which asks nothing."""

    url: str
    provider: FakeProvider

    def sign_in(self, page: Page, path: str, person: str) -> None:
        self.provider.redirect_uri = f"{self.url}{path}/dashboard/oidc/callback"
        self.provider.user = {**self.provider.user, "sub": person, "email": f"{person}@example.com"}
        page.goto(f"{self.url}{path}/dashboard")
        page.get_by_role("link", name="Sign in with 127.0.0.1").click()
        self.expect_person(page, path, person)

    def expect_person(self, page: Page, path: str, person: str) -> None:
        page.goto(f"{self.url}{path}/dashboard")
        expect(page.get_by_text(f"{person}@example.com · member")).to_be_visible()

    def expect_nobody(self, page: Page, path: str) -> None:
        page.goto(f"{self.url}{path}/dashboard")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")

    def sign_out(self, page: Page, path: str) -> None:
        page.goto(f"{self.url}{path}/dashboard")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    upstreams: dict[str, str] = {}
    with running_provider() as provider, running_ingress(upstreams) as url:
        settings = {**list_sign_in_settings(provider), "TRUSTED_PROXIES": "127.0.0.0/8"}
        first, second = (tmp_path_factory.mktemp(path[1:]) for path in (FIRST, SECOND))
        with (
            running_proxy(first, ledger_settings(first, **{**settings, "DASHBOARD_URL": url + FIRST})) as one,
            running_proxy(second, ledger_settings(second, **{**settings, "DASHBOARD_URL": url + SECOND})) as other,
        ):
            upstreams |= {FIRST: one.url, SECOND: other.url}
            yield Host(url, provider)
        assert provider.problems == []


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield a tab that accepts the certificate."""
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1400, "height": 900})
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    yield context.new_page()
    context.close()


def test_sign_out_of_one_proxy_leaves_the_session_of_the_other(host: Host, page: Page) -> None:
    host.sign_in(page, FIRST, "ann")
    host.expect_nobody(page, SECOND)
    host.sign_in(page, SECOND, "bob")
    host.expect_person(page, FIRST, "ann")
    cookies = page.context.cookies()
    assert len({cookie["name"] for cookie in cookies}) == 2
    for cookie in cookies:
        assert cookie["name"].startswith("__Host-anthropic_proxy_session-")
        shown = [cookie[name] for name in ("domain", "path", "secure", "httpOnly", "sameSite")]
        assert shown == ["localhost", "/", True, True, "Strict"]
    host.sign_out(page, FIRST)
    host.expect_person(page, SECOND, "bob")
    host.expect_nobody(page, FIRST)
    host.sign_in(page, FIRST, "cem")
    host.sign_out(page, SECOND)
    host.expect_person(page, FIRST, "cem")
    host.expect_nobody(page, SECOND)


def test_a_sign_in_that_has_begun_at_one_proxy_survives_one_at_the_other(host: Host, page: Page) -> None:
    """The provider answers only after the sign-in at the other proxy."""
    host.provider.redirect_uri = f"{host.url}{FIRST}/dashboard/oidc/callback"
    host.provider.user = {**host.provider.user, "sub": "ann", "email": "ann@example.com"}
    begun = page.context.request.get(f"{host.url}{FIRST}/dashboard/oidc/start", max_redirects=0)
    host.sign_in(page, SECOND, "bob")
    host.provider.redirect_uri = f"{host.url}{FIRST}/dashboard/oidc/callback"
    page.goto(begun.headers["location"])
    expect(page.get_by_text("bob@example.com · member")).to_be_visible()
    assert page.url == f"{host.url}{FIRST}/dashboard"
    host.expect_person(page, SECOND, "bob")


def test_a_page_of_the_host_cannot_set_a_cookie_of_the_proxy_for_the_hosts_beside_it(host: Host, page: Page) -> None:
    host.sign_in(page, FIRST, "ann")
    (name,) = (cookie["name"] for cookie in page.context.cookies())
    before = page.context.cookies()
    for attributes in ("path=/; secure; domain=localhost", "path=/", f"path={FIRST}; secure"):
        page.evaluate("text => { document.cookie = text }", f"{name}=stolen; {attributes}")
    assert page.context.cookies() == before
    host.expect_person(page, FIRST, "ann")
