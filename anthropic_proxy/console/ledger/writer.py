"""`LedgerWriter`: stores finished requests from a queue in the database, in a thread of its own.

Theory of operation. Receipts become rows, in batches of half a second. A batch is stored by `BatchStorage`, in another
thread. So this thread never waits for the database alone, whatever holds it: a lock, a frozen host, a full disk. It
writes the state of the ledger, and puts what the database does not take into a file (`Spool`), from which a later
attempt, worker or start stores it:

- the batch, if the attempt fails, or if the database has been silent for `ANSWER_SECONDS`,
- requests that arrive while it is silent for more than a moment, between two attempts, or faster than it stores them,
- all that waits, at the stop.

A batch that was given up may have been stored. So a repeated batch leaves out the rows that are stored.
"""

import errno
import operator
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Literal, TypeVar

from anthropic_proxy.console.ledger.batch_storage import BatchStorage, list_moved
from anthropic_proxy.console.ledger.contents import ContentRow, build_content_rows, build_title_row
from anthropic_proxy.console.ledger.costs import CurrentCosts
from anthropic_proxy.console.ledger.database import (
    LEDGER_FAILURES,
    NoAnswerError,
    describe_database_failure,
    describe_value_failure,
    find_condition,
    find_database,
    find_spool_file,
    is_disk_full,
    is_value_failure,
)
from anthropic_proxy.console.ledger.receipt_queue import DISK_CHECK_SECONDS, ReceiptQueue
from anthropic_proxy.console.ledger.records import FacetLimits, RowBuilder, StoredRequest
from anthropic_proxy.console.ledger.retention import Retention
from anthropic_proxy.console.ledger.spool import MAX_SPOOL_BYTES, Spool, SpooledBlock
from anthropic_proxy.engine.own_thread import start_in_own_thread
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.database_address import DatabaseAddress
from anthropic_proxy.plugins import Cost, Receipt

