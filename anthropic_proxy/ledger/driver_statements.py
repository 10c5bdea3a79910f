"""`DriverStatement`: an SQL statement of the writer that is compiled once and then executed by the database driver.

The driver gets the compiled SQL text and the values directly, because SQLAlchemy needs about 100 µs for each execution,
more than the database itself.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, Connection, CursorResult, Dialect
from sqlalchemy.sql.compiler import SQLCompiler


class DriverStatement:
    """SQL statement with at least two parameters, compiled at its first execution.

    `build`: returns the statement for a database: `sqlite` or `postgresql`. The types of its columns must need no
    conversion by SQLAlchemy.
    """

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        self._build = build
        self._compiled: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {}
        """Name of a database → SQL text, and a function that returns the values of a row as the driver needs them."""

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        """Execute the statement once for each of `rows`: name of a parameter → value. A row may have further names."""
        sql, values = self._compiled.get(connection.dialect.name) or self._compile(connection.dialect)
        parameters = [values(row) for row in rows]
        return connection.exec_driver_sql(sql, parameters if len(parameters) > 1 else parameters[0])

    def _compile(self, dialect: Dialect) -> tuple[str, Callable[[Mapping[str, Any]], Any]]:
        compiled = self._build(dialect.name).compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        values: Callable[[Mapping[str, Any]], Any] = itemgetter(*compiled.positiontup) if compiled.positiontup else dict
        found = self._compiled[dialect.name] = str(compiled), values
        return found
