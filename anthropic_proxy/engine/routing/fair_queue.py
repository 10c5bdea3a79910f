"""`FairQueue`: limits the concurrent calls to providers (`MAX_UPSTREAM_CALLS`)."""

import asyncio
from collections import OrderedDict, deque

from anthropic_proxy.errors import ProxyBusy

MAX_WAITING_PER_SLOT = 8
"""Maximum number of waiting calls per slot. A further call is rejected with `ProxyBusy`, because its wait would be too
long."""
RETRY_AFTER_SECONDS = 2.0
"""Value of the header `retry-after`, in seconds, in the response to a client if its call is rejected."""


class FairQueue:
    """Queue that serves the waiting clients in turn.

    `slots` is the maximum number of concurrent calls in this process, `limit` that of all processes, for errors.
    """

    def __init__(self, slots: int, limit: int | None = None) -> None:
        self._slots = slots
        self._limit = limit or slots
        self._used = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Client → its waiting calls. The first client receives the next free slot."""
        self._waiting_count = 0

    async def acquire(self, client: str) -> None:
        """Wait until an upstream call is allowed. Call `release` after it. Raises `ProxyBusy` if the queue is full."""
        if self._used < self._slots:
            self._used += 1
            return
        if self._waiting_count >= self._slots * MAX_WAITING_PER_SLOT:
            raise ProxyBusy(
                f"This proxy makes at most {self._limit} upstream calls at once (MAX_UPSTREAM_CALLS), and "
                f"{self._waiting_count} requests are already queued. Try again in a moment.",
                code="queue-full",
                retry_after=RETRY_AFTER_SECONDS,
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(waiter)
        self._waiting_count += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # the slot was granted at the same moment: pass it on
            elif (waiters := self._waiting.get(client)) is not None and waiter in waiters:
                waiters.remove(waiter)
                self._waiting_count -= 1
                if not waiters:
                    del self._waiting[client]
            raise

    def release(self) -> None:
        while self._waiting:
            client, waiters = self._waiting.popitem(last=False)
            waiter = waiters.popleft()
            self._waiting_count -= 1
            if waiters:
                self._waiting[client] = waiters
            if not waiter.done():
                waiter.set_result(None)
                return
        self._used -= 1


def slots_per_worker(limit: int, worker_index: int, worker_count: int) -> int:
    """Return the concurrent upstream calls of one worker, at least 1. `limit` is that of all workers together.

    >>> [slots_per_worker(5, index, 3) for index in range(3)]
    [2, 2, 1]
    """
    return max(limit // worker_count + (worker_index < limit % worker_count), 1)
