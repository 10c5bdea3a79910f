"""Delivery of receipts to observers. Each observer has a bounded queue and a task, so none delays an exchange."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from anthropic_proxy.log import Log
from anthropic_proxy.plugins import Observer, Receipt

MAX_QUEUED_RECEIPTS = 1_000
"""Maximum number of receipts queued for one observer. Above it the oldest is dropped and counted."""


class ReceiptQueues:
    """Queues of finished receipts.

    Three functions count at once and must not block. `count`: each exchange. `count_rejected`: each request that got an
    error without an exchange. `count_dropped`: each dropped receipt, by the class name of its observer.
    """

    def __init__(
        self,
        log: Log,
        observers: Sequence[Observer] = (),
        *,
        count: Callable[[Receipt], None] | None = None,
        count_rejected: Callable[[Receipt], None] | None = None,
        count_dropped: Callable[[str], None] | None = None,
    ) -> None:
        self.log = log
        """Log for exceptions of observers."""
        self._queues = [_Queue(self, observer) for observer in observers]
        self._count = count
        self._count_rejected = count_rejected
        self._count_dropped = count_dropped

    def queue_exchange_receipt(self, receipt: Receipt) -> None:
        """Queue the receipt of an exchange, after its last byte."""
        if self._count is not None:
            self._count(receipt)
        if self._queues:
            self._enqueue(receipt)

    def queue_request_receipt(self, receipt: Receipt) -> None:
        """Queue the receipt of a request without an exchange: rejected, or a token count."""
        if receipt.outcome == "error" and self._count_rejected is not None:
            self._count_rejected(receipt)
        self._enqueue(receipt)

    def _enqueue(self, receipt: Receipt) -> None:
        for queue in self._queues:
            queue.put(receipt)

    async def close(self, seconds: float) -> None:
        """Wait until all receipts are delivered, for at most `seconds`."""
        tasks = [queue.task for queue in self._queues if queue.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()

    def count_dropped_receipt(self, observer: Observer) -> None:
        """Count a receipt that was dropped from the full queue of an observer."""
        if self._count_dropped is not None:
            self._count_dropped(type(observer).__name__)


class _Queue:
    """Receipts queued for one observer."""

    def __init__(self, receipts: ReceiptQueues, observer: Observer) -> None:
        self._receipts = receipts
        self._observer = observer
        self._waiting: deque[Receipt] = deque()
        self.task: asyncio.Task[None] | None = None
        """Delivery task. None: the queue is empty."""

    def put(self, receipt: Receipt) -> None:
        if len(self._waiting) >= MAX_QUEUED_RECEIPTS:
            self._waiting.popleft()
            self._receipts.count_dropped_receipt(self._observer)
        self._waiting.append(receipt)
        if self.task is None:
            self.task = asyncio.create_task(self._pass_on())

    async def _pass_on(self) -> None:
        try:
            while self._waiting:
                await self._record(self._waiting.popleft())
        finally:
            self.task = None

    async def _record(self, receipt: Receipt) -> None:
        try:
            await self._observer.record(receipt)
        except Exception:  # noqa: BLE001  # a failing observer must not affect clients or other receipts
            self._receipts.log.write_traceback(receipt.request_id)
