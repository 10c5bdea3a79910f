"""The pages about virtual keys in Chromium: every action by keyboard, axe, both themes, phone, hostile labels."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from tests.pages.browser import ALL_APPEARANCES, Appearance, open_tab, press, without_errors
from tests.pages.sample_activity import write_sample_activity
from tests.support.dashboard import HOSTILE, ledger_settings
from tests.support.server_process import Proxy, running_proxy

ADMIN = "admin-key-of-this-proxy-1"
BUDGETS = [{"amount": 50, "unit": "usd", "period": "month"}, {"amount": 1000, "unit": "tokens", "period": "day"}]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("keys")
    settings = ledger_settings(directory, VIRTUAL_KEYS="true", ADMIN_API_KEY=ADMIN)
    with running_proxy(directory, settings) as running:
        yield running


@pytest.fixture(scope="module")
def ids(proxy: Proxy) -> list[str]:
    """Create a key with all limits in a team, and one with a hostile label. Return their ids."""
    with proxy.client(headers={"x-api-key": ADMIN}) as client:
        limits = {"models": ["claude-*"], "routes": ["cheap"], "requests_per_minute": 60, "budgets": BUDGETS}
        bodies = [{"name": "ci", "owner": "Lovelace", "team": "build", **limits}, {"name": HOSTILE, "owner": HOSTILE}]
        client.post("/admin/teams/build", json={"concurrency": 4}).raise_for_status()
        return [client.post("/admin/keys", json=body).raise_for_status().json()["id"] for body in bodies]


def open_signed_in(browser: Browser, proxy: Proxy, appearance: Appearance = "light") -> Page:
    page = open_tab(browser, proxy.url, appearance)
    page.goto("/dashboard/keys")
    page.get_by_label("Key").fill(ADMIN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Keys")
    return page


@pytest.fixture
def tab(browser: Browser, proxy: Proxy, ids: list[str]) -> Iterator[Page]:
    expected = "Failed to load resource: the server responded with a status of 400 (Bad Request)"  # an invalid form
    with without_errors(open_signed_in(browser, proxy), expected) as page:
        yield page


@ALL_APPEARANCES
def test_every_page_is_accessible_and_fits(
    browser: Browser, proxy: Proxy, ids: list[str], appearance: Appearance
) -> None:
    page = open_signed_in(browser, proxy, appearance)
    edit = "/dashboard/keys/edit?action="
    paths = [
        "/dashboard/keys",
        "/dashboard/keys?q=none",
        "/dashboard/keys/audit",
        f"{edit}create",
        f"{edit}team&target=build",
    ]
    paths += [f"/dashboard/keys/{id_}" for id_ in ids]
    paths += [f"{edit}{action}&target={ids[1]}" for action in ("change", "rotate", "revoke")]
    findings = {}
    for path in paths:
        page.goto(path)
        findings[path] = _find_violations(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.locator("h1").count() == 1
        assert page.title() != "1"
        assert page.locator("img").count() == 0
    page.get_by_role("button", name="Continue").click()
    findings["confirmation"] = _find_violations(page)
    page.context.close()
    assert findings == {path: [] for path in [*paths, "confirmation"]}


@ALL_APPEARANCES
def test_the_page_about_work_is_accessible_and_fits(browser: Browser, tmp_path: Path, appearance: Appearance) -> None:
    settings = ledger_settings(tmp_path, VIRTUAL_KEYS="true", ADMIN_API_KEY=ADMIN)
    with running_proxy(tmp_path, settings) as proxy:
        page = open_signed_in(browser, proxy, appearance)
        press(page, "g", "a")
        expect(page.get_by_role("heading", level=1)).to_have_text("Activity")
        expect(page.get_by_text("OTEL_METRICS_EXPORTER").first).to_be_visible()
        findings = {"empty": _find_violations(page)}
        widths = [page.evaluate("document.documentElement.scrollWidth - innerWidth")]
        write_sample_activity(tmp_path, settings, {"ci": (HOSTILE, "build"), HOSTILE: ("ann@example.org", HOSTILE)})
        for by in ("owner", "team", "day"):
            page.goto(f"/dashboard/activity?by={by}&range=7d")
            expect(page.get_by_role("heading", level=2, name="Lines per")).to_be_visible()
            findings[by] = _find_violations(page)
            widths.append(page.evaluate("document.documentElement.scrollWidth - innerWidth"))
        page.context.close()
    assert (findings, widths) == ({"empty": [], "owner": [], "team": [], "day": []}, [0] * 4)


def test_every_action_works_by_keyboard_alone(tab: Page) -> None:
    press(tab, "g", "k")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Keys")
    tab.get_by_role("link", name="New key").press("Enter")
    label = tab.get_by_label("Label")
    label.focus()
    tab.keyboard.type("laptop of grace")
    tab.get_by_label("Budgets").focus()
    tab.keyboard.type("5 dollars")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text('The budget is "5 dollars".')
    tab.get_by_label("Budgets").fill("5USD/day")
    tab.keyboard.press("Enter")
    expect(tab.locator(".difference")).to_contain_text("+ budgets: $5.00 per day")
    create = tab.get_by_role("button", name="Create", exact=True)
    expect(create).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("status")).to_contain_text("Key laptop of grace is created.")
    assert _find_violations(tab) == []
    text = tab.locator("code").first.inner_text()
    assert re.fullmatch(r"sk-ap-\w{46}", text)
    expect(tab.get_by_text(f"ANTHROPIC_AUTH_TOKEN={text}")).to_be_visible()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.wait_for_load_state()
    tab.get_by_role("button", name="Copy").first.press("Enter")
    expect(tab.get_by_role("button", name="Copied")).to_be_visible()
    assert tab.evaluate("navigator.clipboard.readText()") == text
    tab.get_by_role("link", name="Open the key").press("Enter")
    assert text not in tab.content()
    for action, button, done in (
        ("Change", "Change", "Key laptop of grace is changed."),
        ("Rotate", "Rotate", "Key laptop of grace has a new secret. The old one is valid until"),
        ("Revoke", "Revoke", "Key laptop of grace is revoked."),
    ):
        tab.get_by_role("link", name=action, exact=True).press("Enter")
        if action == "Change":
            tab.get_by_label("Expiry").fill("30d")
        if action == "Rotate":
            tab.get_by_label("Time for which the old secret stays valid").select_option("1 hour")
        tab.locator("main form").get_by_role("button").first.press("Enter")
        expect(tab.get_by_role("heading", name="Confirm")).to_be_visible()
        focused = tab.get_by_role("button", name=button, exact=True).evaluate("it => it === document.activeElement")
        assert focused == (action != "Revoke")  # a second Enter must not revoke the key
        tab.get_by_role("button", name=button, exact=True).press("Enter")
        expect(tab.get_by_role("status")).to_contain_text(done)
        tab.get_by_role("link", name="Open the key").press("Enter")
    expect(tab.locator("#verdict .tag")).to_have_text("– revoked")
    expect(tab.get_by_role("link", name="Rotate", exact=True)).to_have_count(0)
    expect(tab.locator("#changes tbody tr")).to_have_count(4)


def test_keys_are_found_and_their_requests_are_linked(tab: Page, ids: list[str]) -> None:
    press(tab, "/")
    tab.keyboard.type("lovelace")
    tab.keyboard.press("Enter")
    expect(tab.locator("#rows tr.go")).to_have_count(1)
    expect(tab.locator("#rows")).to_contain_text("$0.00 of $50.00 per month")
    expect(tab.locator("#teams")).to_contain_text("build")
    tab.get_by_role("link", name="Requests of ci: 0").click()
    expect(tab.get_by_role("link", name="Remove the filter Key: ci")).to_be_visible()
    tab.go_back()
    tab.locator("#rows tr.go").click()
    expect(tab).to_have_url(re.compile(f"/dashboard/keys/{ids[0]}$"))
    tab.get_by_role("link", name="all changes").click()
    tab.get_by_role("link", name=HOSTILE).click()
    expect(tab.get_by_role("heading", level=1)).to_have_text(HOSTILE)


def _find_violations(page: Page) -> list[tuple[str, str]]:
    return [(one["id"], one["nodes"][0]["html"]) for one in Axe().run(page).response["violations"]]
