"""The dashboard in Chromium: every page, both themes, phone, keyboard alone, live rows, hostile texts."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, Route, expect

from anthropic_proxy.console.dashboard.permissions import NAVIGATION
from tests.pages.browser import (
    ALL_APPEARANCES,
    FONTS,
    Appearance,
    has_font,
    open_tab,
    press,
    use_font,
    without_errors,
)
from tests.support.dashboard import (
    HOSTILE,
    HOSTILE_SESSION,
    SESSION,
    ledger_settings,
    send_hostile_request,
    send_requests,
    wait_for_request,
)
from tests.support.server_process import Proxy, running_proxy

KEY = "team-key-of-this-proxy-1"
PATHS = [
    *(path for _, path, _ in NAVIGATION),
    "/dashboard/requests/{id}",
    f"/dashboard/session?session={SESSION}",
    "/dashboard?range=7d",
    "/dashboard/settings/edit?name=BIG_MODEL",
    "/dashboard/providers/doctor",
    "/dashboard/session/model?session=none",
    "/dashboard/costs?by=project",
    "/dashboard/costs?by=team&split=kind",
    "/dashboard/models?sort=-p95",
    "/dashboard/requests?q=nothing",
    "/tour",
    "/help/errors",
]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("pages")
    with running_proxy(directory, ledger_settings(directory)) as running:
        yield running


@pytest.fixture(scope="module")
def ids(proxy: Proxy) -> list[str]:
    return send_requests(proxy, 9)


@pytest.fixture
def tab(browser: Browser, proxy: Proxy, ids: list[str]) -> Iterator[Page]:
    with without_errors(open_tab(browser, proxy.url)) as page:
        yield page


@ALL_APPEARANCES
def test_every_page_is_accessible_and_fits(
    browser: Browser, proxy: Proxy, ids: list[str], appearance: Appearance
) -> None:
    page = open_tab(browser, proxy.url, appearance)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    findings = {}
    for path in PATHS:
        page.goto(path.format(id=ids[0]))
        violations = Axe().run(page).response["violations"]
        findings[path] = [(one["id"], one["nodes"][0]["html"]) for one in violations]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.locator("h1").count() == 1
    page.context.close()
    assert findings == {path: [] for path in PATHS}
    assert errors == []


@ALL_APPEARANCES
def test_every_page_of_an_empty_ledger_is_accessible_and_fits(
    browser: Browser, tmp_path: Path, appearance: Appearance
) -> None:
    with running_proxy(tmp_path, ledger_settings(tmp_path)) as proxy:
        page = open_tab(browser, proxy.url, appearance)
        for path in ("/", "/dashboard/none", *(path for _, path, _ in NAVIGATION)):
            page.goto(path)
            assert [(one["id"], one["nodes"][0]["html"]) for one in Axe().run(page).response["violations"]] == [], path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        page.context.close()


@pytest.mark.parametrize(
    "name", ["customer_portal_frontend_monorepo_experimental_branch_2026", "x" * 60, "long name " * 5 + "end"]
)
@pytest.mark.parametrize("font", FONTS)
def test_long_names_of_clients_fit_on_a_phone(browser: Browser, tmp_path: Path, name: str, font: str) -> None:
    if not has_font(font):
        pytest.skip(f"platform: the font {font} is not installed")
    (tmp_path / "anthropic-proxy.toml").write_text('[prices."demo/*"]\ninput = 3\noutput = 15\n', encoding="utf-8")
    with running_proxy(tmp_path, ledger_settings(tmp_path)) as proxy:
        client = proxy.client(headers={"x-project": name, "x-claude-code-session-id": name, "user-agent": name})
        body = {"model": name, "max_tokens": 100, "messages": [{"role": "user", "content": name}]}
        served = client.post("/v1/messages", json=body).headers["request-id"]
        failed = client.post("/v1/messages", json={**body, "messages": []}).headers["request-id"]
        wait_for_request(client, failed)
        wait_for_request(client, served)
        page = open_tab(browser, proxy.url, "phone")
        use_font(page, font)
        paths = [*(path for _, path, _ in NAVIGATION), f"/dashboard/requests/{served}", f"/dashboard/requests/{failed}"]
        paths += [f"/dashboard/session?session={quote(name)}", f"/dashboard?project={quote(name)}"]
        paths += [f"/dashboard/costs?by={by}" for by in ("project", "model", "provider", "session", "key")]
        widths = {}
        for path in paths:
            for width in (390, 320):
                page.set_viewport_size({"width": width, "height": 844})
                page.goto(path)
                widths[path, width] = page.evaluate("document.documentElement.scrollWidth")
        page.context.close()
    assert widths == {(path, width): width for path, width in widths}


def test_a_command_does_not_break_within_an_option(browser: Browser, tmp_path: Path) -> None:
    count_lines = """() => [...document.querySelectorAll(".command code")].flatMap(code => {
        const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT), found = []
        while (texts.nextNode()) {
            const text = texts.currentNode, start = text.data.indexOf("--body")
            if (start < 0) continue
            const range = document.createRange()
            range.setStart(text, start)
            range.setEnd(text, start + 6)
            found.push(new Set([...range.getClientRects()].map(one => one.top)).size)
        }
        return found
    })"""
    with running_proxy(tmp_path, ledger_settings(tmp_path, LEDGER_CONTENT="true")) as proxy:
        page = open_tab(browser, proxy.url)
        page.goto(f"/dashboard/requests/{send_requests(proxy, 1)[0]}")
        lines = []
        for width in range(320, 720, 8):  # the line ends at each place of the command
            page.set_viewport_size({"width": width, "height": 844})
            lines += page.evaluate(count_lines)
        page.context.close()
    assert set(lines) == {1}


def test_texts_of_clients_do_not_run_as_scripts(tab: Page, ids: list[str]) -> None:
    for path in PATHS:
        tab.goto(path.format(id=ids[2]))
        assert tab.title() != "1"
        assert tab.locator("img").count() == 0
    tab.goto(f"/dashboard/requests/{ids[2]}")
    expect(tab.locator(".verdict")).to_contain_text(HOSTILE)


def test_a_failure_is_explained_after_two_clicks(tab: Page) -> None:
    tab.goto("/dashboard")
    tab.get_by_role("link", name=re.compile("Succeeded")).click()  # why did a request fail?
    tab.locator("tr.go a").first.click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Failed with 400")
    expect(tab.get_by_text("messages: at least one message is required")).to_be_visible()
    tab.goto("/dashboard")
    tab.get_by_role("link", name="7 d", exact=True).click()  # what did the week cost?
    expect(tab.locator(".figures")).to_contain_text("Spent")
    tab.goto("/dashboard")
    tab.get_by_role("link", name="Models", exact=True).click()  # which model is slow?
    expect(tab.locator("#rows")).to_contain_text("demo/demo")


def test_filters_are_in_the_address_and_the_back_button_works(tab: Page) -> None:
    tab.goto("/dashboard/requests")
    tab.locator("summary", has_text="Project").click()
    tab.get_by_role("link", name="docs-site").click()
    expect(tab).to_have_url(re.compile(r"\?project=docs-site$"))
    expect(tab.locator("tr.go")).to_have_count(3)
    tab.get_by_role("link", name="Remove the filter Project: docs-site").click()
    expect(tab.locator("tr.go")).to_have_count(9)
    tab.go_back()
    expect(tab.locator("tr.go")).to_have_count(3)


def test_a_page_names_its_filters_and_other_pages_keep_the_range(tab: Page) -> None:
    tab.goto("/dashboard/costs?range=7d&project=docs-site")
    tab.get_by_role("link", name="Remove the filter Project: docs-site").click()
    expect(tab).to_have_url(re.compile(r"/dashboard/costs\?range=7d$"))
    press(tab, "g", "m")
    expect(tab).to_have_url(re.compile(r"/dashboard/models\?range=7d$"))


def test_the_keyboard_alone_reaches_everything(tab: Page) -> None:
    tab.goto("/dashboard")
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Skip to content")).to_be_focused()
    for keys, heading in (
        ("gr", "Requests"),
        ("gs", "Sessions"),
        ("gc", "Costs"),
        ("gm", "Models"),
        ("gp", "Providers"),
        ("go", "Overview"),
    ):
        press(tab, *keys)
        expect(tab.get_by_role("heading", level=1)).to_have_text(heading)
    press(tab, "?")
    expect(tab.get_by_role("dialog")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("dialog")).to_be_hidden()
    press(tab, "g", "r")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Requests")
    press(tab, "/")
    expect(tab.get_by_role("searchbox")).to_be_focused()
    tab.keyboard.type("at least one")
    tab.keyboard.press("Enter")
    expect(tab.locator("tr.go")).to_have_count(3)
    press(tab, "j", "j")
    expect(tab.locator("tr.go a").nth(1)).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Failed with 400")


def test_columns_order_and_views_are_chosen_by_keyboard(tab: Page) -> None:
    tab.goto("/dashboard/requests?outcome=ok")
    columns = tab.locator("summary", has_text="Columns")
    columns.focus()
    tab.keyboard.press("Enter")
    session = tab.get_by_role("checkbox", name="Session")
    expect(session).to_be_visible()
    box = tab.locator(".menu form").last.bounding_box()
    assert box["x"] >= 0, "the menu is inside the window"
    assert box["x"] + box["width"] <= 1400
    assert Axe().run(tab).response["violations"] == []
    tab.keyboard.press("Escape")
    expect(session).to_be_hidden()
    expect(columns).to_be_focused()
    tab.keyboard.press("Enter")
    session.focus()
    tab.keyboard.press("Space")
    tab.get_by_label("Sort by").select_option("Output tokens, highest first")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("columnheader", name="Session")).to_be_visible()
    expect(tab.get_by_role("columnheader", name="Out", exact=True)).to_have_attribute("aria-sort", "descending")
    tab.get_by_role("link", name="Most expensive").press("Enter")
    expect(tab).to_have_url(re.compile(r"/dashboard/requests\?sort=-cost&columns=project,session,"))
    expect(tab.get_by_role("link", name="Most expensive")).to_have_attribute("aria-current", "true")
    tab.get_by_role("link", name="Slowest", exact=True).press("Enter")
    expect(tab.get_by_role("columnheader", name="Total", exact=True)).to_have_attribute("aria-sort", "descending")


def test_another_range_is_chosen_in_the_time_of_the_server(tab: Page) -> None:
    tab.goto("/dashboard/costs?by=key")
    tab.locator("summary", has_text="Other range").press("Enter")
    assert Axe().run(tab).response["violations"] == []
    tab.get_by_label("From").fill("2026-11-01T00:00")
    tab.get_by_label("To", exact=True).fill("2026-11-08T12:30")
    tab.get_by_role("button", name="Show").click()
    expect(tab.locator(".range summary")).to_have_text("1 Nov, 00:00 – 8 Nov, 12:30")
    expect(tab.get_by_role("link", name="Key", exact=True)).to_have_attribute("aria-current", "true")


def test_a_calendar_month_is_chosen_and_left_by_the_keyboard(tab: Page) -> None:
    tab.goto("/dashboard/costs?by=key")
    tab.locator(".range summary").press("Enter")
    month = tab.get_by_role("list", name="Months").get_by_role("link").first
    title = month.inner_text()
    month.press("Enter")
    expect(tab).to_have_url(re.compile(r"/dashboard/costs\?range=\d{4}-\d{2}&by=key$"))
    expect(tab.locator(".range summary")).to_have_text(title)
    expect(tab.locator("#rows tr.go")).not_to_have_count(0)
    press(tab, "[")
    expect(tab.locator(".range summary")).not_to_have_text(title)


def test_a_session_is_found_by_its_project(tab: Page) -> None:
    tab.goto("/dashboard/sessions")
    press(tab, "/")
    expect(tab.get_by_role("searchbox", name="Search sessions")).to_be_focused()
    tab.keyboard.type("IMG src")
    tab.keyboard.press("Enter")
    expect(tab.locator("#rows tr.go")).to_have_count(1)
    tab.get_by_role("searchbox", name="Search sessions").fill("no such session")
    tab.keyboard.press("Enter")
    expect(tab.get_by_text("No session matches.")).to_be_visible()


def test_the_palette_finds_pages_sessions_settings_and_requests(tab: Page) -> None:
    tab.goto("/dashboard")
    press(tab, "Control+k")
    field = tab.get_by_role("combobox", name="Page, session or setting")
    expect(field).to_be_focused()
    expect(tab.get_by_role("option").first).to_contain_text("Overview")
    assert Axe().run(tab).response["violations"] == []
    tab.keyboard.type("session img")
    expect(tab.get_by_role("option")).to_have_count(2)
    assert tab.locator("img").count() == 0
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", level=1)).to_contain_text(HOSTILE)
    tab.wait_for_load_state()
    tab.get_by_role("button", name="Go to a page, session or setting").click()
    tab.keyboard.type("ledger_days")
    tab.keyboard.press("Enter")
    expect(tab.locator("#groups tbody tr")).to_have_count(1)
    press(tab, "Control+k")
    tab.keyboard.type("at least one")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(re.compile(r"/dashboard/requests\?q=at%20least%20one$"))
    expect(tab.locator("tr.go")).to_have_count(3)
    press(tab, "Control+k")
    tab.keyboard.type("slowest")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("columnheader", name="Total", exact=True)).to_have_attribute("aria-sort", "descending")
    press(tab, "Control+k")
    tab.keyboard.type("project docs")
    tab.keyboard.press("Enter")
    expect(tab.locator("tr.go")).to_have_count(3)
    press(tab, "Control+k")
    tab.keyboard.type("dark")
    tab.keyboard.press("Enter")
    expect(field).to_be_hidden()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    press(tab, "Control+k")
    tab.keyboard.type("a text")
    tab.keyboard.press("Escape")
    expect(field).to_be_hidden()


def test_enter_in_the_palette_waits_for_its_entries(tab: Page) -> None:
    held: list[Route] = []
    # Before the page opens: Chromium may send a first request of an open page past a route that begins then.
    tab.route("**/dashboard/palette", lambda route: held.append(route))  # noqa: PLW0108  # Playwright sets attributes of a handler
    tab.goto("/dashboard")
    with tab.expect_request("**/dashboard/palette"):
        press(tab, "Control+k")
    tab.keyboard.type("ledger_days")
    tab.keyboard.press("Enter")
    held[0].continue_()
    expect(tab.locator("#groups tbody tr")).to_have_count(1)


def test_settings_are_filtered_while_typing(tab: Page) -> None:
    tab.goto("/dashboard/settings")
    expect(tab.get_by_text("LEDGER_DAYS")).to_be_hidden()
    tab.get_by_role("searchbox").fill("ledger_days")
    expect(tab.get_by_text("LEDGER_DAYS", exact=True)).to_be_visible()
    expect(tab.locator("details.group:visible")).to_have_count(1)
    expect(tab.get_by_role("region", name="Set", exact=True)).to_be_hidden()
    tab.get_by_role("searchbox").fill("no such setting")
    expect(tab.get_by_role("status")).to_have_text("No setting matches.")
    expect(tab.locator("tbody tr:visible")).to_have_count(0)
    tab.get_by_role("searchbox").fill("")
    expect(tab.get_by_role("region", name="Set", exact=True)).to_be_visible()
    expect(tab.get_by_text("No setting matches.")).to_be_hidden()
    tab.get_by_role("searchbox").fill("ledger_days")
    tab.get_by_role("searchbox").press("Enter")
    expect(tab.locator(".verdict")).to_have_text("1 setting matches.")


def test_a_click_on_a_title_sorts(tab: Page) -> None:
    tab.goto("/dashboard/requests")
    for order in ("descending", "ascending"):
        tab.get_by_role("columnheader", name="Total").get_by_role("link").click()
        expect(tab.get_by_role("columnheader", name="Total")).to_have_attribute("aria-sort", order)
    tab.get_by_role("columnheader", name="Total").get_by_role("link").click()
    expect(tab).to_have_url(re.compile("/dashboard/requests$"))


@pytest.mark.parametrize(
    ("path", "column"),
    [
        ("/dashboard/models?sort=-tool_errors", "Tool errors"),
        ("/dashboard/models?sort=p95", "First token p95"),
        ("/dashboard/costs?by=project&sort=-mean", "Cost per request"),
        ("/dashboard/sessions?sort=-context", "Largest context"),
        ("/dashboard/requests?sort=-rate&columns=rate", "Speed of output"),
    ],
)
def test_a_phone_shows_the_column_that_sorts(
    browser: Browser, proxy: Proxy, ids: list[str], path: str, column: str
) -> None:
    with without_errors(open_tab(browser, proxy.url, "phone")) as tab:
        tab.goto(path)
        cell = tab.locator(f'#rows td[data-label="{column}"]').first
        expect(cell).to_be_visible()
        assert cell.evaluate("(it) => getComputedStyle(it, '::before').content.replaceAll('\"', '')") == f"{column} "


def test_a_phone_sorts_by_a_menu(browser: Browser, proxy: Proxy, ids: list[str]) -> None:
    with without_errors(open_tab(browser, proxy.url, "phone")) as tab:
        tab.goto("/dashboard/models")
        tab.get_by_text("Sorted by Cost, highest first").click()
        tab.locator("details.menu[open]").get_by_role("link", name="Total p50").click()
        expect(tab).to_have_url(re.compile("sort=-total50$"))
        expect(tab.get_by_text("Sorted by Total p50, highest first")).to_be_visible()


def test_a_lost_connection_is_shown_until_it_is_back(browser: Browser, proxy: Proxy, ids: list[str]) -> None:
    tab = open_tab(browser, proxy.url)
    tab.clock.install()
    is_lost = threading.Event()
    # Before the page opens, as in the test of the palette.
    tab.route("**/dashboard/**", lambda route: route.abort() if is_lost.is_set() else route.continue_())
    tab.goto("/dashboard/requests")
    line = tab.locator("#stale")
    is_lost.set()
    tab.clock.run_for(80_000)  # the stream was silent for longer than the server allows
    expect(line).to_have_text(
        re.compile(r"^Not updated since \d+:\d+:\d+ .M \S+: the connection to the proxy is lost\. Connecting again …$")
    )
    tab.clock.run_for(20_000)
    expect(line).to_be_visible()
    is_lost.clear()
    with tab.expect_response("**/dashboard/live"):
        tab.clock.run_for(4_000)
    expect(line).to_be_hidden()
    tab.context.close()


def test_a_chart_is_one_tab_stop_with_a_card(tab: Page) -> None:
    tab.goto("/dashboard/requests")
    stops = tab.locator("#time svg.plot a")
    assert [stops.nth(index).get_attribute("tabindex") for index in range(stops.count())].count("0") == 1
    stops.nth(5).focus()
    tab.keyboard.press("ArrowLeft")
    expect(stops.nth(4)).to_be_focused()
    tab.locator('#time svg.plot a[aria-label*="failed = "]').first.focus()
    expect(tab.locator("#time .card")).to_contain_text("failed")
    tab.get_by_role("button", name=re.compile("^failed")).click()
    expect(tab.locator("#time svg.plot [data-series=failed]")).to_be_hidden()


def test_dragging_in_a_chart_sets_the_range(tab: Page) -> None:
    tab.goto("/dashboard/requests")
    stops = tab.locator("#time svg.plot a")
    first, last = stops.nth(2).bounding_box(), stops.nth(5).bounding_box()
    tab.mouse.move(first["x"] + 2, first["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(last["x"] + 2, last["y"] + 50, steps=5)
    tab.mouse.up()
    expect(tab).to_have_url(re.compile(r"from=.*to="))
    expect(tab.get_by_text("No request matches")).to_be_visible()


def test_the_theme_is_kept(tab: Page) -> None:
    tab.goto("/dashboard")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
    tab.get_by_role("button", name="Switch between light and dark").click()
    tab.goto("/dashboard/models")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 22)"


def test_a_new_request_appears_without_a_reload(browser: Browser, tmp_path: Path) -> None:
    with running_proxy(tmp_path, ledger_settings(tmp_path)) as proxy:
        page = open_tab(browser, proxy.url)
        with page.expect_response("**/dashboard/live"):
            page.goto("/dashboard/requests")
        expect(page.get_by_text('anthropic-proxy ask "hello"')).to_be_visible()
        send_requests(proxy, 1)
        with page.expect_response("**/dashboard/live"):
            page.reload()
        expect(page.locator("tr.go")).to_have_count(1)
        page.evaluate("window.kept = true")
        send_requests(proxy, 3)
        expect(page.locator("tr.go")).to_have_count(4)
        expect(page.locator("#announce")).to_contain_text("new request")
        assert page.evaluate("window.kept") is True
        page.context.close()


def test_live_rows_keep_focus_and_scroll_position_and_other_rows(browser: Browser, tmp_path: Path) -> None:
    with running_proxy(tmp_path, ledger_settings(tmp_path)) as proxy:
        send_requests(proxy, 3)
        page = open_tab(browser, proxy.url)
        with page.expect_response("**/dashboard/live"):
            page.goto("/dashboard")
        page.locator("#errors summary").click()
        row = page.locator("#latest tr.go").first
        name = row.get_attribute("data-id")
        row.evaluate("(it) => { it.kept = true; }")
        row.locator("a").focus()
        page.evaluate("scrollTo(0, 120)")
        send_requests(proxy, 3)
        expect(page.locator("#latest tr.go")).to_have_count(6)
        assert page.evaluate("document.activeElement.closest('tr').dataset.id") == name
        assert page.evaluate("document.activeElement.closest('tr').kept") is True
        assert page.evaluate("scrollY") == 120
        assert page.locator("#errors details").evaluate("(it) => it.open") is True
        expect(page.locator("#errors .legend")).to_contain_text("invalid request 2")
        page.context.close()


def test_a_chart_without_changes_is_not_replaced(tab: Page) -> None:
    tab.goto("/dashboard")
    tab.locator("#usage").evaluate("(it) => { it.kept = true; }")
    tab.evaluate("refresh()")
    assert tab.locator("#usage").evaluate("(it) => it.kept") is True


def test_a_key_opens_the_page_that_was_requested(browser: Browser, tmp_path: Path) -> None:
    with running_proxy(tmp_path, ledger_settings(tmp_path, PROXY_API_KEY=KEY)) as proxy:
        page = open_tab(browser, proxy.url)
        page.goto("/dashboard/models")
        assert Axe().run(page).response["violations"] == []
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("This is not a key of the proxy.")
        page.get_by_label("Key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Models")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Key")).to_be_visible()
        page.context.close()


def test_hostile_texts_of_errors_sessions_and_agents_do_not_run(browser: Browser, proxy: Proxy) -> None:
    request_id = send_hostile_request(proxy)
    page = open_tab(browser, proxy.url)
    session = f"/dashboard/session?session={quote(HOSTILE_SESSION, safe='')}"
    texts = {}
    for path in (f"/dashboard/requests/{request_id}", session, "/dashboard/requests", "/dashboard/sessions"):
        page.goto(path)
        assert page.locator("img").count() == 0, path
        assert page.title() != "1", path
        texts[path] = page.locator("main").inner_text()
        if path.endswith(request_id):
            error = page.get_by_role("region", name="Error").inner_text()
    page.context.close()
    first, *others = texts.values()
    assert f"got a string of {len(json.dumps(HOSTILE))} bytes" in error
    assert HOSTILE[:8] not in error, "a stored error has no text of a client"
    assert HOSTILE_SESSION in others[0], "the page of the session shows its id"
    for text in (first, others[2]):
        assert HOSTILE in text, "a session is named by its project"


def test_an_empty_range_leads_to_a_longer_one_or_without_filters(tab: Page) -> None:
    tab.goto("/dashboard/costs?from=2026-01-01T00:00Z&to=2026-01-02T00:00Z")
    tab.get_by_role("link", name="Show the last 30 days").click()
    expect(tab).to_have_url(re.compile(r"/dashboard/costs\?range=30d$"))
    expect(tab.locator("#rows tr.go")).not_to_have_count(0)
    tab.goto("/dashboard/models?project=none-of-these")
    tab.get_by_role("link", name="Remove the filters").click()
    expect(tab.locator("#rows tr.go")).not_to_have_count(0)
