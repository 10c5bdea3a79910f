"""Transactions and SQL statements that the database driver executes without SQLAlchemy, to use less CPU time.

`DriverConnection` executes the transactions of the ledger's writer. `DriverStatement` is a statement that SQLAlchemy
compiles only once. `TableInsertion` inserts many rows into a table. Errors of the driver are raised as exceptions of
SQLAlchemy.
"""

import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, Dialect, Engine, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler

MAX_ROWS_PER_STATEMENT = 100
"""Maximum number of rows that one statement inserts on PostgreSQL."""
_ReadValues = Callable[[Mapping[str, Any]], Any]


@contextmanager
def convert_driver_errors(
    dialect: Dialect, close_lost_connection: Callable[[Any], bool] = lambda _: False
) -> Iterator[None]:
    """Raise errors of the database driver inside the `with` block as exceptions of SQLAlchemy.

    `close_lost_connection` is called with the error. It returns True if the error means that the connection is lost,
    and may then close it.
    """
    driver_error = dialect.loaded_dbapi.Error
    try:
        yield
    except driver_error as error:
        lost = close_lost_connection(error)
        raise DBAPIError.instance(
            None, None, error, driver_error, connection_invalidated=lost, dialect=dialect
        ) from error


class DriverConnection:
    """Connection of `engine` for transactions that the database driver executes, in one thread.

    After a database error on SQLite, the caller must dispose the engine and open a new `DriverConnection`
    (`LedgerWriter._fail` does).
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect: Dialect = engine.dialect
        self.cursor: Any = None
        """Cursor of the driver, during a transaction."""
        self._driver: Any = None
        """Connection of the driver. None: it is not open."""
        self._pooled: PoolProxiedConnection | None = None
        """Connection to PostgreSQL during a transaction. None: no transaction, or the database is on SQLite."""

    def run(self, store: Callable[[], object]) -> None:
        """Call `store` in a transaction, which is rolled back if an exception is raised."""
        try:
            with convert_driver_errors(self.dialect, self._close_lost):
                if self._driver is None:
                    self._connect()
                if self._pooled is None:
                    self.cursor.execute("BEGIN IMMEDIATE")  # SQLite; psycopg itself begins a transaction
                store()
                self._driver.commit()
        finally:
            self._release()

    def query(self, statement: ClauseElement) -> list[Any]:
        """Execute `statement`, a rare query that SQLAlchemy compiles each time, and return all results."""
        compiled = statement.compile(dialect=self.dialect, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, SQLCompiler)
        values, names = compiled.params, compiled.positiontup
        self.cursor.execute(str(compiled), values if names is None else [values[name] for name in names])
        found: list[Any] = self.cursor.fetchall()
        return found

    def _connect(self) -> None:
        pooled = self.engine.raw_connection()
        self._driver, self.cursor = pooled.driver_connection, pooled.cursor()
        if isinstance(self._driver, sqlite3.Connection):
            pooled.close()  # the pool of the writer keeps its only connection to SQLite open
        else:
            self._pooled = pooled

    def _close_lost(self, error: Any) -> bool:
        """Return True if `error` means that the connection is lost. A connection to PostgreSQL is then closed."""
        lost = self.dialect.is_disconnect(error, self._driver, self.cursor)
        # the rollback on a lost connection would raise an error that hides the reason
        if lost and self._pooled is not None:
            self._pooled.invalidate(error)
        return lost

    def _release(self) -> None:
        """End a transaction that is not committed, and return a connection to PostgreSQL to its pool."""
        if self._pooled is not None:
            self._pooled.close()  # the pool rolls back, and checks the connection before its next use
            self._pooled = self._driver = self.cursor = None
        elif self._driver is not None:
            with suppress(sqlite3.Error):  # the exception of the transaction is raised, not this one
                self._driver.rollback()


class DriverStatement:
    """SQL statement that SQLAlchemy compiles once, and that the database driver then executes directly.

    The statement must have at least two parameters. Their values must have types that the driver accepts without a
    conversion by SQLAlchemy.

    Several rows are executed by the driver's method `executemany`. On PostgreSQL, this method sends one statement per
    row in a pipeline. It needs half the CPU time of single statements. But if a row fails, the driver psycopg also logs
    a warning about the pipeline. So use this class only for sums of rows that `TableInsertion` has stored in the same
    transaction. The database has then already accepted their values.
    """

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        self._build = build
        self._compiled: dict[str, tuple[str, _ReadValues]] = {}
        """Name of a database → SQL text, and a function that returns the values of a row as the driver needs them."""

    def execute(self, connection: DriverConnection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute the statement once for each of `rows`, which map the name of a parameter to its value.

        Other names in a row are ignored.
        """
        sql, values = self._find_compiled(connection.dialect)
        if len(rows) == 1:
            connection.cursor.execute(sql, values(rows[0]))
        else:
            connection.cursor.executemany(sql, list(map(values, rows)))

    def fetch_one(self, connection: DriverConnection, row: Mapping[str, Any]) -> Sequence[Any] | None:
        """Execute the statement, a query, with the parameters `row`, and return its first result. None: no result."""
        sql, values = self._find_compiled(connection.dialect)
        connection.cursor.execute(sql, values(row))
        found: Sequence[Any] | None = connection.cursor.fetchone()
        return found

    def _find_compiled(self, dialect: Dialect) -> tuple[str, _ReadValues]:
        if (known := self._compiled.get(dialect.name)) is not None:
            return known
        compiled = self._build(dialect.name).compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        values: _ReadValues = _read_names(compiled.positiontup) if compiled.positiontup else dict
        found = self._compiled[dialect.name] = str(compiled), values
        return found


class TableInsertion:
    """SQL statement that inserts rows into `table`.

    `read_values` returns the values of one row in the order of `columns`. The values must have types that the driver
    accepts without a conversion by SQLAlchemy.
    """

    def __init__(self, table: Table, columns: Sequence[str], read_values: Callable[[Any], Sequence[Any]]) -> None:
        self._text = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES "
        self._sqlite_text = f"{self._text}({', '.join('?' * len(columns))})"
        self._columns = columns
        self._read_values = read_values

    def execute(self, connection: DriverConnection, rows: Sequence[Any]) -> None:
        """Insert `rows` into the table."""
        if connection.dialect.name == "sqlite":  # a statement with several rows needs up to twice the CPU time
            connection.cursor.executemany(self._sqlite_text, map(self._read_values, rows))
            return
        # not `executemany`, because the database may reject a row: see `DriverStatement`
        marks = f"({', '.join(['%s'] * len(self._columns))})"
        for start in range(0, len(rows), MAX_ROWS_PER_STATEMENT):
            values = list(map(self._read_values, rows[start : start + MAX_ROWS_PER_STATEMENT]))
            sql = self._text + ", ".join([marks] * len(values))
            connection.cursor.execute(sql, list(chain.from_iterable(values)))


def _read_names(names: Sequence[str]) -> _ReadValues:
    """Return a function that returns the values of `names` in a row."""
    return itemgetter(*(sys.intern(str(name)) for name in names))
