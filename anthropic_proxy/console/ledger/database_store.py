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


def open_database_store(settings: Settings, own: Store, warn: Callable[[str], None]) -> "DatabaseStore":
    """`own`: the store in the memory of the server. No connection is opened before the first use."""
    shared = FallbackStore(
        PostgresStore(settings),
        fails_open=settings.redis_failure == "open",
        address=find_database(settings).describe().removeprefix(f"{PostgresStore.title} "),
        warn=warn,
    )
    return DatabaseStore(own, shared)


class DatabaseStore:
    """It implements `plugins.Store`. `own`: rates and requests in progress. `shared`: budgets and values."""

    def __init__(self, own: Store, shared: Store) -> None:
        self._own = own
        self._shared = shared

    @property
    def state(self) -> StoreState:
        return self._shared.state

    async def get(self, key: str) -> str | None:
        return await self._shared.get(key)

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await self._shared.put(key, value, lifetime_seconds)

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        return await self._shared.increment(key, amount, lifetime_seconds)

    async def delete(self, key: str) -> None:
        await self._own.delete(key)
        await self._shared.delete(key)

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        parts = _Parts(limits)
        if not parts.shared:
            return await self._own.reserve(limits, lease_seconds)
        if not parts.own:
            return await self._shared.reserve(limits, lease_seconds)
        own = await self._own.reserve(parts.own, lease_seconds)
        if own.refused is not None:  # the database is only read, without a lock
            shared = await self._shared.reserve(_without_amounts(parts.shared), lease_seconds)
            return parts.join(own, _find_refused(parts.shared, shared))
        try:
            shared = await self._shared.reserve(parts.shared, lease_seconds)
        except BaseException:
            await self._own.settle(own, [0] * len(parts.own))
            raise
        if shared.refused is not None:
            await self._own.settle(own, [0] * len(parts.own))
            own = await self._own.reserve(_without_amounts(parts.own), lease_seconds)
        return parts.join(own, shared)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        parts = _Parts(reservation.limits)
        own, shared = parts.divide(reservation)
        if own.is_held:
            await self._own.settle(own, [amounts[place] for place in parts.own_places])
        if shared.is_held:
            await self._shared.settle(shared, [amounts[place] for place in parts.shared_places])

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        divided = [_Parts(each.limits).divide(each) for each in reservations]
        if own := [part for part, _ in divided if part.is_held]:
            await self._own.renew(own)
        if shared := [part for _, part in divided if part.is_held]:
            await self._shared.renew(shared)

    async def close(self) -> None:
        await self._shared.close()
        await self._own.close()


class _Parts:
    """The limits of a request, by the store that counts them. Each list is in the order of the request."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = limits
        self.own_places = [place for place, limit in enumerate(limits) if limit.kind != "amount"]
        self.shared_places = [place for place, limit in enumerate(limits) if limit.kind == "amount"]
        self.own = [limits[place] for place in self.own_places]
        self.shared = [limits[place] for place in self.shared_places]

    def join(self, own: Reservation, shared: Reservation) -> Reservation:
        """Return the result of the whole request, whose id has those of both parts. A part that has reserved nothing
        has the id of the other one, because it may have an actual amount.
        """
        parts = ((self.own_places, own), (self.shared_places, shared))
        refusals = [
            (part.retry_after_seconds, -places[part.refused])
            for places, part in parts
            if part.refused is not None  # the longest wait counts
        ]
        wait, place = max(refusals, default=(0.0, 0))
        return Reservation(
            id=_SEPARATOR.join((own.id or shared.id, shared.id or own.id)) if own.is_held or shared.is_held else "",
            limits=tuple(self._limits),
            refused=-place if refusals else None,
            retry_after_seconds=wait,
            remaining=self._merge(own.remaining, shared.remaining),
            settled=self._merge(own.settled, shared.settled),
            reset_seconds=self._merge(own.reset_seconds, shared.reset_seconds),
            slots=self._merge(own.slots, shared.slots),
            lease_seconds=shared.lease_seconds,
            is_share=shared.is_share and shared.refused is not None,
        )

    def divide(self, reservation: Reservation) -> tuple[Reservation, Reservation]:
        """Return the parts of a held reservation that `join` has returned, or one store alone."""
        own_id, is_joined, shared_id = reservation.id.partition(_SEPARATOR)
        if not is_joined:
            own_id, shared_id = ("", own_id) if self.shared else (own_id, "")

        def choose(id_: str, places: Sequence[int]) -> Reservation:
            return structs.replace(
                reservation,
                id=id_,
                limits=[reservation.limits[place] for place in places],
                slots=[reservation.slots[place] for place in places],
            )

        return choose(own_id, self.own_places), choose(shared_id, self.shared_places)

    def _merge(self, own: Sequence[Any], shared: Sequence[Any]) -> list[Any]:
        values = dict(zip((*self.own_places, *self.shared_places), (*own, *shared), strict=True))
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
