"""Connections of pages, the API and commands, which read the database of the ledger with SQLAlchemy."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, create_engine, func, select, text
from sqlalchemy.pool import NullPool

from anthropic_proxy.console.ledger.database import (
    connect_for_reading,
    describe_reading_failure,
    find_database,
    is_disk_full,
    is_wal_emptied,
    new_full_disk_error,
    require_own_database,
)
from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION, find_schema_version, is_known_version
from anthropic_proxy.console.ledger.read_access import limit_query_time
from anthropic_proxy.console.ledger.records import RequestCounts
from anthropic_proxy.console.ledger.request_queries import stream_stored_requests
from anthropic_proxy.console.ledger.tables import hourly, metadata, requests
from anthropic_proxy.console.units import MICROSECONDS_PER_HOUR
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.database_address import DatabaseAddress

_VALUES = compile_later(r"\?")
_LOOK_SECONDS = 0.05


class EngineReader:
    """Queries with SQL text and `?` for values, as `Connection` has them. The limits of the engine apply to them."""

    def __init__(self, connection: Connection) -> None:
        self.is_postgres = connection.dialect.name == "postgresql"
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

    return create_engine("postgresql+psycopg://", creator=connect, pool_size=1, max_overflow=4, pool_pre_ping=True)


class LedgerReader:
    """Opener of connections to the database of the ledger that `settings` select, for any thread.

    `query_seconds`: as in `limit_query_time`; groups are limited too (`read_groups`). None: no limits. `warn` is called
    for each row that cannot be read completely. Raises `ConfigurationError` if the ledger is disabled.
    """

    def __init__(
        self, settings: Settings, query_seconds: float | None = None, warn: Callable[[str], None] | None = None
    ) -> None:
        self._address = find_database(settings)
        self._is_limited = query_seconds is not None
        self.engine = open_reading_engine(settings).execution_options(
            warn=warn, limits_groups=query_seconds is not None
        )
        if query_seconds is not None:
            limit_query_time(self.engine, query_seconds)

    def connect(self) -> Connection | None:
        """None: no request has been stored yet. Raises `ConfigurationError` for tables of another version or of another
        program, and for a file without access.
        """
        place = self._address.describe()
        while self._is_limited and is_wal_emptied(self._address):  # readings that began before end meanwhile
            time.sleep(_LOOK_SECONDS)
        try:
            if self._address.file is not None:
                os.stat(self._address.file)
        except (FileNotFoundError, NotADirectoryError) as error:
            if is_disk_full(self._address):
                raise new_reading_error(self._address, new_full_disk_error()) from error
            return None
        except OSError as error:  # for example in the home directory of another user
            raise new_reading_error(self._address, error) from None
        with ExitStack() as opened:
            connection = opened.enter_context(self.engine.connect())
            if has_tables(EngineReader(connection), place):
                opened.pop_all()
                return connection
        return None

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def read_ledger(
    settings: Settings, query_seconds: float | None = None, warn: Callable[[str], None] | None = None
) -> Iterator[Connection | None]:
    """Yield a connection as `LedgerReader` does, and close it."""
    with (
        closing(LedgerReader(settings, query_seconds, warn)) as reader,
        reader.connect() or nullcontext() as connection,
    ):
        yield connection


def open_empty_ledger() -> Connection:
    """Return a connection to a ledger without requests, which exists until the connection is closed."""
    connection = create_engine("sqlite://", poolclass=NullPool).connect()
    metadata.create_all(connection)
    return connection


def new_reading_error(address: DatabaseAddress, error: BaseException) -> ConfigurationError:
    return ConfigurationError(describe_reading_failure(address, error), code="ledger-not-readable")


def has_tables(reader: EngineReader, place: str) -> bool:
    """Return False if the database has no tables. `place`: for the error message.

    Raises `ConfigurationError` for tables of another version or of another program.
    """
    version = find_schema_version(reader)
    if version is None:
        require_own_database(reader, place)
        return False
    if version == NEWEST_VERSION:
        return True
    if is_known_version(version):
        raise ConfigurationError(
            f"The ledger {place} has the tables of an earlier version. The next start of the proxy migrates "
            "them. To do it now:  anthropic-proxy db upgrade",
            code="ledger-not-readable",
        )
    raise ConfigurationError(
        f"The ledger {place} has the tables of a newer version. Update this program, or set DATABASE_URL.",
        code="ledger-not-readable",
    )


_COMPARED = (*RequestCounts.__struct_fields__, "cost")


def find_database_problems(connection: Connection) -> Iterator[str]:
    """Problems are damaged SQLite files, requests that cannot be read completely, and hourly sums that differ from the
    requests.
    """
    if connection.dialect.name == "sqlite":
        lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        yield from (f"The file is damaged: {line}" for line in lines if line != "ok")
    damaged: list[str] = []
    for _ in stream_stored_requests(connection.execution_options(warn=damaged.append)):
        yield from damaged
        damaged.clear()
    # the oldest hour is not compared: some of its requests may already be deleted
    oldest = connection.execute(select(func.min(requests.c.started_at))).scalar()
    if not isinstance(oldest, int):
        return
    hour = oldest // MICROSECONDS_PER_HOUR + 1
    later = requests.c.started_at >= hour * MICROSECONDS_PER_HOUR
    rows = select(func.count(), *(func.sum(requests.c[name]) for name in _COMPARED)).where(later, _has_rows(requests))
    names = ("requests", *_COMPARED)
    sums = select(*(func.sum(hourly.c[name]) for name in names)).where(hourly.c.hour >= hour, _has_rows(hourly))
    compared = (connection.execute(query).one() for query in (rows, sums))
    for name, counted, summed in zip(names, *compared, strict=True):
        if int(counted or 0) != int(summed or 0):
            yield f"The sum of {name} is {int(summed or 0)}, but the requests have {int(counted or 0)}."


def _has_rows(table: Table) -> ColumnElement[bool]:
    """Return the condition for requests that are all rows: of those that limits of keys reject, only some are."""
    return (table.c.outcome_class != "error") | (table.c.provider != "")
