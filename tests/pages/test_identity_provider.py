"""Sign-in in Chromium with `oidc-provider`, a certified identity provider: roles, sign-out, and a refusal."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from tests.e2e.npm import install
from tests.pages.browser import open_tab
from tests.support.dashboard import ledger_settings
from tests.support.server_process import Proxy, hold_port, running_proxy
from tests.support.sign_in import SECRET, USER_AGENT, Device
from tests.support.waiting import WAIT_SECONDS

if shutil.which("npm") is None:
    pytest.skip("platform: npm is not installed", allow_module_level=True)
VERSION = "9.13.3"
CLIENT_ID, CLIENT_SECRET = "anthropic-proxy", "secret-of-the-client-0123456789"
SIGN_IN = """
[sign_in]
scopes = ["openid", "email", "groups"]
admins = ["platform"]
domains = ["example.com"]
"""
SCRIPT = Path(__file__).with_name("identity_provider.mjs")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Yield the port of the provider."""
    with hold_port() as held:
        yield held


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Proxy]:
    """Yield a proxy with the provider."""
    directory = tmp_path_factory.mktemp("provider")
    (directory / "anthropic-proxy.toml").write_text(SIGN_IN, "utf-8")
    settings = ledger_settings(
        directory,
        VIRTUAL_KEYS="true",
        OIDC_ISSUER=f"http://127.0.0.1:{port}",
        OIDC_CLIENT_ID=CLIENT_ID,
        OIDC_CLIENT_SECRET=CLIENT_SECRET,
        DASHBOARD_URL="http://127.0.0.1:{port}",
        SIGN_IN_SECRET=SECRET,
    )
    package = install("oidc-provider", VERSION) / "oidc-provider/lib/index.js"
    with running_proxy(directory, settings) as running:
        callback = f"{running.url}/dashboard/oidc/callback"
        command = ["node", str(SCRIPT), str(package), str(port), CLIENT_ID, CLIENT_SECRET, callback]
        provider = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        limit = threading.Timer(WAIT_SECONDS, provider.kill)
        limit.start()
        try:
            assert provider.stdout is not None
            while (line := provider.stdout.readline()) != "ready\n":
                assert line, "the provider has ended"
            limit.cancel()
            yield running
        finally:
            provider.kill()
            provider.communicate(timeout=WAIT_SECONDS)


def sign_in(browser: Browser, proxy: Proxy, email: str) -> Page:
    """Return a tab after the pages of the provider: sign-in with any password, and consent."""
    page = open_tab(browser, proxy.url)
    page.goto("/dashboard/requests?q=x")
    page.get_by_role("link", name="Sign in with 127.0.0.1").click()
    page.get_by_placeholder("Enter any login").fill(email)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()
    return page


def test_a_group_of_the_provider_makes_an_admin_and_sign_out_ends_the_session(browser: Browser, proxy: Proxy) -> None:
    page = sign_in(browser, proxy, "root@example.com")
    expect(page).to_have_url(f"{proxy.url}/dashboard/requests?q=x")
    expect(page.get_by_text("root@example.com · admin")).to_be_visible()
    page.goto("/dashboard/settings")
    expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.go_back()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_other_users_are_members(browser: Browser, proxy: Proxy) -> None:
    page = sign_in(browser, proxy, "ann@example.com")
    expect(page.get_by_text("ann@example.com · member")).to_be_visible()
    expect(page.get_by_role("navigation", name="Pages").get_by_role("link")).to_have_text(
        ["Overview", "Requests", "Sessions", "Costs", "Models", "Activity", "Keys"]
    )


def test_a_user_of_another_domain_is_rejected(browser: Browser, proxy: Proxy) -> None:
    page = sign_in(browser, proxy, "ann@other.example")
    text = "The domain of ann@other.example is not accepted. Ask an administrator of the proxy for access."
    expect(page.get_by_role("alert")).to_contain_text(text)
    assert Axe().run(page).response["violations"] == []


def test_a_person_confirms_the_code_of_claude_code_and_the_provider_refreshes(browser: Browser, proxy: Proxy) -> None:
    device = Device(proxy)
    begun = device.begin()
    page = open_tab(browser, proxy.url)
    page.goto(begun["verification_uri_complete"])
    expect(page.get_by_text(begun["user_code"], exact=True)).to_be_visible()
    assert not Axe().run(page).response["violations"]
    page.get_by_role("button", name="The codes match").click()
    page.get_by_placeholder("Enter any login").fill("root@example.com")
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text(f"Sign in {USER_AGENT}, code {begun['user_code']}, as root@example.com?")).to_be_visible()
    expect(page.get_by_text(begun["user_code"], exact=True)).to_be_visible()
    assert not Axe().run(page).response["violations"]
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status")).to_have_text(
        "claude-code/2.1.332 is signed in as root@example.com. Return to Claude Code, and confirm the account there."
    )
    assert not Axe().run(page).response["violations"]
    device.tokens = device.poll().json()
    assert device.tokens["email"] == "root@example.com"
    for _ in range(2):
        answer = device.refresh()
        assert answer.status_code == 200, answer.text
    page.goto("/device")
    page.get_by_label("Code that the device shows").fill("bcdf ghjk")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("No device waits with this code.")
