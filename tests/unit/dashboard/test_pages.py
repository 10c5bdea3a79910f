"""The work of a page about 90 days, counted without a clock, and the range of a search."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from sqlalchemy import Connection, func, select

from anthropic_proxy.dashboard.pages import PAGES, StateLine, limit_range
from anthropic_proxy.dashboard.requests import build_requests_page
from anthropic_proxy.ledger.dashboard_queries import count_errors
from anthropic_proxy.ledger.tables import hourly
from anthropic_proxy.settings import Settings
from tests.support.ledger import NOON, new_receipt, reading, running_ledger
from tests.support.page_context import build_context

MAX_CALLS_PER_ROW = 2.0
"""Calls of Python and C functions of a page for each row of `hourly`: no histogram is decoded alone."""
MAX_INSTRUCTIONS_PER_ROW = 190.0
"""Instructions of SQLite's virtual machine of a page for each row of `hourly`: one scan of most columns."""
_INSTRUCTIONS = 100


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/requests", "/dashboard/models", "/dashboard/providers"])
async def test_a_page_of_90_days_does_little_for_each_row_of_the_hourly_sums(path: str, tmp_path: Path) -> None:
    found = [await _count_work(path, tmp_path / str(rows), rows) for rows in (100, 400)]
    calls, instructions, rows = (large - small for small, large in zip(*found, strict=True))
    assert rows == 300
    assert calls / rows <= MAX_CALLS_PER_ROW
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
        position = values["older"].partition("before=")[2]
        older = build_context("/dashboard/requests", connection, settings, {**query, "before": [position]})
        rows = build_requests_page(limit_range(older, [], maximum=10))["rows"]
    assert [line.text.partition(", from ")[0] for line in lines] == ["The search covers 3 requests"]
    assert values["rows"] == []
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
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt(1, outcome="error", error_type="api_error", status=500), new_receipt(2))
        ledger.wait_written(2)
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
        PAGES[path].build(context)  # imports, and compiled statements
        with _counting(connection) as counts:
            PAGES[path].build(context)
        rows = connection.execute(select(func.count()).select_from(hourly)).scalar() or 0
    return counts[0], counts[1], rows


async def _fill(directory: Path, count: int) -> Settings:
    """Store requests of different projects: each has a row of `hourly`."""
    settings = Settings(data_directory=directory)
    with running_ledger(settings) as ledger:
        await ledger.record(*(new_receipt(number, project=f"project {number}") for number in range(count)))
        ledger.wait_written(count)
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
