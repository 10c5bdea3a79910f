"""Time to first paint and size of every page of the dashboard, measured by the browser.

`python3 scripts/ci.py pages --paint [REQUESTS]` prints the table for a ledger of that size (default: 1,000,000).
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from playwright.sync_api import Page

from anthropic_proxy.console.dashboard.permissions import NAVIGATION
from tests.pages.browser import find_chromium, open_browser, open_tab
from tests.pages.sample_day import write_sample_day
from tests.support.dashboard import ledger_settings
from tests.support.server_process import running_proxy

MAX_COMPRESSED_BYTES = 60_000
PATHS = (
    *(path for _, path, _ in NAVIGATION),
    "/dashboard?range=yesterday",
    *(
        f"{path}?range={name}"
        for name in ("7d", "30d", "90d")
        for _, path, _ in NAVIGATION
        if path != "/dashboard/settings"
    ),
)
MAX_SERVER_MS = 300
"""Time above which the table marks a page with `!`. It depends on the machine, so no test requires it."""
DEFAULT_REQUESTS, DAYS = 1_000_000, 90
_ROUNDS = 3
_READ = """() => {
  const page = performance.getEntriesByType("navigation")[0];
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return [page.responseEnd - page.requestStart, paint ? paint.startTime : 0, page.encodedBodySize];
}"""

_WAIT = """() => new Promise((done) => {
  new PerformanceObserver((list, self) => {
    if (list.getEntriesByName("first-contentful-paint").length) { self.disconnect(); done(); }
  }).observe({ type: "paint", buffered: true });
  setTimeout(done, 30000);
})"""
"""Waits for the first contentful paint, at most 30 s."""


class PageFigures(Struct, frozen=True):
    """Figures of one page: the lowest of several loads."""

    path: str
    server_ms: float
    """Time from the request to the last byte of the reply. A slow page sends its head earlier."""
    first_paint_ms: float
    """Time from the start of the navigation to the first contentful paint."""
    compressed_bytes: int


def measure_pages(page: Page) -> list[PageFigures]:
    """Return the figures of all pages. The first load of each page is not counted: it imports and fills caches."""
    found = []
    for path in PATHS:
        page.goto(path)
        loads = []
        for _ in range(_ROUNDS):
            page.goto(path, wait_until="load")
            page.evaluate(_WAIT)
            loads.append(page.evaluate(_READ))
        server, paint, _ = (min(values) for values in zip(*loads, strict=True))
        found.append(PageFigures(path, server, paint, int(max(load[2] for load in loads))))
    return found


def format_table(figures: Sequence[PageFigures]) -> str:
    """Return the figures as a table."""
    rows = [f"{'page':<36}{'server, ms':>12}  {'first paint, ms':>18}{'gzip, kB':>10}"]
    rows += [
        f"{one.path:<36}{one.server_ms:>12.0f}{_mark(one)}{one.first_paint_ms:>18.0f}"
        f"{one.compressed_bytes / 1000:>10.1f}"
        for one in figures
    ]
    return "\n".join(rows)


def _mark(one: PageFigures) -> str:
    return " !" if one.server_ms > MAX_SERVER_MS else "  "


def main(count: int = DEFAULT_REQUESTS) -> None:
    """Print the table."""
    path = find_chromium()
    if path is None:
        sys.exit("Chromium is not installed. Install it, for example: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_sample_day(directory / "ledger.sqlite3", count, DAYS)
        with running_proxy(directory, ledger_settings(directory)) as proxy, open_browser(path) as browser:
            print(f"{count:,} requests in {DAYS} days, SQLite, Chromium {browser.version}")
            print(format_table(measure_pages(open_tab(browser, proxy.url))))
