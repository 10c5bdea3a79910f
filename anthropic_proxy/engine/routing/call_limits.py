"""Limits of the calls to providers, for which calls wait: `build_call_turns`, at most so many at the same time
(`MAX_UPSTREAM_CALLS`), and `Throttle`, at most so many to one provider per minute (`requests_per_minute` of
`[providers.NAME]`).
"""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from anthropic_proxy.engine.hooks import Receipt
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.turns import RETRY_AFTER_SECONDS, SharedWorker, Turns
from anthropic_proxy.errors import ProxyBusy

MAX_WAITING_PER_SLOT = 8
"""Maximum number of waiting calls per slot. Beyond it, a call is rejected with `ProxyBusy`, because its wait would be
too long."""
MAX_WAIT_SECONDS = 300.0
"""Time after which a waiting call is rejected."""


def build_call_turns(slots: int, limit: int) -> Turns:
    """`slots` is the maximum number of concurrent calls in this process, `limit` that of all processes, for errors."""

    def refuse(waiting: int) -> ProxyBusy:
        waiting = max(waiting, 1)  # one that has waited too long
        return ProxyBusy(
            f"This proxy makes at most {limit} upstream calls at once (MAX_UPSTREAM_CALLS), and {waiting} requests are "
            "already queued. Try again in a moment.",
            code="queue-full",
            retry_after=RETRY_AFTER_SECONDS,
        )

    worker = SharedWorker(
        name="the calls to providers",
        places=slots,
        share=slots - slots // 10,
        share_while_others_wait=(slots + 1) // 2,  # the streams of one payer may be long
        max_waiting=slots * MAX_WAITING_PER_SLOT,
        max_wait_seconds=MAX_WAIT_SECONDS,
    )
    return Turns(worker, refuse)


class CallSlot:
    """The place of one request among the concurrent calls to providers.

    A reply that its client does not read gives it up. The provider then soon waits too, because nobody reads what it
    sends. Once the client reads, the reply waits for a place, so that no more replies than places continue.
    """

    def __init__(self, turns: Turns, receipt: Receipt) -> None:
        self._turns = turns
        self._receipt = receipt
        self._is_held = False
        self.is_given_up = False
        """True if the reply must not continue before `take_again`."""

    async def acquire(self) -> None:
        # one session does not delay the others of its payer
        await self._turns.acquire(self._receipt.client.payer, part=self._receipt.session)
        self._is_held = True

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[None]:
        """Leave the place to other requests meanwhile, such as those that this one waits for."""
        self.give_up()
        yield
        await self.take_again()

    def give_up(self) -> None:
        """Leave the place to other requests until `take_again`. Without a place, it has no effect."""
        self.is_given_up = self.is_given_up or self._is_held
        self._release()

    async def take_again(self) -> None:
        """Wait for the place that was given up. A request that has begun is not refused."""
        if self.is_given_up:
            await self._turns.acquire(self._receipt.client.payer, has_begun=True)
            self.is_given_up, self._is_held = False, True

    def release(self) -> None:
        """A second call has no effect."""
        self.is_given_up = False
        self._release()

    def _release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._turns.release(self._receipt.client.payer)


