"""A browser for the tests of this folder, which are skipped if Chromium is not installed."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.pages.browser import TIMEOUT_MILLISECONDS, find_chromium, open_browser

expect.set_options(timeout=TIMEOUT_MILLISECONDS)  # 5 s by default, which a page on a busy machine exceeds


@pytest.fixture(scope="module", autouse=True)
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("platform: Chromium is not installed")
    with open_browser(chromium) as opened:
        yield opened
