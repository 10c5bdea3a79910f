"""Screenshots of all pages in dist/pictures, from a ledger of a day with invented requests; docs/pictures has three."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect

from anthropic_proxy.errors import PACKAGE
from tests.pages.browser import Appearance, find_chromium, open_browser, open_tab
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
    ("activity-light", "/dashboard/activity", "light"),
    ("activity-dark", "/dashboard/activity", "dark"),
    ("activity-phone", "/dashboard/activity", "phone"),
)
"""The same of a proxy with virtual keys."""
DOCUMENTED = ("overview-light", "overview-dark", "conversation-light")
"""Those of the documentation. They are few, because the history of the repository keeps each version."""
_ONE_SCREEN = ("requests", "week", "session", "setting")
"""Beginnings of names of pictures without the lower parts of long pages."""
_CLIPS: dict[str, FloatRect] = {name: {"x": 0, "y": 0, "width": 1400, "height": 900} for name in DOCUMENTED}
"""Name of a picture → its upper part, so that the file is small."""
KEYS = {"OPENAI_API_KEY": "sk-invented-key-of-the-picture-4f2a", "PREFERRED_PROVIDER": "openai"}


def main() -> None:
    """Write the files `dist/pictures/dashboard-….png`, and copy those of the documentation."""
    target = ROOT / "dist/pictures"
    target.mkdir(parents=True, exist_ok=True)
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
                    path=target / f"dashboard-{name}.png",
                    full_page=not name.startswith(_ONE_SCREEN),
                    clip=_CLIPS.get(name),
                )
                page.context.close()
        with running_sample_keys(directory / "keys") as proxy, open_browser(path) as browser:
            for name, address, appearance in KEY_PICTURES:
                page = open_tab(browser, proxy.url, appearance)
                sign_in(page)
                page.goto(address)
                page.screenshot(path=target / f"dashboard-{name}.png", full_page=True)
                page.context.close()
    for name in DOCUMENTED:
        shutil.copy(target / f"dashboard-{name}.png", ROOT / "docs/pictures")


def _install_program(directory: Path) -> str:
    """Return a value of PATH that leads to the program, so that pages name it without a folder."""
    folder = directory / "bin"
    folder.mkdir()
    (folder / PACKAGE).symlink_to(Path(sys.executable).with_name(PACKAGE))
    return os.pathsep.join((str(folder), os.environ["PATH"]))


if __name__ == "__main__":
    main()
