"""`LedgerWriter`: stores finished requests from a queue in the database, in a thread of its own.

The entries of the queue are receipts, the records of requests. A batch is stored in one transaction: the rows of
`requests`, their hourly sums, and their texts, so that the tables always agree. Of the requests that a limit of their
key rejects, only one a minute is a row; the sums have all of them. A failed batch is kept and written
later. While PostgreSQL is unavailable, batches wait in a file (`Spool`).
"""

import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

from msgspec.structs import astuple
from sqlalchemy import (
    ClauseElement,
    Dialect,
    Engine,
    Table,
    and_,
    bindparam,
    case,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.ledger.contents import ContentRow, build_content_rows
from anthropic_proxy.ledger.costs import CostCalculator
from anthropic_proxy.ledger.database import (
    DATABASE_ERRORS,
    classify_database_error,
    convert_driver_errors,
    describe_database_failure,
    describe_database_location,
    describe_value_failure,
    find_database_file,
    find_database_url,
    is_value_failure,
    open_for_writing,
)
from anthropic_proxy.ledger.price_updates import find_price_source
from anthropic_proxy.ledger.receipt_queue import ContentBuffer, ReceiptQueue
from anthropic_proxy.ledger.retention import Retention
from anthropic_proxy.ledger.rows import RowBuilder, decode_attempt_times, is_rejected_by_limit
from anthropic_proxy.ledger.spool import Block, Spool
from anthropic_proxy.ledger.sums import (
    SUM_NAMES,
    TOOL_COUNTS,
    add_histogram,
    count_buckets,
    decode_histogram,
    encode_histogram,
)
from anthropic_proxy.ledger.tables import (
    HOURLY_KEYS,
    SESSION_KEYS,
    StoredRequest,
    contents,
    hourly,
    requests,
    session_hours,
)
from anthropic_proxy.ledger.units import MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.plugins import Cost, Receipt
from anthropic_proxy.settings import Settings

MAX_ROWS_PER_STATEMENT = 100
"""Maximum number of rows that one statement inserts on PostgreSQL."""
_ReadValues = Callable[[Mapping[str, Any]], Any]


class DriverConnection:
    """Connection of `engine` for transactions that the database driver executes, in one thread.

    After a database error on SQLite, the caller must dispose the engine and open a new `DriverConnection`
    (`LedgerWriter._fail` does).
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect: Dialect = engine.dialect
        self.cursor: Any = None
        """Cursor of the driver, during a transaction."""
        self._driver: Any = None
        """Connection of the driver. None: it is not open."""
        self._pooled: PoolProxiedConnection | None = None
        """Connection to PostgreSQL during a transaction. None: no transaction, or the database is on SQLite."""

    def run(self, store: Callable[[], object]) -> None:
        """Call `store` in a transaction, which is rolled back if an exception is raised."""
        try:
            with convert_driver_errors(self.dialect, self._close_lost):
                if self._driver is None:
                    self._connect()
                if self._pooled is None:
                    self.cursor.execute("BEGIN IMMEDIATE")  # SQLite; psycopg itself begins a transaction
                store()
                self._driver.commit()
        finally:
            self._release()

    def query(self, statement: ClauseElement) -> list[Any]:
        """Execute `statement`, a rare query that SQLAlchemy compiles each time, and return all results."""
        compiled = statement.compile(dialect=self.dialect, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, SQLCompiler)
        values, names = compiled.params, compiled.positiontup
        self.cursor.execute(str(compiled), values if names is None else [values[name] for name in names])
        found: list[Any] = self.cursor.fetchall()
        return found

    def _connect(self) -> None:
        pooled = self.engine.raw_connection()
        self._driver, self.cursor = pooled.driver_connection, pooled.cursor()
        if isinstance(self._driver, sqlite3.Connection):
            pooled.close()  # the pool of the writer keeps its only connection to SQLite open
        else:
            self._pooled = pooled

    def _close_lost(self, error: Any) -> bool:
        """Return True if `error` means that the connection is lost. A connection to PostgreSQL is then closed."""
        lost = self.dialect.is_disconnect(error, self._driver, self.cursor)
        # the rollback on a lost connection would raise an error that hides the reason
        if lost and self._pooled is not None:
            self._pooled.invalidate(error)
        return lost

    def _release(self) -> None:
        """End a transaction that is not committed, and return a connection to PostgreSQL to its pool."""
        if self._pooled is not None:
            self._pooled.close()  # the pool rolls back, and checks the connection before its next use
            self._pooled = self._driver = self.cursor = None
        elif self._driver is not None:
            with suppress(sqlite3.Error):  # the exception of the transaction is raised, not this one
                self._driver.rollback()


class DriverStatement:
    """SQL statement that SQLAlchemy compiles once, and that the database driver then executes directly.

    The statement must have at least two parameters. Their values must have types that the driver accepts without a
    conversion by SQLAlchemy.

    Several rows are executed by the driver's method `executemany`. On PostgreSQL, this method sends one statement per
    row in a pipeline. It needs half the CPU time of single statements. But if a row fails, the driver psycopg also logs
    a warning about the pipeline. So use this class only for sums of rows that `TableInsertion` has stored in the same
    transaction. The database has then already accepted their values.
    """

    def __init__(self, build: Callable[[str], ClauseElement]) -> None:
        self._build = build
        self._compiled: dict[str, tuple[str, _ReadValues]] = {}
        """Name of a database → SQL text, and a function that returns the values of a row as the driver needs them."""

    def execute(self, connection: DriverConnection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute the statement once for each of `rows`, which map the name of a parameter to its value.

        Other names in a row are ignored.
        """
        sql, values = self._find_compiled(connection.dialect)
        if len(rows) == 1:
            connection.cursor.execute(sql, values(rows[0]))
        else:
            connection.cursor.executemany(sql, list(map(values, rows)))

    def fetch_one(self, connection: DriverConnection, row: Mapping[str, Any]) -> Sequence[Any] | None:
        """Execute the statement, a query, with the parameters `row`, and return its first result. None: no result."""
        sql, values = self._find_compiled(connection.dialect)
        connection.cursor.execute(sql, values(row))
        found: Sequence[Any] | None = connection.cursor.fetchone()
        return found

    def _find_compiled(self, dialect: Dialect) -> tuple[str, _ReadValues]:
        if (known := self._compiled.get(dialect.name)) is not None:
            return known
        compiled = self._build(dialect.name).compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        values: _ReadValues = _read_names(compiled.positiontup) if compiled.positiontup else dict
        found = self._compiled[dialect.name] = str(compiled), values
        return found


class TableInsertion:
    """SQL statement that inserts rows into `table`.

    `read_values` returns the values of one row in the order of `columns`. The values must have types that the driver
    accepts without a conversion by SQLAlchemy.
    """

    def __init__(self, table: Table, columns: Sequence[str], read_values: Callable[[Any], Sequence[Any]]) -> None:
        self._text = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES "
        self._sqlite_text = f"{self._text}({', '.join('?' * len(columns))})"
        self._columns = columns
        self._read_values = read_values

    def execute(self, connection: DriverConnection, rows: Sequence[Any]) -> None:
        """Insert `rows` into the table."""
        if connection.dialect.name == "sqlite":  # a statement with several rows needs up to twice the CPU time
            connection.cursor.executemany(self._sqlite_text, map(self._read_values, rows))
            return
        # not `executemany`, because the database may reject a row: see `DriverStatement`
        marks = f"({', '.join(['%s'] * len(self._columns))})"
        for start in range(0, len(rows), MAX_ROWS_PER_STATEMENT):
            values = list(map(self._read_values, rows[start : start + MAX_ROWS_PER_STATEMENT]))
            sql = self._text + ", ".join([marks] * len(values))
            connection.cursor.execute(sql, list(chain.from_iterable(values)))


def _read_names(names: Sequence[str]) -> _ReadValues:
    """Return a function that returns the values of `names` in a row."""
    return itemgetter(*(sys.intern(str(name)) for name in names))


_HOURLY_KEYS = ("hour", "instance", *HOURLY_KEYS)
_TOKENS = (
    *("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("output_tokens", "thinking_tokens"),
)
SUMS = (
    *("requests", "errors", *_TOKENS, *TOOL_COUNTS, "cost", "unknown_cost_requests", "requested_cost"),
    *("unknown_requested_cost_requests", "duration", "first_token_sum", "first_token_count"),
)
"""Columns of the table `hourly` that contain sums."""

_HISTOGRAMS = ("first_token_histogram", "duration_histogram")


def _hourly_build_addition(database: str) -> ClauseElement:
    """Return the SQL statement that adds a row of sums to the stored row with the same key, or inserts it.

    The histograms of the row replace the stored ones.
    """
    insert = (postgresql.insert if database == "postgresql" else sqlite.insert)(hourly)
    sums = {name: hourly.c[name] + insert.excluded[name] for name in SUMS}
    histograms = {name: insert.excluded[name] for name in _HISTOGRAMS}
    return insert.on_conflict_do_update(index_elements=_HOURLY_KEYS, set_=sums | histograms)


_find_histograms = DriverStatement(
    lambda _: select(*(hourly.c[name] for name in _HISTOGRAMS)).where(
        and_(*(hourly.c[name] == bindparam(name) for name in _HOURLY_KEYS))
    )
)
_hourly_add = DriverStatement(_hourly_build_addition)
_hourly_read_key = attrgetter(*HOURLY_KEYS)
_ADDED = (*_TOKENS, *TOOL_COUNTS, "duration")
_read_added = attrgetter(*_ADDED)


HourlyKey = tuple[Any, ...]
"""Values of the key columns of the table `hourly`, in the order of the table."""


def sum_rows_by_hour(rows: Iterable[StoredRequest], instance: str) -> list[dict[str, Any]]:
    """Return the sums of `rows`, new rows of `requests`, as rows of the table `hourly`, sorted by key.

    `instance` is the id of the process that writes to PostgreSQL, "" on SQLite. The histograms are not yet encoded as
    bytes, because `add_hourly_sums` adds them to the stored ones.
    """
    groups = group_by_hour(rows, instance, _hourly_read_key)
    return [_hourly_sum_group(key, groups[key]) for key in sorted(groups)]


def group_by_hour(
    rows: Iterable[StoredRequest], instance: str, read_key: Callable[[StoredRequest], tuple[Any, ...]]
) -> dict[HourlyKey, list[StoredRequest]]:
    """Group `rows`, rows of the table `requests`, by hour and the values that `read_key` returns.

    A key of the result consists of the hour, counted since the epoch, `instance`, and these values.
    """
    # `instance` is the id of the writing process on PostgreSQL, and "" on SQLite
    groups: dict[HourlyKey, list[StoredRequest]] = {}
    for row in rows:
        key = (row.started_at // MICROSECONDS_PER_HOUR, instance, *read_key(row))
        groups.setdefault(key, []).append(row)
    return groups


def _hourly_sum_group(key: HourlyKey, rows: Sequence[StoredRequest]) -> dict[str, Any]:
    """Return the sums of `rows`, which have the key `key`."""
    sums: dict[str, Any] = dict(zip(_HOURLY_KEYS, key, strict=True))
    sums.update(zip(_ADDED, map(sum, zip(*map(_read_added, rows), strict=True)), strict=True))
    sums["requests"] = len(rows)
    sums["errors"] = len(rows) if sums["outcome_class"] == "error" else 0
    costs = [row.cost for row in rows if row.cost is not None]
    sums["cost"], sums["unknown_cost_requests"] = sum(costs), len(rows) - len(costs)
    requested = [row.requested_cost for row in rows if row.requested_cost is not None]
    sums["requested_cost"], sums["unknown_requested_cost_requests"] = sum(requested), len(rows) - len(requested)
    first_tokens = [row.first_token for row in rows if row.first_token is not None]
    sums["first_token_sum"], sums["first_token_count"] = sum(first_tokens), len(first_tokens)
    sums["first_token_histogram"] = count_buckets(first_tokens)
    sums["duration_histogram"] = count_buckets(row.duration for row in rows)
    return sums


def add_hourly_sums(connection: DriverConnection, added: list[dict[str, Any]]) -> None:
    """Add the sums `added` to the rows of the table `hourly`, in the transaction of `connection`.

    No other transaction may change the same rows meanwhile, because their histograms are read, added up and written
    again.
    """
    for sums in added:
        stored = _find_histograms.fetch_one(connection, sums) or ()
        for name, data in zip(_HISTOGRAMS, stored, strict=False):
            add_histogram(sums[name], decode_histogram(data))
        for name in _HISTOGRAMS:
            sums[name] = encode_histogram(sums[name])
    _hourly_add.execute(connection, added)


MAX_BATCH_ROWS = 500
"""Maximum number of requests in one transaction."""
MAX_BATCH_ROWS_WITH_TEXTS = 50
"""Maximum number of requests in one transaction if texts are stored, because redaction needs time."""
RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Delays in seconds after successive failed transactions. The last delay is repeated."""
_MAX_REJECTED_KEYS = 10_000
_FAILURES = (*DATABASE_ERRORS, ConfigurationError)
_insert_requests = TableInsertion(requests, StoredRequest.__struct_fields__, astuple)
_insert_contents = TableInsertion(contents, contents.c.keys(), itemgetter(*contents.c.keys()))
CalculateCost = Callable[[Receipt], Cost]
_FileIdentity = tuple[int, int] | None


class LedgerWriter:
    """Writer that stores the receipts (records of requests) of `queue` in the database.

    `current_settings` returns the settings, which a reload may replace.
    """

    def __init__(
        self,
        queue: ReceiptQueue,
        current_settings: Callable[[], Settings],
        warn: Callable[[str], None],
        *,
        new_calculator: Callable[[Settings], CalculateCost] = lambda settings: CostCalculator(settings).calculate,
        retry_delays: tuple[float, ...] = RETRY_DELAYS_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue = queue
        self._current_settings = current_settings
        self._new_calculator = new_calculator
        self._warn = warn
        self._retry_delays = retry_delays
        self._settings = current_settings()
        """Settings at the start. The database and its limits do not change until the next start of the proxy."""
        self._use_settings(self._settings)
        self._clock = clock
        self._retention = Retention(self._settings, clock)
        self._connection: DriverConnection | None = None
        """Connection to the database. None: it is not open."""
        self._file: str | None = None
        self._identity: _FileIdentity = None
        self._instance = ""
        self._batch: list[StoredRequest] = []
        self._texts: dict[str, list[ContentRow]] = {}
        """Request id → rows of the table `contents`, for the requests of the present batch."""
        self._latest_rejections: dict[str, int] = {}
        """Label of a key → minute of the latest row of a request that a limit of this key rejected."""
        self._failed_attempts = 0
        self._spool = _open_spool(self._settings)
        """File for batches while PostgreSQL is unavailable. None: the database is on SQLite, or there is no data
        directory."""
        self._block: Block | None = None
        """Rows from the spool file that are the present batch. None: the present batch is from the queue."""

    def run(self) -> None:
        """Store the receipts of the queue until the queue is stopped and empty.

        A failed transaction is repeated later. After the queue is stopped, a failure ends the run, so that the server
        can stop.
        """
        try:
            self._store_until_stopped()
        finally:
            self._close()  # also after a defect, because another writer then opens the database again

    def _store_until_stopped(self) -> None:
        try:
            self._open()
        except _FAILURES as error:
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
            self._delete_expired()
            pause = self._find_pause()

    @property
    def _retry_delay(self) -> float:
        """Number of seconds until the next attempt to write, which grows with each failure."""
        return self._retry_delays[max(0, min(self._failed_attempts, len(self._retry_delays)) - 1)]

    def _find_pause(self) -> float:
        """Return the time in seconds until the next write or deletion.

        While rows wait, or after a failure, this is the delay until the next attempt. Otherwise it is the time until
        expired rows are deleted.
        """
        if self._queue.state.queued_rows or self._failed_attempts:
            return self._retry_delay
        return self._retention.seconds_until_due()

    def _write_all(self) -> bool:
        """Write all queued receipts and return True. False: the database rejected a batch, which is kept."""
        while self._batch or self._load_block() or (self._load_batch() and self._batch):
            try:
                self._write_batch()
            except _FAILURES as error:
                self._fail(error)
                self._move_to_spool()
                return False
            self._succeed(len(self._batch))
        self._queue.state.queued_rows = self._count_waiting()
        if not self._queue.state.queued_rows:
            self._queue.state.waiting_since = None
        return True

    def _load_block(self) -> bool:
        """Make the oldest rows of the spool file the present batch and return True. False: there are none."""
        self._block = None if self._spool is None else self._spool.claim()
        if self._block is None:
            return False
        self._batch, self._texts = self._block.rows, self._block.texts
        return True

    def _move_to_spool(self) -> None:
        """Move the present batch and all queued receipts to the spool file, if there is one."""
        if self._spool is None:
            return
        if self._block is not None:
            self._spool.release(self._block)
            self._batch, self._texts, self._block = [], {}, None
        is_first = not self._spool.count_rows()
        while (self._batch or self._load_batch()) and self._spool.append(Block(self._batch, self._texts)):
            self._batch, self._texts = [], {}
            self._queue.in_batch = 0
        if is_first and self._spool.count_rows():
            self._warn(f"Requests wait in {self._spool.file} until the ledger can store them.")
        self._queue.state.queued_rows = self._count_waiting()

    def _count_waiting(self) -> int:
        return len(self._queue) + (0 if self._spool is None else self._spool.count_rows())

    def _use_settings(self, settings: Settings) -> None:
        """Use the API keys (for redaction) and the prices of `settings` for rows that are built from now on."""
        self._used_settings = settings
        self._used_prices = find_price_source(settings.data_directory).current
        self._secrets = settings.reveal_all_secrets()
        self._builder = RowBuilder(self._secrets)
        self._calculate = self._new_calculator(settings)

    def _load_batch(self) -> bool:
        receipts = self._queue.pop_batch(MAX_BATCH_ROWS if self._queue.contents is None else MAX_BATCH_ROWS_WITH_TEXTS)
        if not receipts:
            return False
        settings = self._current_settings()
        source = find_price_source(settings.data_directory)
        source.reload_if_changed()
        if settings is not self._used_settings or source.current is not self._used_prices:
            self._use_settings(settings)
        for receipt in receipts:
            try:
                row = self._builder.build(receipt, self._calculate(receipt))
                if self._queue.contents is not None:
                    self._texts[row.id] = self._build_texts(row, self._queue.contents)
            except Exception as error:  # noqa: BLE001  # `_drop` raises it again, unless a value causes it
                self._drop(receipt.request_id, error)
            else:
                self._batch.append(row)
        return True

    def _build_texts(self, row: StoredRequest, buffer: ContentBuffer) -> list[ContentRow]:
        content = buffer.pop(row.id)
        return [] if content is None else build_content_rows(row.id, row.started_at, content, self._secrets)

    def _write_batch(self) -> None:
        connection = self._open()
        try:
            connection.run(lambda: self._store(connection, self._batch))
        except Exception as error:
            if not is_value_failure(error):
                raise
            self._write_singly(connection)

    def _write_singly(self, connection: DriverConnection) -> None:
        """Write each row of the batch in its own transaction. Drop rows with a value that the database rejects."""
        for row in [*self._batch]:
            try:
                connection.run(lambda row=row: self._store(connection, [row], is_repeated=True))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001  # `_drop` raises it again, unless a value causes it
                self._drop(row.id, error)
                self._batch.remove(row)

    def _drop(self, request_id: str, error: Exception) -> None:
        """Count the request `request_id` as lost if `error` concerns one of its values. Raise any other `error`."""
        if not is_value_failure(error):
            raise error
        self._queue.drop_receipt(request_id)
        self._warn(f"The ledger dropped the request {request_id}: {describe_value_failure(error)}")

    def _store(self, connection: DriverConnection, rows: list[StoredRequest], *, is_repeated: bool = False) -> None:
        # a commit may have succeeded although its answer was lost
        if is_repeated or self._failed_attempts or self._block is not None:
            ids = [row.id for row in rows]
            known = {found[0] for found in connection.query(select(requests.c.id).where(requests.c.id.in_(ids)))}
            rows = [row for row in rows if row.id not in known]
        stored = [row for row in rows if not is_rejected_by_limit(row) or self._is_new_rejection(row)]
        if stored:
            _insert_requests.execute(connection, stored)
        if rows:
            add_hourly_sums(connection, sum_rows_by_hour(rows, self._instance))
            add_session_sums(connection, sum_sessions(rows, self._instance))
        if texts := [text for row in stored for text in self._texts.get(row.id, ())]:
            _insert_contents.execute(connection, texts)

    def _is_new_rejection(self, row: StoredRequest) -> bool:
        """Return True once for each key and minute.

        Clients repeat a request until their limit has room again. Rows of all attempts would be most of the ledger.
        """
        minute = row.started_at // (60 * MICROSECONDS)
        if self._latest_rejections.get(row.key_label) == minute:
            return False
        self._latest_rejections.pop(row.key_label, None)
        self._latest_rejections[row.key_label] = minute
        if len(self._latest_rejections) > _MAX_REJECTED_KEYS:
            del self._latest_rejections[next(iter(self._latest_rejections))]
        return True

    def _open(self) -> DriverConnection:
        """Return the connection to the database, which is opened again if the SQLite file was removed or replaced."""
        if self._connection is not None and self._identity == _identify(self._file):
            return self._connection
        self._close()
        file = find_database_file(find_database_url(self._settings))
        self._file = None if file is None else str(file)
        self._connection = DriverConnection(open_for_writing(self._settings))
        self._identity = _identify(self._file)
        if self._file is None and not self._instance:
            self._instance = secrets.token_hex(6)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.engine.dispose()
            self._connection = None

    def _succeed(self, row_count: int) -> None:
        state = self._queue.state
        # a block that cannot be deleted is claimed again; its dropped requests are counted once, when it is deleted
        if self._spool is not None and self._block is not None and self._spool.delete(self._block):
            self._count_dropped(self._spool, self._block)
        self._batch, self._texts, self._block = [], {}, None
        self._queue.in_batch = 0
        state.written_rows += row_count
        state.queued_rows = self._count_waiting()
        state.last_written_at, state.waiting_since = self._clock(), None
        self._reset_failure()

    def _reset_failure(self) -> None:
        """Report that the database can be used again, if its last use failed."""
        state = self._queue.state
        self._failed_attempts = 0
        if state.condition != "ok":
            state.condition, state.problem = "ok", ""
            self._warn(f"The ledger stores requests again. {state.dropped_rows} were dropped since the start.")

    def _count_dropped(self, spool: Spool, block: Block) -> None:
        """Count the requests of `block` that cannot be decoded as lost."""
        self._queue.state.dropped_rows += block.dropped_rows
        if block.problem:
            count = block.dropped_rows
            lost = f"{count} request{'s' * (count != 1)}" if count else "the texts of requests"
            self._warn(f"The ledger dropped {lost} of a block in {spool.file}: {block.problem}")

    def _fail(self, error: BaseException) -> None:
        state = self._queue.state
        self._failed_attempts += 1
        condition = classify_database_error(error)
        state.queued_rows = self._count_waiting()
        if state.queued_rows:
            self._queue.set_waiting_since()
        state.problem = describe_database_failure(
            condition, describe_database_location(find_database_url(self._settings)), error
        )
        if condition != state.condition:
            state.condition = condition
            self._warn(state.problem)
        self._close()

    def _delete_expired(self) -> None:
        """Delete expired rows if this is due. After a failure, check that the database can be used again."""
        if not (self._failed_attempts or self._retention.is_due()):
            return
        try:
            engine = self._open().engine
            if self._retention.is_due():
                self._retention.delete_expired(
                    engine, is_stopped=lambda: self._queue.is_stopped or len(self._queue) > 0
                )
        except _FAILURES as error:
            self._fail(error)
        else:
            self._reset_failure()


def _open_spool(settings: Settings) -> Spool | None:
    folder, url = settings.data_directory, find_database_url(settings)
    return None if folder is None or find_database_file(url) is not None else Spool(folder, url)


def _identify(file: str | None) -> _FileIdentity:
    """Return device and inode of the SQLite file `file`. None: no such file, or the database is on PostgreSQL."""
    if file is None:
        return None
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_KEYS = ("hour", "instance", *SESSION_KEYS)
_read_key = attrgetter(*SESSION_KEYS)
_NEXT_CALL = "],["
"""Text between two calls to providers in the column `attempt_times`."""
_COUNTED = tuple(
    name
    for name in SUM_NAMES
    if name not in ("requests", "errors", "cancelled", "unknown_cost_requests", "unknown_requested_cost_requests")
)
_read_counted = attrgetter(*_COUNTED)


def sum_sessions(rows: Iterable[StoredRequest], instance: str) -> list[dict[str, Any]]:
    """Return the sums of `rows` by hour and session, as rows to add to the table `session_hours`.

    `rows` are new rows of the table `requests`. `instance` is the id of this process on PostgreSQL, and "" on SQLite.
    """
    groups = group_by_hour(rows, instance, _read_key)
    return [{**dict(zip(_KEYS, key, strict=True)), **_sum_group(groups[key])} for key in sorted(groups)]


def add_session_sums(connection: DriverConnection, sums: list[dict[str, Any]]) -> None:
    """Add `sums`, the result of `sum_sessions`, to the stored sums, in the transaction of `connection`.

    A row of the table `session_hours` that does not exist yet is inserted.
    """
    _add.execute(connection, sums)


def _build_addition(database: str) -> ClauseElement:
    """Return the SQL statement that adds a row of sums to the stored row with the same key, or inserts it."""
    insert = (postgresql.insert if database == "postgresql" else sqlite.insert)(session_hours)
    own, new = session_hours.c, insert.excluded
    changes: dict[str, Any] = {name: own[name] + new[name] for name in SUM_NAMES}
    for name in ("max_context", "last_at"):
        changes[name] = case((own[name] > new[name], own[name]), else_=new[name])
    changes["started_at"] = case((own.started_at < new.started_at, own.started_at), else_=new.started_at)
    return insert.on_conflict_do_update(index_elements=_KEYS, set_=changes)


_add = DriverStatement(_build_addition)


def _sum_group(rows: Sequence[StoredRequest]) -> dict[str, Any]:
    """Return the sums of `rows`, which have the same key."""
    columns = zip(_COUNTED, zip(*map(_read_counted, rows), strict=True), strict=True)
    sums: dict[str, Any] = {name: sum(filter(None, column)) for name, column in columns}  # None: unknown cost
    times, outcomes = [row.started_at for row in rows], [row.outcome_class for row in rows]
    return {
        **sums,
        "requests": len(rows),
        "errors": outcomes.count("error"),
        "cancelled": outcomes.count("cancelled"),
        "unknown_cost_requests": [row.cost for row in rows].count(None),
        "unknown_requested_cost_requests": [row.requested_cost for row in rows].count(None),
        "max_context": max(map(_find_context, rows)),
        "started_at": min(times),
        "last_at": max(times),
    }


def _find_context(row: StoredRequest) -> int:
    """Return the number of input tokens of the largest call to a provider in `row`, a row of `requests`."""
    total: int = row.input_tokens + row.cache_read_tokens + row.cache_write_tokens
    if _NEXT_CALL not in row.attempt_times:
        return total
    # the tokens of a request are the sum over its calls, which can exceed the context window
    calls = decode_attempt_times(row.attempt_times)
    highest = max(call.context for call in calls) if len(calls) > 1 else 0
    return min(highest, total) or total
