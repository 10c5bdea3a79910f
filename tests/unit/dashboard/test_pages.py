"""Pages: work for 90 days, range of a search, connections to the ledger, its problems, and pages in two parts."""

import asyncio
import gzip
import json
import re
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Barrier
from types import FrameType
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, Engine, event, func, select

from anthropic_proxy.console.dashboard.costs import build_costs_page
from anthropic_proxy.console.dashboard.early_flush import Progress, respond_with_early_flush
from anthropic_proxy.console.dashboard.ledger_connections import LedgerConnections
from anthropic_proxy.console.dashboard.models import build_models_page
from anthropic_proxy.console.dashboard.page import Page, StateLine
from anthropic_proxy.console.dashboard.plugin import KEY_PATHS, PAGES
from anthropic_proxy.console.dashboard.query import list_ranges, read_view_query
from anthropic_proxy.console.dashboard.requests import build_requests_page, list_exported_requests, list_views
from anthropic_proxy.console.dashboard.sessions import build_sessions_page
from anthropic_proxy.console.dashboard.site import load_target
from anthropic_proxy.console.dashboard.tables import COLUMNS
from anthropic_proxy.console.dashboard.view import STALE_SECONDS, describe_ledger, limit_range
from anthropic_proxy.console.dashboard.web import compress_response, load_environment
from anthropic_proxy.console.ledger.failures import count_errors
from anthropic_proxy.console.ledger.queries import LedgerExtent
from anthropic_proxy.console.ledger.receipt_queue import ContentBuffer
from anthropic_proxy.console.ledger.tables import hourly
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import LedgerState, RouteRequest, RouteResponse
from tests.support.ledger import NOON, UNKNOWN_COST, destroy_ledger, new_receipt, reading, running_ledger, store
from tests.support.page_context import build_context
from tests.support.virtual_keys import running_app, send
from tests.support.waiting import WAIT_SECONDS

MAX_CALLS_PER_ROW = 2.5
"""Calls of Python and C functions of a page for each row of `hourly`: no histogram is decoded alone."""
MAX_CALLS_PER_ROW_WITH_FACETS = 28.5
"""The page of requests reads the thirteen texts of each row. Each is decoded by two calls, in 0.1 µs more."""
MAX_INSTRUCTIONS_PER_ROW = 170.0
"""Instructions of SQLite's virtual machine of a page for each row of `hourly`: one scan of most columns, or of the
columns of all facets."""
_INSTRUCTIONS = 100


@pytest.mark.parametrize(
    ("path", "max_calls"),
    [
        ("/dashboard", MAX_CALLS_PER_ROW),
        ("/dashboard/requests", MAX_CALLS_PER_ROW_WITH_FACETS),
        ("/dashboard/models", MAX_CALLS_PER_ROW),
        ("/dashboard/providers", MAX_CALLS_PER_ROW),
    ],
)
async def test_a_page_of_90_days_does_little_for_each_row_of_the_hourly_sums(
    path: str, max_calls: float, tmp_path: Path
) -> None:
    found = [await _count_work(path, tmp_path / str(rows), rows) for rows in (100, 400)]
    calls, instructions, rows = (large - small for small, large in zip(*found, strict=True))
    assert rows == 300
    assert calls / rows <= max_calls
    assert instructions / rows <= MAX_INSTRUCTIONS_PER_ROW


async def test_a_search_names_its_range_and_continues_with_older(tmp_path: Path) -> None:
    settings = await _fill(tmp_path, 8)
    with reading(settings) as engine, engine.connect() as connection:
        query = {"range": ["90d"], "q": ["project 1"]}
        whole = build_context("/dashboard/requests", connection, settings, query)
        lines = list[StateLine]()
        assert (limit_range(whole, lines), lines) == (whole, [])
        context = limit_range(whole, lines, maximum=3)
        values = build_requests_page(context)
        position = values["part"].older.partition("before=")[2]
        older = build_context("/dashboard/requests", connection, settings, {**query, "before": [position]})
        rows = build_requests_page(limit_range(older, [], maximum=10))["table"].rows
    assert [line.text.partition(", from ")[0] for line in lines] == ["The search covers 3 requests"]
    assert values["table"].rows == []
    assert [row.id for row in rows] == [f"req_{1:024d}"]


