"""The queue of receipts: no thread left for the writer, and waits that a receipt or a stop ends at any moment."""

import threading
from collections.abc import Callable

import pytest

from anthropic_proxy.ledger.receipt_queue import ReceiptQueue
from tests.support.ledger import NOON, new_receipt
from tests.support.threads import no_new_threads
from tests.support.waiting import WAIT_SECONDS

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
    _run_to_end(stopped.wait_for_receipt)
    used = _QueueInUse(lambda queue: queue.stop(0), batch_seconds=_LONG_SECONDS)
    used.queue.record(new_receipt(1))
    assert used.pop() == [new_receipt(1).request_id]
