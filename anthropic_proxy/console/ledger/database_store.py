"""`DatabaseStore`: the store of a server whose instances share budgets and values by PostgreSQL, without Redis.

Limits of the kind `amount`, such as budgets, and values are in the database. Rates and requests in progress stay in the
memory of each server, because a query for each request would cost more than it helps. So only a request with a budget
waits for the database.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import structs

from anthropic_proxy.console.ledger.database import find_database
from anthropic_proxy.console.ledger.postgres_store import PostgresStore
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.fallback import FallbackStore
from anthropic_proxy.gateway.stores.memory import Counter
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, Store, StoreState

_SEPARATOR = " "
"""Text between the ids of both parts of a reservation."""


def open_database_store(settings: Settings, local: Store, warn: Callable[[str], None]) -> "DatabaseStore":
    """`local`: the store in the memory of the server. No connection is opened before the first use."""
    shared = FallbackStore(
        PostgresStore(settings),
        fails_open=settings.redis_failure == "open",
        address=find_database(settings).describe().removeprefix(f"{PostgresStore.title} "),
        warn=warn,
    )
    return DatabaseStore(local, shared)


class DatabaseStore:
    """It implements `plugins.Store`. `local`: rates and requests in progress. `shared`: budgets and values."""

    def __init__(self, local: Store, shared: Store) -> None:
        self._local = local
        self._shared = shared

    @property
    def state(self) -> StoreState:
        return self._shared.state

    async def get(self, key: str) -> str | None:
        return await self._shared.get(key)

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await self._shared.put(key, value, lifetime_seconds)

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        return await self._shared.put_if_absent(key, value, lifetime_seconds)

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        return await self._shared.increment(key, amount, lifetime_seconds)

    async def delete(self, key: str) -> None:
        await self._local.delete(key)
        await self._shared.delete(key)

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        parts = _Parts(limits)
        if not parts.shared:
            return await self._local.reserve(limits, lease_seconds)
        if not parts.local:
            return await self._shared.reserve(limits, lease_seconds)
        local = await self._local.reserve(parts.local, lease_seconds)
        if local.refused is not None:  # the database is only read, without a lock
            shared = await self._shared.reserve(_without_amounts(parts.shared), lease_seconds)
            return parts.join(local, _find_refused(parts.shared, shared))
        try:
            shared = await self._shared.reserve(parts.shared, lease_seconds)
        except BaseException:
            await self._local.settle(local, [0] * len(parts.local))
            raise
        if shared.refused is not None:
            await self._local.settle(local, [0] * len(parts.local))
            local = await self._local.reserve(_without_amounts(parts.local), lease_seconds)
        return parts.join(local, shared)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        parts = _Parts(reservation.limits)
        local, shared = parts.divide(reservation)
        if local.is_held:
            await self._local.settle(local, [amounts[place] for place in parts.local_places])
        if shared.is_held:
            await self._shared.settle(shared, [amounts[place] for place in parts.shared_places])

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        divided = [_Parts(reservation.limits).divide(reservation) for reservation in reservations]
        if local := [part for part, _ in divided if part.is_held]:
            await self._local.renew(local)
        if shared := [part for _, part in divided if part.is_held]:
            await self._shared.renew(shared)

    async def close(self) -> None:
        await self._shared.close()
        await self._local.close()


class _Parts:
    """The limits of a request, by the store that counts them. Each list is in the order of the request."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = limits
        self.local_places = [place for place, limit in enumerate(limits) if limit.kind != "amount"]
        self.shared_places = [place for place, limit in enumerate(limits) if limit.kind == "amount"]
        self.local = [limits[place] for place in self.local_places]
        self.shared = [limits[place] for place in self.shared_places]

    def join(self, local: Reservation, shared: Reservation) -> Reservation:
        """Return the result of the whole request, whose id has those of both parts. A part that has reserved nothing
        has the id of the other one, because it may have an actual amount.
        """
        parts = ((self.local_places, local), (self.shared_places, shared))
        refusals = [
            (part.retry_after_seconds, -places[part.refused])
            for places, part in parts
            if part.refused is not None  # the longest wait counts
        ]
        wait, place = max(refusals, default=(0.0, 0))
        return Reservation(
            id=_SEPARATOR.join((local.id or shared.id, shared.id or local.id))
            if local.is_held or shared.is_held
            else "",
            limits=tuple(self._limits),
            refused=-place if refusals else None,
            retry_after_seconds=wait,
            remaining=self._merge(local.remaining, shared.remaining),
            settled=self._merge(local.settled, shared.settled),
            reset_seconds=self._merge(local.reset_seconds, shared.reset_seconds),
            slots=self._merge(local.slots, shared.slots),
            lease_seconds=shared.lease_seconds,
            is_share=shared.is_share and shared.refused is not None,
        )

    def divide(self, reservation: Reservation) -> tuple[Reservation, Reservation]:
        """Return the parts of a held reservation that `join` has returned, or one store alone."""
        local_id, is_joined, shared_id = reservation.id.partition(_SEPARATOR)
        if not is_joined:
            local_id, shared_id = ("", local_id) if self.shared else (local_id, "")

        def choose(id_: str, places: Sequence[int]) -> Reservation:
            return structs.replace(
                reservation,
                id=id_,
                limits=[reservation.limits[place] for place in places],
                slots=[reservation.slots[place] for place in places],
            )

        return choose(local_id, self.local_places), choose(shared_id, self.shared_places)

    def _merge(self, local: Sequence[Any], shared: Sequence[Any]) -> list[Any]:
        values = dict(zip((*self.local_places, *self.shared_places), (*local, *shared), strict=True))
        return [values[place] for place in range(len(self._limits))]


def _without_amounts(limits: Sequence[Limit]) -> Sequence[Limit]:
    return [structs.replace(limit, amount=0) for limit in limits]


def _find_refused(limits: Sequence[Limit], state: Reservation) -> Reservation:
    """Return the result that `limits` would have had. `state`: that of their counters."""
    waits = []
    for limit, used, left, reset in zip(limits, state.settled, state.remaining, state.reset_seconds, strict=True):
        counter = Counter(used=used, expires_at=reset)
        counter.holds.put("", math.inf, limit.maximum - left - used)
        excess = limit.amount - left
        waits.append(counter.find_wait_seconds(excess, limit, 0.0) if excess > 0 and limit.amount else -1.0)
    if max(waits) < 0:
        return state
    return structs.replace(state, refused=waits.index(max(waits)), retry_after_seconds=max(waits))