@pytest.mark.parametrize("position", ["before", "after"])
async def test_each_part_of_a_sorted_search_is_of_the_same_requests(position: str, tmp_path: Path) -> None:
    settings = await _fill(tmp_path, 8)
    with reading(settings) as engine, engine.connect() as connection:
        query = {"range": ["90d"], "q": ["project"], "sort": ["-total"]}
        first = limit_range(build_context("/dashboard/requests", connection, settings, query), [], maximum=3)
        other = {**query, position: [f"81000.0~{NOON * 1_000_000}~req_5"]}
        second = limit_range(build_context("/dashboard/requests", connection, settings, other), [], maximum=3)
    assert first.searched is not None
    assert second.searched == first.searched


async def test_failures_are_not_shown_beside_a_filter_for_another_outcome(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    await store(settings, new_receipt(1, outcome="error", error_type="api_error", status=500), new_receipt(2))
    with reading(settings) as engine, engine.connect() as connection:
        counts = []
        for outcome in ({}, {"outcome": ["error"]}, {"outcome": ["ok"]}):
            context = build_context("/dashboard", connection, settings, {"range": ["90d"], **outcome})
            counts.append(sum(one.count for one in count_errors(connection, context.selection, 3_600)))
    assert counts == [1, 1, 0]


async def _count_work(path: str, directory: Path, count: int) -> tuple[int, int, int]:
    """Return the function calls, SQLite instructions and rows of `hourly` of a page."""
    settings = await _fill(directory, count)
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context(path, connection, settings, {"range": ["90d"]}, now=NOON + 4 * 3_600)
        build = load_target(PAGES[path].name).build
        build(context)  # imports, and compiled statements
        with _counting(connection) as counts:
            build(context)
        rows = connection.execute(select(func.count()).select_from(hourly)).scalar() or 0
    return counts[0], counts[1], rows


async def _fill(directory: Path, count: int) -> Settings:
    """Store requests of different projects: each has a row of `hourly`."""
    settings = Settings(data_directory=directory)
    await store(settings, *(new_receipt(number, project=f"project {number}") for number in range(count)))
    return settings


@contextmanager
def _counting(connection: Connection) -> Iterator[list[int]]:
    """Count function calls, and instructions of SQLite."""
    counts, driver = [0, 0], connection.connection.driver_connection
    assert driver is not None

    def count_call(_: FrameType, kind: str, __: object) -> None:
        if kind in ("call", "c_call"):
            counts[0] += 1

    def count_instructions() -> None:
        counts[1] += _INSTRUCTIONS

    driver.set_progress_handler(count_instructions, _INSTRUCTIONS)
    sys.setprofile(count_call)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        driver.set_progress_handler(None, _INSTRUCTIONS)


UNREADABLE = "The ledger cannot be read: file is not a database. Requests are still served."
OF_PROXY = {"mapping", "problems", "providers", "settings"}
ADMIN = "admin-0123456789"
THREADS = 8


class Engines:
    """Engines of SQLAlchemy that were used, and those that were disposed."""

    def __init__(self) -> None:
        self.used: set[Engine] = set()
        self.disposed: set[Engine] = set()

    def add_used(self, connection: Connection) -> None:
        self.used.add(connection.engine)

    def add_disposed(self, engine: Engine) -> None:
        self.disposed.add(engine)


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    listeners: dict[str, Any] = {"engine_connect": engines.add_used, "engine_disposed": engines.add_disposed}
    for name, listener in listeners.items():
        event.listen(Engine, name, listener)
    yield engines
    for name, listener in listeners.items():
        event.remove(Engine, name, listener)


async def test_an_export_of_an_unreadable_ledger_is_an_error(tmp_path: Path) -> None:
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN) as app:
        destroy_ledger(tmp_path)
        for path, target in {**PAGES, **KEY_PATHS}.items():
            page = load_target(target.name)
            for table in page.tables if isinstance(page, Page) else ():
                address = f"{path.replace('{id}', 'req_1')}?format=json&table={table}"
                response = await send(app, "GET", address, x_api_key=ADMIN)
                if table in OF_PROXY:
                    assert (response.status, isinstance(response.json, list)) == (200, True), address
                else:
                    assert (response.status, UNREADABLE in response.body.decode()) == (503, True), address


