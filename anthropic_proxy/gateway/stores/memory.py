"""`MemoryStore`: values with a lifetime, and counters of limits such as requests per minute, in memory.

Theory of operation. `reserve` adds the estimated amounts of a request to the counters of its limits. `settle` replaces
them by the actual amounts. An unsettled reservation ends after its lease, a time that `renew` extends, so that requests
of a killed process do not count for ever.

A limit has one of three kinds. A `rate` counts the amounts within a sliding window, such as the last minute. The window
is divided into 256 slots with one sum each. An `amount` is a budget, and a `concurrency` limits simultaneous requests.
Counters of these two kinds have holds, the amounts of unsettled reservations.

One process has this store for itself. Several workers use that of their supervisor (`workers/shared_store.py`). A start
empties it; budgets then get their use from the ledger (`console/keys/reservations.py`). The scripts of `redis/` do the
same with the counters of all instances, and `fallback.py` counts here while Redis is unavailable.
"""

import os
import time
from collections.abc import Callable, Coroutine, Sequence
from heapq import heapify, heappop, heappush
from math import floor
from typing import Any, TypeVar

from msgspec import Struct, field, structs

from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState

MAX_COUNTERS = 100_000
"""Number of counters above which expired ones are deleted, then those that expire first of the rates and places, until
half of it is left, and at most the half of them. Budgets stay: they are as many as the settings and keys state."""
SLOT_COUNT = 256
"""Number of slots into which the period of a `rate` limit is divided."""
SETTLED_SECONDS = 300.0
"""Time in seconds for which the id of a settled reservation is remembered, so that a repeated settlement has no effect.
"""
UNKNOWN_WAIT_SECONDS = 1.0
"""Value of `Reservation.retry_after_seconds` if a limit has room only when a running request ends, at an unknown time.
"""
_MIN_COMPACTED = 64
_Result = TypeVar("_Result")


