"""`MemoryStore`: store in the memory of one process, for values with a lifetime and for counters of limits."""

import os
import time
from collections.abc import Callable, Sequence

from msgspec import structs

from anthropic_proxy.gateway.stores import counters
from anthropic_proxy.gateway.stores.counters import SETTLED_SECONDS, Counter
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState

MAX_KEYS = 10_000
"""Maximum number of values. Above it, a new value replaces an old one."""
MAX_COUNTERS = 100_000
"""Above it, expired counters are deleted, then the half of the counters that expires first."""


class MemoryStore:
    """It implements `plugins.Store`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, str]] = {}
        self._lifetimes: dict[str, int] = {}
        """Key of a value → class of its lifetime. A class has all lifetimes between two powers of 2 in seconds."""
        self._keys_by_lifetime: dict[int, dict[str, None]] = {}
        """Class of the lifetime → keys of its values, the oldest first. If the store is full, short-lived values thus
        do not replace all long-lived ones."""
        self._counters: dict[str, Counter] = {}
        self._settled: dict[str, float] = {}
        """Id of a settled reservation → time until which the id is remembered, the oldest first."""
        self.on_put: Callable[[str, str, float], None] | None = None
        """Sends each changed value to the other workers: key, value and seconds until expiry. None: no other worker."""

    @property
    def state(self) -> StoreState:
        return StoreState()

    async def get(self, key: str) -> str | None:
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        if self.on_put is not None and await self.get(key) != value:
            self.on_put(key, value, lifetime_seconds)
        self.put_from_peer(key, value, lifetime_seconds)

    def put_from_peer(self, key: str, value: str, lifetime_seconds: float) -> None:
        """`on_put` is not called."""
        self._store(key, value, self._clock() + lifetime_seconds)

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        expiry, text = self._entries.get(key, (0.0, "0"))
        if expiry <= self._clock():
            expiry, text = self._clock() + lifetime_seconds, "0"
        total = float(text) + amount
        self._store(key, repr(total), expiry)
        return total

    async def delete(self, key: str) -> None:
        self._remove(key)
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
        """Without expired amounts. A missing counter is returned empty."""
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

    def _store(self, key: str, value: str, expiry: float) -> None:
        self._remove(key)
        if len(self._entries) >= MAX_KEYS:
            keys: dict[str, None] = max(self._keys_by_lifetime.values(), key=len)
            self._remove(next(iter(keys)))
        lifetime = self._lifetimes[key] = round(expiry - self._clock()).bit_length()
        self._keys_by_lifetime.setdefault(lifetime, {})[key] = None
        self._entries[key] = (expiry, value)

    def _remove(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            del self._keys_by_lifetime[self._lifetimes.pop(key)][key]
