"""`Connection`: a connection to the database of the ledger, by a driver."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

MAX_ROWS_PER_STATEMENT = 100
_VALUES_PER_STATEMENT = 500
_SQLITE_ROWS_PER_STATEMENT = (50, 10, 1)
"""sqlite3 releases the interpreter for each statement, and waits for it while requests are served. With more rows, a
statement takes as much CPU time per row. Each size is a prepared statement, which needs memory."""


class DatabaseError(Exception):
    """Error of the database or its driver."""

    def __init__(self, cause: Exception, *, concerns_value: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.concerns_value = concerns_value
        """True if the database rejects a value, and could store others."""


class Reader(Protocol):
    """Connection for queries: one of a driver, or an `EngineReader`."""

    is_postgres: bool

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]: ...


def query_parts(reader: Reader, sql: str, values: Sequence[object]) -> Iterator[Any]:
    """Return the rows of a query for each part of `values`, whose places are `{marks}`. PostgreSQL allows 65,535 values
    in a statement, and SQLite fewer in some builds.
    """
    for start in range(0, len(values), _VALUES_PER_STATEMENT):
        part = values[start : start + _VALUES_PER_STATEMENT]
        yield from reader.query(sql.format(marks=", ".join("?" * len(part))), part)


class Connection:
    """Connection of a driver, sqlite3 or psycopg, for one thread at a time. `?` in SQL is the place of a value.

    `connect` opens a lost connection to PostgreSQL again, before a transaction begins.
    """

    def __init__(self, driver: Any, file: Path | None = None, connect: Callable[[], Any] | None = None) -> None:
        self.is_postgres = not isinstance(driver, sqlite3.Connection)
        self._module: ModuleType = import_psycopg() if self.is_postgres else sqlite3
        self._errors: type[Exception] = self._module.Error
        self._driver = driver
        self._cursor = driver.cursor()
        self._connect = connect
        self._file = file
        self._identity = _identify(file)
        self.answered_at = time.monotonic()
        """Monotonic time of the latest answer of the database."""

    @property
    def is_replaced(self) -> bool:
        """True if the SQLite file was removed or replaced since the connection was opened."""
        return self._identity != _identify(self._file)

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        self._call(self._cursor.execute, _to_postgres(sql) if self.is_postgres else sql, values)
        rows: list[Any] = self._call(self._cursor.fetchall)
        return rows

    def execute(self, sql: str, values: Sequence[object] = ()) -> int:
        """Return the number of changed rows."""
        self._call(self._cursor.execute, _to_postgres(sql) if self.is_postgres else sql, values)
        count: int = self._cursor.rowcount
        return count

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """The database must accept all rows. psycopg sends one statement per row in a pipeline, which needs half the
        CPU time of single statements, but logs a warning about the pipeline if a row fails.
        """
        if len(rows) == 1:
            self.execute(sql, rows[0])
        else:
            self._call(self._cursor.executemany, _to_postgres(sql) if self.is_postgres else sql, rows)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """The database may reject a row. The caller then rolls back the transaction."""
        start = 0
        while left := len(rows) - start:
            if self.is_postgres:
                size = min(left, MAX_ROWS_PER_STATEMENT)
            else:
                size = next(size for size in _SQLITE_ROWS_PER_STATEMENT if size <= left)
            insertion = _build_insertion(table, tuple(columns), size, is_postgres=self.is_postgres)
            self.execute(insertion, list(chain.from_iterable(rows[start : start + size])))
            start += size

    def insert_row(self, table: str, values: Mapping[str, object]) -> None:
        self.insert(table, tuple(values), [tuple(values.values())])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """An exception rolls the transaction back."""
        try:
            self._begin()
            yield
            self._call(self._driver.commit)
        except BaseException:
            with suppress(self._errors):  # the exception of the transaction is raised, not this one
                self._driver.rollback()
            raise

    def query_together(self, statements: Sequence[tuple[str, Sequence[object]]]) -> list[list[Any]]:
        """Send several statements in one message to PostgreSQL. Return the rows of each; [] for one without rows."""
        sql = "; ".join(_to_postgres(text) for text, _ in statements)

        def run() -> list[list[Any]]:
            # not the pipeline of psycopg: after it, PostgreSQL does not end a transaction that is idle for too long
            cursor = self._module.ClientCursor(self._driver)
            cursor.execute(sql, [value for _, values in statements for value in values])
            results = []
            for _ in statements:
                results.append(cursor.fetchall() if cursor.description is not None else [])
                cursor.nextset()
            return results

        results: list[list[Any]] = self._call(run)
        return results

    def roll_back(self) -> None:
        """End a transaction that `query_together` has begun."""
        with suppress(self._errors):  # the error that is the reason is raised, not this one
            self._driver.rollback()

    @property
    def is_closed(self) -> bool:
        """True if the server has ended the connection."""
        return bool(self._driver.closed)

    def release_free_pages(self) -> None:
        """Return the free pages of a SQLite file to the disk."""
        if not self.is_postgres:  # `execute` would release only one page
            self._call(self._driver.executescript, "PRAGMA incremental_vacuum")

    def close(self) -> None:
        self._driver.close()

    def _begin(self) -> None:
        # SQLite: a transaction that reads first could not wait for the lock
        sql = "BEGIN" if self.is_postgres else "BEGIN IMMEDIATE"
        try:
            self._cursor.execute(sql)
        except self._errors as error:
            if self._connect is None or not self._driver.closed:
                raise self._convert(error) from error
        else:
            return
        self._driver = self._connect()
        self._cursor = self._driver.cursor()
        self.execute(sql)

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            result = function(*arguments)
        except self._errors as error:
            raise self._convert(error) from error
        self.answered_at = time.monotonic()
        return result

    def _convert(self, error: Exception) -> DatabaseError:
        rejections = (self._module.DataError, self._module.IntegrityError)
        return DatabaseError(error, concerns_value=isinstance(error, rejections))


@cache
def _to_postgres(sql: str) -> str:
    return sql.replace("?", "%s")


@lru_cache(maxsize=16)
def _build_insertion(table: str, columns: tuple[str, ...], count: int, *, is_postgres: bool) -> str:
    """Return the statement for `count` rows."""
    # otherwise, SQLite copies each page before its change, to undo only this statement if it rejects a row
    failure = "" if is_postgres else "OR FAIL "
    marks = f"({', '.join('?' * len(columns))})"
    return f"INSERT {failure}INTO {table} ({', '.join(columns)}) VALUES {', '.join([marks] * count)}"


def _identify(file: Path | None) -> tuple[int, int] | None:
    """Return device and inode of the SQLite file `file`. None: no such file, or the database is on PostgreSQL."""
    if file is None:
        return None
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def import_psycopg() -> ModuleType:
    import psycopg  # noqa: PLC0415  # optional

    return psycopg
