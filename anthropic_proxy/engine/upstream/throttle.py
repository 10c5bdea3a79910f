"""`Throttle`: lets at most a number of calls to one provider start within any 60 s. Further calls wait in order.

The window slides: a call starts as soon as the call that many before it is 60 s old. So a burst up to the limit is
not delayed, and there is no minute boundary at which twice as many calls could start.
"""

import asyncio
from collections import deque

from anthropic_proxy.errors import ProxyBusy

_WINDOW_SECONDS = 60.0


class Throttle:
    """`calls` is the maximum number of calls of this process within 60 s, `limit` that of all workers, for messages.

    A call that would wait longer than `max_wait_seconds` is rejected.
    """

    def __init__(self, name: str, calls: int, limit: int, max_wait_seconds: float) -> None:
        self._name = name
        self._limit = limit
        self._max_wait_seconds = max_wait_seconds
        self._starts: deque[float] = deque(maxlen=calls)
        """Times of the last calls by the clock of the event loop, the oldest first."""
        self._lock = asyncio.Lock()
        """Its owner waits for its start. The others wait for the lock, in the order of their arrival."""
        self._waiting = 0

    async def wait(self) -> None:
        """Return when a call may start. Raises `ProxyBusy` if the queue is too long."""
        loop = asyncio.get_running_loop()
        seconds = self._estimate_wait(loop.time())
        if seconds > self._max_wait_seconds:
            raise ProxyBusy(
                f"The calls per minute to {self._name} are limited to {self._limit} (requests_per_minute of "
                f"[providers.{self._name}]), and {self._waiting} calls are already queued. Try again later.",
                code="provider-throttle",
                retry_after=seconds - self._max_wait_seconds,
            )
        self._waiting += 1
        try:
            async with self._lock:
                if len(self._starts) == self._starts.maxlen:
                    delay = self._starts[0] + _WINDOW_SECONDS - loop.time()
                    if delay > 0:
                        await asyncio.sleep(delay)
                self._starts.append(loop.time())
        finally:
            self._waiting -= 1

    def _estimate_wait(self, now: float) -> float:
        calls = self._starts.maxlen
        assert calls is not None
        if len(self._starts) < calls:
            return 0.0
        rounds, place = divmod(self._waiting, calls)
        return self._starts[place] + _WINDOW_SECONDS * (rounds + 1) - now