def test_a_file_that_cannot_be_opened_is_a_problem_and_a_missing_one_is_not(tmp_path: Path) -> None:
    connections, settings = LedgerConnections(), Settings(data_directory=tmp_path)
    with (ledger := connections.open(settings)).connection:
        assert ledger.problem is None
    (tmp_path / "ledger.sqlite3").mkdir()
    with (ledger := connections.open(settings)).connection:
        assert ledger.problem is not None
        assert ledger.problem.text == (
            "The ledger cannot be read: unable to open database file. Requests are still served."
        )
    connections.close()


async def test_threads_share_one_engine_until_the_settings_are_reloaded(tmp_path: Path, engines: Engines) -> None:
    connections, barrier = LedgerConnections(), Barrier(THREADS, timeout=WAIT_SECONDS)
    settings = Settings(data_directory=tmp_path)
    await store(settings, new_receipt())

    def open_in_thread(settings: Settings) -> Engine:
        barrier.wait()
        with connections.open(settings).connection as connection:
            return connection.engine

    with ThreadPoolExecutor(THREADS) as pool:
        (first,) = set(pool.map(open_in_thread, [settings] * THREADS))
        (second,) = set(pool.map(open_in_thread, [Settings(data_directory=tmp_path)] * THREADS))
    assert first is not second
    assert (first in engines.disposed, second in engines.disposed) == (True, False)
    connections.close()
    assert second in engines.disposed


async def test_no_engine_of_the_pages_remains_after_the_proxy_has_stopped(tmp_path: Path, engines: Engines) -> None:
    directory = tmp_path / "anthropic-proxy"
    await store(Settings(data_directory=directory), new_receipt())
    async with running_app(tmp_path, VIRTUAL_KEYS="false") as app:
        engines.used.clear()
        assert (await send(app, "GET", "/dashboard/sessions")).status == 200
        of_pages = set(engines.used)
    assert of_pages
    assert of_pages <= engines.disposed


NOW = 1_790_000_000.0
FACTS = LedgerExtent(10, 1, int((NOW - 240) * 1_000_000))
PROBLEM = "The ledger cannot store requests: locked (x). End the transaction of that program."


@pytest.mark.parametrize(
    ("state", "facts", "expected"),
    [
        (LedgerState(queued_rows=3, waiting_since=NOW - STALE_SECONDS), FACTS, []),
        (
            LedgerState(condition="locked", problem=PROBLEM, queued_rows=1, waiting_since=NOW - 1),
            FACTS,
            [f"{PROBLEM} Requests are still served. 1 request waits to be stored. Last row 4 min ago."],
        ),
        (LedgerState(condition="locked", problem=PROBLEM), None, [f"{PROBLEM} Requests are still served."]),
        (
            LedgerState(dropped_rows=12),
            FACTS,
            ["12 requests are missing here, because the ledger could not store them."],
        ),
        (
            LedgerState(clock_problem="The ledger deletes nothing, because the clock may be wrong."),
            FACTS,
            ["The ledger deletes nothing, because the clock may be wrong."],
        ),
        (None, FACTS, []),
    ],
    ids=["half a second", "locked", "unreadable", "lost", "clock", "off"],
)
def test_a_line_states_what_is_not_stored(
    state: LedgerState | None, facts: LedgerExtent | None, expected: list[str]
) -> None:
    assert [line.text for line in describe_ledger(state, facts, NOW)] == expected


