"""The thread of the ledger starts for an old schema only, and survives a defect."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from anthropic_proxy.console.ledger.database import needs_migration, open_for_writing
from anthropic_proxy.console.ledger.plugin import open_plugin, run_writer
from anthropic_proxy.console.ledger.receipt_queue import ContentBuffer, ReceiptQueue
from anthropic_proxy.console.ledger.writer import LedgerWriter
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON, count_rows, new_receipt
from tests.support.threads import no_new_threads
from tests.support.waiting import WAIT_SECONDS, wait_for, wait_for_async

_TIMEOUT_SECONDS = 60
_DEFECT = (
    "The ledger failed because of a defect of the proxy (RuntimeError: a defect). The log has the traceback: report it."
)


def test_a_database_that_may_be_old_needs_a_migration(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.sqlite3"
    damaged.write_bytes(b"no database" * 100)
    assert needs_migration(Settings(database_url=Secret("postgresql://host/name")))
    assert not needs_migration(Settings(database_url=Secret("off")))
    assert not needs_migration(Settings(data_directory=tmp_path / "none"))
    assert not needs_migration(Settings(database_url=Secret(f"sqlite:///{damaged}")))
    assert not (tmp_path / "none").exists()


async def test_the_writer_pauses_after_a_defect_and_drops_only_its_batch() -> None:
    runs: list[int] = []
    warnings: list[str] = []

    def write() -> None:
        runs.append(len(queue.pop_batch(1)))
        raise RuntimeError("a defect")

    queue = ReceiptQueue(lambda queue: run_writer(queue, write, warnings.append, _TIMEOUT_SECONDS))
    queue.record(new_receipt(1))
    while not warnings:
        queue.pause(0.001)
    queue.record(new_receipt(2))
    assert (queue.state.condition, queue.state.dropped_rows, len(queue)) == ("failed", 1, 1)
    assert queue.stop(_TIMEOUT_SECONDS) == 0, "the receipts of the pause are written at the stop"
    assert runs == [1, 1]
    first, trace = warnings[0].split("\n", 1)
    assert first == f"{_DEFECT} Dropped requests: 1."
    assert trace.startswith("Traceback ")
    assert trace.endswith("RuntimeError: a defect\n")


async def test_a_defect_that_repeats_is_visible_and_logged_with_one_traceback() -> None:
    warnings: list[str] = []
    runs: list[None] = []

    def write() -> None:
        runs.append(None)
        if len(runs) == 3:
            queue.pop_batch(1)
        if len(runs) > 3:
            queue.state.condition, queue.state.problem = "ok", ""  # requests were stored meanwhile
        raise RuntimeError("a defect")

    queue = ReceiptQueue(lambda queue: run_writer(queue, write, warnings.append, 0.001), clock=lambda: NOON)
    queue.record(new_receipt(1))
    queue.record(new_receipt(2))
    wait_for(lambda: len(runs) > 5)
    queue.stop(_TIMEOUT_SECONDS)
    state = queue.state
    assert (state.condition, state.problem, state.queued_rows, state.dropped_rows) == ("failed", _DEFECT, 1, 1)
    assert state.waiting_since == NOON
    assert [line.partition("\n")[0] for line in warnings[:3]] == [
        f"{_DEFECT} Dropped requests: {dropped}." for dropped in (0, 1, 0)
    ]
    assert ["Traceback" in line for line in warnings[:3]] == [True, False, False]


async def test_texts_of_requests_that_a_defect_drops_leave_the_buffer() -> None:
    contents = ContentBuffer(lambda: None)
    warnings: list[str] = []

    def write() -> None:
        if not warnings and queue.pop_batch(1):
            raise RuntimeError("a defect")

    queue = ReceiptQueue(lambda queue: run_writer(queue, write, warnings.append, 0.001), contents=contents)
    for number in (1, 2):
        contents.record(new_receipt(number).request_id, "client request", b"text")
        queue.record(new_receipt(number))
    wait_for(lambda: warnings)
    queue.stop(_TIMEOUT_SECONDS)
    assert contents.total_bytes == len(b"text"), "only the text of the second request, which still waits"


async def test_a_writer_closes_its_database_after_a_defect(sqlite: Settings) -> None:
    """SQLite deletes the WAL with the last connection."""
    assert sqlite.data_directory is not None
    wal = sqlite.data_directory / "ledger.sqlite3-wal"
    open_for_writing(sqlite).close()
    queue = ReceiptQueue(lambda _: None, batch_seconds=0.0)
    queue.record(new_receipt())
    found: list[bool] = []

    def read_settings() -> Settings:
        found.append(wal.exists())
        if len(found) == 2:  # while the first batch is built
            raise RuntimeError("a defect")
        return sqlite

    with pytest.raises(RuntimeError, match="a defect"):
        LedgerWriter(queue, read_settings, _ignore).run()
    assert [*found, wal.exists()] == [False, True, False]


async def test_a_database_in_a_place_that_cannot_be_examined_is_reported(tmp_path: Path) -> None:
    name = "x" * 300  # longer than every file system permits
    plugin = open_plugin(Settings(database_url=Secret(f"sqlite:///{tmp_path}/{name}/ledger.sqlite3")))
    (observer,) = plugin.observers
    assert plugin.ledger_state is not None
    assert plugin.stop is not None
    observer.record(new_receipt())
    state = await wait_for_async(plugin.ledger_state, lambda state: state.condition != "ok")
    await plugin.stop()
    assert (state.condition, state.queued_rows) == ("failed", 1)
    assert state.problem.startswith(f"The ledger cannot store requests: failed ({tmp_path}/{name}/ledger.sqlite3: ")


async def test_receipts_are_written_if_the_queue_stops_at_once(sqlite: Settings) -> None:
    plugin = open_plugin(sqlite)
    (observer,) = plugin.observers
    observer.record(new_receipt())
    assert plugin.stop is not None
    await plugin.stop()
    assert count_rows(sqlite) == 1


def _ignore(_: str) -> None: ...


_LONG_SECONDS = threading.TIMEOUT_MAX
"""Time in seconds of a wait that must end before."""


async def test_a_receipt_without_a_thread_waits_and_the_next_one_starts_the_thread() -> None:
    written: list[str] = []
    queue = ReceiptQueue(
        lambda queue: written.extend(receipt.request_id for receipt in queue.pop_batch(10)), clock=lambda: NOON
    )
    with no_new_threads(), pytest.raises(RuntimeError):
        queue.record(new_receipt(1))
    state = queue.state
    assert (state.condition, state.queued_rows, state.waiting_since) == ("failed", 1, NOON)
    assert state.problem == (
        "The ledger cannot store requests: can't start new thread. Raise the limit of processes and threads."
    )
    queue.record(new_receipt(2))
    queue.stop(60)
    assert written == [new_receipt(1).request_id, new_receipt(2).request_id]


def _run_to_end(wait: Callable[[], None]) -> None:
    """Call `wait` in a thread. Fail if it does not return."""
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


class _QueueInUse:
    """A queue without a writer. `actions` are executed when the wait for a batch has begun, one in each wait."""

    def __init__(self, *actions: Callable[[ReceiptQueue], object], batch_seconds: float = 0) -> None:
        self._actions = list(actions)
        self.queue = ReceiptQueue(lambda _: None, batch_seconds=batch_seconds, clock=self._read_clock)

    def _read_clock(self) -> float:
        if self._actions:
            self._actions.pop(0)(self.queue)
        return NOON

    def pop(self) -> list[str]:
        """Wait for a batch without a limit, and return its ids as the writer does."""
        _run_to_end(lambda: self.queue.wait_for_batch(None))
        found = [receipt.request_id for receipt in self.queue.pop_batch(10)]
        self.queue.in_batch, self.queue.state.waiting_since = 0, None
        return found


def test_a_receipt_during_the_wait_belongs_to_the_batch_and_the_next_one_is_announced_again() -> None:
    first, second, third, fourth = map(new_receipt, range(4))
    used = _QueueInUse(lambda queue: queue.record(second), lambda queue: queue.record(fourth))
    used.queue.record(first)
    assert used.pop() == [first.request_id, second.request_id]
    used.queue.record(third)
    assert used.pop() == [third.request_id, fourth.request_id]
    used.queue.wait_for_batch(0)  # no item is left of the four receipts, so this wait does not begin a batch
    assert used.queue.state.waiting_since is None


def test_a_receipt_after_the_wait_is_announced_also_if_the_batch_contains_it() -> None:
    first, second, third = map(new_receipt, range(3))
    used = _QueueInUse()
    used.queue.record(first)
    used.queue.wait_for_batch(None)
    used.queue.record(second)
    assert [receipt.request_id for receipt in used.queue.pop_batch(1)] == [first.request_id]
    used.queue.in_batch = 0
    used.queue.record(third)
    assert used.pop() == [second.request_id, third.request_id]


def test_a_stop_before_or_during_a_wait_ends_it() -> None:
    stopped = _QueueInUse().queue
    stopped.stop(0)
    _run_to_end(lambda: stopped.wait_for_batch(None))
    _run_to_end(lambda: stopped.pause(_LONG_SECONDS))
    _run_to_end(lambda: stopped.wait_for_receipt(WAIT_SECONDS))
    used = _QueueInUse(lambda queue: queue.stop(0), batch_seconds=_LONG_SECONDS)
    used.queue.record(new_receipt(1))
    assert used.pop() == [new_receipt(1).request_id]


def test_a_pause_ends_also_if_its_time_is_over_at_once() -> None:
    """A wait of CPython's `SimpleQueue` does not, about once in 10,000 times, if the thread is delayed as it begins."""

    def pause_often() -> None:
        for _ in range(50_000):
            ReceiptQueue(lambda queue: None).pause(1e-9)

    _run_to_end(pause_often)
