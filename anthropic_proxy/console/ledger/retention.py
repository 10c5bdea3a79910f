"""Deletion of expired rows, and of the oldest rows of a database that is too large."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from math import ceil

from sqlalchemy import Connection, Engine, Table, delete, func, select, text

from anthropic_proxy.console.ledger.database import convert_driver_errors
from anthropic_proxy.console.ledger.tables import SUM_TABLES, contents, key_hashes, requests
from anthropic_proxy.console.ledger.units import DAY_SECONDS, MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.gateway.settings import Settings

INTERVAL_SECONDS = 3600.0
REPLACED_KEY_DAYS = 7
"""Days for which the hash of a replaced virtual key is kept after its end, to name the key in error messages."""
CHUNK_ROWS = 1_000
TARGET_SHARE = 0.9
"""Share (0 to 1) of the maximum size to which a deletion by size reduces the database."""
SUMS_SHARE = 0.5
"""Share (0 to 1) of the target size above which the oldest sums are deleted too."""
_MEGABYTE = 1_000_000
_INDEX_BYTES_PER_ROW = 320
"""Approximate number of bytes of the index entries of one row on PostgreSQL."""
_BYTES_PER_SUM_ROW = 40
"""Approximate number of bytes of one row of sums and its index entries, besides its values."""
_SAMPLED_ROWS = 1_000


class Retention:
    """Deletion of expired rows, and of the oldest rows of a database that is too large. `clock` returns seconds since
    the epoch.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._next_at = 0.0

    def is_due(self) -> bool:
        """Return True if `delete_expired` must be called now. This is the case at the start, and when
        `INTERVAL_SECONDS` have passed since the last complete deletion.
        """
        return self._clock() >= self._next_at

    def seconds_until_due(self) -> float:
        return max(1.0, self._next_at - self._clock()) if self._next_at else INTERVAL_SECONDS

    def delete_expired(self, engine: Engine, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """The deletion ends early if `is_stopped` returns True. The next call continues."""
        before = int((self._clock() - self._settings.ledger_days * DAY_SECONDS) * MICROSECONDS)
        content_before = int((self._clock() - self._settings.ledger_content_days * DAY_SECONDS) * MICROSECONDS)
        replaced_before = int((self._clock() - REPLACED_KEY_DAYS * DAY_SECONDS) * MICROSECONDS)
        with engine.begin() as connection:
            connection.execute(delete(key_hashes).where(key_hashes.c.expires_at < replaced_before))
            for table in SUM_TABLES:
                connection.execute(delete(table).where(table.c.hour < before // MICROSECONDS_PER_HOUR))
        for table, limit in ((contents, max(before, content_before)), (requests, before)):
            while not is_stopped() and _delete_oldest(engine, table, limit):
                continue
        for table, excess in self._count_excess(engine).items():
            left = excess
            while left > 0 and not is_stopped():
                deleted = _delete_oldest(engine, table, None, min(left, CHUNK_ROWS))
                left = left - deleted if deleted else 0
        if not is_stopped():
            self._next_at = self._clock() + INTERVAL_SECONDS

    def _count_excess(self, engine: Engine) -> dict[Table, int]:
        target = self._settings.ledger_max_mb * _MEGABYTE * TARGET_SHARE
        with engine.connect() as connection:
            size = measure_used_bytes(connection)
            if size * TARGET_SHARE <= target:
                return {}
            sums = sum(_estimate_sum_bytes(connection, table) for table in SUM_TABLES)
            kept_sums = min(sums, target * SUMS_SHARE)
            others = max(size - sums, 1)
            shares = dict.fromkeys(SUM_TABLES, 1 - kept_sums / sums if sums else 0.0)
            shares |= dict.fromkeys((contents, requests), min(max(1 - (target - kept_sums) / others, 0.0), 1.0))
            return {table: ceil(_count_rows(connection, table) * share) for table, share in shares.items()}


def measure_used_bytes(connection: Connection) -> int:
    """Return the size in bytes of the stored rows and indexes in the database, without free pages. On PostgreSQL, the
    size is an estimate.
    """
    if connection.dialect.name == "sqlite":
        used, free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((used - free) * size)
    newest = select(requests).order_by(requests.c.started_at.desc()).limit(_SAMPLED_ROWS).subquery("sampled")
    row_bytes = (
        connection.execute(select(func.avg(text("pg_column_size(sampled.*)"))).select_from(newest)).scalar() or 0
    )
    texts = connection.execute(select(func.sum(func.octet_length(contents.c.data)))).scalar() or 0
    sums = sum(_estimate_sum_bytes(connection, table) for table in SUM_TABLES)
    return int(_count_rows(connection, requests) * (float(row_bytes) + _INDEX_BYTES_PER_ROW)) + int(texts) + sums


def _estimate_sum_bytes(connection: Connection, table: Table) -> int:
    rows = connection.execute(select(table).order_by(table.c.hour.desc()).limit(_SAMPLED_ROWS)).all()
    values = [value for row in rows for value in row]
    size = sum(len(value) if isinstance(value, bytes) else 2 * len(str(value).encode()) for value in values)
    return int(_count_rows(connection, table) * (size / len(rows) + _BYTES_PER_SUM_ROW)) if rows else 0


def _delete_oldest(engine: Engine, table: Table, before: int | None, count: int = CHUNK_ROWS) -> int:
    """`before`: only rows that started before this time are deleted; None: rows of any age."""
    key = table.primary_key.columns.values()[0]
    oldest = select(key).order_by(key if table in SUM_TABLES else table.c.started_at).limit(count)
    if before is not None:
        oldest = oldest.where(table.c.started_at < before)
    with engine.begin() as connection:
        deleted = connection.execute(delete(table).where(key.in_(oldest))).rowcount
    if deleted and engine.dialect.name == "sqlite":
        # return free pages to the disk; `execute` would release only one page
        with convert_driver_errors(engine.dialect), closing(engine.raw_connection()) as pooled:
            driver = pooled.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.executescript("PRAGMA incremental_vacuum")
    return deleted


def _count_rows(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar() or 0
