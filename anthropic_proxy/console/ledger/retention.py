"""Deletion of expired rows, and of the oldest rows of a database that is too large.

Nothing brings deleted rows back, and the clock of a machine can be wrong: after a start without a battery, or for a
moment in a virtual machine. So rows are deleted only if the ledger itself shows that time has passed: there must be a
request of the last month that is at least a day old. A wrong clock that lasts for less than a day deletes nothing, and
neither does one that changes while the proxy runs. A ledger that was not used for a month begins to delete a day later.
Of a shorter pause, only the time until a day after this request and the time for which the proxy runs count as passed.

The sums of an hour that a budget counts stay, whatever their age and size: the budget would be full again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil

import msgspec
from msgspec import Struct

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.records import BUDGET_TOKENS
from anthropic_proxy.console.ledger.schema import ACTIVITY_TABLES, HOURLY, IS_NO_RESULT, OLDEST_REQUEST, SUM_TABLES
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
RESULTS_DAYS = 30
"""Days for which the row of the results of a batch is kept, because it shows that they have counted. Clients may read
them again, for 29 days at Anthropic (platform.claude.com, "Batch processing", read 2026-11)."""
CHUNK_ROWS = 1_000
"""Maximum number of rows that one transaction deletes."""
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
_BYTES_PER_SUM_ROW = 80
"""Approximate number of bytes of one row of sums and its index entries, besides its values."""
_SAMPLED_ROWS = 10_000
_HAS_USE = f"cost != 0 OR {' + '.join(BUDGET_TOKENS)} != 0"
_TIMES: Mapping[str, str] = {
    **dict.fromkeys(("contents", "requests"), "started_at"),
    **dict.fromkeys(SUM_TABLES, "hour"),
    **ACTIVITY_TABLES,
}
"""Table → column with the time."""


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
        self._passed: tuple[float, float] | None = None
        """Latest time that the ledger shows to have passed, in seconds since the epoch, and the time by `ticks` at
        which this was found. None: it shows none."""
        self._pieces: Iterator[None] | None = None
        """The pieces of a deletion that was interrupted, with `_connection`. None: none was."""
        self._connection: Connection | None = None
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
        """The deletion ends early if `is_stopped` returns True. The next call with this connection continues."""
        if self._pieces is None or self._connection is not connection:
            now = self._clock()
            self.problem = self._find_clock_problem(connection, now)
            if self.problem:
                self._next_at = self._ticks() + CLOCK_INTERVAL_SECONDS
                return
            self._connection = connection
            self._pieces = self._delete_pieces(connection, now if self._passed is None else min(now, self._passed[0]))
        try:
            for _ in self._pieces:
                if is_stopped():
                    return
        except BaseException:
            self._pieces = None
            raise
        self._pieces = None
        self._next_at = self._ticks() + INTERVAL_SECONDS

    def _delete_pieces(self, connection: Connection, now: float) -> Iterator[None]:
        """Each piece is one transaction of a limited size: other changes, such as a revocation, wait for the lock of
        SQLite.
        """

        def days_ago(days: float) -> int:
            """Return a time in microseconds since the epoch."""
            return int((now - days * DAY_SECONDS) * MICROSECONDS)

        before = days_ago(self._settings.ledger_days)
        before_hour = before // MICROSECONDS_PER_HOUR
        content_before = days_ago(self._settings.ledger_content_days)
        yield from _delete_rows(connection, "key_hashes", "expires_at < ?", (days_ago(REPLACED_KEY_DAYS),))
        yield from _delete_rows(connection, "device_codes", "expires_at < ?", (days_ago(0),))
        refused = "SELECT key_id FROM sign_ins WHERE denied_at IS NOT NULL"  # of these, later successes count
        ended = f"ends_at < ? OR (ended_at < ? AND ended_at < ends_at AND key_id NOT IN ({refused}))"
        yield from _delete_rows(connection, "sign_ins", ended, (days_ago(ACCESS_END_DAYS), days_ago(SIGNED_OUT_DAYS)))
        left = "stated_at < ? AND key_id NOT IN (SELECT key_id FROM sign_ins)"
        yield from _delete_rows(connection, "people", left, (days_ago(ACCESS_END_DAYS),))
        over = _choose_rows(connection, "sign_ins", "ends_at < ? AND provider_token != ''")
        tokens = f"UPDATE sign_ins SET provider_token = '' WHERE {over}"
        yield from _change_pieces(connection, tokens, (days_ago(0),))
        sent = "at < ? AND id < (SELECT max(id) FROM verdict_log)"
        yield from _delete_rows(connection, "verdict_log", sent, (before,))
        yield from _delete_rows(connection, "parked_events", "parked_at < ?", (before,))
        yield from _delete_oldest(connection, "activity_points", days_ago(0))
        many = "SELECT client FROM activity_points WHERE client != '' GROUP BY client HAVING count(*) > ?"
        for (client,) in connection.query(many, (MAX_POINTS_PER_CLIENT,)):
            newest = "SELECT ends_at FROM activity_points WHERE client = ? ORDER BY ends_at DESC LIMIT 1 OFFSET ?"
            for (end,) in connection.query(newest, (client, MAX_POINTS_PER_CLIENT)):
                yield from _delete_rows(connection, "activity_points", "client = ? AND ends_at <= ?", (client, end))
        for table in ("session_hours", "activity"):
            yield from _delete_oldest(connection, table, before_hour)
        counted = _find_counted_hours(connection, self._settings, now)
        yield from counted.delete_others(connection, before_hour)
        yield from _delete_oldest(connection, "contents", max(before, content_before))
        results_before = days_ago(RESULTS_DAYS)
        yield from _delete_requests(connection, before, results_before)
        for count_excess in (self._count_excess_activity, self._count_excess):  # the second one measures again
            for table, excess in count_excess(connection).items():
                if (end := _find_end(connection, table, excess)) is None:
                    continue
                if table == "hourly":
                    yield from counted.delete_others(connection, end)
                elif table == "requests":
                    yield from _delete_requests(connection, end, results_before)
                else:
                    yield from _delete_oldest(connection, table, end)
        yield from _delete_rows(connection, "session_titles", f"started_at < ({OLDEST_REQUEST})")

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
        if earlier is not None:
            ticks = self._ticks()
            proof = earlier + HOUR_SECONDS + PROOF_DAYS * DAY_SECONDS
            counted = proof if self._passed is None else self._passed[0] + ticks - self._passed[1]
            self._passed = max(proof, counted), ticks
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

    def delete_others(self, connection: Connection, before: int) -> Iterator[None]:
        """Delete the sums of hours before `before` that no budget counts, or in which it finds no use: those of refused
        requests, of which a client can send any number.
        """
        by_label = {label: hour for label, hour in self.by_label.items() if hour < before}
        by_team = {team: hour for team, hour in self.by_team.items() if hour < before}
        end = before if self.of_all is None else min(before, self.of_all)
        first = min([*by_label.values(), *by_team.values(), end])
        yield from _delete_oldest(connection, "hourly", first)
        columns = HOURLY.key
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        place = f"({names}) > ({marks}) AND hour < ? ORDER BY {names} LIMIT {CHUNK_ROWS}"
        page = f"SELECT {names}, {_HAS_USE} FROM hourly WHERE {place}"
        deletion = f"DELETE FROM hourly WHERE {' AND '.join(f'{name} = ?' for name in columns)}"
        label, team = columns.index("key_label"), columns.index("team")
        latest: Sequence[object] = (first - 1, *[""] * (len(columns) - 1))
        while rows := connection.query(page, (*latest, before)):
            latest = rows[-1][:-1]
            others = [
                key
                for *key, has_use in rows
                if not has_use or key[0] < min(end, by_label.get(key[label], end), by_team.get(key[team], end))
            ]
            if others:
                with connection.transaction():
                    connection.execute_many(deletion, others)
                connection.release_free_pages()
            yield


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
    # people and services have no secret, and may be allowed again with the same budgets
    counted = "revoked_at IS NULL OR id NOT IN (SELECT key_id FROM key_hashes)"
    for key_id, rules in connection.query(f"SELECT id, rules FROM virtual_keys WHERE {counted}"):
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
    """Return the size in bytes of the stored rows and indexes in the database, without free pages and the audit log,
    which no deletion makes smaller. On PostgreSQL, the size is an estimate.
    """
    if not connection.is_postgres:
        names = ("page_count", "freelist_count", "page_size")
        used, free, size = (connection.query(f"PRAGMA {name}")[0][0] for name in names)
        entries = connection.query("SELECT sum(length(object) + length(changes)) FROM audit_log")[0][0] or 0
        return int((used - free) * size) - int(entries)
    count, sample = _sample_rows(connection, "requests")
    row_bytes = connection.query(f"SELECT avg(pg_column_size(sampled.*)) FROM ({sample}) AS sampled")[0][0] or 0
    texts = connection.query("SELECT sum(octet_length(data)) FROM contents")[0][0] or 0
    sums = sum(_estimate_sum_bytes(connection, table) for table in (*SUM_TABLES, *ACTIVITY_TABLES))
    return int(count * (float(row_bytes) + _INDEX_BYTES_PER_ROW)) + int(texts) + sums


def _estimate_sum_bytes(connection: Connection, table: str) -> int:
    count, sample = _sample_rows(connection, table)
    rows = connection.query(sample)
    values = [value for row in rows for value in row]
    size = sum(len(value) if isinstance(value, bytes) else 2 * len(str(value).encode()) for value in values)
    return int(count * (size / len(rows) + _BYTES_PER_SUM_ROW)) if rows else 0


def _sample_rows(connection: Connection, table: str) -> tuple[int, str]:
    """Return the number of rows, and a query of about `_SAMPLED_ROWS` of them from all times: one client may have
    written the newest ones. PostgreSQL chooses the same places each time, so that the error of the estimate stays.
    """
    count = _count_rows(connection, table)
    parts = max(count / _SAMPLED_ROWS, 1.0)
    sample = (
        f"TABLESAMPLE SYSTEM ({100 / parts}) REPEATABLE (0)"
        if connection.is_postgres
        else f"WHERE random() % {round(parts)} = 0"
    )
    return count, f"SELECT * FROM {table} {sample}"


def _delete_oldest(connection: Connection, table: str, before: int) -> Iterator[None]:
    """Delete the rows with a time before `before`, the oldest first."""
    column = _TIMES[table]
    return _delete_rows(connection, table, f"{column} < ?", (before,), f"ORDER BY {column}")


def _delete_requests(connection: Connection, before: int, results_before: int) -> Iterator[None]:
    """Delete the oldest requests, but the rows of the results of batches only before `results_before`."""
    condition = f"started_at < ? AND (started_at < ? OR {IS_NO_RESULT})"
    return _delete_rows(connection, "requests", condition, (before, results_before), "ORDER BY started_at")


def _find_end(connection: Connection, table: str, count: int) -> int | None:
    """Return the time before which the oldest `count` rows are, with those of the same time. None: there are none."""
    column = _TIMES[table]
    newest = f"SELECT {column} FROM {table} ORDER BY {column} LIMIT 1 OFFSET {count - 1}"
    return next((int(at) + 1 for (at,) in connection.query(newest)), None) if count else None


def _delete_rows(
    connection: Connection, table: str, condition: str, values: Sequence[object] = (), order: str = ""
) -> Iterator[None]:
    chosen = _choose_rows(connection, table, condition, order)
    return _change_pieces(connection, f"DELETE FROM {table} WHERE {chosen}", values)


def _choose_rows(connection: Connection, table: str, condition: str, order: str = "") -> str:
    """Return a condition of at most `CHUNK_ROWS` of the rows that satisfy `condition`."""
    row = "ctid" if connection.is_postgres else "rowid"
    rows = f"SELECT {row} FROM {table} WHERE {condition} {order} LIMIT {CHUNK_ROWS}"
    # PostgreSQL finds rows of a list by their place, and compares those of a subquery with the whole table
    return f"ctid = ANY(ARRAY({rows}))" if connection.is_postgres else f"rowid IN ({rows})"


def _change_pieces(connection: Connection, statement: str, values: Sequence[object]) -> Iterator[None]:
    """Repeat a change of at most `CHUNK_ROWS` rows, each in a transaction, until fewer are left."""
    changed = CHUNK_ROWS
    while changed >= CHUNK_ROWS:
        with connection.transaction():
            changed = connection.execute(statement, values)
        if changed:
            connection.release_free_pages()
        yield


def _count_rows(connection: Connection, table: str) -> int:
    count: int = connection.query(f"SELECT count(*) FROM {table}")[0][0]
    return count
