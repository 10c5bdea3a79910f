"""What `FallbackStore` needs of a store on a server that all instances share: Redis, or the database of the ledger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from anthropic_proxy.plugins import Limit, Reservation, Store

MAX_CALLS = 100
"""Maximum number of calls in one message to the server."""
MAX_RENEWED = 100
"""Maximum number of reservations of one call of `renew`, during which the server may do nothing else."""
_STEPS = 10
_MAX_LATE_STEPS = 20
"""Number of late steps that do not count. It bounds the wait on a machine that is always busy."""


class Heartbeat(NamedTuple):
    processes: int
    """Number of running processes that use the server, with this one."""
    group: str
    """As in `StoreState`."""
    data: str
    """State of the data. Another one than that of the previous heartbeat: data may be lost."""
    clock_base: float
    """As in `StoreState`."""


class DataLost(Exception):
    """The server may have lost the data that the caller expects. The call had no effect."""


class RemoteStore(Store, Protocol):
    """A store whose methods raise `failures` if its server cannot be used."""

    title: str
    """Name of the server, for people: `Redis`."""
    failures: tuple[type[Exception], ...]
    has_news: asyncio.Event
    """Set with each new connection, until its user clears it: the server may have started again, without data."""
    heartbeat_keys: Sequence[str]
    """Names of the data of heartbeats, for messages about wrong data."""

    async def reserve(
        self,
        limits: Sequence[Limit],
        lease_seconds: float = ...,
        reservation_id: str = "",
        expected_data: str = "",
    ) -> Reservation:
        """`reservation_id` "": random. `expected_data`: `Heartbeat.data`; raises `DataLost` if it is another one. "":
        any data are right. A repeated call with an id has no further effect, except that the amount of a
        rate may count again until its period ends.
        """
        ...

    async def send_heartbeat(self) -> Heartbeat: ...

    def is_data_error(self, error: BaseException) -> bool:
        """Return True if the server is available, and calls for other keys can succeed."""
        ...

    def is_rejection(self, error: BaseException) -> bool:
        """Return True if the server has rejected the call."""
        ...

    def has_unknown_result(self, error: BaseException) -> bool:
        """Return True if the server may have executed the call."""
        ...

    def describe_data_error(self, error: BaseException, address: str, keys: Sequence[str]) -> str: ...

    def describe_failure(self, error: BaseException, address: str) -> str: ...


@asynccontextmanager
async def limit_wait(seconds: float) -> AsyncIterator[None]:
    """Raise `TimeoutError` in the block after `seconds` in which the event loop has run.

    A timer cannot decide that alone: if this process is paused (a stopped container, a busy machine), the reply waits
    in the socket, and the timer of the event loop is late too. Hence the time is counted in short steps, between which
    the event loop reads what has arrived. A late step means that this process did not run, so it does not count.
    """
    loop = asyncio.get_running_loop()
    step = seconds / _STEPS
    steps = _STEPS
    late_steps = _MAX_LATE_STEPS
    due = loop.time() + step
    timer: asyncio.Handle

    def end_step() -> None:
        nonlocal timer, steps, late_steps, due
        if loop.time() - due > step and late_steps:
            late_steps -= 1
        else:
            steps -= 1
        if steps:
            due = loop.time() + step
            timer = loop.call_at(due, end_step)
        else:
            timeout.reschedule(loop.time())

    timer = loop.call_at(due, end_step)
    async with asyncio.timeout(None) as timeout:
        try:
            yield
        finally:
            timer.cancel()
