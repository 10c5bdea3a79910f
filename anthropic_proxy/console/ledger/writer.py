"""`LedgerWriter`: stores finished requests from a queue in the database, in a thread of its own.

Theory of operation. A batch of receipts becomes rows, and is stored in one transaction: the rows of `requests`, their
sums, and their texts, so that the tables always agree. Of the requests that a limit of their key rejects, only one a
minute is a row; the sums have all of them.

- A batch that fails for a reason of the database (locked, full, unreachable) is kept and written later. While
  PostgreSQL is unavailable, batches wait in a file (`Spool`), so that a restart loses none.
- A batch that fails because of a value is written row by row, and the rejected row is dropped.
- A commit may have succeeded although its answer was lost. So a repeated batch leaves out the rows that are stored.
"""

import hashlib
import operator
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.contents import ContentRow, build_content_rows, build_title_row, divide_titles
from anthropic_proxy.console.ledger.costs import CurrentCosts
from anthropic_proxy.console.ledger.database import (
    LEDGER_FAILURES,
    describe_database_failure,
    describe_value_failure,
    find_condition,
    find_database,
    is_disk_full,
    is_value_failure,
    new_full_disk_error,
    open_for_writing,
)
from anthropic_proxy.console.ledger.events import add_verdicts
from anthropic_proxy.console.ledger.histograms import add_histogram, count_buckets, decode_histogram, encode_histogram
from anthropic_proxy.console.ledger.receipt_queue import DISK_CHECK_SECONDS, ReceiptQueue
from anthropic_proxy.console.ledger.records import (
    HOURLY_KEYS,
    REPLACEMENT,
    SESSION_KEYS,
    FacetLimits,
    RequestCounts,
    RowBuilder,
    StoredRequest,
    UsageSums,
    add_up,
    find_session_context,
    is_rejected_by_limit,
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
from anthropic_proxy.plugins import Cost, Receipt

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


def add_sums(connection: Connection, rows: Iterable[StoredRequest], instance: str) -> None:
    """Add requests to both tables of sums.

    No other transaction may change the same rows of `hourly` meanwhile, because their histograms are read, added up and
    written again. So on PostgreSQL, each writing process has rows of its own, with its id as `instance`; on SQLite, it
    is "".
    """
    alike: dict[tuple[Any, ...], list[StoredRequest]] = {}
    moved: list[_Group] = []
    for row in rows:
        alike.setdefault((row.started_at // MICROSECONDS_PER_HOUR, *_read_facets(row)), []).append(row)
        if row.model_usage:
            moved += _list_moved(row)
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
    for sums, group in _merge_groups(SESSION_HOURS, groups, instance):
        times = [row.started_at for row in group]
        sums |= {"max_context": max(map(find_session_context, group)), "started_at": min(times), "last_at": max(times)}
        added.append(_read_session_hours(sums))
    connection.execute_many(_ADD_TO_SESSION_HOURS, added)


_SET_TITLE = (
    f"INSERT INTO session_titles ({', '.join(SESSION_TITLES.columns)}) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (session, key_label) DO UPDATE SET request_id = excluded.request_id, "
    "started_at = excluded.started_at, title = excluded.title"
)


class _Group(NamedTuple):
    """Sums of requests whose facets are equal."""

    facets: StoredRequest
    sums: UsageSums
    rows: Sequence[StoredRequest]
    """Empty: the sums are those of a part of a request."""
    untimed_output_tokens: int = 0


def _list_moved(row: StoredRequest) -> Iterator[_Group]:
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


MAX_BATCH_ROWS = 500
MAX_BATCH_ROWS_WITH_TEXTS = 50
"""Maximum number of requests in one transaction if texts are stored, because redaction needs time."""
RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Delays in seconds after successive failed transactions. The last delay is repeated."""
_MAX_REJECTED_KEYS = 10_000
_read_content = itemgetter(*CONTENTS.columns)


class LedgerWriter:
    def __init__(
        self,
        queue: ReceiptQueue,
        current_settings: Callable[[], Settings],
        warn: Callable[[str], None],
        *,
        calculate_cost: Callable[[Receipt], Cost] | None = None,
        retry_delays: tuple[float, ...] = RETRY_DELAYS_SECONDS,
        clock: Callable[[], float] = time.time,
        is_disk_full: Callable[[DatabaseAddress], bool] = is_disk_full,
        disk_check_seconds: float = DISK_CHECK_SECONDS,
    ) -> None:
        self._queue = queue
        self._is_disk_full = is_disk_full
        self._disk_check_seconds = disk_check_seconds
        self._buffers = ((queue.contents, build_content_rows), (queue.titles, build_title_row))
        self._current_settings = current_settings
        self._calculate_cost = calculate_cost or CurrentCosts(current_settings).calculate
        self._warn = warn
        self._retry_delays = retry_delays
        self._settings = current_settings()
        """Settings at the start. The database and its limits do not change until the next start of the proxy."""
        self._use_settings(self._settings)
        self._clock = clock
        self._limits = FacetLimits()
        self._retention = Retention(self._settings, clock)
        self._connection: Connection | None = None
        self._instance = ""
        self._batch: list[StoredRequest] = []
        self._texts: dict[str, list[ContentRow]] = {}
        """Request id → rows of the table `contents`, for the requests of the present batch."""
        self._latest_rejections = BoundedDict[str, int](_MAX_REJECTED_KEYS)
        """Label of a key → minute of the latest row of a request that a limit of this key rejected."""
        self._failed_attempts = 0
        folder = self._settings.data_directory
        self._address = find_database(self._settings)
        self._spool = None if folder is None or self._address.file is not None else Spool(folder, self._address)
        """File for batches while PostgreSQL is unavailable. None: the database is on SQLite, or there is no data
        directory."""
        self._block: SpooledBlock | None = None
        """Rows from the spool file that are the present batch. None: the present batch is from the queue."""

    def run(self) -> None:
        """A failed transaction is repeated later. After the queue is stopped, a failure ends the run, so that the
        server can stop.
        """
        try:
            try:
                self._require_space()
                self._open()
            except LEDGER_FAILURES as error:
                self._fail(error)
            self._queue.state.queued_rows = self._count_waiting()
            pause = self._find_pause()
            while True:
                self._queue.wait_for_batch(pause)
                if not self._write_all():
                    if self._queue.is_stopped:
                        break
                    self._queue.pause(self._retry_delay)
                    pause = 0.0
                    continue
                if self._queue.is_stopped:
                    break
                self._maintain()
                pause = self._find_pause()
        finally:
            self._close()  # also after a defect, because another writer then opens the database again

    @property
    def _retry_delay(self) -> float:
        """Seconds until the next attempt to write, which grows with each failure."""
        return self._retry_delays[max(0, min(self._failed_attempts, len(self._retry_delays)) - 1)]

    def _find_pause(self) -> float:
        """Return the time in seconds until the next write, look at the disk, or deletion. While rows wait, or after a
        failure, this is the delay until the next attempt.
        """
        if self._queue.state.queued_rows or self._failed_attempts:
            return self._retry_delay
        until_due = self._retention.seconds_until_due()
        return until_due if self._address.file is None else min(until_due, self._disk_check_seconds)

    def _write_all(self) -> bool:
        """False: the database rejected a batch, which is kept."""
        while self._batch or self._load_block() or (self._load_batch() and self._batch):
            try:
                self._write_batch()
            except LEDGER_FAILURES as error:
                self._fail(error)
                self._move_to_spool()
                return False
            state = self._queue.state
            # a block that cannot be deleted is claimed again; its dropped requests are counted once, when it is deleted
            if self._spool is not None and self._block is not None and self._spool.delete(self._block):
                state.dropped_rows += self._block.dropped_rows
                if self._block.problem:
                    count = self._block.dropped_rows
                    lost = f"{count} request{'' if count == 1 else 's'}" if count else "the texts of requests"
                    self._warn(f"The ledger dropped {lost} of a block in {self._spool.file}: {self._block.problem}")
            state.written_rows += len(self._batch)
            for row in self._batch:
                self._add_spending(row, row.provider, (1, row.cost or 0, int(row.cost is None)))
                if row.model_usage:
                    for part in _list_moved(row):
                        amounts = (0, part.sums.cost, part.sums.unknown_cost_requests)
                        self._add_spending(row, part.facets.provider, amounts)
            self._batch = []
            self._texts = {}
            self._block = None
            self._queue.in_batch = 0
            state.queued_rows = self._count_waiting()
            state.last_written_at = self._clock()
            state.waiting_since = None
            self._reset_failure()
        self._queue.state.queued_rows = self._count_waiting()
        if not self._queue.state.queued_rows:
            self._queue.state.waiting_since = None
        return True

    def _add_spending(self, row: StoredRequest, provider: str, amounts: tuple[int, int, int]) -> None:
        labels = (row.team, row.cost_center, provider, row.kind)
        spending = self._queue.state.spending
        count, cost, unknown = map(operator.add, spending.get(labels, (0, 0, 0)), amounts)
        spending[labels] = count, cost, unknown

    def _load_block(self) -> bool:
        """Make the oldest rows of the spool file the present batch and return True. False: there are none."""
        self._block = None if self._spool is None else self._spool.claim()
        if self._block is None:
            return False
        self._batch = self._block.rows
        self._texts = self._block.texts
        return True

    def _move_to_spool(self) -> None:
        if self._spool is None:
            return
        if self._block is not None:
            self._spool.release(self._block)
            self._batch = []
            self._texts = {}
            self._block = None
        is_first = not self._spool.count_rows()
        while (self._batch or self._load_batch()) and self._spool.append(SpooledBlock(self._batch, self._texts)):
            self._batch = []
            self._texts = {}
            self._queue.in_batch = 0
        if is_first and self._spool.count_rows():
            self._warn(f"Requests wait in {self._spool.file} until the ledger can store them.")
        self._queue.state.queued_rows = self._count_waiting()

    def _count_waiting(self) -> int:
        return len(self._queue) + (0 if self._spool is None else self._spool.count_rows())

    def _use_settings(self, settings: Settings) -> None:
        """Use the API keys of `settings` (for redaction) for rows that are built from now on."""
        self._used_settings = settings
        self._secrets = settings.reveal_all_secrets()
        self._builder = RowBuilder(self._secrets)

    def _load_batch(self) -> bool:
        receipts = self._queue.pop_batch(MAX_BATCH_ROWS if self._queue.contents is None else MAX_BATCH_ROWS_WITH_TEXTS)
        if not receipts:
            return False
        settings = self._current_settings()
        if settings is not self._used_settings:
            self._use_settings(settings)
        for receipt in receipts:
            try:
                row = self._builder.build(receipt, self._calculate_cost(receipt))
                texts = list[ContentRow]()
                for buffer, build in self._buffers:
                    if buffer is not None and (content := buffer.pop(row.id)) is not None:
                        texts += build(row.id, row.started_at, content, self._secrets)
                if texts:
                    self._texts[row.id] = texts
            except Exception as error:  # noqa: BLE001  # `_drop` raises it again, unless a value causes it
                self._drop(receipt.request_id, error)
            else:
                self._limits.apply(row)
                self._batch.append(row)
        return True

    def _write_batch(self) -> None:
        if not self._batch:  # of a block in which no row can be decoded
            return
        connection = self._open()
        try:
            with connection.transaction():
                self._store(connection, self._batch)
        except Exception as error:
            self._latest_rejections.clear()  # their rows may not be stored
            if not is_value_failure(error):
                raise
        else:
            return
        # each row in its own transaction, without the rows with a value that the database rejects
        for row in [*self._batch]:
            try:
                with connection.transaction():
                    self._store(connection, [row], is_repeated=True)
            except Exception as error:  # noqa: BLE001  # `_drop` raises it again, unless a value causes it
                self._drop(row.id, error)
                self._batch.remove(row)

    def _drop(self, request_id: str, error: Exception) -> None:
        """Count the request `request_id` as lost if `error` concerns one of its values. Raise any other `error`."""
        if not is_value_failure(error):
            raise error
        self._queue.drop_receipt(request_id)
        self._warn(f"The ledger dropped the request {request_id}: {describe_value_failure(error)}")

    def _store(self, connection: Connection, rows: list[StoredRequest], *, is_repeated: bool = False) -> None:
        # a commit may have succeeded although its answer was lost
        if is_repeated or self._failed_attempts or self._block is not None:
            ids = [row.id for row in rows]
            marks = ", ".join("?" * len(ids))
            known = {
                request_id for (request_id,) in connection.query(f"SELECT id FROM requests WHERE id IN ({marks})", ids)
            }
            # A rejected request has perhaps no row. If another row of its transaction is stored, it is counted. If all
            # rows of a transaction are rejected requests without rows (a small batch, or one row at a time after a
            # rejected value), a lost answer to its commit counts them twice.
            rows = [row for row in rows if row.id not in known and not (known and is_rejected_by_limit(row))]
        stored = [row for row in rows if not is_rejected_by_limit(row) or self._is_new_rejection(row)]
        if stored:
            connection.insert("requests", StoredRequest.__struct_fields__, list(map(structs.astuple, stored)))
        if rows:
            add_sums(connection, rows, self._instance)
        titles, texts = divide_titles(text for row in stored for text in self._texts.get(row.id, ()))
        if texts:
            connection.insert("contents", tuple(CONTENTS.columns), list(map(_read_content, texts)))
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

    def _is_new_rejection(self, row: StoredRequest) -> bool:
        """Clients repeat a request until their limit has room again: all their rows would be most of the ledger."""
        minute = row.started_at // (60 * MICROSECONDS)
        if self._latest_rejections.get(row.key_label) == minute:
            return False
        self._latest_rejections.pop(row.key_label, None)
        self._latest_rejections[row.key_label] = minute
        return True

    def _open(self) -> Connection:
        """Return the connection to the database, which is opened again if the SQLite file was removed or replaced."""
        if self._connection is not None and not self._connection.is_replaced:
            return self._connection
        self._close()
        self._connection = open_for_writing(self._settings)
        if self._address.file is None and not self._instance:
            self._instance = secrets.token_hex(6)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _require_space(self) -> None:
        if self._is_disk_full(self._address):
            raise new_full_disk_error()

    def _reset_failure(self) -> None:
        state = self._queue.state
        if state.condition == "disk full" and self._is_disk_full(self._address):
            return  # the present file had room for a few rows
        self._failed_attempts = 0
        if state.condition != "ok":
            state.condition = "ok"
            state.problem = ""
            self._warn(f"The ledger stores requests again. {state.dropped_rows} were dropped since the start.")

    def _fail(self, error: BaseException) -> None:
        state = self._queue.state
        self._failed_attempts += 1
        condition = find_condition(self._address, error)
        state.queued_rows = self._count_waiting()
        if state.queued_rows:
            self._queue.set_waiting_since()
        state.problem = describe_database_failure(condition, self._address.describe(), error)
        if condition != state.condition:
            state.condition = condition
            self._warn(state.problem)
        self._close()

    def _maintain(self) -> None:
        """Look at the disk, and delete expired rows if this is due. After a failure, check that the database can be
        used again.
        """
        try:
            self._require_space()
            if not (self._failed_attempts or self._retention.is_due()):
                return
            connection = self._open()
            if self._retention.is_due():
                self._retention.delete_expired(
                    connection, is_stopped=lambda: self._queue.is_stopped or len(self._queue) > 0
                )
                problem = self._retention.problem
                state = self._queue.state
                if bool(problem) != bool(state.clock_problem):
                    self._warn(problem or "The clock is right again, so the ledger deletes expired requests.")
                state.clock_problem = problem
        except LEDGER_FAILURES as error:
            self._fail(error)
        else:
            self._reset_failure()


_T = TypeVar("_T")
_SPOOL_NAME = "ledger-spool-{}.sqlite3"
"""Name of the spool file in the data directory, with a digest of the address of the PostgreSQL database."""
_PLACE_PARAMETERS = ("host", "hostaddr", "port", "dbname", "service", "options")
MAX_SPOOL_BYTES = 256 * 1024 * 1024
"""Maximum size of the spool file in bytes. Further requests wait in memory."""
CLAIM_SECONDS = 60.0
"""Time in seconds for which a worker claims a block (rows of one transaction), to store it in the ledger."""
_SPOOL_TIMEOUT_SECONDS = 5.0
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
"""Exceptions of msgspec for a value of another type, damaged bytes, deep nesting, and a column that is no BLOB."""
_SPOOL_BLOCK_BYTES = 4096
_SPOOL_TABLE = """CREATE TABLE IF NOT EXISTS block (
    id INTEGER PRIMARY KEY, rows BLOB NOT NULL, row_count INTEGER NOT NULL, claimed_until REAL NOT NULL DEFAULT 0
)"""
_CLAIM_BLOCK = """UPDATE block SET claimed_until = ?1 + ?2
    WHERE id = (SELECT id FROM block WHERE claimed_until NOT BETWEEN ?1 AND ?1 + ?2 ORDER BY id LIMIT 1)
    RETURNING id, rows, row_count"""
"""A claim for longer than a minute was made while the clock was ahead."""


class SpooledBlock(Struct):
    rows: list[StoredRequest]
    texts: dict[str, list[ContentRow]]
    """Request id → rows of the table `contents` with the texts of this request."""
    id: int = 0
    """Number of the block in the file. 0: it is not in the file yet."""
    dropped_rows: int = 0
    """Number of requests of the block that cannot be decoded, after `Spool.claim`."""
    problem: str = ""
    """Reason of the first failure to decode a request or its texts. "": there was none."""


class _EncodedBlock(Struct):
    rows: list[msgspec.Raw]
    texts: dict[str, msgspec.Raw]


class Spool:
    """File in the directory `folder` with rows that wait for the PostgreSQL database at `address`, also over a restart.

    All workers of a machine use the same file, a SQLite database. A worker claims the oldest block, the rows of one
    transaction, for a minute. It stores them and deletes the block, or releases it after a failure.
    """

    def __init__(self, folder: Path, address: DatabaseAddress) -> None:
        # without user and password
        others = map(address.parameters.get, _PLACE_PARAMETERS)
        place = [address.host, address.port or 5432, address.database, *others]
        self.file = folder / _SPOOL_NAME.format(hashlib.sha256(repr(place).encode()).hexdigest()[:12])
        self._has_file = os.path.exists(self.file)  # `Path.exists` raises an exception for a directory without access

    def append(self, block: SpooledBlock) -> bool:
        """False: the file is full or cannot be written."""
        values = (msgspec.msgpack.encode(block), len(block.rows))
        return self._execute("INSERT INTO block (rows, row_count) VALUES (?, ?)", values) is not None

    def claim(self) -> SpooledBlock | None:
        """Requests that cannot be decoded are left out, and counted in `SpooledBlock.dropped_rows`.

        None: no block is unclaimed, or the file cannot be used.
        """
        blocks = self._execute(_CLAIM_BLOCK, (time.time(), CLAIM_SECONDS)) if self._has_file else None
        if not blocks:
            return None
        ((block_id, rows, row_count),) = blocks
        block = _decode_block(rows, row_count)
        block.id = block_id
        return block

    def release(self, block: SpooledBlock) -> None:
        self._execute("UPDATE block SET claimed_until = 0 WHERE id = ?", (block.id,))

    def delete(self, block: SpooledBlock) -> bool:
        """False: the file cannot be written, or another worker has deleted the block.

        A block that stays is claimed again later. The worker that claims it skips the stored rows.
        """
        return bool(self._execute("DELETE FROM block WHERE id = ? RETURNING id", (block.id,)))

    def count_rows(self) -> int:
        counts = self._execute("SELECT coalesce(sum(row_count), 0) FROM block", ()) if self._has_file else None
        return counts[0][0] if counts else 0

    def _execute(self, sql: str, values: Sequence[object]) -> list[Any] | None:
        """Return the rows of the result. None: the file cannot be used."""
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
            self._has_file = True
            with closing(sqlite3.connect(self.file, timeout=_SPOOL_TIMEOUT_SECONDS, isolation_level=None)) as database:
                database.execute("PRAGMA auto_vacuum=FULL")  # effective in an empty file only
                database.execute(f"PRAGMA max_page_count={MAX_SPOOL_BYTES // _SPOOL_BLOCK_BYTES}")
                database.execute(_SPOOL_TABLE)
                return database.execute(sql, values).fetchall()
        except (sqlite3.Error, OSError):
            return None


def _decode_block(data: bytes, row_count: int) -> SpooledBlock:
    """Return the block `data` of `row_count` requests, without requests and texts that cannot be decoded."""
    try:
        return msgspec.msgpack.decode(data, type=SpooledBlock)
    except _DECODE_ERRORS as error:
        block = SpooledBlock([], {}, dropped_rows=row_count, problem=str(error))
    try:
        encoded = msgspec.msgpack.decode(data, type=_EncodedBlock)
    except _DECODE_ERRORS:
        return block
    problems: list[str] = []
    block.rows = [row for item in encoded.rows if (row := _decode(item, StoredRequest, problems)) is not None]
    for request_id, item in encoded.texts.items():
        if (texts := _decode(item, list[ContentRow], problems)) is not None:
            block.texts[request_id] = texts
    block.dropped_rows = len(encoded.rows) - len(block.rows)
    block.problem = problems[0] if problems else block.problem
    return block


def _decode(data: msgspec.Raw, kind: type[_T], problems: list[str]) -> _T | None:
    """Return the value `data` of the type `kind`. None: it cannot be decoded; the reason is added to `problems`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except _DECODE_ERRORS as error:
        problems.append(str(error))
        return None
