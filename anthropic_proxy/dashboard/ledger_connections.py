"""Read-only connections to the ledger, the database of client requests, for the pages of one process.

`LedgerConnections.open` returns a connection as an `OpenedLedger`.
"""

import threading

from msgspec import Struct
from sqlalchemy import Connection, Engine, NullPool, create_engine, exc

from anthropic_proxy.dashboard.ledger_lines import StateLine
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.ledger.dashboard_queries import LedgerExtent, read_ledger_extent
from anthropic_proxy.ledger.database import describe_database_location, find_database_url, has_tables, open_for_reading
from anthropic_proxy.ledger.read_limits import describe_read_failure, limit_query_time
from anthropic_proxy.ledger.tables import metadata
from anthropic_proxy.settings import Settings


class OpenedLedger(Struct, frozen=True):
    """An open connection to the ledger, with facts about its content, and the problem if the ledger cannot be read.

    The facts are the number of stored requests, and the times of the first and the latest request.
    """

    connection: Connection
    facts: LedgerExtent
    problem: StateLine | None = None
    """Line with the reason for which the ledger cannot be read.

    None: it can be read, or no request has been stored yet. With a problem, the connection leads to an empty
    database.
    """


class LedgerConnections:
    """Pool of read-only connections to the ledger, the database of client requests, for all threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._settings: Settings | None = None

    def open(self, settings: Settings) -> OpenedLedger:
        """Return a connection to the ledger for one page, which the caller must close.

        If the ledger cannot be read, the connection is to an empty database, so that the page can still be shown.
        """
        problem = None
        try:
            connection = self._find_engine(settings).connect()
            try:
                has_tables(connection, describe_database_location(find_database_url(settings)))
                return OpenedLedger(connection, read_ledger_extent(connection))
            except (exc.SQLAlchemyError, ConfigurationError):
                connection.close()
                raise
        except ConfigurationError as error:
            problem = StateLine("!", "warn", error.message)
        except exc.SQLAlchemyError as error:
            if not _is_missing(error):
                problem = StateLine("✕", "error", describe_read_failure(error).message)
        empty = create_engine("sqlite://", poolclass=NullPool).connect()  # exists until the connection is closed
        metadata.create_all(empty)
        return OpenedLedger(empty, LedgerExtent(0, None, None), problem)

    def close(self) -> None:
        """Close the connections of the pool that no page uses at the moment. Called when the proxy stops."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = None

    def _find_engine(self, settings: Settings) -> Engine:
        """Return the engine for `settings`, which the first call after the start or a reload creates."""
        with self._lock:
            if self._engine is None or self._settings is not settings:
                if self._engine is not None:
                    self._engine.dispose()
                self._engine, self._settings = open_for_reading(settings), settings
                limit_query_time(self._engine)
            return self._engine


def _is_missing(error: exc.SQLAlchemyError) -> bool:
    """Return True if `error` means that the database does not exist yet, because no request was stored."""
    text = str(error)
    return "unable to open database file" in text or "no such table" in text or "UndefinedTable" in text