def test_requests_that_wait_for_long_are_stale() -> None:
    (line,) = describe_ledger(LedgerState(queued_rows=2, waiting_since=NOW - 60), FACTS, NOW)
    assert line.text.startswith("Stale: no request has been stored since ")
    assert line.text.endswith(
        ", because the database does not answer. Requests are still served. 2 requests wait to be stored. "
        "Last row 4 min ago."
    )


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_links_of_a_slow_page_have_the_path_below_which_clients_see_the_proxy(coding: str) -> None:
    headers = {"accept-encoding": coding} if coding else {}
    request, ready = RouteRequest(path="/dashboard", headers=headers, path_prefix="/proxy"), asyncio.Event()
    page = b'<a href="/dashboard"><!-- content --><a href="/dashboard/keys">' + b" " * 2_000

    def render() -> RouteResponse:
        return compress_response(request, RouteResponse(headers={"content-type": "text/html"}, body=page))

    async def build() -> RouteResponse:
        await ready.wait()
        return render()

    slow = await respond_with_early_flush(request, build(), render, Progress(1_000_000))
    assert isinstance(slow.body, AsyncIterator)
    ready.set()
    whole = b"".join([chunk async for chunk in slow.body])
    text = zlib.decompress(whole, wbits=31) if coding else whole
    assert re.findall(rb'href="([^"]*)"', text) == [b"/proxy/dashboard", b"/proxy/dashboard/keys"]


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_a_slow_page_begins_with_its_head_and_a_sentence(coding: str) -> None:
    page = b"<main><!-- content --><p>42</p></main>"
    ready = asyncio.Event()

    async def build() -> RouteResponse:
        await ready.wait()
        return RouteResponse(headers={"content-encoding": "gzip"}, body=gzip.compress(page))

    def render_head() -> RouteResponse:
        return RouteResponse(headers={"content-type": "text/html"}, body=b"<main><!-- content --></main>")

    request = RouteRequest(path="/dashboard", headers={"accept-encoding": coding} if coding else {})
    answer = await respond_with_early_flush(request, build(), render_head, Progress(1_000_000))
    assert answer.headers.get("content-encoding", "") == coding
    assert isinstance(answer.body, AsyncIterator)
    first = await anext(answer.body)
    decoder = zlib.decompressobj(wbits=31)
    head = decoder.decompress(first) if coding else first
    ready.set()
    others = b"".join([chunk async for chunk in answer.body])
    sentence = '<p class="adding-up" role="status">Adding up 1,000,000 requests …</p>\n'
    assert head.decode() == f"<main>{sentence}"
    assert (decoder.decompress(others) if coding else others) == b"<p>42</p></main>"


async def test_a_fast_page_is_one_response() -> None:
    async def build() -> RouteResponse:
        return RouteResponse(body=b"page")

    answer = await respond_with_early_flush(RouteRequest(path="/dashboard"), build(), RouteResponse, Progress())
    assert answer.body == b"page"


