"""Interfaces for stored data: `Recorder` for the content of exchanges, `Store` for state of workers and instances.

A store has texts (`get`, `put`) and numbers (`increment`) with a lifetime, and counters of limits. A `Limit` names a
counter, its maximum and the amount that one request needs. `Store.reserve` reserves the amounts of all limits and
returns a `Reservation`. If a limit has no room, `refused` is its index. `settle` replaces the reserved amounts by the
actual ones at the end of the request. `renew` extends the lease, the time limit of a reservation. `StoreState` is the
condition of a store. A store in Redis can fail (`StoreUnavailable`).
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from anthropic_proxy.errors import ProxyBusy

RecordPoint = Literal["client request", "upstream request", "client response"]
"""Kind of recorded bytes: body of a client request, body of a request to a provider, or a piece of the response body
for the client."""


class Recorder(Protocol):
    """Receives the content of requests to `POST /v1/messages`. Keys are not redacted: redact them before storing.

    All pieces of an exchange are passed before observers receive its receipt.
    """

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        """Record bytes of an exchange: its request, each request to a provider, each piece of the response.

        Called on the event loop, so it must not block. After an exception, the recorder receives no more pieces of the
        response.
        """
        ...


LimitKind = Literal["rate", "concurrency", "amount"]
"""Kind of a limit. `rate`: maximum in any period of `Limit.seconds`. `concurrency`: maximum at the same time. `amount`:
maximum until the counter expires, such as a budget."""
LEASE_SECONDS = 60.0
"""Default seconds until the amounts of a reservation are released if it is neither settled nor renewed."""


class Limit(Struct, frozen=True):
    """A counter with its maximum, and the amount of it that a request needs."""

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
    """Result of `Store.reserve`: either all limits are reserved, or none."""

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
    """Values with a lifetime, and counters of limits, shared by workers or instances. All durations are in seconds.

    A value is a text or a number. A method raises `StoreUnavailable` if the store has failed and `REDIS_FAILURE` is
    `closed`.
    """

    @property
    def state(self) -> StoreState:
        """Current condition of the store. Reading the property needs no I/O."""
        ...

    async def get(self, key: str) -> str | None:
        """Return the value that is stored under `key`. None: it is missing or has expired."""
        ...

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        """Store the text `value` under `key` for `lifetime_seconds`. A previous value is replaced."""
        ...

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        """Add `amount` to the number that is stored under `key`, and return the sum.

        A missing number starts at 0. It expires `lifetime_seconds` after the first addition.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete the value and the counter that are stored under `key`. A missing one is ignored."""
        ...

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        """Reserve the amounts of all limits in one atomic step, or none of them.

        An amount of the kind `rate` counts from now on. Amounts of the kinds `concurrency` and `amount` are held until
        the reservation is settled, or until `lease_seconds` pass without `renew`, so that a stopped process holds none.
        """
        ...

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Replace the reserved amounts of `reservation` by the actual `amounts`. A repeated call has no effect.

        `amounts`: one for each limit, in the same order. For the kind `concurrency`, the amount is ignored and the
        reserved one is released. Actual amounts count even after the end of the lease. Never raises
        `StoreUnavailable`: settlements wait until the store is available.
        """
        ...

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """Extend the leases of `reservations`, which belong to running requests.

        Each lease then ends `Reservation.lease_seconds` from now. Never raises `StoreUnavailable`.
        """
        ...

    async def close(self) -> None:
        """Close connections and files. Pending settlements are written first, at most for two seconds."""
        ...
