"""`Places`: which requests run while nearly all connections of a worker are in use, so that no payer keeps others out.

Theory of operation. A worker has a bounded number of connections. Further clients wait in the kernel's backlog, where
nobody knows who they are. So an eighth of the places is a reserve: while as many requests run as the other places have
room for, a request of a payer with many of them waits, once its key is checked. One of a payer that has less than half
as many as the one with the most runs at once. A request that runs is never ended for others.

What waits has a place of the reserve. If all of them are taken and somebody is in the backlog, those that wait are
refused: when none of them got a place for a second, or after five seconds. From then on, until it gets a place, what
the payer sends again is refused at once, so that the backlog behind it does not wait for seconds in each round.

    88 places: 77 requests of ann run, 11 of hers wait, and bob's is behind 20 others of hers in the backlog. After a
    second, 11 are refused and the next 11 are accepted; after another one, bob's is accepted and runs.
"""

import asyncio
import sys
from collections import Counter, deque
from collections.abc import Collection
from math import inf
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.engine.turns import SharedWorker, build_busy_error
from anthropic_proxy.gateway.server.http1.cycle import RequestResponseCycle

LOOK_SECONDS = 0.1
"""Time between two looks for a free place. Looks are counted, not seconds: a busy machine makes both late."""
MAX_LOOKS, MAX_LOOKS_IN_VAIN = 50, 10
"""Number of looks after which a request that waits is refused for others: in total, and without one that got a place.
"""
_PARTS = 8
"""One of so many places is in the reserve."""


class Connection(Protocol):
    unfinished: deque[RequestResponseCycle]


class _Waiter(Struct, eq=False):
    payer: str
    granted: asyncio.Future[None]
    looks: int = 0
    looks_in_vain: int = 0


class Places:
    """There is no bound before `bound`."""

    def __init__(self) -> None:
        self._connections: Collection[Connection] = ()
        self._worker = _new_worker(sys.maxsize)
        self._waiting: dict[RequestResponseCycle, _Waiter] = {}
        self._running = Counter[str]()
        """Payer → its requests that run, at the latest count and with those that were granted since."""
        self._total = self._most = 0
        """Number of all running requests, and of the payer with the most."""
        self._counted_at = -inf
        self._refused = set[str]()
        """Payers with running requests, of which one was refused since the latest one that got a place."""
        self._timer: asyncio.TimerHandle | None = None
        self.unreserved = self._worker.share
        """Number of running requests from which on a further one asks for its place (`enter`)."""

    def bound(self, total: int, connections: Collection[Connection]) -> None:
        """`connections`: all of this worker, at most `total`."""
        self._connections = connections
        self._worker = _new_worker(total)
        self.unreserved = self._worker.share

    async def enter(self, cycle: RequestResponseCycle) -> None:
        """Wait until a request may run, whose receipt says who asks. Raises `WorkerBusy`."""
        loop = asyncio.get_running_loop()
        payer = _find_payer(cycle)
        if loop.time() >= self._counted_at + LOOK_SECONDS:
            self._count(loop.time())
        if self._has_few(payer) or (not self._waiting and self._total < self.unreserved):
            self._grant(cycle, payer)
            return
        waiter = self._waiting[cycle] = _Waiter(payer, loop.create_future())
        if self._timer is None:
            self._timer = loop.call_later(LOOK_SECONDS, self._look)
        try:
            await waiter.granted
        finally:
            del self._waiting[cycle]

    def make_room(self) -> None:
        """Refuse what has waited for long: somebody is in the backlog, and all places are taken."""
        for waiter in self._waiting.values():
            is_long = waiter.looks >= MAX_LOOKS or waiter.looks_in_vain >= MAX_LOOKS_IN_VAIN
            if (is_long or waiter.payer in self._refused) and not waiter.granted.done():
                self._refused.add(waiter.payer)
                error = build_busy_error(self._worker.name, len(self._waiting))
                error.closes_connection = True  # its place is what others need
                waiter.granted.set_exception(error)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_SECONDS, self._look) if self._waiting else None
        self._count(loop.time())
        has_granted = False
        for cycle, waiter in sorted(self._waiting.items(), key=lambda item: self._running[item[1].payer]):
            if waiter.granted.done():
                continue
            if cycle.response == "disconnected":
                waiter.granted.set_result(None)
            elif self._total < self.unreserved or self._has_few(waiter.payer):
                self._grant(cycle, waiter.payer)
                waiter.granted.set_result(None)
                has_granted = True
        for waiter in self._waiting.values():
            waiter.looks += 1
            waiter.looks_in_vain = 0 if has_granted else waiter.looks_in_vain + 1

    def _count(self, now: float) -> None:
        self._counted_at = now
        self._running = Counter(
            _find_payer(cycle)
            for connection in self._connections
            if connection.unfinished and (cycle := connection.unfinished[0]).places is None
        )
        self._refused.intersection_update(self._running)
        self._total = self._running.total()
        self._most = max(self._running.values(), default=0)

    def _has_few(self, payer: str) -> bool:
        return 2 * self._running[payer] < self._most

    def _grant(self, cycle: RequestResponseCycle, payer: str) -> None:
        cycle.places = None
        self._refused.discard(payer)
        self._running[payer] += 1
        self._total += 1
        self._most = max(self._most, self._running[payer])


def _find_payer(cycle: RequestResponseCycle) -> str:
    return "" if cycle.receipt is None else cycle.receipt.client.payer


def _new_worker(total: int) -> SharedWorker:
    reserve = total // _PARTS
    return SharedWorker(name="the places for connections", places=total, share=total - reserve, max_waiting=reserve)
