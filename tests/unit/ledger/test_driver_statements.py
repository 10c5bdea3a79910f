"""Statements and transactions that the database driver executes: several rows at once, and failures of the driver."""

from operator import itemgetter

import pytest
from msgspec.structs import astuple
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.tables import StoredRequest, key_hashes, requests
from anthropic_proxy.console.ledger.writer import (
    MAX_ROWS_PER_STATEMENT,
    DriverConnection,
    DriverStatement,
    TableInsertion,
)
from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import read_rows, rejecting_connections

EVERYTHING = select(key_hashes).order_by(key_hashes.c.hash)


def rows_of(count: int) -> list[dict[str, object]]:
    return [
        {"hash": f"{number:04}", "key_id": "key_1", "hint": "x", "created_at": number, "expires_at": None}
        for number in range(count)
    ]


def new_insertion() -> TableInsertion:
    return TableInsertion(key_hashes, key_hashes.c.keys(), itemgetter(*key_hashes.c.keys()))


@pytest.mark.parametrize("count", [1, 3, MAX_ROWS_PER_STATEMENT, 2 * MAX_ROWS_PER_STATEMENT + 7])
def test_all_rows_are_inserted(database: Settings, count: int) -> None:
    connection, insertion = DriverConnection(open_for_writing(database)), new_insertion()
    connection.run(lambda: insertion.execute(connection, rows_of(count)))
    with connection.engine.connect() as reader:
        assert [dict(row) for row in reader.execute(EVERYTHING).mappings()] == rows_of(count)
    connection.engine.dispose()


@pytest.mark.parametrize("order", [1, -1], ids=["small first", "large first"])
def test_rows_with_different_types_in_one_column_are_inserted_by_one_statement(database: Settings, order: int) -> None:
    """PostgreSQL derives the type of a column from all rows, and psycopg sends integers in the smallest type."""
    rows = [
        StoredRequest(id="req_1", input_tokens=1, cost=None, first_token=None, output_rate=None),
        StoredRequest(id="req_2", input_tokens=2**15, cost=5, first_token=2**31, output_rate=2.0),
        StoredRequest(id="req_3", input_tokens=2**46, cost=2**46, first_token=None, output_rate=0.25, stream=True),
        StoredRequest(id="req_4", input_tokens=0, cost=-1, first_token=3, output_rate=None),
    ][::order]
    connection = DriverConnection(open_for_writing(database))
    insertion = TableInsertion(requests, StoredRequest.__struct_fields__, astuple)
    connection.run(lambda: insertion.execute(connection, rows))
    connection.engine.dispose()
    stored = [
        StoredRequest(**{name: row[name] for name in StoredRequest.__struct_fields__}) for row in read_rows(database)
    ]
    assert stored == sorted(rows, key=lambda row: row.id)


def test_a_failed_transaction_is_rolled_back_and_the_next_one_is_stored(database: Settings) -> None:
    connection, insertion = DriverConnection(open_for_writing(database)), new_insertion()
    with pytest.raises(IntegrityError) as raised:
        connection.run(lambda: insertion.execute(connection, [*rows_of(3), *rows_of(1)]))
    assert "key_hashes" in str(raised.value.orig)

    def fail() -> None:
        insertion.execute(connection, rows_of(2))
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        connection.run(fail)
    connection.run(lambda: insertion.execute(connection, rows_of(1)))
    found: list[list[object]] = []
    connection.run(lambda: found.append(connection.query(EVERYTHING.where(key_hashes.c.hash.in_(["0000", "x"])))))
    assert found == [[("0000", "key_1", "x", 0, None)]]
    with connection.engine.connect() as reader:
        assert len(reader.execute(EVERYTHING).all()) == 1
    connection.engine.dispose()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_ends_is_reported_with_its_reason(database: Settings) -> None:
    connection, statement = DriverConnection(open_for_writing(database)), DriverStatement(lambda _: insert(key_hashes))

    def lose_connection() -> None:
        statement.execute(connection, rows_of(1))
        with rejecting_connections(database):
            statement.execute(connection, rows_of(2)[1:])

    with pytest.raises(OperationalError) as raised:
        connection.run(lose_connection)
    assert raised.value.connection_invalidated
    assert str(raised.value.orig).splitlines()[0] == "terminating connection due to administrator command"
    connection.run(lambda: statement.execute(connection, rows_of(1)))  # on another connection
    connection.engine.dispose()
