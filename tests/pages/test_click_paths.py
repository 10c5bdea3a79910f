"""Three questions are answered with at most three clicks; sizes and first paint of every page with a large ledger."""

import re
from collections.abc import Callable, Iterator, Sequence

import pytest
from msgspec import Struct
from playwright.sync_api import Browser, Locator, Page, expect

from tests.pages.browser import open_tab
from tests.pages.paint import MAX_COMPRESSED_BYTES, format_table, measure_pages
from tests.pages.sample_day import write_sample_day
from tests.support.dashboard import ledger_settings
from tests.support.server_process import Proxy, running_proxy

MAX_CLICKS = 3


class ClickPath(Struct, frozen=True):
    """Clicks from the overview to the answer of a question."""

    name: str
    question: str
    clicks: Sequence[Callable[[Page], Locator]]
    """Functions that return the element to click, in order."""


PATHS: Sequence[ClickPath] = (
    ClickPath(
        "cost",
        "What did yesterday cost and why?",
        (
            lambda page: page.get_by_role("link", name="Yesterday", exact=True),
            lambda page: page.locator(".figures").get_by_role("link", name=re.compile("^Spent")),
            lambda page: page.locator("#rows tr.go a").first,
        ),
    ),
    ClickPath(
        "failure",
        "Why did this request fail?",
        (
            lambda page: page.locator(".figures").get_by_role("link", name=re.compile("^Succeeded")),
            lambda page: page.locator("tr.go a").first,
        ),
    ),
    ClickPath(
        "speed",
        "Which model is slow?",
        (lambda page: page.locator(".figures").get_by_role("link", name=re.compile("^Time to first token")),),
    ),
)

REQUESTS, DAYS = 30_000, 60
ANSWERS = {
    "cost": ("Requests", ["gpt-4.1"]),
    "failure": ("Failed with 429", ["groq rate limit reached: 12,000 tokens per minute for this key."]),
    "speed": ("Models", ["Slowest: ", "time to first token p95"]),
}
"""Name of a path → heading of the last page, and texts on it."""


def follow(page: Page, path: ClickPath) -> None:
    """Open the overview and click to the answer."""
    page.goto("/dashboard")
    for find in path.clicks:
        with page.expect_navigation():
            find(page).click()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("clicks")
    write_sample_day(directory / "ledger.sqlite3", REQUESTS, DAYS)
    with running_proxy(directory, ledger_settings(directory)) as running:
        yield running


@pytest.fixture(scope="module")
def tab(browser: Browser, proxy: Proxy) -> Page:
    return open_tab(browser, proxy.url)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_question_is_answered(tab: Page, path: ClickPath) -> None:
    assert len(path.clicks) <= MAX_CLICKS
    follow(tab, path)
    heading, texts = ANSWERS[path.name]
    expect(tab.get_by_role("heading", level=1)).to_have_text(heading)
    for text in texts:
        expect(tab.locator("main")).to_contain_text(text)


def test_yesterday_shows_its_cost_by_kind_of_token(tab: Page) -> None:
    tab.goto("/dashboard")
    tab.get_by_role("link", name="Yesterday", exact=True).click()
    expect(tab.locator(".verdict")).to_contain_text("Yesterday ")
    expect(tab.locator("#usage .legend")).to_contain_text("cache read $")
    expect(tab.locator("#usage .legend")).to_contain_text("thinking $")


def test_the_slowest_model_is_the_first_row(tab: Page) -> None:
    follow(tab, PATHS[2])
    cells = tab.locator("#rows tbody tr td:nth-child(9)").all_inner_texts()
    speeds = [float(text.removesuffix(" s")) for text in cells]
    assert speeds == sorted(speeds, reverse=True)
    expect(tab.locator("#rows th[aria-sort=descending]")).to_contain_text("p95")


def test_arrow_keys_move_in_the_grid_of_the_week(tab: Page) -> None:
    tab.goto("/dashboard?range=30d")
    stops = tab.locator("#week svg.week a")
    assert [stops.nth(index).get_attribute("tabindex") for index in range(stops.count())].count("0") == 1
    stops.nth(0).focus()
    tab.keyboard.press("ArrowDown")
    hour = str(stops.nth(0).get_attribute("aria-label")).split(", ")[1]
    expect(tab.locator("#week .card b")).to_have_text(re.compile(f"^Tuesday, {hour}, "))
    tab.keyboard.press("ArrowUp")
    expect(stops.nth(0)).to_be_focused()


def test_the_costs_explain_a_column_only_where_it_is_shown(tab: Page) -> None:
    size, text = tab.viewport_size, "“At Claude's prices” is the cost of the same tokens"
    assert size is not None
    tab.goto("/dashboard/costs?range=30d")
    expect(tab.get_by_text(text)).to_be_visible()
    tab.set_viewport_size({"width": 390, "height": 844})
    expect(tab.get_by_text(text)).to_be_hidden()
    expect(tab.get_by_text("Owner and team are those")).to_be_visible()
    tab.goto("/dashboard/costs?range=30d&sort=-requested")
    expect(tab.get_by_text(text)).to_be_visible()
    tab.set_viewport_size(size)


def test_wide_tables_scroll_inside_their_panels_on_a_phone(tab: Page) -> None:
    size = tab.viewport_size
    assert size is not None
    tab.set_viewport_size({"width": 390, "height": 844})
    for path in ("/dashboard/providers", "/dashboard/models", "/dashboard?range=30d"):
        tab.goto(path)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, path
    tab.set_viewport_size(size)


COVERED_CORNERS = """() => [...document.querySelectorAll(".panel")].filter((panel) =>
  [["left", "top"], ["right", "top"], ["left", "bottom"], ["right", "bottom"]].some(([side, end]) => {
    scrollBy(0, panel.getBoundingClientRect()[end] - innerHeight / 2);
    const box = panel.getBoundingClientRect();
    const place = [box[side] + (side === "left" ? 1.5 : -1.5), box[end] + (end === "top" ? 1.5 : -1.5)];
    return document.elementFromPoint(...place)?.closest(".scroll");
  })).map((panel) => panel.textContent.trim().slice(0, 20))"""


@pytest.mark.parametrize("path", ["/dashboard/sessions", "/dashboard/models", "/dashboard/requests"])
def test_tables_do_not_cover_the_round_corners_of_their_panels(tab: Page, path: str) -> None:
    tab.goto(path)
    assert tab.evaluate(COVERED_CORNERS) == []


@pytest.mark.slow
def test_pages_of_a_large_ledger_are_small(tab: Page) -> None:
    figures = measure_pages(tab)
    print(format_table(figures))
    assert [one.path for one in figures if one.compressed_bytes > MAX_COMPRESSED_BYTES] == []
    assert [one.path for one in figures if one.first_paint_ms <= 0] == []
