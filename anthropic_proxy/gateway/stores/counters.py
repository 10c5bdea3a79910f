"""Counters of limits, such as requests per minute, as plain objects for the stores in memory and in SQLite.

`reserve_counters` adds the estimated amounts of a request to the counters of its limits. `settle_counters` replaces
them with the actual amounts. An unsettled reservation ends after its lease, a time that `renew_counters` extends.

A limit has one of three kinds. A `rate` counts the amounts within a sliding window, such as the last minute. The window
is divided into 256 slots with one sum each. An `amount` is a budget, and a `concurrency` limits simultaneous requests.
Counters of these two kinds have holds, the amounts of unsettled reservations.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import floor

from msgspec import Struct, field

from anthropic_proxy.plugins import Limit, Reservation

_MIN_COMPACTED = 64


class Holds:
    """Reserved amounts (holds) of one counter, each with the time at which it ends by itself."""

    def __init__(self) -> None:
        self.total = 0
        self._found: dict[str, tuple[float, int]] = {}
        self._ends: list[tuple[float, str]] = []
        """Heap of the ends of leases, with outdated entries of renewed and settled reservations."""

    def put(self, reservation_id: str, lease_ends_at: float, amount: int) -> None:
        """Add a hold, or replace the earlier hold of the reservation. `lease_ends_at`: time in seconds."""
        self.total += amount - self._found.get(reservation_id, (0.0, 0))[1]
        self._found[reservation_id] = lease_ends_at, amount
        heappush(self._ends, (lease_ends_at, reservation_id))
        if len(self._ends) > 2 * len(self._found) + _MIN_COMPACTED:
            self._ends = [(ends, name) for name, (ends, _) in self._found.items()]
            heapify(self._ends)

    def remove(self, reservation_id: str) -> None:
        self.total -= self._found.pop(reservation_id, (0.0, 0))[1]

    def remove_expired(self, now: float) -> None:
        """Remove the holds with a lease that has ended at `now` (seconds)."""
        while self._ends and self._ends[0][0] <= now:
            _, reservation_id = heappop(self._ends)
            if self._found.get(reservation_id, (now + 1, 0))[0] <= now:
                self.remove(reservation_id)


SLOT_COUNT = 256
"""Number of slots into which the period of a `rate` limit is divided."""
SETTLED_SECONDS = 300.0
"""Time in seconds for which the id of a settled reservation is remembered, so that a repeated settlement has no effect.
"""
UNKNOWN_WAIT_SECONDS = 1.0
"""Value of `Reservation.retry_after_seconds` if a limit has room only when a running request ends, at an unknown time.
"""


class Counter(Struct):
    expires_at: float = 0.0
    """Time in seconds after which the counter is deleted."""
    used: int = 0
    """Sum of the settled amounts (kind `amount`)."""
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
        """Remove old slots and ended reservations. `now`: time in seconds."""
        if limit.kind == "rate":
            # a change of the period removes all slots
            if self.slot_seconds != limit.seconds / SLOT_COUNT:
                self.slot_seconds, self.slots = limit.seconds / SLOT_COUNT, {}
            first = floor(now / self.slot_seconds) - SLOT_COUNT
            self.slots = {slot: amount for slot, amount in self.slots.items() if slot >= first and amount}
        else:
            self.holds.remove_expired(now)

    def find_wait_seconds(self, excess: int, limit: Limit, now: float) -> float:
        """Seconds until the counter has decreased by `excess`. `UNKNOWN_WAIT_SECONDS`: a request must end first."""
        if limit.kind == "rate":
            for slot in sorted(self.slots):
                excess -= self.slots[slot]
                if excess <= 0:
                    return self._slot_end(slot) - now
            return limit.seconds
        is_reserved = self.used < limit.maximum <= self.total()  # running requests have all that is left
        if limit.kind == "concurrency" or self.holds.total >= excess or is_reserved:
            return UNKNOWN_WAIT_SECONDS
        return max(self.expires_at - now, 0.0) if self.expires_at else limit.seconds

    def seconds_until_reset(self, limit: Limit, now: float) -> float:
        """Return the seconds until the counter is 0 if no further request uses it. 0.0: it is empty, or unknown."""
        if limit.kind == "rate":
            return self._slot_end(max(self.slots)) - now if self.slots else 0.0
        return max(self.expires_at - now, 0.0) if limit.kind == "amount" and self.expires_at else 0.0

    def _slot_end(self, slot: int) -> float:
        return (slot + 1 + SLOT_COUNT) * self.slot_seconds


def reserve_counters(
    find_counter: Callable[[str], Counter],
    limits: Sequence[Limit],
    reservation_id: str,
    now: float,
    lease_seconds: float,
) -> tuple[Reservation, dict[str, Counter]]:
    """Reserve the amounts of all `limits`, or of none. Return the reservation, and the changed counters to store."""
    counters = {limit.key: find_counter(limit.key) for limit in limits}
    waits = []
    for limit in limits:
        counter = counters[limit.key]
        counter.remove_expired(limit, now)
        excess = counter.total() + limit.amount - limit.maximum
        waits.append(counter.find_wait_seconds(excess, limit, now) if excess > 0 and limit.amount else -1.0)
    refused = waits.index(max(waits)) if limits and max(waits) >= 0 else None
    is_held = refused is None and any(limit.amount for limit in limits)
    slots = (
        add_reservation_amounts(counters, limits, reservation_id, now, lease_seconds) if is_held else [0] * len(limits)
    )
    reservation = Reservation(
        id=reservation_id if is_held else "",
        limits=tuple(limits),
        refused=refused,
        retry_after_seconds=0.0 if refused is None else waits[refused],
        remaining=[limit.maximum - counters[limit.key].total() for limit in limits],
        settled=[counters[limit.key].used for limit in limits],
        reset_seconds=[counters[limit.key].seconds_until_reset(limit, now) for limit in limits],
        slots=slots,
        lease_seconds=lease_seconds,
    )
    return reservation, counters if is_held else {}


def add_reservation_amounts(
    counters: Mapping[str, Counter], limits: Sequence[Limit], reservation_id: str, now: float, lease_seconds: float
) -> Sequence[int]:
    """Return the slot number of each amount, which `settle_counters` needs to reduce it. 0: not of the kind `rate`."""
    slots = []
    for limit in limits:
        counter, slot = counters[limit.key], 0
        if limit.kind == "rate":
            slot = floor(now / counter.slot_seconds)
        if limit.amount:
            if limit.kind == "rate":
                counter.slots[slot] = counter.slots.get(slot, 0) + limit.amount
            else:
                counter.holds.put(reservation_id, now + lease_seconds, limit.amount)
            _extend(counter, limit, now, lease_seconds)
        slots.append(slot)
    return slots


def settle_counters(
    find_counter: Callable[[str], Counter], reservation: Reservation, amounts: Sequence[int], now: float
) -> dict[str, Counter]:
    """Return the changed counters to store. The caller settles a reservation only once."""
    changed: dict[str, Counter] = {}
    for limit, reserved_slot, amount in zip(reservation.limits, reservation.slots, amounts, strict=True):
        counter = changed.get(limit.key) or find_counter(limit.key)
        counter.remove_expired(limit, now)
        if limit.kind == "rate":
            slot = floor(now / counter.slot_seconds) if amount > limit.amount else reserved_slot
            if amount > limit.amount or slot in counter.slots:
                counter.slots[slot] = max(counter.slots.get(slot, 0) + amount - limit.amount, 0)
        else:
            counter.holds.remove(reservation.id)
            counter.used += amount if limit.kind == "amount" else 0
        _extend(counter, limit, now, reservation.lease_seconds)
        changed[limit.key] = counter
    return changed


def renew_counters(
    find_counter: Callable[[str], Counter], reservations: Sequence[Reservation], now: float
) -> dict[str, Counter]:
    """Return the changed counters to store. Amounts with an ended lease are added again."""
    changed: dict[str, Counter] = {}
    for reservation in reservations:
        for limit in reservation.limits:
            if limit.kind != "rate" and limit.amount:
                counter = changed.get(limit.key) or find_counter(limit.key)
                counter.holds.put(reservation.id, now + reservation.lease_seconds, limit.amount)
                _extend(counter, limit, now, reservation.lease_seconds)
                changed[limit.key] = counter
    return changed


def _extend(counter: Counter, limit: Limit, now: float, lease_seconds: float) -> None:
    """Set the expiry of `counter`. For the kind `amount`, it is set only once: the budget ends then."""
    match limit.kind:
        case "rate":
            counter.expires_at = now + limit.seconds + counter.slot_seconds
        case "concurrency":
            counter.expires_at = max(counter.expires_at, now + lease_seconds)
        case "amount":
            counter.expires_at = counter.expires_at or now + limit.seconds
