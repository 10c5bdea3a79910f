"""A field of a table is changed on the page Settings in Chromium: preview, file, result, axe, both themes, phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, expect

from tests.pages.browser import ALL_APPEARANCES, Appearance, open_tab, without_errors
from tests.support.dashboard import ledger_settings
from tests.support.server_process import Proxy, running_proxy

TABLES = '# rules of the company\n[auto_mode]\nmodel = "demo/demo"  # cheap\ndeny = ["pushes to main"]\n'


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@pytest.fixture(scope="module")
def proxy(directory: Path) -> Iterator[Proxy]:
    with running_proxy(directory, ledger_settings(directory, SERVE_DEMO="true")) as running:
        yield running


@ALL_APPEARANCES
def test_the_checking_model_is_changed_in_its_file(
    browser: Browser, proxy: Proxy, directory: Path, appearance: Appearance
) -> None:
    file = directory / "anthropic-proxy.toml"
    file.write_text(TABLES, "utf-8")
    with without_errors(open_tab(browser, proxy.url, appearance)) as page:
        page.goto("/dashboard/settings?q=auto_mode")
        page.get_by_role("link", name="Change model of [auto_mode]").click()
        page.get_by_label("model of [auto_mode]").fill("demo/other")
        page.keyboard.press("Enter")
        region = page.get_by_role("region", name="Change of anthropic-proxy.toml")
        expect(region.locator(".removed")).to_have_text('- model = "demo/demo"')
        expect(region.locator(".added")).to_have_text('+ model = "demo/other"')
        assert not Axe().run(page).response["violations"]
        width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.evaluate(width)
        page.get_by_role("button", name="Write").click()
        expect(page.get_by_role("status")).to_contain_text(
            "Written to anthropic-proxy.toml. The previous file is anthropic-proxy.toml.bak. New requests use the "
            "value."
        )
        assert not Axe().run(page).response["violations"]
    assert file.read_text("utf-8") == TABLES.replace("demo/demo", "demo/other")
