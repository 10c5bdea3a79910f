"""Chromium of the system, controlled by Playwright, on the pages of a running proxy."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.support.waiting import WAIT_SECONDS

Appearance = Literal["light", "dark", "phone", "dark phone"]
ALL_APPEARANCES = pytest.mark.parametrize(
    "appearance",
    [
        "light",
        "dark phone",
        pytest.param("dark", marks=pytest.mark.slow),
        pytest.param("phone", marks=pytest.mark.slow),
    ],
)
"""Both themes and both widths in each run, and their other combinations at night."""
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
TIMEOUT_MILLISECONDS = 30_000
FONTS = {"Inter": "fonts-inter", "DejaVu Sans": "fonts-dejavu-core"}
"""Fonts of the tests of widths, and their Debian packages. A letter of the second one is wider, and so is a field of
the first one."""


def find_chromium() -> str | None:
    """Return the path of Chromium. None: it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS), timeout=TIMEOUT_MILLISECONDS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def without_errors(page: Page, expected: str = "") -> Iterator[Page]:
    """Yield the tab `page` and close it. Fail if a script or the console reported an error other than `expected`."""
    errors: list[str] = []
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" and one.text != expected else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.context.close()
    assert errors == [], errors


def press(page: Page, *keys: str) -> None:
    """Press keys that the script of the page handles. A page shows its heading before its script runs."""
    page.wait_for_load_state()
    for key in keys:
        page.keyboard.press(key)


def has_font(name: str) -> bool:
    command = ["fc-list", name, "family"]
    return shutil.which("fc-list") is not None and bool(subprocess.check_output(command, timeout=WAIT_SECONDS).strip())


def use_font(page: Page, name: str) -> None:
    """Show the pages of a tab with the font `name`, in place of the system font and of Inter."""

    def replace(route: Route) -> None:
        response = route.fetch()
        before, found, after = response.text().partition("Inter, system-ui")
        assert found, "the style sheet names other fonts"
        route.fulfill(response=response, body=f'{before}"{name}"{after}')

    page.route("**/*.css*", replace)


def open_tab(browser: Browser, address: str, appearance: Appearance = "light") -> Page:
    """Return an empty tab. Paths are relative to `address`. `appearance`: color scheme, and the size of a phone."""
    is_phone = appearance.endswith("phone")
    width, height = (390, 844) if is_phone else (1400, 900)
    context = browser.new_context(
        base_url=address,
        viewport={"width": width, "height": height},
        color_scheme="dark" if appearance.startswith("dark") else "light",
        reduced_motion="reduce",
        has_touch=is_phone,
    )
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    return context.new_page()
