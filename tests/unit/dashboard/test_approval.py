"""A device signs in as somebody only after this person has approved it, behind the identity provider."""

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from anthropic_proxy.app import App
from tests.support.browser import FORM, Browser
from tests.support.fakes.oidc import CLIENT_ID, CLIENT_SECRET, FakeProvider, ask_provider, running_provider
from tests.support.sign_in import DEVICE_GRANT, SECRET, USER_AGENT
from tests.support.virtual_keys import Response, running_app, send

URL = "https://proxy.example.org"
KEY = "admin-0123456789"
PENDING = (400, {"error": "authorization_pending"})
WAITS_NO_LONGER = (
    "The device waits no longer: its code has expired, was used, or was denied. Start the sign-in again there."
)
OTHER_FORM = "The form is not of the last sign-in for this code. Open the link that the device shows again."


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with running_provider() as provider:
        provider.redirect_uri = f"{URL}/dashboard/oidc/callback"
        yield provider


class Company:
    def __init__(self, app: App, provider: FakeProvider, database: Path) -> None:
        self.app = app
        self.provider = provider
        self._database = database

    def new_browser(self, name: str) -> Browser:
        """Return a browser whose user the provider knows, so that it asks nothing."""
        self.provider.user = {"sub": f"id-{name}", "email": f"{name}@example.org", "email_verified": True}
        return Browser({URL: self.app})

    async def begin(self, program: str = USER_AGENT) -> dict[str, Any]:
        """Return the codes of a device that begins to sign in."""
        answer = await send(self.app, "POST", "/oauth/device_authorization", b"", content_type=FORM, user_agent=program)
        assert answer.status == 200
        begun: dict[str, Any] = answer.json
        return begun

    async def poll(self, begun: dict[str, Any]) -> tuple[int, Any]:
        form = urlencode({"grant_type": DEVICE_GRANT, "device_code": begun["device_code"]}).encode()
        answer = await send(self.app, "POST", "/oauth/token", form, content_type=FORM)
        return answer.status, answer.json

    async def return_from_provider(self, browser: Browser, begun: dict[str, Any]) -> Response:
        sent = await browser.post(f"{URL}/device", user_code=begun["user_code"], action="confirm")
        return await browser.follow(URL, sent)

    def change(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self._database)) as connection:
            connection.execute(sql, values)
            connection.commit()

    def find_state(self, begun: dict[str, Any]) -> tuple[str, bool]:
        """Return the state of the code, and whether a refresh token of the provider is stored with it."""
        sql = "SELECT state, provider_token != '' FROM device_codes WHERE user_code = ?"
        with closing(sqlite3.connect(self._database)) as connection:
            ((state, has_token),) = connection.execute(sql, (begun["user_code"],)).fetchall()
        return state, bool(has_token)


@pytest.fixture
async def company(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Company]:
    provider.offers_refresh = True
    settings = {
        "OIDC_ISSUER": provider.issuer,
        "OIDC_CLIENT_ID": CLIENT_ID,
        "OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "DASHBOARD_URL": URL,
        "SIGN_IN_SECRET": SECRET,
        "ADMIN_API_KEY": KEY,
    }
    async with running_app(tmp_path, **settings) as app:
        yield Company(app, provider, tmp_path / "anthropic-proxy" / "ledger.sqlite3")
    assert provider.problems == []


def read_form(page: Response) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))


async def decide(browser: Browser, page: Response, action: str = "approve") -> Response:
    return await browser.post(f"{URL}/device", **{**read_form(page), "action": action})


def read_problem(page: Response) -> tuple[int, str]:
    found = re.search(r'role="alert"><span[^>]*>[^<]*</span> ([^<]*)</p>', page.text)
    assert found is not None, page.text
    return page.status, found[1]


async def test_nothing_is_approved_before_the_person_approves_behind_the_provider(company: Company) -> None:
    begun, browser = await company.begin(), company.new_browser("ann")
    page = await company.return_from_provider(browser, begun)
    assert company.find_state(begun) == ("pending", True)
    assert await company.poll(begun) == PENDING
    shown = re.sub(r"<[^>]+>", "", page.text)
    assert f"Sign in {USER_AGENT}, code {begun['user_code']}, as ann@example.org?" in shown
    assert re.findall(r'name="action" value="(\w+)"', page.text) == ["approve", "deny"]
    policy = page.headers["content-security-policy"].split("; ")
    assert {"frame-ancestors 'none'", "form-action 'self'"} <= {*policy}
    assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "no-referrer")
    done = await decide(browser, page)
    assert (
        f"{USER_AGENT} is signed in as ann@example.org. Return to Claude Code, and confirm the account there."
        in done.text
    )
    assert company.find_state(begun) == ("approved", True)
    again = await decide(browser, page)
    assert read_problem(again) == (404, WAITS_NO_LONGER)


