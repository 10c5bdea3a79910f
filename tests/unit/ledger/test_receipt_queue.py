"""The queue of receipts while the system has no thread left for the writer."""

import pytest

from anthropic_proxy.ledger.receipt_queue import ReceiptQueue
from tests.support.ledger import NOON, new_receipt
from tests.support.threads import no_new_threads


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
