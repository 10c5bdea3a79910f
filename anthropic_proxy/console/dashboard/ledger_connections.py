"""`LedgerConnections`: connections to the ledger for the pages, or to an empty database if it cannot be read."""

import threading
from collections.abc import Callable

from msgspec import Struct
from sqlalchemy import Connection, exc

from anthropic_proxy.console.dashboard.page import StateLine
from anthropic_proxy.console.ledger.engines import LedgerReader, open_empty_ledger
from anthropic_proxy.console.ledger.queries import LedgerExtent, read_ledger_extent
from anthropic_proxy.console.ledger.read_access import MAX_READ_SECONDS, describe_read_failure
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings


class OpenedLedger(Struct, frozen=True):
    connection: Connection
    facts: LedgerExtent
    problem: StateLine | None = None
    """Line with the reason for which the ledger cannot be read. None: it can be read, or no request has been stored
    yet. With a problem, the connection leads to an empty database."""


class LedgerConnections:
    """`warn` is that of `LedgerReader`."""

    def __init__(self, warn: Callable[[str], None] | None = None) -> None:
        self._warn = warn
        self._lock = threading.Lock()
        self._reader: LedgerReader | None = None
        self._settings: Settings | None = None

    def open(self, settings: Settings) -> OpenedLedger:
        """The caller closes the connection. If the ledger cannot be read, it leads to an empty database."""
        problem = None
        try:
            with self._lock:
                if self._reader is None or self._settings is not settings:  # the first call after the start or a reload
                    if self._reader is not None:
                        self._reader.close()
                    self._reader = LedgerReader(settings, MAX_READ_SECONDS, self._warn)
                    self._settings = settings
                reader = self._reader
            connection = reader.connect()
            if connection is not None:
                try:
                    return OpenedLedger(connection, read_ledger_extent(connection))
                except exc.SQLAlchemyError:
                    connection.close()
                    raise
        except ConfigurationError as error:
            problem = StateLine("!", "warn", error.message)
        except exc.SQLAlchemyError as error:
            problem = StateLine("✕", "error", describe_read_failure(error).message)
        return OpenedLedger(open_empty_ledger(), LedgerExtent(0, None, None), problem)

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None
