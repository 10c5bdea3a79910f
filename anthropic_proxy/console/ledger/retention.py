"""Deletion of expired rows, and of the oldest rows of a database that is too large."""

import time
from collections.abc import Callable
from math import ceil

from anthropic_proxy.console.ledger.database import Connection
from anthropic_proxy.console.ledger.schema import SUM_TABLES
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
_KEYS = {"contents": ("request_id", "started_at"), "requests": ("id", "started_at")}
"""Table → columns with the request and its time."""


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

    def delete_expired(self, connection: Connection, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """The deletion ends early if `is_stopped` returns True. The next call continues."""
        before = int((self._clock() - self._settings.ledger_days * DAY_SECONDS) * MICROSECONDS)
        content_before = int((self._clock() - self._settings.ledger_content_days * DAY_SECONDS) * MICROSECONDS)
        replaced_before = int((self._clock() - REPLACED_KEY_DAYS * DAY_SECONDS) * MICROSECONDS)
        with connection.transaction():
            connection.execute("DELETE FROM key_hashes WHERE expires_at < ?", (replaced_before,))
            for table in SUM_TABLES:
                connection.execute(f"DELETE FROM {table} WHERE hour < ?", (before // MICROSECONDS_PER_HOUR,))
        for table, limit in (("contents", max(before, content_before)), ("requests", before)):
            while not is_stopped() and _delete_oldest(connection, table, limit):
                continue
        for table, excess in self._count_excess(connection).items():
            left = excess
            while left > 0 and not is_stopped():
                deleted = _delete_oldest(connection, table, None, min(left, CHUNK_ROWS))
                left = left - deleted if deleted else 0
        if not is_stopped():
            self._next_at = self._clock() + INTERVAL_SECONDS

    def _count_excess(self, connection: Connection) -> dict[str, int]:
        target = self._settings.ledger_max_mb * _MEGABYTE * TARGET_SHARE
        size = measure_used_bytes(connection)
        if size * TARGET_SHARE <= target:
            return {}
        sums = sum(_estimate_sum_bytes(connection, table) for table in SUM_TABLES)
        kept_sums = min(sums, target * SUMS_SHARE)
        others = max(size - sums, 1)
        shares = dict.fromkeys(SUM_TABLES, 1 - kept_sums / sums if sums else 0.0)
        shares |= dict.fromkeys(("contents", "requests"), min(max(1 - (target - kept_sums) / others, 0.0), 1.0))
        return {table: ceil(_count_rows(connection, table) * share) for table, share in shares.items()}


def measure_used_bytes(connection: Connection) -> int:
    """Return the size in bytes of the stored rows and indexes in the database, without free pages. On PostgreSQL, the
    size is an estimate.
    """
    if not connection.is_postgres:
        names = ("page_count", "freelist_count", "page_size")
        used, free, size = (connection.query(f"PRAGMA {name}")[0][0] for name in names)
        return int((used - free) * size)
    newest = f"SELECT * FROM requests ORDER BY started_at DESC LIMIT {_SAMPLED_ROWS}"
    row_bytes = connection.query(f"SELECT avg(pg_column_size(sampled.*)) FROM ({newest}) AS sampled")[0][0] or 0
    texts = connection.query("SELECT sum(octet_length(data)) FROM contents")[0][0] or 0
    sums = sum(_estimate_sum_bytes(connection, table) for table in SUM_TABLES)
    return int(_count_rows(connection, "requests") * (float(row_bytes) + _INDEX_BYTES_PER_ROW)) + int(texts) + sums


def _estimate_sum_bytes(connection: Connection, table: str) -> int:
    rows = connection.query(f"SELECT * FROM {table} ORDER BY hour DESC LIMIT {_SAMPLED_ROWS}")
    values = [value for row in rows for value in row]
    size = sum(len(value) if isinstance(value, bytes) else 2 * len(str(value).encode()) for value in values)
    return int(_count_rows(connection, table) * (size / len(rows) + _BYTES_PER_SUM_ROW)) if rows else 0


def _delete_oldest(connection: Connection, table: str, before: int | None, count: int = CHUNK_ROWS) -> int:
    """`before`: only rows that started before this time are deleted; None: rows of any age."""
    key, time_column = ("hour", "hour") if table in SUM_TABLES else _KEYS[table]
    chosen, values = ("", ()) if before is None else (f"WHERE {time_column} < ? ", (before,))
    oldest = f"SELECT {key} FROM {table} {chosen}ORDER BY {time_column} LIMIT {count}"
    with connection.transaction():
        deleted = connection.execute(f"DELETE FROM {table} WHERE {key} IN ({oldest})", values)
    if deleted:
        connection.release_free_pages()
    return deleted


def _count_rows(connection: Connection, table: str) -> int:
    count: int = connection.query(f"SELECT count(*) FROM {table}")[0][0]
    return count
