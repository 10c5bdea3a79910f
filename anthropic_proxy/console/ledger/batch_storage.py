"""`BatchStorage`: the transactions of the ledger at its database.

A batch of requests is stored in one transaction: the rows of `requests`, their sums, and their texts, so that the
tables always agree. Of the requests that a limit of their key rejects, only one a minute is a row; the sums have all of
them.

- A batch that fails because of a value is stored row by row, without the rejected rows.
- A commit may have succeeded although its answer was lost. So a repeated batch leaves out the rows that are stored.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from msgspec import structs

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.contents import ContentRow, divide_titles
from anthropic_proxy.console.ledger.database import (
    LEDGER_FAILURES,
    MAX_WAL_BYTES,
    describe_value_failure,
    empty_wal,
    find_database,
    forget_attempts,
    is_value_failure,
    measure_wal,
    new_full_disk_error,
    open_for_writing,
)
from anthropic_proxy.console.ledger.events import add_verdicts
from anthropic_proxy.console.ledger.histograms import add_histogram, count_buckets, decode_histogram, encode_histogram
from anthropic_proxy.console.ledger.records import (
    HOURLY_KEYS,
    REPLACEMENT,
    SESSION_KEYS,
    RequestCounts,
    StoredRequest,
    UsageSums,
    add_up,
    find_session_context,
    is_refused,
    move_sums,
)
from anthropic_proxy.console.ledger.retention import Retention
from anthropic_proxy.console.ledger.schema import (
    CONTENTS,
    HOURLY,
    SESSION_HOURS,
    SESSION_TITLES,
    SUM_TABLES,
    TableDefinition,
)
from anthropic_proxy.console.units import MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.database_address import DatabaseAddress

_HISTOGRAMS = ("first_token_histogram", "duration_histogram")
_COUNTED = RequestCounts.__struct_fields__
_read_counted = attrgetter(*_COUNTED)
_read_facets = attrgetter(*dict.fromkeys((*HOURLY_KEYS, *SESSION_KEYS)))


def _build_addition(table: TableDefinition) -> str:
    """Numbers are added to the stored ones. The histograms of the row replace them."""
    changes = []
    for name in (column for column in table.columns if column not in table.key):
        stored = f"{table.name}.{name}"
        new = f"excluded.{name}"
        if name in _HISTOGRAMS:
            value = new
        elif name in ("max_context", "last_at"):
            value = f"CASE WHEN {stored} > {new} THEN {stored} ELSE {new} END"
        else:
            value = (
                f"CASE WHEN {stored} < {new} THEN {stored} ELSE {new} END"
                if name == "started_at"
                else f"{stored} + {new}"
            )
        changes.append(f"{name} = {value}")
    return (
        f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({', '.join('?' * len(table.columns))}) "
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {', '.join(changes)}"
    )


_FIND_HISTOGRAMS = (
    f"SELECT {', '.join(_HISTOGRAMS)} FROM hourly WHERE {' AND '.join(f'{name} = ?' for name in HOURLY.key)}"
)
_ADD_TO_HOURLY = _build_addition(HOURLY)
_ADD_TO_SESSION_HOURS = _build_addition(SESSION_HOURS)
_read_hourly = itemgetter(*HOURLY.columns)
_read_session_hours = itemgetter(*SESSION_HOURS.columns)
_read_hourly_key = itemgetter(*HOURLY.key)


def add_sums(
    connection: Connection, rows: Iterable[StoredRequest], instance: str, unlisted: Collection[str] = ()
) -> None:
    """Add requests to both tables of sums. `unlisted`: ids of those that no session has.

    No other transaction may change the same rows of `hourly` meanwhile, because their histograms are read, added up and
    written again. So on PostgreSQL, each writing process has rows of its own, with its id as `instance`; on SQLite, it
    is "".
    """
    alike: dict[tuple[Any, ...], list[StoredRequest]] = {}
    moved: list[_Group] = []
    for row in rows:
        key = row.started_at // MICROSECONDS_PER_HOUR, row.id in unlisted, *_read_facets(row)
        alike.setdefault(key, []).append(row)
        if row.model_usage:
            moved += list_moved(row)
    groups = [
        _Group(group[0], _sum_up(group), group, sum(row.output_tokens for row in group if not row.duration))
        for group in alike.values()
    ]
    added = []
    for sums, group in _merge_groups(HOURLY, [*groups, *moved], instance):
        first_tokens = [row.first_token for row in group if row.first_token is not None]
        durations = [row.duration for row in group if row.duration]
        sums["duration"] = sum(durations)
        sums["first_token_sum"] = sum(first_tokens)
        sums["first_token_count"] = len(first_tokens)
        rows_of_hour = connection.query(_FIND_HISTOGRAMS, _read_hourly_key(sums))
        stored = rows_of_hour[0] if rows_of_hour else (None, None)
        for name, times, data in zip(_HISTOGRAMS, (first_tokens, durations), stored, strict=True):
            histogram = count_buckets(times)
            if data is not None:
                add_histogram(histogram, decode_histogram(data))
            sums[name] = encode_histogram(histogram)
        added.append(_read_hourly(sums))
    connection.execute_many(_ADD_TO_HOURLY, added)
    added = []
    listed = [group for group in groups if group.facets.id not in unlisted]
    for sums, group in _merge_groups(SESSION_HOURS, listed, instance):
        times = [row.started_at for row in group]
        sums |= {"max_context": max(map(find_session_context, group)), "started_at": min(times), "last_at": max(times)}
        added.append(_read_session_hours(sums))
    connection.execute_many(_ADD_TO_SESSION_HOURS, added)


_SET_TITLE = (
    f"INSERT INTO session_titles ({', '.join(SESSION_TITLES.columns)}) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (session, key_label) DO UPDATE SET request_id = excluded.request_id, "
    "started_at = excluded.started_at, title = excluded.title WHERE excluded.started_at >= session_titles.started_at"
)
"""Rows may be stored late, as those of another instance."""


class _Group(NamedTuple):
    """Sums of requests whose facets are equal."""

    facets: StoredRequest
    sums: UsageSums
    rows: Sequence[StoredRequest]
    """Empty: the sums are those of a part of a request."""
    untimed_output_tokens: int = 0


def list_moved(row: StoredRequest) -> Iterator[_Group]:
    """Yield what is added to the sums so that each model has its own part of a request."""
    for part in move_sums(row.provider, row.model, row.cost, row.requested_cost, row.model_usage):
        facets = structs.replace(row, provider=part.provider, model=part.model)
        is_timed = row.duration and not part.is_added
        yield _Group(facets, part.sums, (), 0 if is_timed else part.sums.output_tokens)


def _sum_up(group: Sequence[StoredRequest]) -> UsageSums:
    outcomes = [row.outcome_class for row in group]
    costs = [row.cost for row in group if row.cost is not None]
    requested = [row.requested_cost for row in group if row.requested_cost is not None]
    return UsageSums(
        **dict(zip(_COUNTED, map(sum, zip(*map(_read_counted, group), strict=True)), strict=True)),
        requests=len(group),
        errors=outcomes.count("error"),
        cancelled=outcomes.count("cancelled"),
        cost=sum(costs),
        unknown_cost_requests=len(group) - len(costs),
        requested_cost=sum(requested),
        unknown_requested_cost_requests=len(group) - len(requested),
    )


def _merge_groups(
    table: TableDefinition, groups: Sequence[_Group], instance: str
) -> Iterator[tuple[dict[str, Any], list[StoredRequest]]]:
    """Yield keys and sums of each row for `table`, and the requests in it, in the order of the keys."""
    read_key = attrgetter(*SUM_TABLES[table.name])
    merged: dict[tuple[Any, ...], list[_Group]] = {}
    for group in groups:
        hour = group.facets.started_at // MICROSECONDS_PER_HOUR
        merged.setdefault((hour, instance, *read_key(group.facets)), []).append(group)
    for key, members in sorted(merged.items(), key=itemgetter(0)):
        sums = add_up(group.sums for group in members)
        yield (
            {
                **dict(zip(table.key, key, strict=True)),
                **structs.asdict(sums),
                "untimed_output_tokens": sum(group.untimed_output_tokens for group in members),
            },
            [row for group in members for row in group.rows],
        )


_MAX_REFUSALS = 10_000
_EMPTYING_PAUSE_SECONDS = 2.0
_read_content = itemgetter(*CONTENTS.columns)


class BatchStorage:
    """The connection of a writer to the database. Only one of its methods runs at a time, in any thread."""

    def __init__(
        self,
        settings: Settings,
        current_settings: Callable[[], Settings],
        retention: Retention,
        is_disk_full: Callable[[DatabaseAddress], bool],
    ) -> None:
        self._settings = settings
        self._current_settings = current_settings
        self._address = find_database(settings)
        self._retention = retention
        self._is_disk_full = is_disk_full
        self._connection: Connection | None = None
        self._instance = ""
        """Key of this writer's own rows of `hourly`. A transaction whose connection was given up may still be open, so
        that each connection has another one."""
        self._latest_refusals = BoundedDict[tuple[str, str], int](_MAX_REFUSALS)
        """Label of a key and type of an error → minute of the latest row of a refused request (`is_refused`)."""
        self.is_migrating = False
        """True while the tables are migrated, which may take minutes."""
        self._empty_at = 0.0
        """Monotonic time of the next attempt to empty a large WAL. 0.0: it is small."""

    @property
    def answered_at(self) -> float:
        """Monotonic time of the latest answer of the database. 0.0: there is no connection."""
        connection = self._connection
        return 0.0 if connection is None else connection.answered_at

    def open(self) -> None:
        with self._closing_after_failure():
            self._require_space()
            self._open()

    def store(
        self, rows: Sequence[StoredRequest], texts: Mapping[str, Sequence[ContentRow]], *, is_repeated: bool
    ) -> Mapping[str, str]:
        """Return the ids of the rows that the database rejects, with the reasons. `texts`: as in `SpooledBlock`.
        `is_repeated`: some of the rows may be stored already.
        """
        if not rows:  # a block in which no row can be decoded
            return {}
        with self._closing_after_failure():
            connection = self._open()
            try:
                with connection.transaction():
                    self._store(connection, rows, texts, is_repeated=is_repeated)
            except Exception as error:
                self._latest_refusals.clear()  # their rows may not be stored
                if not is_value_failure(error):
                    raise
            else:
                return {}
            rejected = {}
            for row in rows:
                try:
                    with connection.transaction():
                        self._store(connection, [row], texts, is_repeated=True)
                except Exception as error:
                    if not is_value_failure(error):
                        raise
                    rejected[row.id] = describe_value_failure(error)
            return rejected

    def maintain(self, *, was_failing: bool, is_interrupted: Callable[[], bool]) -> None:
        """Look at the disk, empty a large WAL, and delete expired rows if this is due. After a failure, check that the
        database can be used again.
        """
        with self._closing_after_failure():
            self._require_space()
            if measure_wal(self._address) <= MAX_WAL_BYTES:
                if self._empty_at:
                    forget_attempts(self._open())
                    self._empty_at = 0.0
            elif time.monotonic() >= self._empty_at:
                empty_wal(self._open())
                self._empty_at = time.monotonic() + _EMPTYING_PAUSE_SECONDS
            if not (was_failing or self._retention.is_due()):
                return
            connection = self._open()
            if self._retention.is_due():
                self._retention.delete_expired(connection, is_interrupted)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _closing_after_failure(self) -> Iterator[None]:
        try:
            yield
        except LEDGER_FAILURES:
            self.close()
            raise

    def _require_space(self) -> None:
        if self._is_disk_full(self._address):
            raise new_full_disk_error()

    def _open(self) -> Connection:
        """Return the connection to the database, which is opened again if the SQLite file was removed or replaced."""
        if self._connection is not None and not self._connection.is_replaced:
            return self._connection
        self.close()

        def note_migration() -> None:
            self.is_migrating = True

        try:
            self._connection = open_for_writing(self._settings, note_migration)
        finally:
            self.is_migrating = False
        if self._address.file is None:
            self._instance = secrets.token_hex(6)
        return self._connection

    def _store(
        self,
        connection: Connection,
        rows: Sequence[StoredRequest],
        texts: Mapping[str, Sequence[ContentRow]],
        *,
        is_repeated: bool,
    ) -> None:
        if is_repeated:
            ids = [row.id for row in rows]
            marks = ", ".join("?" * len(ids))
            known = {
                request_id for (request_id,) in connection.query(f"SELECT id FROM requests WHERE id IN ({marks})", ids)
            }
            # A refused request has perhaps no row. If another row of its transaction is stored, it is counted. If all
            # rows of a transaction are refused requests without rows (a small batch, or one row at a time after a
            # rejected value), a lost answer to its commit counts them twice.
            rows = [row for row in rows if row.id not in known and not (known and is_refused(row))]
        stored = [row for row in rows if not is_refused(row) or self._is_new_refusal(row)]
        if stored:
            connection.insert("requests", StoredRequest.__struct_fields__, list(map(structs.astuple, stored)))
        if rows:
            # sums by session are those of all requests without the rows that named no model
            kept = {row.id for row in stored}
            unlisted = {row.id for row in rows if not row.requested_model and row.id not in kept}
            add_sums(connection, rows, self._instance, unlisted)
        titles, contents = divide_titles(text for row in stored for text in texts.get(row.id, ()))
        if contents:
            connection.insert("contents", tuple(CONTENTS.columns), list(map(_read_content, contents)))
        if titles:
            by_id = {row.id: row for row in stored}
            sessions = [(by_id[title["request_id"]], title["data"].decode()) for title in titles]
            named = [
                (row.session, row.key_label, row.id, row.started_at, title)
                for row, title in sessions
                if row.session not in ("", REPLACEMENT)
            ]
            connection.execute_many(_SET_TITLE, named)
        if any("verdicts" in destination.events for destination in self._current_settings().siem):
            add_verdicts(connection, rows)

    def _is_new_refusal(self, row: StoredRequest) -> bool:
        """All rows of clients that repeat a refused request would be most of the ledger."""
        minute = row.started_at // (60 * MICROSECONDS)
        kind = row.key_label, row.error_type
        if self._latest_refusals.get(kind) == minute:
            return False
        self._latest_refusals.pop(kind, None)
        self._latest_refusals[kind] = minute
        return True