MAX_BATCH_ROWS = 500
MAX_BATCH_ROWS_WITH_TEXTS = 50
"""Maximum number of requests in one transaction if texts are stored, because redaction needs time."""
RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Delays in seconds after successive failed transactions. The last delay is repeated."""
ANSWER_SECONDS = 15.0
"""Time in seconds after which a database without an answer is unavailable. Longer than the limits for a lock and for a
connection, whose errors say more."""
STOP_ANSWER_SECONDS = 2.0
"""The same after the stop."""
_MOMENT_SECONDS = 0.5
"""Pause between two looks at the requests that arrive while the database is silent."""
LATE_SECONDS = 0.5
"""Time of a write after which the further requests count as stored late."""
_STOP_PAUSE_SECONDS = 0.1
_CLOSE_SECONDS = 1.0
_T = TypeVar("_T")


class LedgerWriter:
    def __init__(
        self,
        queue: ReceiptQueue,
        current_settings: Callable[[], Settings],
        warn: Callable[[str], None],
        *,
        calculate_cost: Callable[[Receipt], Cost] | None = None,
        retry_delays: tuple[float, ...] = RETRY_DELAYS_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.time,
        is_disk_full: Callable[[DatabaseAddress], bool] = is_disk_full,
        disk_check_seconds: float = DISK_CHECK_SECONDS,
        max_spool_bytes: int = MAX_SPOOL_BYTES,
    ) -> None:
        self._queue = queue
        self._is_disk_full = is_disk_full
        self._disk_check_seconds = disk_check_seconds
        self._buffers = ((queue.contents, build_content_rows), (queue.titles, build_title_row))
        self._current_settings = current_settings
        self._calculate_cost = calculate_cost or CurrentCosts(current_settings).calculate
        self._warn = warn
        self._retry_delays = retry_delays
        self._answer_seconds = answer_seconds
        settings = current_settings()  # the database and its limits do not change until the next start of the proxy
        self._use_settings(settings)
        self._clock = clock
        self._limits = FacetLimits()
        self._retention = Retention(settings, clock)
        self._storage = BatchStorage(settings, current_settings, self._retention, is_disk_full)
        self._call: Future[Any] | None = None
        """The call that uses the database now."""
        self._block: SpooledBlock | None = None
        """The batch that is being stored."""
        self._built: SpooledBlock | None = None
        """The next batch. None: it is not built yet."""
        self._failed_attempts = 0
        self._is_late = False
        """True if the requests that wait are stored late, after a failure or a long write."""
        self._has_named_spool = False
        """True if the log has the file in which requests wait."""
        self._address = find_database(settings)
        spool_file = find_spool_file(settings)
        self._spool = None
        if spool_file is not None:
            self._spool = Spool(spool_file, self._note_damage, max_bytes=max_spool_bytes)
        self._spool_problems: dict[Literal["append", "read"], str] = {}
        """Use of the spool → reason why its latest attempt failed. "": it did not."""

    def run(self) -> None:
        """A failed transaction is repeated later. After the queue is stopped, what waits is stored or put into the
        spool, so that the server can stop.
        """
        try:
            try:
                self._ask(self._storage.open)
            except LEDGER_FAILURES as error:
                self._fail(error)
            self._count_spooled()
            pause = self._find_pause()
            while not self._queue.is_stopped:
                self._queue.wait_for_batch(pause)
                if self._queue.is_stopped:
                    break
                if not self._write_all():
                    self._pause_after_failure()
                    pause = 0.0
                    continue
                if not self._queue.is_stopped:
                    self._maintain()
                pause = self._find_pause()
            self._finish()
        finally:
            self._close()  # also after a defect, because another writer then opens the database again

    @property
    def _retry_delay(self) -> float:
        """Seconds until the next attempt to write, which grows with each failure."""
        return self._retry_delays[max(0, min(self._failed_attempts, len(self._retry_delays)) - 1)]

    def _find_pause(self) -> float:
        """Return the time in seconds until the next write, look at the disk and the spool, or deletion. While rows
        wait, or after a failure, this is the delay until the next attempt.
        """
        if self._queue.state.queued_rows or self._failed_attempts:
            return self._retry_delay
        return min(self._retention.seconds_until_due(), self._disk_check_seconds)

    def _pause_after_failure(self) -> None:
        end = time.monotonic() + self._retry_delay
        while not self._queue.is_stopped and (left := end - time.monotonic()) > 0:
            self._queue.pause(min(left, _MOMENT_SECONDS))
            self._spool_waiting()

    def _finish(self) -> None:
        """Store what waits, or put it into the spool, until the time of the stop is over."""
        while True:
            if self._failed_attempts:
                self._spool_waiting()
            if not len(self._queue) or self._write_all() or self._queue.seconds_to_stop <= 0:
                return
            self._spool_waiting()
            if not len(self._queue):
                return
            time.sleep(_STOP_PAUSE_SECONDS)

    def _ask(self, function: Callable[[], _T]) -> _T:
        """Return what `function` returns in the thread of the database. Meanwhile, requests that arrive are put into
        the spool. Raises `NoAnswerError` if the database is silent for too long; the function then goes on.
        """
        if self._call is not None:  # one that was given up
            self._wait_for_answer(self._call)
        try:
            call = start_in_own_thread("ledger-database", function)
        except RuntimeError as error:  # the system has no thread left
            raise OSError(errno.EAGAIN, str(error)) from None
        self._call = call
        self._wait_for_answer(call)
        return call.result()

    def _wait_for_answer(self, call: "Future[Any]") -> None:
        last = time.monotonic()
        stopped_at: float | None = None
        is_late = False
        while True:
            if is_late or self._queue.is_crowded:
                self._spool_arrivals(call.done)
            if wait([call], timeout=_MOMENT_SECONDS).done:
                break
            now = time.monotonic()
            last = max(last, self._storage.answered_at)
            limit = self._answer_seconds
            if self._queue.is_stopped:
                stopped_at = stopped_at or now
                last = max(last, stopped_at)
                limit = min(limit, STOP_ANSWER_SECONDS)
            elif self._storage.is_migrating:
                last = now
            if now - last > limit:
                raise NoAnswerError(f"no answer for {limit:g} s")
            is_late = True
        self._call = None

    def _write_all(self) -> bool:
        """False: the database did not take a batch, which is kept."""
        late_at = time.monotonic() + LATE_SECONDS
        while (block := self._take_block()) is not None:
            is_repeated = bool(self._failed_attempts or block.id)
            try:
                rejected = self._ask(partial(self._storage.store, block.rows, block.texts, is_repeated=is_repeated))
            except LEDGER_FAILURES as error:
                self._fail(error)
                self._spool_waiting()
                return False
            self._is_late = self._is_late or time.monotonic() > late_at
            self._note_stored(block, rejected)
            self._block = None
            self._count_spooled()
            self._reset_failure()
        self._count_spooled()
        if not self._queue.state.queued_rows:
            self._queue.state.waiting_since = None
        self._is_late = time.monotonic() > late_at  # what has arrived meanwhile is late too
        return True

    def _note_stored(self, block: SpooledBlock, rejected: Mapping[str, str]) -> None:
        state = self._queue.state
        # a block that cannot be deleted is claimed again; its dropped requests are counted once, when it is deleted
        if block.id and self._spool is not None and self._spool.delete(block):
            state.dropped_rows += block.dropped_rows
            if block.problem:
                count = block.dropped_rows
                lost = f"{count} request{'' if count == 1 else 's'}" if count else "the texts of requests"
                self._warn(f"The ledger dropped {lost} of a block in {self._spool.file}: {block.problem}")
        for request_id, reason in rejected.items():
            self._drop(request_id, reason, is_queued=not block.id)
        rows = [row for row in block.rows if row.id not in rejected]
        if block.id or self._is_late:
            state.late_rows += len(rows)
        if not block.id:
            self._queue.in_batch -= len(rows)
        state.written_rows += len(rows)
        for row in rows:
            self._add_spending(row, row.provider, (1, row.cost or 0, int(row.cost is None)))
            if row.model_usage:
                for part in list_moved(row):
                    amounts = (0, part.sums.cost, part.sums.unknown_cost_requests)
                    self._add_spending(row, part.facets.provider, amounts)
        state.last_written_at = self._clock()
        state.waiting_since = None

    def _add_spending(self, row: StoredRequest, provider: str, amounts: tuple[int, int, int]) -> None:
        labels = (row.team, row.cost_center, provider, row.kind)
        spending = self._queue.state.spending
        count, cost, unknown = map(operator.add, spending.get(labels, (0, 0, 0)), amounts)
        spending[labels] = count, cost, unknown

    def _take_block(self) -> SpooledBlock | None:
        """Return the next batch to store: the kept one, the oldest of the spool, or one of the queue. At the stop, the
        spool keeps its rows.
        """
        if self._block is None and self._spool is not None and not self._queue.is_stopped:
            self._block = self._spool.claim()
            self._note_spool_problem("read")
        if self._block is None:
            self._block = self._build_block()
            self._built = None
        return self._block

    def _build_block(self) -> SpooledBlock | None:
        """Make the next requests of the queue a batch. None: none waits."""
        while self._built is None and (receipts := self._queue.pop_batch(self._max_batch_rows)):
            settings = self._current_settings()
            if settings is not self._used_settings:
                self._use_settings(settings)
            block = SpooledBlock([], {})
            for receipt in receipts:
                try:
                    row = self._builder.build(receipt, self._calculate_cost(receipt))
                    texts = list[ContentRow]()
                    for buffer, build in self._buffers:
                        if buffer is not None and (content := buffer.pop(row.id)) is not None:
                            texts += build(row.id, row.started_at, content, self._secrets)
                except Exception as error:
                    if not is_value_failure(error):
                        raise
                    self._drop(receipt.request_id, describe_value_failure(error))
                else:
                    self._limits.apply(row)
                    block.rows.append(row)
                    if texts:
                        block.texts[row.id] = texts
            if block.rows:
                self._built = block
        return self._built

    @property
    def _max_batch_rows(self) -> int:
        return MAX_BATCH_ROWS if self._queue.contents is None else MAX_BATCH_ROWS_WITH_TEXTS

    def _drop(self, request_id: str, reason: str, *, is_queued: bool = True) -> None:
        """Count a request as lost, because one of its values cannot be stored."""
        if is_queued:
            self._queue.drop_receipt(request_id)
        else:
            self._queue.state.dropped_rows += 1
        self._warn(f"The ledger dropped the request {request_id}: {reason}")

    def _spool_waiting(self) -> None:
        """Put all that waits into the spool, as far as it has room, after the database did not take it."""
        spool = self._spool
        if spool is None:
            return
        block = self._block
        if block is not None and block.id:
            spool.release(block)
            self._block = None
        elif block is not None and self._append(spool, block):
            self._block = None
        if self._block is None:
            self._spool_arrivals()
        self._count_spooled()
        if self._queue.spooled_rows and not self._has_named_spool:
            self._has_named_spool = True
            self._warn(f"Requests wait in {spool.file} until the ledger can store them.")

    def _spool_arrivals(self, is_answered: Callable[[], bool] = lambda: False) -> None:
        """More may arrive meanwhile than the file takes, so this ends when the database can store the next batch."""
        while self._spool is not None and not is_answered() and (block := self._build_block()) is not None:
            if not self._append(self._spool, block):
                return
            self._built = None

    def _append(self, spool: Spool, block: SpooledBlock) -> bool:
        is_done = spool.append(block)
        if is_done:
            self._queue.in_batch -= len(block.rows)
            self._queue.spooled_rows += len(block.rows)
        self._note_spool_problem("append")
        return is_done

    def _count_spooled(self) -> None:
        if self._spool is not None:
            self._queue.spooled_rows = self._spool.count_rows()
            self._note_spool_problem("read")

    def _note_spool_problem(self, use: Literal["append", "read"]) -> None:
        assert self._spool is not None
        self._queue.spool_is_half_full = self._spool.is_half_full
        self._spool_problems[use] = self._spool.problem
        reason = next(filter(None, self._spool_problems.values()), "")
        file = self._spool.file
        self._queue.spool_problem = f"The file {file} for waiting requests cannot be used: {reason}." if reason else ""

    def _note_damage(self, lost_rows: int, text: str) -> None:
        self._queue.state.dropped_rows += lost_rows
        self._warn(text)

    def _use_settings(self, settings: Settings) -> None:
        """Use the API keys of `settings` (for redaction) for rows that are built from now on."""
        self._used_settings = settings
        self._secrets = settings.reveal_all_secrets()
        self._builder = RowBuilder(self._secrets)

    def _close(self) -> None:
        if self._call is None:
            wait([start_in_own_thread("ledger-database", self._storage.close)], timeout=_CLOSE_SECONDS)

    def _reset_failure(self) -> None:
        state = self._queue.state
        if state.condition == "disk full" and self._ask(partial(self._is_disk_full, self._address)):
            return  # the present file had room for a few rows
        self._failed_attempts = 0
        self._spool_problems.pop("append", None)
        if state.condition != "ok":
            state.condition = "ok"
            state.problem = ""
            self._has_named_spool = False
            self._warn(f"The ledger stores requests again. {state.dropped_rows} were dropped since the start.")

    def _fail(self, error: BaseException) -> None:
        state = self._queue.state
        self._failed_attempts += 1
        self._is_late = True
        if self._queue.is_stopped and isinstance(error, NoAnswerError) and state.condition != "ok":
            return  # the limit is short at the stop: the earlier error says more
        condition = find_condition(self._address, error)
        if state.queued_rows:
            self._queue.set_waiting_since()
        state.problem = describe_database_failure(condition, self._address.describe(), error)
        if condition != state.condition:
            state.condition = condition
            self._warn(state.problem)

    def _maintain(self) -> None:
        was_failing = bool(self._failed_attempts)
        if self._address.file is None and not (was_failing or self._retention.is_due()):
            return  # the disk is another machine's
        try:
            self._ask(
                partial(
                    self._storage.maintain,
                    was_failing=was_failing,
                    is_interrupted=lambda: self._queue.is_stopped or len(self._queue) > 0,
                )
            )
            state = self._queue.state
            problem = self._retention.problem
            if bool(problem) != bool(state.clock_problem):
                self._warn(problem or "The clock is right again, so the ledger deletes expired requests.")
            state.clock_problem = problem
            self._reset_failure()
        except LEDGER_FAILURES as error:
            self._fail(error)
