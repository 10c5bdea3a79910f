"""Cookies at an address with https: a host beside the proxy, and a proxy below another path, can set none of them."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from anthropic_proxy.app import App
from tests.support.browser import Browser
from tests.support.fakes.oidc import CLIENT_ID, CLIENT_SECRET, FakeProvider, ask_provider, running_provider
from tests.support.virtual_keys import Response, running_app, send

ROOT = "https://proxy.example.org"
FIRST, SECOND = f"{ROOT}/first", f"{ROOT}/second"
SIBLING = "https://sibling.example.org/"
KEY = "admin-0123456789"
NO_ATTEMPT = (
    "This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. Sign in again."
)


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with running_provider() as provider:
        yield provider


class Site:
    """Applications by base URL, each with a database of its own, and one identity provider with one client."""

    def __init__(self, provider: FakeProvider, directory: Path, stack: AsyncExitStack) -> None:
        self.provider = provider
        self.apps: dict[str, App] = {}
        self._directory = directory
        self._stack = stack

    async def add(self, url: str) -> None:
        directory = self._directory / str(len(self.apps))
        directory.mkdir()
        settings = {
            "OIDC_ISSUER": self.provider.issuer,
            "OIDC_CLIENT_ID": CLIENT_ID,
            "OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "DASHBOARD_URL": url,
            "ADMIN_API_KEY": KEY,
        }
        self.apps[url] = await self._stack.enter_async_context(running_app(directory, **settings))

    async def begin(self, browser: Browser, url: str) -> str:
        """Begin a sign-in, and return the address to which the provider sends the browser."""
        self.provider.redirect_uri = f"{url}/dashboard/oidc/callback"
        answer = await browser.get(f"{url}/dashboard/oidc/start")
        return ask_provider(answer.headers["location"])

    async def sign_in(self, browser: Browser, url: str) -> Response:
        answer = await browser.get(await self.begin(browser, url))
        assert answer.status == 200, answer.text
        return answer


@pytest.fixture
async def site(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(provider, tmp_path, stack)


async def is_signed_in(browser: Browser, url: str) -> bool:
    return (await browser.get(f"{url}/dashboard")).status == 200


async def test_each_cookie_is_of_this_host_alone(site: Site) -> None:
    await site.add(ROOT)
    browser = Browser(site.apps)
    address = await site.begin(browser, ROOT)
    assert [*browser.find(address)] == ["__Host-anthropic_proxy_oidc"]
    assert (await browser.get(address)).status == 200
    assert [*browser.find(f"{ROOT}/other")] == ["__Host-anthropic_proxy_session"]
    by_key = Browser(site.apps)
    answer = await by_key.post(f"{ROOT}/dashboard/sign-in", key=KEY)
    assert [header.partition("=")[2].partition("; ")[2] for header in answer.cookies] == [
        "Path=/; Secure; Max-Age=43200; HttpOnly; SameSite=Strict"
    ]
    assert await is_signed_in(browser, ROOT)
    assert await is_signed_in(by_key, ROOT)
    assert browser.refused + by_key.refused == []


async def test_a_host_beside_the_proxy_continues_no_sign_in_of_its_own_in_another_browser(site: Site) -> None:
    await site.add(ROOT)
    attacker, victim = Browser(site.apps), Browser(site.apps)
    address = await site.begin(attacker, ROOT)
    (value,) = (one.value for one in attacker.find(address).values())
    for name in ("__Host-anthropic_proxy_oidc", "anthropic_proxy_oidc"):
        for path in ("/", "/dashboard/oidc", "/dashboard/oidc/callback"):
            victim.receive(SIBLING, f"{name}={value}; Domain=example.org; Path={path}; Secure")
    assert len(victim.refused) == 3
    refused = await victim.get(address)
    assert (refused.status, NO_ATTEMPT in refused.text) == (403, True)


async def test_a_host_beside_the_proxy_signs_nobody_in_as_another_user(site: Site) -> None:
    await site.add(ROOT)
    attacker, victim = Browser(site.apps), Browser(site.apps)
    await site.sign_in(attacker, ROOT)
    (value,) = (one.value for one in attacker.find(f"{ROOT}/dashboard").values())
    for name in ("__Host-anthropic_proxy_session", "anthropic_proxy_session"):
        victim.receive(SIBLING, f"{name}={value}; Domain=example.org; Path=/; Secure")
    assert not await is_signed_in(victim, ROOT)
    await site.sign_in(victim, ROOT)
    assert await is_signed_in(victim, ROOT)


@pytest.mark.parametrize("space", ["\x85", "\xa0", "\x1c", "\x0b"], ids=ascii)
async def test_a_name_behind_a_space_of_another_alphabet_is_another_name(site: Site, space: str) -> None:
    """For a browser, it does not begin with `__Host-`, so a host beside the proxy can set it."""
    await site.add(ROOT)
    attacker = Browser(site.apps)
    await site.sign_in(attacker, ROOT)
    ((name, cookie),) = attacker.find(f"{ROOT}/dashboard").items()
    for before, status in ((" \t", 200), (space, 303)):
        header = f"other=1;{before}{name}={cookie.value}"
        answer = await send(site.apps[ROOT], "GET", "/dashboard", cookie=header, host="proxy.example.org")
        assert answer.status == status


async def test_proxies_below_paths_of_one_host_have_cookies_of_their_own(site: Site) -> None:
    await site.add(FIRST)
    await site.add(SECOND)
    browser = Browser(site.apps)
    for url in (FIRST, SECOND):
        await site.sign_in(browser, url)
    assert browser.refused == []
    assert len(browser.find(f"{ROOT}/")) == 2
    assert [await is_signed_in(browser, url) for url in (FIRST, SECOND)] == [True, True]
    page = await browser.get(f"{FIRST}/dashboard")
    token = re.search(r'name="token" value="([^"]+)"', page.text)
    assert token is not None
    assert (await browser.post(f"{FIRST}/dashboard/sign-out", token=token[1])).status == 303
    assert [await is_signed_in(browser, url) for url in (FIRST, SECOND)] == [False, True]


async def test_a_proxy_below_another_path_continues_no_sign_in_of_its_own(site: Site) -> None:
    """Both are registered as one client of the identity provider, and any path of a host can set each of its names."""
    await site.add(FIRST)
    await site.add(SECOND)
    browser = Browser(site.apps)
    address = await site.begin(browser, FIRST)
    ((first, begun),) = browser.find(address).items()
    await site.begin(browser, SECOND)
    (second,) = {*browser.find(address)} - {first}
    browser.receive(SECOND, f"{second}={begun.value}; Path=/; Secure")
    refused = await browser.get(address.replace(FIRST, SECOND))
    assert (refused.status, NO_ATTEMPT in refused.text) == (403, True)


async def test_a_form_without_a_sign_in_has_a_token_of_this_host_alone(tmp_path: Path) -> None:
    url = "https://localhost"  # only a browser on this machine needs no sign-in
    async with running_app(tmp_path, VIRTUAL_KEYS="false", DASHBOARD_URL=url) as app:
        browser, known = Browser({url: app}), "x" * 43
        browser.receive(f"{url}/other", f"anthropic_proxy_form={known}; Path=/dashboard; Secure")
        form = {"name": "BIG_MODEL", "value": "demo/demo", "action": "preview"}
        refused = await browser.post(f"{url}/dashboard/settings/edit", token=known, **form)
        assert (refused.status, "The form is not of this session. Open /dashboard again." in refused.text) == (
            403,
            True,
        )
        page = await browser.get(f"{url}/dashboard/settings/edit?name=BIG_MODEL")
        assert [header.partition("=")[0] for header in page.cookies] == ["__Host-anthropic_proxy_form"]
        token = re.search(r'name="token" value="([^"]+)"', page.text)
        assert token is not None
        sent = await browser.post(f"{url}/dashboard/settings/edit", token=token[1], **form)
        assert "The form is not of this session." not in sent.text
