"""A failing database delays rows and loses none: the state names the condition, and the rows are written later."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from anthropic_proxy.ledger.database import open_for_writing
from anthropic_proxy.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.settings import Secret, Settings
from tests.support.ledger import count_rows, new_receipt, read_hourly, running_ledger


def file_of(settings: Settings) -> Path:
    assert settings.data_directory is not None
    return settings.data_directory / "ledger.sqlite3"


@contextmanager
def full_disk() -> Iterator[threading.Event]:
    """Limit each new SQLite database connection to the present size of its file, until the event is set.

    The listener stays for the whole time, because SQLAlchemy must not connect in a thread while listeners change.
    """
    has_space = threading.Event()

    def limit(connection: Any, _: object) -> None:
        if not has_space.is_set():
            connection.execute("PRAGMA max_page_count=1")

    event.listen(Engine, "connect", limit)
    try:
        yield has_space
    finally:
        event.remove(Engine, "connect", limit)


async def test_a_full_disk(sqlite: Settings) -> None:
    open_for_writing(sqlite).dispose()
    with full_disk() as has_space, running_ledger(sqlite) as ledger:
        await ledger.record(*(new_receipt(number, error="x" * 2000) for number in range(600)))
        ledger.wait_until(lambda: ledger.queue.state.condition == "disk full")
        stored = ledger.queue.state.written_rows  # a first batch of few rows may fit
        assert len(ledger.queue) + stored == 600
        assert stored < 100
        has_space.set()
        ledger.wait_written(600)
        state = ledger.queue.state
    assert (state.condition, state.problem, state.dropped_rows) == ("ok", "", 0)
    assert count_rows(sqlite) == sum(row["requests"] for row in read_hourly(sqlite)) == 600
    assert ledger.warnings == [
        f"The ledger cannot store requests: disk full ({file_of(sqlite)}: database or disk is full). "
        "Free space on its disk, or set LEDGER_MAX_MB to a smaller number.",
        "The ledger stores requests again. 0 were dropped since the start.",
    ]


async def test_a_locked_database(sqlite: Settings) -> None:
    open_for_writing(sqlite).dispose()
    with running_ledger(sqlite) as ledger, closing(sqlite3.connect(file_of(sqlite), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == "locked")
        other.execute("COMMIT")
        ledger.wait_written(1)
    assert count_rows(sqlite) == 1


async def test_a_read_only_database(sqlite: Settings) -> None:
    """A write version above 2 in the header makes a file read-only, for root too."""
    open_for_writing(sqlite).dispose()
    file = file_of(sqlite)
    content = file.read_bytes()
    file.write_bytes(content[:18] + b"\x03" + content[19:])
    with running_ledger(sqlite) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == "read-only")
        file.write_bytes(content)
        ledger.wait_written(1)
    assert count_rows(sqlite) == 1


async def test_a_corrupt_database_is_kept_and_a_new_one_is_created_once_it_is_moved(sqlite: Settings) -> None:
    file = file_of(sqlite)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database" * 1000)
    with running_ledger(sqlite) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == "corrupt")
        file.rename(file.with_name("old"))
        ledger.wait_written(1)
    assert file.with_name("old").read_bytes() == b"no database" * 1000
    assert count_rows(sqlite) == 1


async def test_a_removed_database_is_created_again(sqlite: Settings) -> None:
    with running_ledger(sqlite) as ledger:
        await ledger.record(new_receipt(1))
        ledger.wait_written(1)
        for file in [*file_of(sqlite).parent.iterdir()]:
            file.unlink()
        await ledger.record(new_receipt(2))
        ledger.wait_written(2)
    assert count_rows(sqlite) == 1


async def test_a_schema_of_a_newer_program_is_left_alone(database: Settings) -> None:
    engine = open_for_writing(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with running_ledger(database) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == "newer schema")
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{NEWEST_VERSION}'"))
        ledger.wait_written(1)
    engine.dispose()
    assert count_rows(database) == 1


async def test_an_unreachable_server_loses_no_row_before_the_stop(tmp_path: Path) -> None:
    settings = Settings(database_url=Secret("postgresql://user:password-1@127.0.0.1:9/x"))
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == "unreachable")
        assert ledger.stop() == 1
    assert "password-1" not in ledger.warnings[0]
    assert ledger.warnings[0].endswith("Start the database server, or correct DATABASE_URL.")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_rows_are_stored_once_after_the_server_ends_the_connection(database: Settings) -> None:
    other = open_for_writing(database)
    with running_ledger(database) as ledger:
        for number in range(5):
            await ledger.record(new_receipt(number))
            ledger.wait_written(number + 1)
            with other.begin() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
    other.dispose()
    assert count_rows(database) == sum(row["requests"] for row in read_hourly(database)) == 5
