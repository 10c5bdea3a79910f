"""Interfaces of plugins for stored data: `Recorder` for the content of requests, and `Store` for state of the workers.

A store has texts and numbers that expire, and counters of limits. A `Limit` is one counter with its maximum, and the
amount that a request needs. `Store.reserve` adds the amounts of a request to its counters, and returns a `Reservation`.
`Store.settle` replaces these estimated amounts by the actual ones. `StoreState` is the condition of a store.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from anthropic_proxy.errors import ProxyBusy

RecordPoint = Literal["client request", "upstream request", "client response"]
"""Kind of recorded bytes: body of a client request, body of a request to a provider, or a piece of the response body
for the client."""


class Recorder(Protocol):
    """Receives the content of requests to `POST /v1/messages` and of their responses.

    API keys in the content are not redacted, so a recorder must redact them.
    """

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        """Record bytes of one request: a request body, or a piece of the response.

        Must not block, because it runs on the event loop.
        """
        # a recorder that raises an exception for a piece of a response receives no more pieces of it
        ...


LimitKind = Literal["rate", "concurrency", "amount"]
"""Kind of a limit.

`rate`: maximum in any period of `Limit.seconds`. `concurrency`: maximum at the same time. `amount`: maximum until the
counter is deleted, for a budget.
"""
LEASE_SECONDS = 60.0
"""Default seconds until the amounts of a reservation are released if it is neither settled nor renewed."""


class Limit(Struct, frozen=True):
    """One counter with its maximum, and the amount that a request adds to it."""

    key: str
    """Name of the counter: `key/ab12/requests`. The name of a budget contains its period."""
    kind: LimitKind
    """Kind of the limit: `rate` (per period), `concurrency` (at the same time) or `amount` (until an end, as a
    budget)."""
    amount: int
    """Amount to reserve, in the unit of the limit: requests, tokens or nano-dollars. 0: only the counter is read."""
    maximum: int
    """Maximum of the counter, in the unit of `amount`."""
    seconds: float = 0.0
    """`rate`: length of the period. `amount`: time from the first reservation until the counter is deleted.
    `concurrency`: not used."""


class Reservation(Struct, frozen=True):
    """Result of `Store.reserve`: either the amounts of all limits of a request were added to the counters, or none."""

    id: str
    """Unique id. "": nothing is reserved, because a limit has no room or all amounts are 0."""
    limits: Sequence[Limit] = ()
    """Limits of the request, in the order of `reserve`."""
    refused: int | None = None
    """Index of the limit that has no room. If several have none: the limit with the longest wait. None: all are
    reserved."""
    retry_after_seconds: float = 0.0
    """Time until the refused limit can have room. 1.0: the time is unknown, because a running request must end first.
    """
    remaining: Sequence[int] = ()
    """Amount left of each limit, after this reservation. Negative: actual amounts were higher than reserved ones."""
    reset_seconds: Sequence[float] = ()
    """Time until each limit has its full maximum again without further requests. 0.0: now, or unknown because the time
    depends on running requests."""
    slots: Sequence[int] = ()
    """Index of each amount within its counter, which `Store.settle` needs."""
    lease_seconds: float = LEASE_SECONDS
    """Time after which the amounts are released, unless the reservation is renewed."""

    @property
    def is_held(self) -> bool:
        """True if amounts are reserved, so that `Store.settle` must be called."""
        return bool(self.id)


class StoreUnavailable(ProxyBusy):
    """Error: Redis is unavailable, and `REDIS_FAILURE=closed` rejects requests with limits. The client may retry."""

    def __init__(self) -> None:
        super().__init__(
            "The proxy cannot check limits, because its Redis server is unavailable. Try again in a moment.",
            retry_after=2,
        )


class StoreState(Struct, frozen=True, kw_only=True):
    """Condition of a store, shown in `/health`, `/readyz` and `/metrics`."""

    kind: Literal["memory", "sqlite", "redis", "plugin"] = "memory"
    """Kind of the store, which decides the processes that share it."""
    available: bool = True
    """True if the store can be used. False: Redis has failed, so limits are approximated in this process, or requests
    are rejected."""
    problem: str = ""
    """Message about the failure of the store, for the operator of the proxy. "": no failure."""
    processes: int = 1
    """Number of running processes that use the store, as far as known."""
    pending_settlements: int = 0
    """Settled reservations that are not yet in the store."""


class Store(Protocol):
    """Storage for values that expire and for counters of limits, which the workers share.

    Durations are in seconds. Methods may raise `StoreUnavailable`.
    """

    @property
    def state(self) -> StoreState:
        """Current condition of the store. Reading the property needs no I/O."""
        ...

    async def get(self, key: str) -> str | None:
        """Return the text that is stored under `key`. None: it is missing or has expired."""
        ...

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        """Store the text `value` under `key` for `lifetime_seconds`. A previous value is replaced."""
        ...

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        """Add `amount` to the number that is stored under `key`, and return the sum.

        A missing number starts at 0, and is deleted `lifetime_seconds` after the first addition.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete the value and the counter that are stored under `key`. A missing one is ignored."""
        ...

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        """Add the amounts of a request to all counters, or to none if one limit has no room.

        If neither `settle` nor `renew` is called, the amounts are removed again after `lease_seconds`. Only amounts of
        the kind `rate` still count for the period of their limit.
        """
        ...

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Replace the estimated amounts of a reservation by the actual ones, in the order of its limits.

        Does not raise `StoreUnavailable`.
        """
        # a `concurrency` amount is released in any case, and a repeated call has no effect
        ...

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """Extend the lifetime of the reservations of running requests.

        Each one then lasts for another `Reservation.lease_seconds` from now. Never raises `StoreUnavailable`.
        """
        ...

    async def close(self) -> None:
        """Write the actual amounts that are not stored yet, then close connections and files of the store.

        The writing ends after at most two seconds, so that it does not delay the stop of the server.
        """
        ...