def slots_per_worker(limit: int, worker_index: int, worker_count: int) -> int:
    """Return the concurrent upstream calls of one worker, at least 1. `limit` is that of all workers together.

    >>> [slots_per_worker(5, index, 3) for index in range(3)]
    [2, 2, 1]
    """
    return max(limit // worker_count + (worker_index < limit % worker_count), 1)


_WINDOW_SECONDS = 60.0
_NEXT_CALL = SharedWorker(name="the next call to a limited provider", places=1, share=1, max_waiting=1_000)
ReserveCall = Callable[[str, int], Awaitable[float]]
"""Counts a call to a provider, unless all processes together have reached the limit of calls within 60 s. The
result is 0, or the number of seconds after which the call may be counted."""


class Throttle:
    """Lets at most `limit` calls to one provider start within any 60 s. Further calls wait, each payer in turn.

    The window slides: a call starts as soon as the call that many before it is 60 s old. So a burst up to the limit is
    not delayed, and there is no minute boundary at which twice as many calls could start.

    A call that would wait longer than `max_wait_seconds` is rejected.
    """

    def __init__(self, name: str, limit: int, max_wait_seconds: float, reserve: ReserveCall | None = None) -> None:
        """`reserve`: function that counts the calls of all processes. None: this process has the limit for itself."""
        self._name = name
        self.limit = limit
        self.max_wait_seconds = max_wait_seconds
        self._reserve = reserve
        self._starts: deque[float] = deque()
        """Times of the calls of the last 60 s by the clock of the event loop, the oldest first."""
        self._turns = Turns(_NEXT_CALL, self._refuse)
        """The payer with the place waits for the start of its call. The others wait for the place."""
        self._waiting = 0
        """Number of calls that have no start yet."""
        self._retry_at = 0.0
        """Time at which the call with the place examines again whether it may start."""
        self._changed = asyncio.Event()
        """Set by a reload, so that the call with the place examines at once."""

    async def wait(self, payer: str, part: str = "", max_seconds: float | None = None) -> None:
        """Return when a call may start. Raises `ProxyBusy` if it would wait for too long.

        `payer`, `part`: as for `Turns`. `max_seconds`: a shorter limit than `max_wait_seconds` of the throttle.
        """
        loop = asyncio.get_running_loop()
        max_seconds = self.max_wait_seconds if max_seconds is None else min(max_seconds, self.max_wait_seconds)
        seconds = self._estimate_wait(loop.time(), self._turns.count_before(payer, part))
        deadline = loop.time() + max_seconds
        if seconds > max_seconds:
            raise self._busy(seconds - max_seconds)
        self._waiting += 1
        try:
            # longer than estimated, because of calls of other processes, and of payers that come later
            await self._turns.acquire(payer, part=part, max_seconds=deadline - loop.time())
            try:
                while delay := await self._find_delay(loop.time()):
                    self._retry_at = loop.time() + delay
                    if self._retry_at > deadline:
                        raise self._busy(delay)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), delay)
                    self._changed.clear()
                self._starts.append(loop.time())
            finally:
                self._turns.release(payer)
        finally:
            self._waiting -= 1

    def change_limit(self, limit: int, max_wait_seconds: float) -> None:
        self.limit = limit
        self.max_wait_seconds = max_wait_seconds
        self._changed.set()

    def lift(self) -> None:
        """Let all calls start that wait."""
        self._reserve = None
        self.change_limit(sys.maxsize, self.max_wait_seconds)

    def _refuse(self, _: int) -> ProxyBusy:
        return self._busy(max(self._retry_at - asyncio.get_running_loop().time(), 1.0))

    def _busy(self, retry_after: float) -> ProxyBusy:
        queued = f", and {self._waiting} calls are already queued" if self._waiting > 1 else ""
        return ProxyBusy(
            f"The calls per minute to {self._name} are limited to {self.limit} (requests_per_minute of "
            f"[providers.{self._name}]){queued}. Try again later.",
            code="provider-throttle",
            retry_after=retry_after,
        )

    async def _find_delay(self, now: float) -> float:
        """Return 0 if the first waiting call may start, or else the seconds until that is examined again."""
        self._forget_old_starts(now)
        if len(self._starts) >= self.limit:
            return self._starts[-self.limit] + _WINDOW_SECONDS - now
        return 0.0 if self._reserve is None else await self._reserve(self._name, self.limit)

    def _estimate_wait(self, now: float, before: int) -> float:
        """Return the seconds that a call behind so many others would wait at least."""
        self._forget_old_starts(now)
        seconds = self._retry_at - now if before else 0.0
        free = max(self.limit - len(self._starts), 0)
        if before < free:
            return seconds
        rounds, place = divmod(before - free, self.limit)
        # the call `limit` calls before this one has started, or is waiting and may start now
        start = self._starts[place - self.limit + free] if place < self.limit - free else now
        return max(seconds, start + _WINDOW_SECONDS * (rounds + 1) - now)

    def _forget_old_starts(self, now: float) -> None:
        while self._starts and self._starts[0] + _WINDOW_SECONDS <= now:
            self._starts.popleft()


def build_throttles(
    options: EngineOptions, previous: Mapping[str, Throttle], reserve: ReserveCall | None = None
) -> Mapping[str, Throttle]:
    """Return the throttles of providers by name. Those of `previous`, before a reload, are kept with the new limit.

    Calls that wait for a throttle which is not kept may start at once. `reserve`: see `Throttle`.
    """
    max_wait_seconds = options.timeouts.first_byte_seconds / 2
    throttles: dict[str, Throttle] = {}
    for name, calls in options.call_options.items():
        if (limit := calls.requests_per_minute) is not None:
            throttle = throttles[name] = previous.get(name) or Throttle(name, limit, max_wait_seconds, reserve)
            throttle.change_limit(limit, max_wait_seconds)
    for name in previous.keys() - throttles.keys():
        previous[name].lift()
    return throttles
