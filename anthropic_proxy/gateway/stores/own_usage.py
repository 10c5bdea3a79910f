"""Amounts of limits that this process has reserved, for times without the shared store (Redis or a SQLite file).

Without the shared store, `OwnUsage` admits requests against the last known amounts and those of this process. Then
`queue_unsent` makes settlements of what the shared store lacks. They are made once, even if they are sent repeatedly.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import Limit, Reservation

MAX_LIMITS = 100_000
MAX_PENDING = 100_000
"""Maximum number of settlements that wait for the shared store. Above it, the oldest one is dropped, and its
reservation ends with its lease (time limit)."""
_QUEUED_LIMITS = 100
"""Number of limits in one settlement of `queue_unsent`."""


class _Answer(Struct):
    """Latest result of the shared store for a limit, from which the share of this process is calculated."""

    at: float
    """Time of the result in monotonic seconds."""
    left: int
    own: int | None
    """Amount of this process at that time. None: not calculated yet, because it is a sum of slots (kind `rate`)."""


class OwnUsage:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.values = MemoryStore(clock=clock)
        """All reservations of this process, and the values that are stored while the shared store is unavailable."""
        self.pending: deque[tuple[Reservation, Sequence[int]]] = deque(maxlen=MAX_PENDING)
        """Settlements that wait for the shared store."""
        self._running: dict[str, Reservation] = {}
        """Id → unsettled reservation of this process, with its slots in `values`."""
        self._unsent_ids: set[str] = set()
        """Those that were made without the shared store since the last `queue_unsent`."""
        self._unsent: dict[str, tuple[Limit, int]] = {}
        """Key → limit and amount of requests without the shared store. A budget has it when the request has ended."""
        self._answers: dict[str, _Answer] = {}
        """Key of a counter of the kind `rate` or `amount` → latest result of the shared store."""

    def add_existing_reservation(self, reservation: Reservation) -> None:
        """Note a result of the shared store, for `reserve`."""
        for limit, remaining in zip(reservation.limits, reservation.remaining, strict=True):
            own = None
            if limit.kind == "amount":
                own = self.values.find_counter(limit).total() + (limit.amount if reservation.is_held else 0)
            if limit.kind != "concurrency":
                self._answers.pop(limit.key, None)
                self._answers[limit.key] = _Answer(self.clock(), max(remaining, 0), own)
        while len(self._answers) > MAX_LIMITS:
            del self._answers[next(iter(self._answers))]
        if reservation.is_held:
            self._add_running(self.values.add_existing_reservation(reservation))

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float, process_count: int) -> Reservation:
        """Reserve without the shared store. Only the share of one of `process_count` processes is available. Amounts
        that are neither settled nor renewed are released after `lease_seconds`, except for the kind `rate`.
        """
        shares = [structs.replace(limit, maximum=self._find_share(limit, process_count)) for limit in limits]
        reservation = await self.values.reserve(shares, lease_seconds)
        if reservation.is_held:
            self._add_running(reservation)
            self._unsent_ids.add(reservation.id)
            for limit in limits:
                if limit.kind == "rate":
                    self._add_unsent(limit, limit.amount)
        return structs.replace(reservation, limits=tuple(limits), slots=[0] * len(limits))

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> bool:
        """Return False if the caller must settle it in the shared store too."""
        running = self._running.pop(reservation.id, None)
        if running is None:
            return False
        await self.values.settle(running, amounts)
        if reservation.id not in self._unsent_ids:
            return False
        self._unsent_ids.discard(reservation.id)
        for limit, amount in zip(reservation.limits, amounts, strict=True):
            if limit.kind != "concurrency":
                self._add_unsent(limit, amount - limit.amount if limit.kind == "rate" else amount)
        return True

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        await self.values.renew([self._running[each.id] for each in reservations if each.id in self._running])

    def queue_unsent(self) -> Sequence[Reservation]:
        """Add settlements to `pending` that add the amounts which the shared store lacks, and return the running
        reservations that it lacks: a renewal adds their held amounts.
        """
        found = [(structs.replace(limit, amount=0), amount) for limit, amount in self._unsent.values() if amount > 0]
        for start in range(0, len(found), _QUEUED_LIMITS):
            limits, amounts = zip(*found[start : start + _QUEUED_LIMITS], strict=True)
            self.pending.append((Reservation(os.urandom(16).hex(), limits, slots=[0] * len(limits)), amounts))
        running = [self._running[id_] for id_ in self._unsent_ids]
        self._unsent.clear()
        self._unsent_ids.clear()
        return running

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent_ids or self._unsent or self.pending)

    def _add_running(self, reservation: Reservation) -> None:
        if len(self._running) >= MAX_LIMITS:
            oldest = next(iter(self._running))
            del self._running[oldest]
            self._unsent_ids.discard(oldest)
        self._running[reservation.id] = reservation

    def _add_unsent(self, limit: Limit, amount: int) -> None:
        _, before = self._unsent.pop(limit.key, (limit, 0))
        self._unsent[limit.key] = limit, before + amount
        if len(self._unsent) > MAX_LIMITS:
            del self._unsent[next(iter(self._unsent))]

    def _find_share(self, limit: Limit, process_count: int) -> int:
        """Return the maximum amount of `limit` for this process while the shared store is unavailable.

        It is the own amount and an equal share of the amount left at the latest result of the store, so the shares of
        all `process_count` processes add up to the maximum. For the kind `rate`, equal shares of the maximum follow
        after two periods. In the second period, the smaller of both shares applies, because the window still contains
        amounts of the first. A single request that fits the limit also fits the share.
        """
        answer = self._answers.get(limit.key)
        equal = max(limit.maximum // process_count, min(limit.amount, limit.maximum))
        if answer is None or limit.kind == "concurrency":
            return equal
        if answer.own is None:
            answer.own = self.values.find_counter(limit).total()
        share = answer.own + max(answer.left // process_count, min(limit.amount, answer.left))
        periods = (self.clock() - answer.at) / limit.seconds if limit.kind == "rate" else 0.0
        if periods < 1:
            return share
        return min(share, equal) if periods < 2 else equal
