"""`ReaderThreads`: threads in which routes read the ledger, apart from all other work.

Their payers have turns, and one cannot occupy all threads with slow queries.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from msgspec import structs

from anthropic_proxy.console.ledger.database import LEDGER_FAILURES
from anthropic_proxy.engine.own_thread import start_in_own_thread
from anthropic_proxy.engine.turns import SharedWorker, Turns
from anthropic_proxy.errors import ProxyBusy, ShuttingDown

READERS = SharedWorker(
    name="the threads that read the ledger", places=3, share=2, max_waiting=60, max_wait_seconds=10.0
)
"""Further queries wait, so that pages do not delay client requests. Each may need as long itself: a change waits for
the lock of the database, which another program may hold for minutes.
"""
RETRY_SECONDS = 5.0
PASSING_FAILURES = (*LEDGER_FAILURES, ProxyBusy, ShuttingDown)
"""Exceptions of work at the database in these threads. They say nothing about who asked."""
P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class ReaderThreads:
    """Threads for database queries. `max_waiting`, `max_wait_seconds`: those of `READERS`, if they differ."""

    def __init__(
        self, max_waiting: int = READERS.max_waiting, max_wait_seconds: float = READERS.max_wait_seconds
    ) -> None:
        worker = structs.replace(READERS, max_waiting=max_waiting, max_wait_seconds=max_wait_seconds)
        self._turns = Turns(worker, _refuse)
        self._is_stopped = False

    async def run(self, payer: str, function: Callable[P, ResultT], *arguments: P.args, **named: P.kwargs) -> ResultT:
        """Run a query in a thread, and return its result.

        Raises `ProxyBusy` if too many queries wait, and those of `payer` are the most, or if it waits too long.
        """
        await self._turns.acquire(payer)
        if self._is_stopped:
            self._turns.release(payer)
            raise ShuttingDown
        try:
            call = asyncio.wrap_future(start_in_own_thread("ledger-reader", partial(function, *arguments, **named)))
        except RuntimeError:  # the system has no thread left
            self._turns.release(payer)
            raise
        # a client that disconnects keeps its thread until the query ends
        call.add_done_callback(lambda _: self._turns.release(payer))
        return await asyncio.shield(call)

    async def stop(self) -> None:
        """Calls that wait for a thread are not made. Calls that run end by themselves."""
        self._is_stopped = True


def _refuse(waiting: int) -> ProxyBusy:
    return ProxyBusy(
        f"Other requests use the database, and {waiting} wait. Try again when they are complete.",
        retry_after=RETRY_SECONDS,
        code="ledger-readers",
    )
