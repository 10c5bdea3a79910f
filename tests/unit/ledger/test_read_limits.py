"""Queries end after a time limit, and a search reads a limited number of requests and can be continued."""

from pathlib import Path

import pytest
from msgspec import structs
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from anthropic_proxy.ledger.read_access import ReadFailure, describe_read_failure, limit_query_time, limit_search_range
from anthropic_proxy.ledger.request_queries import RequestSelection, list_stored_requests
from anthropic_proxy.settings import Secret, Settings
from tests.support.ledger import new_receipt, reading, running_ledger

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


async def test_a_search_is_continued_until_all_requests_are_read(database: Settings) -> None:
    receipts = [new_receipt(number, model="large" if number % 5 == 1 else "small") for number in range(12)]
    with running_ledger(database) as ledger:
        await ledger.record(*receipts)
        ledger.wait_written(len(receipts))
    everything = RequestSelection(text="LARGE")
    found, position = list[str](), None
    with reading(database) as engine, engine.connect() as connection:
        for _ in range(len(receipts)):
            chosen = limit_search_range(connection, everything, position and position[0], max_requests=4)
            assert len(list_stored_requests(connection, structs.replace(chosen, text=""), 12, position)) <= 5
            found += [row.model + row.id[-2:] for row in list_stored_requests(connection, chosen, 12, position)]
            if chosen is everything:
                break
            position = chosen.start, ""
        newer = limit_search_range(
            connection, everything, after=int(receipts[2].started_at * 1_000_000), max_requests=4
        )
        rows = list_stored_requests(connection, newer, 12, after=(newer.start, ""))
        unfiltered = RequestSelection(values={"model": "small"})
        assert limit_search_range(connection, unfiltered, max_requests=4) is unfiltered
    assert found == ["large11", "large06", "large01"]
    assert [row.id[-2:] for row in rows] == ["06", "01"]


async def test_an_endless_query_ends_with_the_remedy(database: Settings) -> None:
    with running_ledger(database) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_written(1)
    with reading(database) as engine:
        limit_query_time(engine, seconds=0.05)
        with engine.connect() as connection, pytest.raises(OperationalError) as raised:
            connection.execute(text(ENDLESS)).all()
    assert describe_read_failure(raised.value) == ReadFailure(
        504,
        "The ledger did not reply within 10 s, because the query reads too many requests. "
        "Choose a shorter range, or add a filter.",
    )


def test_another_failure_names_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "broken.sqlite3"
    file.write_text("no database, but a text that is longer than the header of a SQLite file" * 9)
    with (
        reading(Settings(database_url=Secret(f"sqlite:///{file}"))) as engine,
        pytest.raises(SQLAlchemyError) as raised,
    ):
        engine.connect()
    assert describe_read_failure(raised.value) == ReadFailure(
        503, "The ledger cannot be read: file is not a database. Requests are still served."
    )
