"""`MemoryStore`: store in the memory of one process, for values with a lifetime and for counters of limits."""

import os
import time
from collections.abc import Callable, Sequence

from msgspec import structs

from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.gateway.stores import counters
from anthropic_proxy.gateway.stores.counters import SETTLED_SECONDS, Counter
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState

MAX_COUNTERS = 100_000
"""Maximum number of counters. Above it, expired counters are deleted, then the half of the counters that expires first.
"""


class MemoryStore(MemoryValues):
    """Store in the memory of one worker process. It implements `plugins.Store`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._counters: dict[str, Counter] = {}
        self._settled: dict[str, float] = {}
        """Id of a settled reservation → time until which the id is remembered, the oldest first."""

    @property
    def state(self) -> StoreState:
        return StoreState()

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self._counters.pop(key, None)

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        reservation, changed = counters.reserve_counters(
            self._find, limits, os.urandom(16).hex(), self._clock(), lease_seconds
        )
        self._counters.update(changed)
        if len(self._counters) > MAX_COUNTERS:
            self._delete_counters()
        return reservation

    def add_existing_reservation(self, reservation: Reservation) -> Reservation:
        """Pass the returned reservation to `settle`: its slots are time intervals by the clock of this store."""
        now = self._clock()
        found = {limit.key: self._find(limit.key) for limit in reservation.limits}
        for limit in reservation.limits:
            found[limit.key].remove_expired(limit, now)
        slots = counters.add_reservation_amounts(
            found, reservation.limits, reservation.id, now, reservation.lease_seconds
        )
        self._counters.update({key: counter for key, counter in found.items() if counter.expires_at > now})
        if len(self._counters) > MAX_COUNTERS:
            self._delete_counters()
        return structs.replace(reservation, slots=slots)

    def find_counter(self, limit: Limit) -> Counter:
        """Return the counter of `limit` without its expired amounts. A missing counter is returned empty."""
        counter = self._find(limit.key)
        counter.remove_expired(limit, self._clock())
        return counter

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        now = self._clock()
        while self._settled and next(iter(self._settled.values())) <= now:
            del self._settled[next(iter(self._settled))]
        if reservation.is_held and reservation.id not in self._settled:
            self._settled[reservation.id] = now + SETTLED_SECONDS
            self._counters.update(counters.settle_counters(self._find, reservation, amounts, now))

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        running = [each for each in reservations if each.is_held and each.id not in self._settled]
        self._counters.update(counters.renew_counters(self._find, running, self._clock()))

    async def close(self) -> None: ...

    def _find(self, key: str) -> Counter:
        counter = self._counters.get(key)
        return counter if counter is not None and counter.expires_at > self._clock() else Counter()

    def _delete_counters(self) -> None:
        now = self._clock()
        kept = {key: counter for key, counter in self._counters.items() if counter.expires_at > now}
        if len(kept) > MAX_COUNTERS // 2:
            latest = sorted(kept.items(), key=lambda item: item[1].expires_at)[-(MAX_COUNTERS // 2) :]
            kept = dict(latest)
        self._counters = kept
