"""SQLAlchemy engines for pages, the API and commands, which read the database of the ledger."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, create_engine, exc, func, select, text
from sqlalchemy.pool import NullPool

from anthropic_proxy.console.ledger import database
from anthropic_proxy.console.ledger.database import (
    DatabaseError,
    connect_for_reading,
    find_database,
    require_own_database,
)
from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION, find_schema_version, is_known_version
from anthropic_proxy.console.ledger.records import RequestCounts
from anthropic_proxy.console.ledger.tables import hourly, requests
from anthropic_proxy.console.ledger.units import MICROSECONDS_PER_HOUR
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings

_VALUES = re.compile(r"\?")


class EngineReader:
    """Queries with SQL text on a connection of an engine, which restricts them as its other ones."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        numbers = itertools.count()
        named = _VALUES.sub(lambda _: f":value_{next(numbers)}", sql)
        parameters = {f"value_{number}": value for number, value in enumerate(values)}
        return list(self._connection.execute(text(named), parameters))


def open_reading_engine(settings: Settings) -> Engine:
    """Return an engine for queries in any thread. It does not create tables. Raises `ConfigurationError` if the ledger
    is disabled.
    """
    address = find_database(settings)
    if address.file is not None:
        return create_engine("sqlite://", creator=lambda: connect_for_reading(address), poolclass=NullPool)

    def connect() -> Any:
        driver = connect_for_reading(address)
        driver.autocommit = False  # an export reads with a cursor of the server, which needs a transaction
        return driver

    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=1,
        max_overflow=4,
        pool_pre_ping=True,
    )


def has_tables(connection: Connection, place: str) -> bool:
    """Return False if the database has no tables. `place`: for the error message.

    Raises `ConfigurationError` for tables of another version or of another program.
    """
    reader = database.Connection(connection.connection.driver_connection)
    try:
        version = find_schema_version(reader)
        if version is None:
            require_own_database(reader, place)
            return False
    except DatabaseError as error:
        driver_error = connection.dialect.loaded_dbapi.Error
        raise exc.DBAPIError.instance(None, None, error.cause, driver_error, dialect=connection.dialect) from error
    if version == NEWEST_VERSION:
        return True
    if is_known_version(version):
        raise ConfigurationError(
            f"The ledger {place} has the tables of an earlier version. Migrate them:  anthropic-proxy db upgrade",
            code="ledger-not-readable",
        )
    raise ConfigurationError(
        f"The ledger {place} has the tables of a newer version. Update this program, or set DATABASE_URL.",
        code="ledger-not-readable",
    )


_COMPARED = (*RequestCounts.__struct_fields__, "cost")


def find_database_problems(connection: Connection) -> Iterator[str]:
    """Problems are damaged SQLite files, and hourly sums that differ from the requests."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        yield from (f"The file is damaged: {line}" for line in found if line != "ok")
    # the oldest hour is not compared: some of its requests may already be deleted
    oldest = connection.execute(select(func.min(requests.c.started_at))).scalar()
    if oldest is None:
        return
    hour = oldest // MICROSECONDS_PER_HOUR + 1
    rows = connection.execute(
        select(func.count(), *(func.sum(requests.c[name]) for name in _COMPARED)).where(
            requests.c.started_at >= hour * MICROSECONDS_PER_HOUR, _has_rows(requests)
        )
    ).one()
    sums = connection.execute(
        select(func.sum(hourly.c.requests), *(func.sum(hourly.c[name]) for name in _COMPARED)).where(
            hourly.c.hour >= hour, _has_rows(hourly)
        )
    ).one()
    for name, counted, summed in zip(("requests", *_COMPARED), rows, sums, strict=True):
        if int(counted or 0) != int(summed or 0):
            yield f"The sum of {name} is {int(summed or 0)}, but the requests have {int(counted or 0)}."


def _has_rows(table: Table) -> ColumnElement[bool]:
    """Return the condition for requests that are all rows: of those that limits of keys reject, only some are."""
    return (table.c.outcome_class != "error") | (table.c.provider != "")
