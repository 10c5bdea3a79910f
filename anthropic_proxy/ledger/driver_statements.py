"""SQL statements that the database driver executes without SQLAlchemy, because this needs less CPU time per row.

`DriverStatement` is a statement that SQLAlchemy compiles only once. `SqliteInsertion` inserts many rows into a table of
SQLite. Errors of the driver are raised as exceptions of SQLAlchemy.
"""

import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

# a call for each row needs 15 % more CPU time
MAX_ROWS_PER_CALL = 50
"""Maximum number of rows that one call of the SQLite driver inserts."""
_ReadValues = Callable[[Mapping[str, Any]], Any]


class DriverStatement:
    """SQL statement that SQLAlchemy compiles once, and that the database driver then executes directly.

    The statement must have two or more parameters with values that need no conversion.
    """

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        self._build = build
        self._compiled: dict[str, tuple[str, _ReadValues]] = {}
        """Name of a database → SQL text, and a function that returns the values of a row as the driver needs them."""

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute the statement once for each of `rows`, which map the name of a parameter to its value.

        Other names in a row are ignored.
        """
        sql, values = self._compile(connection.dialect)
        with _open_cursor(connection, sql) as cursor:
            if len(rows) == 1:
                cursor.execute(sql, values(rows[0]))
            else:
                cursor.executemany(sql, [values(row) for row in rows])

    def fetch_one(self, connection: Connection, row: Mapping[str, Any]) -> Sequence[Any] | None:
        """Execute the statement, a query, with the parameters `row`, and return its first result. None: no result."""
        sql, values = self._compile(connection.dialect)
        with _open_cursor(connection, sql) as cursor:
            cursor.execute(sql, values(row))
            found: Sequence[Any] | None = cursor.fetchone()
        return found

    def _compile(self, dialect: Dialect) -> tuple[str, _ReadValues]:
        if (known := self._compiled.get(dialect.name)) is not None:
            return known
        compiled = self._build(dialect.name).compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        values: _ReadValues = _read_names(compiled.positiontup) if compiled.positiontup else dict
        found = self._compiled[dialect.name] = str(compiled), values
        return found


class SqliteInsertion:
    """SQL statement that inserts rows into a table of SQLite, several rows in each call of the database driver.

    A row has a value for each column of `table`.
    """

    def __init__(self, table: Table) -> None:
        self._values = _read_names(table.c.keys())
        self._column_count = len(table.c)
        values = f"({', '.join('?' * self._column_count)})"
        self._insert_one = f"INSERT INTO {table.name} ({', '.join(table.c.keys())}) VALUES {values}"
        self._further = f", {values}"

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert `rows`, which map the name of a column to its value."""
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        count = min(MAX_ROWS_PER_CALL, driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // self._column_count)
        values = [self._values(row) for row in rows]
        complete = len(values) // count * count
        insert_many = self._insert_one + self._further * (count - 1)
        with _open_cursor(connection, self._insert_one) as cursor:
            for start in range(0, complete, count):
                cursor.execute(insert_many, [*chain.from_iterable(values[start : start + count])])
            cursor.executemany(self._insert_one, values[complete:])


def _read_names(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function that returns the values of `names` in a row."""
    return itemgetter(*(sys.intern(str(name)) for name in names))


@contextmanager
def _open_cursor(connection: Connection, sql: str) -> Iterator[Any]:
    """Yield a cursor of the driver. Its failures are raised as exceptions of SQLAlchemy, with the statement `sql`."""
    cursor, driver_error = connection.connection.cursor(), connection.dialect.loaded_dbapi.Error
    try:
        yield cursor
    except driver_error as error:
        lost = connection.dialect.is_disconnect(error, connection.connection.driver_connection, cursor)
        if lost:  # otherwise the rollback of the transaction fails, and its error has no reason
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, driver_error, connection_invalidated=lost, dialect=connection.dialect
        ) from error
    finally:
        cursor.close()
