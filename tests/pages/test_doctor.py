"""The doctor on the page Providers in Chromium: axe, both themes, phone, keyboard alone, progress, without scripts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from tests.pages.browser import Appearance, open_tab, without_errors
from tests.support.dashboard import ledger_settings
from tests.support.fakes.compatible.groq import GROQ
from tests.support.fakes.gate import Gate, held_provider
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

PAGE = "/dashboard/providers"
APPEARANCES: tuple[Appearance, ...] = ("light", "dark", "phone", "dark phone")
ENDED = re.compile(r"^Doctor ran \d+ \w+ ago, \d+ requests, [\d,]+ tokens$")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Proxy, Gate]]:
    with held_provider() as (server, gate):
        models = {"PREFERRED_PROVIDER": "groq", "BIG_MODEL": "openai/gpt-oss-120b", "SMALL_MODEL": "openai/gpt-oss-20b"}
        address = {"GROQ_BASE_URL": f"{server.url}/openai/v1", "GROQ_API_KEY": GROQ.key}
        with running_proxy(tmp_path, ledger_settings(tmp_path, **models, **address)) as proxy:
            yield proxy, gate


def find_violations(browser: Browser, proxy: Proxy, expected: str) -> dict[str, list[tuple[str, str]]]:
    """Return the findings of axe for the page Providers in each appearance, when it shows the `expected` text."""
    found = {}
    for appearance in APPEARANCES:
        page = open_tab(browser, proxy.url, appearance)
        page.goto(PAGE)
        expect(page.locator("#doctor-line")).to_contain_text(re.compile(expected))
        violations = Axe().run(page).response["violations"]
        found[appearance] = [(one["id"], one["nodes"][0]["html"]) for one in violations]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), appearance
        page.context.close()
    return found


def press_until(page: Page, name: str) -> None:
    """Move the focus by the key Tab to the link or button called `name`, and press Enter."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            with page.expect_navigation():
                page.keyboard.press("Enter")
            return
    raise AssertionError(f"the key Tab does not reach {name}")


def test_progress_and_results_appear_by_themselves_and_are_accessible(
    browser: Browser, held: tuple[Proxy, Gate]
) -> None:
    proxy, gate = held
    clean: dict[str, list[tuple[str, str]]] = {appearance: [] for appearance in APPEARANCES}
    assert find_violations(browser, proxy, "has not run yet") == clean
    with without_errors(open_tab(browser, proxy.url)) as page:
        page.goto(PAGE)
        press_until(page, "Run the doctor")
        assert Axe().run(page).response["violations"] == []
        expect(page.get_by_text("About 24 requests")).to_be_visible()
        press_until(page, "Send the requests")
        wait_for(lambda: gate.held)
        expect(page.locator("#doctor-line")).to_contain_text(re.compile(r"^The doctor is running: \d of about 24"))
        assert find_violations(browser, proxy, "is running") == clean
        page.reload()
        expect(page.get_by_role("progressbar", name="Test requests sent")).to_be_visible()
        gate.opened.set()
        expect(page.locator("#doctor-line span")).to_have_text(ENDED)
        expect(page.get_by_role("group", name="Results of the doctor")).to_contain_text("Structured output")
        expect(page.locator("#matrix")).to_contain_text(re.compile(r"doctor, \d+ \w+ \d+"))
        expect(page.locator("#announce")).to_have_text("The doctor has ended")
        expect(page.get_by_role("progressbar")).to_have_count(0)
    assert find_violations(browser, proxy, "Doctor ran") == clean


@pytest.mark.slow
def test_a_run_is_stopped_by_keyboard(browser: Browser, held: tuple[Proxy, Gate]) -> None:
    proxy, gate = held
    with without_errors(open_tab(browser, proxy.url)) as page:
        page.goto(f"{PAGE}/doctor")
        press_until(page, "Send the requests")
        wait_for(lambda: gate.held)
        press_until(page, "Stop the doctor")
        assert Axe().run(page).response["violations"] == []
        press_until(page, "Stop")
        expect(page.locator("#doctor")).to_contain_text("A user stopped it on this page.")
        assert Axe().run(page).response["violations"] == []


@pytest.mark.slow
def test_without_scripts_the_doctor_runs_too(browser: Browser, held: tuple[Proxy, Gate]) -> None:
    proxy, gate = held
    context = browser.new_context(base_url=proxy.url, java_script_enabled=False)
    page = context.new_page()
    page.goto(PAGE)
    page.get_by_role("link", name="Run the doctor").click()
    page.get_by_role("button", name="Send the requests").click()
    wait_for(lambda: gate.held)
    page.reload()
    expect(page.locator("#doctor-line")).to_contain_text("The doctor is")
    gate.opened.set()
    wait_for(lambda: page.reload() and page.locator("#doctor-line span").inner_text(), ENDED.match)
    context.close()