def run_at_once(call: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of a method of `MemoryStore`, which never waits."""
    try:
        call.send(None)
    except StopIteration as end:
        result: _Result = end.value
        return result
    raise AssertionError(call)


class Holds:
    """Reserved amounts (holds) of one counter, each with the time at which it ends by itself."""

    def __init__(self) -> None:
        self.total = 0
        self._holds_by_id: dict[str, tuple[float, int]] = {}
        self._ends: list[tuple[float, str]] = []
        """Heap of the ends of leases, with outdated entries of renewed and settled reservations."""

    def put(self, reservation_id: str, lease_ends_at: float, amount: int) -> None:
        """Add a hold, or replace the earlier hold of the reservation. `lease_ends_at`: time in seconds."""
        self.total += amount - self._holds_by_id.get(reservation_id, (0.0, 0))[1]
        self._holds_by_id[reservation_id] = lease_ends_at, amount
        heappush(self._ends, (lease_ends_at, reservation_id))
        if len(self._ends) > 2 * len(self._holds_by_id) + _MIN_COMPACTED:
            self._ends = [(ends, name) for name, (ends, _) in self._holds_by_id.items()]
            heapify(self._ends)

    def find(self, reservation_id: str) -> tuple[float, int] | None:
        """Return the end of its lease and the amount of a reservation."""
        return self._holds_by_id.get(reservation_id)

    def remove(self, reservation_id: str) -> None:
        self.total -= self._holds_by_id.pop(reservation_id, (0.0, 0))[1]

    def remove_expired(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, reservation_id = heappop(self._ends)
            if self._holds_by_id.get(reservation_id, (now + 1, 0))[0] <= now:
                self.remove(reservation_id)


class Counter(Struct):
    expires_at: float = 0.0
    """Time in seconds after which the counter is deleted."""
    used: int = 0
    """Sum of the settled amounts (kind `amount`)."""
    raised_at: float = 0.0
    """Time in seconds at which `Limit.at_least` has last raised the sum."""
    slot_seconds: float = 0.0
    """Length in seconds of a slot of the sliding window (kind `rate`)."""
    slots: dict[int, int] = field(default_factory=dict)
    """Number of a slot (time divided by `slot_seconds`) → sum of its amounts (kind `rate`)."""
    holds: Holds = field(default_factory=Holds)
    """Amounts of running requests (kinds `concurrency` and `amount`)."""

    def total(self) -> int:
        """Settled and reserved; compared with the maximum of the limit."""
        return self.used + sum(self.slots.values()) + self.holds.total

    def remove_expired(self, limit: Limit, now: float) -> None:
        """Remove old slots and ended reservations."""
        if limit.kind == "rate":
            # a change of the period removes all slots
            if self.slot_seconds != limit.seconds / SLOT_COUNT:
                self.slot_seconds = limit.seconds / SLOT_COUNT
                self.slots = {}
            first = floor(now / self.slot_seconds) - SLOT_COUNT
            self.slots = {slot: amount for slot, amount in self.slots.items() if slot >= first and amount}
        else:
            self.holds.remove_expired(now)

    def extend(self, limit: Limit, now: float, lease_seconds: float) -> None:
        """Set the expiry. For the kind `amount`, it is set only once: the budget ends then."""
        match limit.kind:
            case "rate":
                self.expires_at = now + limit.seconds + self.slot_seconds
            case "concurrency":
                self.expires_at = max(self.expires_at, now + lease_seconds)
            case "amount":
                self.expires_at = self.expires_at or now + limit.seconds

    def find_wait_seconds(self, excess: int, limit: Limit, now: float) -> float:
        """Seconds until the counter has decreased by `excess`. `UNKNOWN_WAIT_SECONDS`: a request must end first."""
        match limit.kind:
            case "rate":
                for slot in sorted(self.slots):
                    excess -= self.slots[slot]
                    if excess <= 0:
                        return self._slot_end(slot) - now
                return limit.seconds
            case "concurrency":
                return UNKNOWN_WAIT_SECONDS
            case "amount":
                is_reserved = self.used < limit.maximum <= self.total()  # running requests have all that is left
                if self.holds.total >= excess or is_reserved:
                    return UNKNOWN_WAIT_SECONDS
                return max(self.expires_at - now, 0.0) if self.expires_at else limit.seconds

    def seconds_until_reset(self, limit: Limit, now: float) -> float:
        """Return the seconds until the counter is 0 if no further request uses it. 0.0: it is empty, or unknown."""
        match limit.kind:
            case "rate":
                return self._slot_end(max(self.slots)) - now if self.slots else 0.0
            case "concurrency":
                return 0.0
            case "amount":
                return max(self.expires_at - now, 0.0) if self.expires_at else 0.0

    def _slot_end(self, slot: int) -> float:
        return (slot + 1 + SLOT_COUNT) * self.slot_seconds


class MemoryStore(MemoryValues):
    """It implements `plugins.Store`. No method waits for anything. `counters` and `settled`: state that was stored."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        counters: dict[str, Counter] | None = None,
        settled: dict[str, float] | None = None,
    ) -> None:
        super().__init__(clock=clock)
        self._counters = counters or {}
        self._max_counters = MAX_COUNTERS
        self._settled = settled or {}
        """Id of a settled reservation → time until which the id is remembered, the oldest first."""

    @property
    def state(self) -> StoreState:
        return StoreState()

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self._counters.pop(key, None)

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        return self.reserve_as(os.urandom(16).hex(), limits, lease_seconds)

    def reserve_as(self, reservation_id: str, limits: Sequence[Limit], lease_seconds: float) -> Reservation:
        now = self._clock()
        counters = [self.find_counter(limit) for limit in limits]
        for limit, counter in zip(limits, counters, strict=True):
            if limit.at_least > counter.used and limit.kind == "amount":
                counter.used = limit.at_least
                counter.raised_at = now
                counter.extend(limit, now, lease_seconds)
                self._counters[limit.key] = counter
        waits = []
        for limit, counter in zip(limits, counters, strict=True):
            excess = counter.total() + limit.amount - limit.maximum
            waits.append(counter.find_wait_seconds(excess, limit, now) if excess > 0 and limit.amount else -1.0)
        refused = waits.index(max(waits)) if limits and max(waits) >= 0 else None
        is_held = refused is None and any(limit.amount for limit in limits)
        reservation = Reservation(
            id=reservation_id if is_held else "",
            limits=tuple(limits),
            refused=refused,
            retry_after_seconds=0.0 if refused is None else waits[refused],
            slots=[0] * len(limits),
            lease_seconds=lease_seconds,
        )
        if is_held:
            reservation = self.add_existing_reservation(reservation)
            counters = [self._find(limit.key) for limit in limits]
        return structs.replace(
            reservation,
            remaining=[limit.maximum - counter.total() for limit, counter in zip(limits, counters, strict=True)],
            settled=[counter.used for counter in counters],
            reset_seconds=[
                counter.seconds_until_reset(limit, now) for limit, counter in zip(limits, counters, strict=True)
            ],
        )

    def add_existing_reservation(self, reservation: Reservation) -> Reservation:
        """Pass the returned reservation to `settle`: its slots are time intervals by the clock of this store."""
        now = self._clock()
        slots = []
        for limit in reservation.limits:
            counter = self.find_counter(limit)
            slot = 0
            if limit.kind == "rate":
                slot = floor(now / counter.slot_seconds)
            if limit.amount:
                if limit.kind == "rate":
                    counter.slots[slot] = counter.slots.get(slot, 0) + limit.amount
                else:
                    counter.holds.put(reservation.id, now + reservation.lease_seconds, limit.amount)
                counter.extend(limit, now, reservation.lease_seconds)
                self._counters[limit.key] = counter
            slots.append(slot)
        if len(self._counters) > self._max_counters:
            self._delete_counters(now)
        return structs.replace(reservation, slots=slots)

    def _delete_counters(self, now: float) -> None:
        valid = {key: counter for key, counter in self._counters.items() if counter.expires_at > now}
        others = sorted(
            (counter.expires_at, key)
            for key, counter in valid.items()
            if not (counter.used or counter.holds.total)  # a budget, or what running requests hold
        )
        surplus = max(0, len(valid) - MAX_COUNTERS // 2)
        for _, key in others[: min(surplus, len(others) // 2)]:
            del valid[key]
        self._counters = valid
        self._max_counters = max(MAX_COUNTERS, 2 * len(valid))

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        now = self._clock()
        while self._settled and next(iter(self._settled.values())) <= now:
            del self._settled[next(iter(self._settled))]
        if not reservation.is_held or reservation.id in self._settled:
            return
        self._settled[reservation.id] = now + SETTLED_SECONDS
        settled_at = now - reservation.settled_seconds_ago
        for limit, reserved_slot, amount in zip(reservation.limits, reservation.slots, amounts, strict=True):
            counter = self.find_counter(limit)
            if limit.kind == "rate":
                slot = floor(now / counter.slot_seconds) if amount > limit.amount else reserved_slot
                if amount > limit.amount or slot in counter.slots:
                    counter.slots[slot] = max(counter.slots.get(slot, 0) + amount - limit.amount, 0)
            else:
                counter.holds.remove(reservation.id)
                if limit.kind == "amount" and not settled_at < counter.raised_at <= now:
                    counter.used += amount
            counter.extend(limit, now, reservation.lease_seconds)
            self._counters[limit.key] = counter

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """Amounts with an ended lease are added again."""
        now = self._clock()
        for reservation in reservations:
            if reservation.is_held and reservation.id not in self._settled:
                for limit in reservation.limits:
                    if limit.kind != "rate" and limit.amount:
                        counter = self._find(limit.key)
                        counter.holds.put(reservation.id, now + reservation.lease_seconds, limit.amount)
                        counter.extend(limit, now, reservation.lease_seconds)
                        self._counters[limit.key] = counter

    async def close(self) -> None: ...

    def is_settled(self, reservation_id: str) -> bool:
        return reservation_id in self._settled

    def find_counter(self, limit: Limit) -> Counter:
        """Return the counter of `limit` without its expired amounts. A missing counter is returned empty."""
        counter = self._find(limit.key)
        counter.remove_expired(limit, self._clock())
        return counter

    def _find(self, key: str) -> Counter:
        counter = self._counters.get(key)
        return counter if counter is not None and counter.expires_at > self._clock() else Counter()