async def test_a_request_id_is_found_outside_the_range(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    old = new_receipt(1, started_at=NOON - 40 * 86_400)
    await store(settings, old, new_receipt(2))
    with reading(settings) as engine, engine.connect() as connection:
        for text, ids in ((old.request_id, [old.request_id]), ("req_unknown00", [])):
            query = {"q": [text], "provider": ["groq"]}
            context = build_context("/dashboard/requests", connection, settings, query, now=NOON)
            assert [row.id for row in list_exported_requests(context)] == ids
            page = build_requests_page(context)
            assert (len(page["table"].rows), page["part"].older, page["part"].newer) == (len(ids), "", "")


async def test_frequent_views_keep_the_range_and_the_other_filters(tmp_path: Path) -> None:
    query = {"range": ["7d"], "project": ["shop"], "outcome": ["error"]}
    views = list_views(read_view_query("/dashboard/requests", query, NOON))
    assert views == [
        ("All", "/dashboard/requests?range=7d&project=shop", False),
        ("Failed", "/dashboard/requests?range=7d&outcome=error&project=shop", True),
        ("Slowest", "/dashboard/requests?range=7d&project=shop&sort=-total", False),
        ("Most expensive", "/dashboard/requests?range=7d&project=shop&sort=-cost", False),
    ]


def test_another_page_has_the_same_range_and_no_filters() -> None:
    query = {"range": ["7d"], "project": ["shop"], "by": ["tokens"], "sort": ["-cost"], "before": ["1.x"]}
    shown = read_view_query("/dashboard/requests", query, NOON)
    assert shown.link_to_page("/dashboard/models") == "/dashboard/models?range=7d"
    times = {"from": ["2026-11-01T00:00Z"], "to": ["2026-11-02T00:00Z"]}
    assert read_view_query("/dashboard", times, NOON).link_to_page("/dashboard/costs") == (
        "/dashboard/costs?from=2026-11-01T00:00Z&to=2026-11-02T00:00Z"
    )


def test_a_range_without_a_zone_is_in_the_time_of_the_server() -> None:
    query = read_view_query("/dashboard", {"from": ["2026-11-01T00:00"], "to": ["2026-11-02T00:00"]}, NOON)
    start = datetime(2026, 11, 1).astimezone().timestamp()
    assert (query.start, query.end - query.start) == (start, 86_400)
    assert query.local_range == ("2026-11-01T00:00", "2026-11-02T00:00")
    shown = read_view_query("/dashboard", {"by": ["tokens"], "range": ["7d"], "before": ["1.x"]}, NOON)
    assert list(shown.range_form_fields()) == [("by", "tokens")]


async def test_models_of_two_providers_have_their_own_speed(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(
        settings,
        new_receipt(1, provider="openai", model="gpt-4.1", first_token_seconds=0.2),
        new_receipt(2, provider="azure", model="gpt-4.1", first_token_seconds=30.0),
    )
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard/models", connection, settings)
        rows = build_models_page(context)["table"].rows
        speeds = {row.id: row.cells["p50"].text for row in rows}
    assert speeds == {"openai/gpt-4.1": "0.20 s", "azure/gpt-4.1": "31.0 s"}


def test_a_calendar_month_is_a_range() -> None:
    query = read_view_query("/dashboard/costs", {"range": ["2026-10"], "by": ["team"]}, NOON)
    starts = [datetime(2026, month, 1).astimezone().timestamp() for month in (10, 11)]
    assert [query.start, query.end, query.is_running] == [*starts, False]
    assert query.link() == "/dashboard/costs?range=2026-10&by=team"
    assert query.link_to_shifted_range(-1) == "/dashboard/costs?range=2026-09&by=team"
    assert query.link_to_shifted_range(1) == "/dashboard/costs?range=2026-11&by=team"
    present = read_view_query("/dashboard/costs", {"range": ["2026-11"]}, NOON)
    assert (present.start, present.end, present.is_running) == (starts[1], NOON + 1, True)
    later = read_view_query("/dashboard/costs", {"range": ["2027-01"]}, NOON)
    assert later.end - later.start == 31 * 86_400
    with pytest.raises(InvalidRequest) as raised:
        read_view_query("/dashboard/costs", {"range": ["1901-01"]}, NOON)
    assert raised.value.message == "range: '1901-01' is not a month between the years 1990 and 2200."
    with pytest.raises(InvalidRequest):
        read_view_query("/dashboard/costs", {"range": ["2026-13"]}, NOON)


def test_the_picker_lists_the_months_with_requests() -> None:
    first = int(datetime(2026, 9, 30, 12).timestamp()) // 3_600
    assert list(list_ranges(first, NOON).months.items()) == [
        ("2026-11", "November 2026"),
        ("2026-10", "October 2026"),
        ("2026-09", "September 2026"),
    ]
    assert list(list_ranges(None, NOON).months) == ["2026-11"]
    assert len(list_ranges(0, NOON).months) == 12


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/costs", "/dashboard/sessions", "/dashboard/requests"])
async def test_control_characters_of_a_client_are_visible(path: str, tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "anthropic-proxy")
    await store(
        settings,
        new_receipt(1, started_at=time.time(), project="shop\u202egnp", model="m\u200f<i>", session="s\u2066"),
        cost=UNKNOWN_COST,
    )
    async with running_app(tmp_path, VIRTUAL_KEYS="false") as app:
        page = (await send(app, "GET", path)).body.decode()
        entries = (await send(app, "GET", "/dashboard/palette")).body.decode()
    for text in (page, entries):
        assert not {"\u202e", "\u200f", "\u2066"} & {*text}
    assert r"shop\u202egnp" in page
    assert r"m\u200f&lt;i&gt;" in page or path in ("/dashboard/costs", "/dashboard/sessions")
    assert {r"shop\u202egnp", r"m\u200f<i>"} <= {one["text"] for one in json.loads(entries)["entries"]}


def test_line_breaks_of_a_stored_text_are_kept() -> None:
    shown = load_environment().from_string("{{ text }}|{{ mark_up(text) }}").render(text="a\r\n\tb\x1b\r\n")
    assert shown == "a\n\tb\\x1b\n|a\n\tb\\x1b\n"


async def test_an_empty_ledger_offers_only_tables_without_requests(tmp_path: Path) -> None:
    async with running_app(tmp_path, VIRTUAL_KEYS="false") as app:
        offered = {}
        for path in ("/dashboard", "/dashboard/costs", "/dashboard/models"):
            page = (await send(app, "GET", path)).body.decode()
            offered[path] = re.findall('download aria-label="(.*?)"', page)
    assert offered == {
        "/dashboard": ["problems as CSV", "problems as JSON"],
        "/dashboard/costs": [],
        "/dashboard/models": ["mapping as CSV", "mapping as JSON"],
    }


async def test_tables_show_the_control_characters_of_clients(tmp_path: Path) -> None:
    """A character that reverses the direction of what follows is a visible escape sequence."""
    settings, hostile = Settings(data_directory=tmp_path / "data"), "shop\u202etxt.exe"
    fields = dict.fromkeys(("project", "model", "requested_model", "error"), hostile)
    contents = ContentBuffer(lambda: None)
    with running_ledger(settings, contents=contents) as ledger:
        receipt = new_receipt(1, session="s1", user_agent=hostile, tool_count=1, **fields)
        body = {"model": "m", "messages": [{"role": "user", "content": hostile}], "tools": [{}]}
        contents.record(receipt.request_id, "client request", msgspec.json.encode(body))
        await ledger.record(receipt)
        ledger.wait_written(1)
    columns = ",".join(column.name for column in COLUMNS)
    pages: list[tuple[Any, str, dict[str, list[str]]]] = [
        (build_requests_page, "/dashboard/requests", {"columns": [columns]}),
        (build_sessions_page, "/dashboard/sessions", {}),
        (build_costs_page, "/dashboard/costs", {}),
        (build_models_page, "/dashboard/models", {}),
    ]
    show_table: Any = vars(load_environment().get_template("table.html").module)["show_table"]
    with reading(settings) as engine, engine.connect() as connection:
        for build, path, query in pages:
            shown = show_table(build(build_context(path, connection, settings, query))["table"])
            assert "shop\\u202etxt.exe" in shown, path
            assert "\u202e" not in shown, path
