"""Delivery of receipts (records of finished client requests) to the observers of plugins.

Each observer has a queue and a task, so that a slow observer delays neither requests nor other observers. If a queue is
full, its oldest receipt is dropped and counted. Exchanges and other requests have separate methods, because the metrics
count all exchanges, but of the other requests only the failed ones.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.request_feed import RequestFeed
from anthropic_proxy.plugins import Observer, Receipt

MAX_QUEUED_RECEIPTS = 1_000
"""Maximum number of receipts queued for one observer. If the queue is full, its oldest receipt is dropped and counted.
"""


class ReceiptQueues:
    """`count_dropped` is called with the class name of an observer if a receipt is dropped."""

    def __init__(
        self,
        log: Log,
        observers: Sequence[Observer] = (),
        *,
        count: Callable[[Receipt], None] | None = None,
        count_rejected: Callable[[Receipt], None] | None = None,
        count_dropped: Callable[[str], None] | None = None,
        feed: RequestFeed | None = None,
    ) -> None:
        self.log = log
        self.feed = feed or RequestFeed()
        self._queues = [_Queue(self, observer) for observer in observers]
        self._count = count
        self._count_rejected = count_rejected
        self._count_dropped = count_dropped

    def queue_exchange_receipt(self, receipt: Receipt) -> None:
        """Call this after the last byte of the reply."""
        self.feed.add_finished(receipt)
        if self._count is not None:
            self._count(receipt)
        if self._queues:
            self._enqueue(receipt)

    def queue_request_receipt(self, receipt: Receipt, *, hide_if_successful: bool = False) -> None:
        """`hide_if_successful`: views of recent requests show the request only if it failed."""
        if not hide_if_successful or receipt.outcome == "error":
            self.feed.add_finished(receipt, is_exchange=False)
        if receipt.outcome == "error" and self._count_rejected is not None:
            self._count_rejected(receipt)
        self._enqueue(receipt)

    def _enqueue(self, receipt: Receipt) -> None:
        for queue in self._queues:
            queue.put(receipt)

    async def close(self, seconds: float) -> None:
        """The receipts that are not delivered within `seconds` are dropped."""
        tasks = [queue.task for queue in self._queues if queue.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()

    def count_dropped_receipt(self, observer: Observer) -> None:
        if self._count_dropped is not None:
            self._count_dropped(type(observer).__name__)


class _Queue:
    """Receipts queued for one observer, and the task that delivers them. An observer with a plain method `record`
    receives each receipt at once.
    """

    def __init__(self, receipts: ReceiptQueues, observer: Observer) -> None:
        self._receipts = receipts
        self._observer = observer
        self._waiting: deque[Receipt] = deque()
        self.task: asyncio.Task[None] | None = None
        """Task that passes receipts to the observer. None: no receipt waits, and the observer is not running."""

    def put(self, receipt: Receipt) -> None:
        if self.task is None:
            pending = self._record(receipt)
            if pending is not None:
                self.task = asyncio.create_task(self._pass_on(receipt, pending))
            return
        if len(self._waiting) >= MAX_QUEUED_RECEIPTS:
            self._waiting.popleft()
            self._receipts.count_dropped_receipt(self._observer)
        self._waiting.append(receipt)

    def _record(self, receipt: Receipt) -> Awaitable[None] | None:
        """Return the running call of the observer. None: it has returned or failed."""
        try:
            return self._observer.record(receipt)
        except Exception:  # noqa: BLE001  # a failing observer must not affect clients or other receipts
            self._receipts.log.write_traceback(receipt.request_id)
            return None

    async def _pass_on(self, receipt: Receipt, pending: Awaitable[None] | None) -> None:
        """Await `pending`, the call of the observer with `receipt`, then pass the waiting receipts one by one."""
        try:
            while True:
                if pending is not None:
                    try:
                        await pending
                    except Exception:  # noqa: BLE001  # a failing observer must not affect clients or other receipts
                        self._receipts.log.write_traceback(receipt.request_id)
                if not self._waiting:
                    return
                receipt = self._waiting.popleft()
                pending = self._record(receipt)
        finally:
            self.task = None
