"""Old rows are deleted by age, and the oldest ones by size."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.exc import OperationalError

from anthropic_proxy.console.ledger.database import classify_database_error, open_for_writing
from anthropic_proxy.console.ledger.migrations import find_sqlite_file
from anthropic_proxy.console.ledger.retention import Retention, measure_used_bytes
from anthropic_proxy.console.ledger.tables import hourly, key_hashes, requests, session_hours
from anthropic_proxy.console.ledger.units import MICROSECONDS
from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import NOON, new_receipt, read_hourly, read_rows, running_ledger, store

DAY = 86_400


async def test_rows_and_sums_are_deleted_by_age(database: Settings) -> None:
    await store(database, *(new_receipt(day, started_at=NOON - day * DAY) for day in range(100)))
    engine = open_for_writing(database)
    Retention(database, clock=lambda: NOON + 1).delete_expired(engine)
    engine.dispose()
    assert [row["id"] for row in read_rows(database)] == [f"req_{day:024d}" for day in range(90)]
    assert sum(row["requests"] for row in read_hourly(database)) == 91  # whole hours


def test_replaced_texts_of_keys_are_deleted_after_a_week(database: Settings) -> None:
    engine = open_for_writing(database)
    row = {"key_id": "key_1", "created_at": 0, "hint": ""}
    ends = {"current": None, "replaced": NOON - 7 * DAY, "old": NOON - 7 * DAY - 2}
    with engine.begin() as connection:
        for name, end in ends.items():
            expires_at = None if end is None else int(end * MICROSECONDS)
            connection.execute(insert(key_hashes).values({**row, "hash": name, "expires_at": expires_at}))
    Retention(database, clock=lambda: NOON).delete_expired(engine)
    with engine.connect() as connection:
        assert connection.execute(select(key_hashes.c.hash)).scalars().all() == ["current", "replaced"]
    engine.dispose()


async def test_the_oldest_rows_are_deleted_by_size(database: Settings) -> None:
    receipts = (new_receipt(number, error=f"{number} {'x' * 1990}") for number in range(5_500))
    await store(database, *receipts)
    engine = open_for_writing(database)
    with engine.begin() as connection:
        before = measure_used_bytes(connection)
    assert before > 10_000_000 or database.data_directory is None  # PostgreSQL compresses texts
    limited = structs.replace(database, ledger_max_mb=1 if database.data_directory is None else 10)
    Retention(limited, clock=lambda: NOON + 100).delete_expired(engine)
    with engine.begin() as connection:
        after = measure_used_bytes(connection)
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA freelist_count").scalar() == 0
        newest = connection.execute(text("SELECT max(id) FROM requests")).scalar()
    engine.dispose()
    assert after <= limited.ledger_max_mb * 1_000_000 < before
    assert newest == "req_000000000000000000005499"
    assert sum(row["requests"] for row in read_hourly(database)) == 5_500


async def test_sums_are_deleted_by_size_if_they_need_more_than_half_of_it(database: Settings) -> None:
    """Requests of many projects and sessions, one each: the sums are larger than the requests."""
    receipts = (
        new_receipt(
            number, started_at=NOON + number * 60, project=f"{number} {'p' * 190}", session=f"{number} {'s' * 190}"
        )
        for number in range(3_000)
    )
    await store(database, *receipts)
    engine = open_for_writing(database)
    limited = structs.replace(database, ledger_max_mb=1)
    for _ in range(2):  # the first one deletes by an estimate
        Retention(limited, clock=lambda: NOON + 200_000).delete_expired(engine)
    with engine.begin() as connection:
        assert measure_used_bytes(connection) <= 1_000_000
        kept = {
            table.name: connection.execute(select(func.count(), func.max(column)).select_from(table)).one()
            for table, column in (
                (requests, requests.c.started_at),
                (hourly, hourly.c.hour),
                (session_hours, session_hours.c.last_at),
            )
        }
    engine.dispose()
    newest = int((NOON + 2_999 * 60) * 1_000_000)
    assert kept["requests"][1] == kept["session_hours"][1] == newest
    assert all(0 < count < 3_000 for count, _ in kept.values()), kept


async def _create_ledger_file(settings: Settings) -> Path:
    """Store one request, and return the file of the ledger."""
    await store(settings, new_receipt(1))
    file = find_sqlite_file(settings)
    assert file is not None
    return file


async def test_a_lock_while_pages_are_freed_is_an_error_of_the_database(sqlite: Settings) -> None:
    """Another program takes the lock between the deletion and the release of its pages."""
    file = await _create_ledger_file(sqlite)
    engine = open_for_writing(sqlite)
    deleted: list[str] = []
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=0")

        @event.listens_for(engine, "before_cursor_execute")
        def note_deletion(_connection: object, _cursor: object, sql: str, *_more: object) -> None:
            deleted.extend(["requests"] * sql.startswith("DELETE FROM requests"))

        @event.listens_for(engine, "checkin")
        def lock(*_connections: object) -> None:
            if deleted and not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")

        with pytest.raises(OperationalError) as raised:
            Retention(sqlite, clock=lambda: NOON + 100 * DAY).delete_expired(engine)
    assert (deleted, str(raised.value.orig)) == (["requests"], "database is locked")
    assert classify_database_error(raised.value) == "locked"
    engine.dispose()


async def test_the_state_after_a_failed_deletion_is_corrected_without_a_new_request(sqlite: Settings) -> None:
    file = await _create_ledger_file(sqlite)
    with closing(sqlite3.connect(file, isolation_level=None)) as database, running_ledger(sqlite) as ledger:
        database.execute("CREATE TRIGGER keep BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'kept'); END")
        await ledger.record(new_receipt(2, started_at=NOON - 1_000 * DAY))
        ledger.wait_until(lambda: ledger.queue.state.condition == "failed")
        database.execute("DROP TRIGGER keep")
        ledger.wait_until(lambda: ledger.queue.state.condition == "ok")
        state = ledger.queue.state
        assert (state.problem, state.written_rows, state.dropped_rows) == ("", 1, 0)