async def test_the_pages_for_a_command_name_the_terminal_instead_of_claude_code(company: Company) -> None:
    begun, browser = await company.begin("anthropic-proxy"), company.new_browser("ann")
    confirmation = await browser.get(f"{URL}/device?user_code={begun['user_code']}")
    approval = await company.return_from_provider(browser, begun)
    for page in (confirmation, approval):
        assert '<h1 id="device-title">Sign in from the terminal</h1>' in page.text
        assert "only if you have just started this sign-in, and the terminal shows the same code." in page.text
    done = await decide(browser, approval)
    assert "anthropic-proxy is signed in as ann@example.org. Return to the terminal.</p>" in done.text
    for page in (confirmation, approval, done):
        assert "Claude Code" not in page.text


@pytest.mark.parametrize("is_approved", [True, False])
async def test_a_person_that_goes_back_or_reloads_the_page_reads_that_the_sign_in_is_completed(
    company: Company, is_approved: bool
) -> None:
    begun, browser = await company.begin(), company.new_browser("ann")
    sent = await browser.post(f"{URL}/device", user_code=begun["user_code"], action="confirm")
    address = ask_provider(sent.headers["location"])
    page = await browser.get(address)
    if is_approved:
        assert (await decide(browser, page)).status == 200
    completed = (403, "This sign-in was completed before, or was canceled. Sign in again.")
    assert read_problem(await browser.get(address)) == completed
    assert company.find_state(begun) == ("approved" if is_approved else "pending", True)


async def test_a_device_of_somebody_else_is_denied(company: Company) -> None:
    """The provider asks a known user nothing, so a link to its page leads to the question of the proxy at once."""
    begun, victim = await company.begin(), company.new_browser("victim")
    page = await company.return_from_provider(victim, begun)
    assert "The sign-in is denied. You can close this page." in (await decide(victim, page, "deny")).text
    assert company.find_state(begun) == ("denied", False)
    assert await company.poll(begun) == (
        400,
        {"error": "access_denied", "error_description": "The sign-in was denied in the browser."},
    )


@pytest.mark.parametrize("path", ["/device", "/dashboard/oidc/callback", "/device/approve"])
async def test_no_address_approves_by_itself(company: Company, path: str) -> None:
    begun, browser = await company.begin(), company.new_browser("ann")
    page = await company.return_from_provider(browser, begun)
    await browser.get(f"{URL}{path}?{urlencode({**read_form(page), 'action': 'approve'})}")
    assert company.find_state(begun) == ("pending", True)


async def test_only_the_form_of_this_browser_code_and_account_approves(company: Company) -> None:
    begun, other_code = await company.begin(), await company.begin()
    attacker = company.new_browser("attacker")
    form_of_attacker = read_form(await company.return_from_provider(attacker, begun))
    victim = company.new_browser("victim")
    form = read_form(await company.return_from_provider(victim, begun))
    await company.return_from_provider(victim, other_code)
    stranger = company.new_browser("stranger")
    sent = [
        (attacker, form),
        (stranger, form),
        (attacker, form_of_attacker),  # another person has signed in for the code since
        (victim, form_of_attacker),
        (victim, {**form, "user_code": other_code["user_code"]}),
        (victim, {**form, "token": ""}),
        (victim, {**form, "token": form["token"][:-1]}),
    ]
    for browser, fields in sent:
        answer = await browser.post(f"{URL}/device", **fields, action="approve")
        assert read_problem(answer) == (403, OTHER_FORM)
    assert [company.find_state(each)[0] for each in (begun, other_code)] == ["pending", "pending"]
    assert (await victim.post(f"{URL}/device", **form, action="approve")).status == 200


async def test_two_devices_are_approved_in_two_tabs_of_a_browser(company: Company) -> None:
    browser, devices = company.new_browser("ann"), [await company.begin() for _ in range(2)]
    pages = [await company.return_from_provider(browser, begun) for begun in devices]
    for page in pages:
        assert (await decide(browser, page)).status == 200
    assert [company.find_state(begun)[0] for begun in devices] == ["approved", "approved"]


async def test_a_person_that_left_the_page_begins_again(company: Company) -> None:
    begun, browser = await company.begin(), company.new_browser("ann")
    await company.return_from_provider(browser, begun)
    page = await company.return_from_provider(browser, begun)
    assert (await decide(browser, page)).status == 200


async def test_a_code_that_expires_in_front_of_the_person_says_so(company: Company) -> None:
    begun, browser = await company.begin(), company.new_browser("ann")
    page = await company.return_from_provider(browser, begun)
    company.change("UPDATE device_codes SET expires_at = 0")
    assert read_problem(await decide(browser, page)) == (404, WAITS_NO_LONGER)


async def test_a_person_that_is_revoked_in_front_of_the_page_is_refused_in_browser_and_terminal(
    company: Company,
) -> None:
    begun, browser = await company.begin(), company.new_browser("ann")
    page = await company.return_from_provider(browser, begun)
    revoked = await send(company.app, "POST", "/admin/keys/ann@example.org/revoke", x_api_key=KEY)
    assert revoked.status == 200
    reason = "The key 'ann@example.org' is revoked, so the person may not sign in."
    assert read_problem(await decide(browser, page)) == (403, reason)
    assert company.find_state(begun) == ("refused", False)
    refused = {"error": "unauthorized_client", "error_description": reason}
    assert await company.poll(begun) == (403, refused)
