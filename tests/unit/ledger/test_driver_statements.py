"""Statements that the database driver executes: several rows in one call, and failures as exceptions of SQLAlchemy."""

import sqlite3

import pytest
from sqlalchemy import Connection, create_engine, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from anthropic_proxy.ledger.database import open_for_writing
from anthropic_proxy.ledger.driver_statements import MAX_ROWS_PER_CALL, DriverStatement, SqliteInsertion
from anthropic_proxy.ledger.tables import key_hashes, metadata
from anthropic_proxy.settings import Settings
from tests.support.ledger import rejecting_connections

COLUMNS = len(key_hashes.c)


def rows_of(count: int) -> list[dict[str, object]]:
    return [
        {"hash": f"{number:04}", "key_id": "key_1", "hint": "x", "created_at": number, "expires_at": None}
        for number in range(count)
    ]


def connect() -> Connection:
    connection = create_engine("sqlite://").connect()
    metadata.create_all(connection, [key_hashes])
    return connection


@pytest.mark.parametrize("max_values", [COLUMNS, 3 * COLUMNS + 1, 999, 32_766])
@pytest.mark.parametrize("count", [1, 3, MAX_ROWS_PER_CALL, 2 * MAX_ROWS_PER_CALL + 7])
def test_all_rows_are_inserted_whatever_number_of_values_sqlite_accepts(count: int, max_values: int) -> None:
    with connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, max_values)
        SqliteInsertion(key_hashes).execute(connection, rows_of(count))
        stored = connection.execute(select(key_hashes).order_by(key_hashes.c.hash)).mappings()
        assert [dict(row) for row in stored] == rows_of(count)


def test_a_failure_of_the_driver_is_an_exception_of_sqlalchemy() -> None:
    with connect() as connection, pytest.raises(IntegrityError) as raised:
        SqliteInsertion(key_hashes).execute(connection, rows_of(1) * 2)
    assert str(raised.value.orig) == "UNIQUE constraint failed: key_hashes.hash"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_ends_is_reported_with_its_reason(database: Settings) -> None:
    engine, statement = open_for_writing(database), DriverStatement(lambda name: insert(key_hashes))

    def lose_connection() -> None:
        with engine.begin() as connection:
            statement.execute(connection, rows_of(1))
            with rejecting_connections(database):
                statement.execute(connection, rows_of(2)[1:])

    with pytest.raises(OperationalError) as raised:
        lose_connection()
    engine.dispose()
    assert raised.value.connection_invalidated
    assert str(raised.value.orig).splitlines()[0] == "terminating connection due to administrator command"
