"""Deletion of expired rows, and of the oldest rows of a database that is too large.

Nothing brings deleted rows back, and the clock of a machine can be wrong: after a start without a battery, or for a
moment in a virtual machine. So rows are deleted only if the ledger itself shows that time has passed: there must be a
request of the last month that is at least a day old. A wrong clock that lasts for less than a day deletes nothing, and
neither does one that changes while the proxy runs. A ledger that was not used for a month begins to delete a day later.

The sums of an hour that a budget counts stay, whatever their age and size: the budget would be full again.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from math import ceil

import msgspec
from msgspec import Struct

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.schema import ACTIVITY_TABLES, SUM_TABLES
from anthropic_proxy.console.units import DAY_SECONDS, HOUR_SECONDS, MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Period, Rules

INTERVAL_SECONDS = 3600.0
CLOCK_INTERVAL_SECONDS = 600.0
"""Pause between two looks at a clock that may be wrong."""
MAX_GAP_DAYS = 30
"""Number of days without a request, and size of a change of the clock, from which the clock may be wrong."""
PROOF_DAYS = 1
"""Minimum age of a request that shows that the clock is right. Younger ones may have been stored by a wrong clock."""
REPLACED_KEY_DAYS = 7
"""Days for which the hash of a replaced virtual key is kept after its end, to name the key in error messages."""
SIGNED_OUT_DAYS = 30
"""Days for which the row of a device is kept after its sign-out."""
ACCESS_END_DAYS = 366
"""Days for which a row shows that the access of a person has ended. It is longer than `days` of `[sign_in]`, so that
the own keys of the person do not become valid again by the time of their creation."""
MAX_POINTS_PER_CLIENT = 20_000
"""Maximum number of rows of a client in `activity_points` after a deletion. The metrics of one session need about 300
an hour. A client with more keeps the newest: an older number counts again if the client states it again."""
CHUNK_ROWS = 1_000
TARGET_SHARE = 0.9
"""Share (0 to 1) of the maximum size to which a deletion by size reduces the database."""
SUMS_SHARE = 0.5
"""Share (0 to 1) of the target size above which the oldest sums are deleted too."""
ACTIVITY_SHARE = 0.1
"""Share (0 to 1) of the target size above which the oldest rows of work are deleted, before all others: clients state
them, and need no request for it."""
_PERIOD_DAYS: Mapping[Period, int] = {"day": 3, "week": 9, "month": 33, "total": 0}
"""Period of a budget → days that contain it in each time zone. 0: all."""
_MEGABYTE = 1_000_000
_INDEX_BYTES_PER_ROW = 320
"""Approximate number of bytes of the index entries of one row on PostgreSQL."""
_BYTES_PER_SUM_ROW = 40
"""Approximate number of bytes of one row of sums and its index entries, besides its values."""
_SAMPLED_ROWS = 1_000
_KEYS: dict[str, tuple[str, str]] = {
    "contents": ("request_id", "started_at"),
    "requests": ("id", "started_at"),
    **dict.fromkeys(SUM_TABLES, ("hour", "hour")),
    **{table: (column, column) for table, column in ACTIVITY_TABLES.items()},
}
"""Table → columns by which rows are chosen, and with the time."""
_TRIM_POINTS = (
    "DELETE FROM activity_points WHERE client = ? AND ends_at <= (SELECT ends_at FROM activity_points "
    "WHERE client = ? ORDER BY ends_at DESC LIMIT 1 OFFSET ?)"
)


class Retention:
    """`clock` returns seconds since the epoch, `ticks` the seconds of a clock that nobody sets."""

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.time, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._ticks = ticks
        self._next_at: float | None = None
        """Time by `ticks` of the next deletion. None: now."""
        self._offset: float | None = None
        """Difference of both clocks when the clock was last right. None: it has not been right since the start."""
        self.problem = ""
        """Sentence for the user: why the clock may be wrong, so that nothing is deleted. "": it is right."""

    def is_due(self) -> bool:
        """Return True if `delete_expired` must be called now. This is the case at the start, and when
        `INTERVAL_SECONDS` have passed since the last complete deletion.
        """
        return self._next_at is None or self._ticks() >= self._next_at

    def seconds_until_due(self) -> float:
        return INTERVAL_SECONDS if self._next_at is None else max(1.0, self._next_at - self._ticks())

    def delete_expired(self, connection: Connection, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """The deletion ends early if `is_stopped` returns True. The next call continues."""
        now = self._clock()
        self.problem = self._find_clock_problem(connection, now)
        if self.problem:
            self._next_at = self._ticks() + CLOCK_INTERVAL_SECONDS
            return

        def days_ago(days: float) -> int:
            """Return a time in microseconds since the epoch."""
            return int((now - days * DAY_SECONDS) * MICROSECONDS)

        before = days_ago(self._settings.ledger_days)
        content_before = days_ago(self._settings.ledger_content_days)
        with connection.transaction():
            connection.execute("DELETE FROM key_hashes WHERE expires_at < ?", (days_ago(REPLACED_KEY_DAYS),))
            connection.execute("DELETE FROM device_codes WHERE expires_at < ?", (days_ago(0),))
            rows = "DELETE FROM sign_ins WHERE ends_at < ? OR (ended_at < ? AND ended_at < ends_at)"
            connection.execute(rows, (days_ago(ACCESS_END_DAYS), days_ago(SIGNED_OUT_DAYS)))
            rows = "DELETE FROM people WHERE stated_at < ? AND key_id NOT IN (SELECT key_id FROM sign_ins)"
            connection.execute(rows, (days_ago(ACCESS_END_DAYS),))
            tokens = "UPDATE sign_ins SET provider_token = '' WHERE ends_at < ? AND provider_token != ''"
            connection.execute(tokens, (days_ago(0),))
            connection.execute(
                "DELETE FROM verdict_log WHERE at < ? AND id < (SELECT max(id) FROM verdict_log)", (before,)
            )
            connection.execute("DELETE FROM parked_events WHERE parked_at < ?", (before,))
            connection.execute("DELETE FROM activity_points WHERE ends_at < ?", (days_ago(0),))
            many = "SELECT client FROM activity_points WHERE client != '' GROUP BY client HAVING count(*) > ?"
            for (client,) in connection.query(many, (MAX_POINTS_PER_CLIENT,)):
                connection.execute(_TRIM_POINTS, (client, client, MAX_POINTS_PER_CLIENT))
            for table in ("session_hours", "activity"):
                connection.execute(f"DELETE FROM {table} WHERE hour < ?", (before // MICROSECONDS_PER_HOUR,))
            counted = _find_counted_hours(connection, self._settings, now)
            counted.delete_others(connection, before // MICROSECONDS_PER_HOUR)
        for table, limit in (("contents", max(before, content_before)), ("requests", before)):
            while not is_stopped() and _delete_oldest(connection, table, limit):
                continue
        for count_excess in (self._count_excess_activity, self._count_excess):  # the second one measures again
            for table, excess in count_excess(connection).items():
                left = excess
                if table == "hourly" and left and not counted.is_empty:
                    newest = f"SELECT hour FROM hourly ORDER BY hour LIMIT 1 OFFSET {left - 1}"
                    with connection.transaction():
                        for (hour,) in connection.query(newest):
                            counted.delete_others(connection, hour + 1)
                    connection.release_free_pages()
                    continue
                while left > 0 and not is_stopped():
                    deleted = _delete_oldest(connection, table, None, min(left, CHUNK_ROWS))
                    left = left - deleted if deleted else 0
        with connection.transaction():
            oldest = "(SELECT min(started_at) FROM requests)"
            connection.execute(f"DELETE FROM session_titles WHERE started_at < {oldest}")
        if not is_stopped():
            self._next_at = self._ticks() + INTERVAL_SECONDS

    def _find_clock_problem(self, connection: Connection, now: float) -> str:
        shown = f"The ledger deletes nothing, because the clock may be wrong: it shows {_format_day(now)}"
        remedy = "Correct the clock. If it is right, the deletion begins a day after the first new request."
        proven = int((now - PROOF_DAYS * DAY_SECONDS) // HOUR_SECONDS)
        ((latest,),) = connection.query("SELECT max(hour) FROM hourly")
        ((before,),) = connection.query("SELECT max(hour) FROM hourly WHERE hour <= ?", (proven,))
        newest = None if latest is None else float(latest) * HOUR_SECONDS
        earlier = None if before is None else float(before) * HOUR_SECONDS
        if earlier is not None and now - earlier > MAX_GAP_DAYS * DAY_SECONDS:
            return f"{shown}, and the latest request before the last 24 hours is of {_format_day(earlier)}. {remedy}"
        if earlier is None and newest is not None and newest - now > PROOF_DAYS * DAY_SECONDS:
            return f"{shown}, and a request is of {_format_day(newest)}. {remedy}"
        offset = now - self._ticks()
        if self._offset is not None and abs(offset - self._offset) > MAX_GAP_DAYS * DAY_SECONDS:
            days = round(abs(offset - self._offset) / DAY_SECONDS)
            return (
                f"The ledger deletes nothing, because the clock has changed by {days} days since the start of the "
                "proxy. Correct the clock. If it is right, restart the proxy."
            )
        self._offset = offset
        return ""

    def _count_excess_activity(self, connection: Connection) -> dict[str, int]:
        kept = self._settings.ledger_max_mb * _MEGABYTE * TARGET_SHARE * ACTIVITY_SHARE
        activity = sum(_estimate_sum_bytes(connection, table) for table in ACTIVITY_TABLES)
        share = max(1 - kept / activity, 0.0) if activity else 0.0
        return {table: ceil(_count_rows(connection, table) * share) for table in ACTIVITY_TABLES}

    def _count_excess(self, connection: Connection) -> dict[str, int]:
        target = self._settings.ledger_max_mb * _MEGABYTE * TARGET_SHARE
        size = measure_used_bytes(connection)
        if size * TARGET_SHARE <= target:
            return {}
        activity = sum(_estimate_sum_bytes(connection, table) for table in ACTIVITY_TABLES)
        size, target = size - activity, target - activity
        sums = sum(_estimate_sum_bytes(connection, table) for table in SUM_TABLES)
        kept_sums = min(sums, target * SUMS_SHARE)
        others = max(size - sums, 1)
        shares = dict.fromkeys(SUM_TABLES, 1 - kept_sums / sums if sums else 0.0)
        shares |= dict.fromkeys(("contents", "requests"), min(max(1 - (target - kept_sums) / others, 0.0), 1.0))
        return {table: ceil(_count_rows(connection, table) * share) for table, share in shares.items()}


class _CountedHours(Struct):
    """Labels of keys, and teams, with budgets → hour since the epoch from which these count."""

    by_label: dict[str, int]
    by_team: dict[str, int]
    of_all: int | None
    """The same of the budgets of the proxy. None: there are none."""

    @property
    def is_empty(self) -> bool:
        return not self.by_label and not self.by_team and self.of_all is None

    def delete_others(self, connection: Connection, before: int) -> None:
        """Delete the sums of hours before `before` that no budget counts."""
        if self.is_empty:
            connection.execute("DELETE FROM hourly WHERE hour < ?", (before,))
            return
        for label, team in connection.query("SELECT DISTINCT key_label, team FROM hourly WHERE hour < ?", (before,)):
            hours = (self.by_label.get(label), self.by_team.get(team), self.of_all)
            first = min(hour for hour in (*hours, before) if hour is not None)
            place = "hour < ? AND key_label = ? AND team = ?"
            connection.execute(f"DELETE FROM hourly WHERE {place}", (first, label, team))


def _find_counted_hours(connection: Connection, settings: Settings, now: float) -> _CountedHours:
    def find_first(budgets: Iterable[Budget]) -> int | None:
        starts = [
            max(budget.since, now - days * DAY_SECONDS if (days := _PERIOD_DAYS[budget.period]) else 0.0)
            for budget in budgets
        ]
        return int(min(starts) // HOUR_SECONDS) if starts else None

    def read(rules: str) -> int | None:
        try:
            return find_first(msgspec.json.decode(rules or "{}", type=Rules).budgets)
        except (msgspec.MsgspecError, TypeError):
            return 0  # it may have any budget

    of_keys = {}
    for key_id, rules in connection.query("SELECT id, rules FROM virtual_keys WHERE revoked_at IS NULL"):
        if (first := read(rules)) is not None:
            of_keys[key_id] = first
    by_label: dict[str, int] = {}
    labels = (
        "SELECT label, id, person FROM virtual_keys UNION ALL SELECT former_labels.label, id, person "
        "FROM former_labels JOIN virtual_keys ON virtual_keys.id = former_labels.key_id"
    )
    for label, *ids in connection.query(labels) if of_keys else ():
        if firsts := [of_keys[key_id] for key_id in ids if key_id in of_keys]:
            by_label[label] = min(firsts)
    teams = {name: read(rules) for name, rules in connection.query("SELECT name, rules FROM teams")}
    by_team = {name: first for name, first in teams.items() if first is not None}
    return _CountedHours(by_label, by_team, find_first(settings.budgets))


def _format_day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


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
    sums = sum(_estimate_sum_bytes(connection, table) for table in (*SUM_TABLES, *ACTIVITY_TABLES))
    return int(_count_rows(connection, "requests") * (float(row_bytes) + _INDEX_BYTES_PER_ROW)) + int(texts) + sums


def _estimate_sum_bytes(connection: Connection, table: str) -> int:
    rows = connection.query(f"SELECT * FROM {table} ORDER BY {_KEYS[table][1]} DESC LIMIT {_SAMPLED_ROWS}")
    values = [value for row in rows for value in row]
    size = sum(len(value) if isinstance(value, bytes) else 2 * len(str(value).encode()) for value in values)
    return int(_count_rows(connection, table) * (size / len(rows) + _BYTES_PER_SUM_ROW)) if rows else 0


def _delete_oldest(connection: Connection, table: str, before: int | None, count: int = CHUNK_ROWS) -> int:
    """`before`: only rows that started before this time are deleted; None: rows of any age."""
    key, time_column = _KEYS[table]
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
