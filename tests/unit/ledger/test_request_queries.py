"""Requests in the order of each numeric column, page by page in both directions, on each database engine."""

import pytest

from anthropic_proxy.console.ledger.request_queries import (
    SORT_KEYS,
    RequestSelection,
    SortedRequest,
    SortOrder,
    list_sorted_requests,
)
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Cost
from tests.support.ledger import NOON, new_receipt, reading, running_ledger

COUNT = 12


@pytest.fixture
async def ledger(database: Settings) -> Settings:
    """Return a ledger with 12 requests: their numbers repeat, and every fourth has no first token."""
    receipts = [
        new_receipt(
            number,
            started_at=NOON + number,
            input_tokens=100 * (number % 5),
            cache_read_tokens=10 * (number % 3),
            output_tokens=number * 7 % 5,
            tool_count=number % 2,
            duration_seconds=0.5 + number * 5 % 7,
            first_token_seconds=None if number % 4 == 0 else 0.1 + number * 3 % 4 / 10,
            project="even" if number % 2 == 0 else "odd",
        )
        for number in range(COUNT)
    ]
    with running_ledger(database, cost=Cost(1_000, None, "test")) as running:
        await running.record(*receipts)
        running.wait_written(COUNT)
    return database


def test_every_order_is_complete_in_both_directions(ledger: Settings) -> None:
    with reading(ledger) as engine, engine.connect() as connection:
        for name in SORT_KEYS:
            for is_descending in (True, False):
                order, pages = SortOrder(name, is_descending), []
                place = None
                while found := list_sorted_requests(connection, RequestSelection(), order, 5, before=place):
                    pages.append(found)
                    place = found[-1].position
                listed = [one for page in pages for one in page]
                assert [len(page) for page in pages] == [5, 5, 2]
                assert len({one.request.id for one in listed}) == COUNT
                assert [value(one) for one in listed] == sorted(
                    (value(one) for one in listed), reverse=is_descending
                ), name
                back = list_sorted_requests(connection, RequestSelection(), order, 5, after=pages[2][0].position)
                assert back == pages[1]


def value(one: SortedRequest) -> float:
    return one.position[0]


def test_unknown_values_are_last_and_filters_apply(ledger: Settings) -> None:
    chosen = RequestSelection(values={"project": "even"})
    with reading(ledger) as engine, engine.connect() as connection:
        found = {
            is_descending: list_sorted_requests(connection, chosen, SortOrder("first", is_descending), COUNT)
            for is_descending in (True, False)
        }
    for is_descending, rows in found.items():
        times = [one.request.first_token for one in rows]
        assert times[-3:] == [None] * 3
        assert times[:-3] == sorted((time for time in times if time is not None), reverse=is_descending)
        assert {one.request.project for one in rows} == {"even"}
