"""Screenshots of the dashboard for the documentation, from a ledger of a day with invented requests."""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect, Locator, Page

from anthropic_proxy.errors import PACKAGE
from tests.pages.browser import Appearance, find_chromium, open_browser, open_tab
from tests.pages.click_paths import PATHS, ClickPath, follow
from tests.pages.sample_conversation import SESSION, write_sample_conversation
from tests.pages.sample_day import write_sample_day
from tests.pages.sample_doctor import store_sample_run
from tests.pages.sample_keys import running_sample_keys, sign_in
from tests.support.dashboard import ledger_settings
from tests.support.paths import ROOT
from tests.support.server_process import running_proxy

PICTURES: tuple[tuple[str, str, Appearance], ...] = (
    ("overview-light", "/dashboard", "light"),
    ("overview-dark", "/dashboard", "dark"),
    ("overview-phone", "/dashboard", "phone"),
    ("requests-light", "/dashboard/requests", "light"),
    ("requests-dark", "/dashboard/requests", "dark"),
    ("requests-phone", "/dashboard/requests", "phone"),
    ("request-light", "/dashboard/requests?outcome=retried", "light"),
    ("request-dark", "/dashboard/requests?outcome=retried", "dark"),
    ("request-phone", "/dashboard/requests?outcome=retried", "phone"),
    ("week-light", "/dashboard?range=7d", "light"),
    ("costs-light", "/dashboard/costs", "light"),
    ("costs-dark", "/dashboard/costs", "dark"),
    ("costs-phone", "/dashboard/costs", "phone"),
    ("models-light", "/dashboard/models", "light"),
    ("models-dark", "/dashboard/models", "dark"),
    ("models-phone", "/dashboard/models", "phone"),
    ("providers-light", "/dashboard/providers", "light"),
    ("providers-dark", "/dashboard/providers", "dark"),
    ("providers-phone", "/dashboard/providers", "phone"),
    ("sessions-light", "/dashboard/sessions", "light"),
    ("sessions-dark", "/dashboard/sessions", "dark"),
    ("sessions-phone", "/dashboard/sessions", "phone"),
    ("session-light", "/dashboard/sessions", "light"),
    ("conversation-light", f"/dashboard/session?session={SESSION}", "light"),
    ("settings-light", "/dashboard/settings", "light"),
    ("settings-dark", "/dashboard/settings", "dark"),
    ("settings-phone", "/dashboard/settings", "phone"),
    ("setting-light", "/dashboard/settings/edit?name=BIG_MODEL", "light"),
)
"""Name of the file, path and appearance. For one request or session, the first row of the list is opened."""
KEY_PICTURES: tuple[tuple[str, str, Appearance], ...] = (
    ("keys-light", "/dashboard/keys", "light"),
    ("keys-dark", "/dashboard/keys", "dark"),
    ("keys-phone", "/dashboard/keys", "phone"),
)
"""The same of a proxy with virtual keys."""
_ONE_SCREEN = ("requests", "week", "session", "setting")
"""Beginnings of names of pictures without the lower parts of long pages."""
_CLIPS: dict[str, FloatRect] = {
    name: {"x": 0, "y": 0, "width": 1400, "height": 1440} for name in ("overview-light", "overview-dark")
}
"""Name of a picture → its upper part, so that the file has at most 300 kB."""
KEYS = {"OPENAI_API_KEY": "sk-invented-key-of-the-picture-4f2a", "PREFERRED_PROVIDER": "openai"}


def main() -> None:
    """Write the files `docs/pictures/dashboard-….png`."""
    path = find_chromium()
    if path is None:
        sys.exit("Chromium is not installed. Install it, for example: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        settings = ledger_settings(directory, **KEYS, PATH=_install_program(directory))
        write_sample_day(directory / "ledger.sqlite3")
        write_sample_conversation(directory / "ledger.sqlite3")
        store_sample_run(directory, settings)
        with running_proxy(directory, settings) as proxy, open_browser(path) as browser:
            for name, address, appearance in PICTURES:
                page = open_tab(browser, proxy.url, appearance)
                page.goto(address)
                if name.startswith(("request-", "session-")):
                    page.locator("tr.go a").nth(int(name.startswith("session"))).click()  # after the conversation
                    page.wait_for_load_state()
                if name.startswith("setting-"):
                    page.get_by_label("BIG_MODEL").fill("gemini/gemini-2.5-pro")
                    page.get_by_role("button", name="Show the change").click()
                    page.wait_for_load_state()
                page.screenshot(
                    path=ROOT / f"docs/pictures/dashboard-{name}.png",
                    full_page=not name.startswith(_ONE_SCREEN),
                    clip=_CLIPS.get(name),
                )
                page.context.close()
            for question in PATHS:
                _record(open_tab(browser, proxy.url), question)
        with running_sample_keys(directory / "keys") as proxy, open_browser(path) as browser:
            for name, address, appearance in KEY_PICTURES:
                page = open_tab(browser, proxy.url, appearance)
                sign_in(page)
                page.goto(address)
                page.screenshot(path=ROOT / f"docs/pictures/dashboard-{name}.png", full_page=True)
                page.context.close()


def _install_program(directory: Path) -> str:
    """Return a value of PATH that leads to the program, so that pages name it without a folder."""
    folder = directory / "bin"
    folder.mkdir()
    (folder / PACKAGE).symlink_to(Path(sys.executable).with_name(PACKAGE))
    return os.pathsep.join((str(folder), os.environ["PATH"]))


def _record(page: Page, path: ClickPath) -> None:
    """Write one picture for each page of a path. The element that is clicked next has a frame."""
    page.set_viewport_size({"width": 1200, "height": 700})

    def show(number: int, target: Locator | None) -> None:
        if target is not None:
            target.evaluate("(it) => { it.style.outline = '3px solid #d11'; it.style.outlineOffset = '-2px'; }")
        page.screenshot(path=ROOT / f"docs/pictures/question-{path.name}-{number}.png")

    follow(page, path, show)
    page.context.close()


if __name__ == "__main__":
    main()
