"""A session as a conversation in Chromium: accessible at each size, texts folded, images shown."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, expect

from tests.pages.browser import ALL_APPEARANCES, Appearance, open_tab, without_errors
from tests.pages.sample_conversation import CHECKED_REQUEST, CHECKED_SESSION, SESSION, TITLE, write_sample_conversation
from tests.support.dashboard import ledger_settings
from tests.support.server_process import Proxy, running_proxy

ADDRESS = f"/dashboard/session?session={SESSION}"
CHECKED = (f"/dashboard/session?session={CHECKED_SESSION}", f"/dashboard/requests/{CHECKED_REQUEST}")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory: Path = tmp_path_factory.mktemp("conversation")
    write_sample_conversation(directory / "ledger.sqlite3")
    with running_proxy(directory, ledger_settings(directory, LEDGER_CONTENT="true")) as running:
        yield running


@pytest.mark.parametrize("address", [ADDRESS, *CHECKED], ids=["conversation", "verdicts", "verdicts of a request"])
@ALL_APPEARANCES
def test_a_conversation_is_accessible_and_fits(
    browser: Browser, proxy: Proxy, appearance: Appearance, address: str
) -> None:
    with without_errors(open_tab(browser, proxy.url, appearance)) as page:
        page.goto(address)
        page.evaluate("document.querySelectorAll('.turns details').forEach((it) => { it.open = true; })")
        violations = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in violations] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_calls_are_folded_with_their_results_and_images_are_shown(browser: Browser, proxy: Proxy) -> None:
    with without_errors(open_tab(browser, proxy.url)) as page:
        page.goto("/dashboard/sessions")
        page.get_by_role("link", name=TITLE).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(TITLE)
        read = page.locator("details.tool", has_text="Read")
        expect(read.locator("pre").first).to_be_hidden()
        read.locator("summary").click()
        expect(read.locator("pre").nth(1)).to_contain_text("def test_discount_of_a_regular_customer")
        expect(page.locator("details.tool", has_text="Bash").locator(".mark")).to_have_class(re.compile("error"))
        expect(
            page.locator(".turn").get_by_text("system text changed: 18.1 k tokens read again, $0.027 more")
        ).to_have_count(1)
        assert page.locator(".picture img").evaluate("(it) => it.decode().then(() => it.naturalWidth)") == 96
        expect(page.locator(".prose code")).to_have_text("discount()")
        page.get_by_role("button", name="Open all").click()
        expect(page.locator("details.fold:not([open])")).to_have_count(0)
        page.get_by_role("button", name="Close all").click()
        expect(page.locator("details.fold[open]")).to_have_count(0)
        page.get_by_role("link", name=re.compile("Sub-agent")).click()
        expect(page.locator(".turn")).to_have_count(1)
        page.locator(".turn-facts a").click()
        expect(page.get_by_role("heading", name="Conversation")).to_be_visible()


def test_the_verdict_about_a_call_leads_to_its_check_and_back(browser: Browser, proxy: Proxy) -> None:
    with without_errors(open_tab(browser, proxy.url)) as page:
        page.goto(CHECKED[0])
        expect(page.locator(".turn .tag.error")).to_have_text(["✕ flagged", "✕ flagged"])
        expect(page.get_by_text("Deletes the folder of uploads, which the user did not name.")).to_be_visible()
        expect(page.locator("img[src=x]")).to_have_count(0)
        page.get_by_role("link", name="check", exact=True).first.click()
        verdict = page.locator("p", has_text="Check of a call of Bash in the reply to")
        expect(verdict).to_contain_text("Deletes the folder of uploads, which the user did not name.")
        page.get_by_role("link", name=CHECKED_REQUEST).click()
        checks = page.get_by_role("region", name="Checks of tool calls")
        expect(checks.locator("tbody tr")).to_have_count(8)
