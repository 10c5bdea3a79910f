"""`ReaderThreads`: threads in which routes read the ledger, apart from all other work.

One client cannot occupy all threads with slow queries.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from anthropic_proxy.errors import LimitReached, ShuttingDown
from anthropic_proxy.plugins import RouteRequest

MAX_THREADS = 3
"""Number of queries that run at the same time. Further queries wait, so that pages do not delay client requests."""
MAX_CLIENT_THREADS = 2
"""Number of queries of one client that run at the same time. Another client has a thread meanwhile."""
MAX_CLIENT_CALLS = 20
"""Maximum number of queries of one client that run or wait for a thread. Further queries are rejected."""
RETRY_SECONDS = 5.0
P = ParamSpec("P")
ResultT = TypeVar("ResultT")


def name_client(request: RouteRequest) -> str:
    return f"{request.client.name} {request.address}"


class _Calls:
    def __init__(self) -> None:
        self.count = 0
        self.threads = asyncio.Semaphore(MAX_CLIENT_THREADS)


class ReaderThreads:
    """Threads for database queries, at most `MAX_THREADS`. They start with the first query.

    `max_client_calls`: maximum number of queries of one client that run or wait.
    """

    def __init__(self, max_client_calls: int = MAX_CLIENT_CALLS) -> None:
        self._max_client_calls = max_client_calls
        self._executor = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="ledger-reader")
        self._calls: dict[str, _Calls] = {}
        self._is_stopped = False

    async def run(self, client: str, function: Callable[P, ResultT], *arguments: P.args, **named: P.kwargs) -> ResultT:
        """Run a query in a thread, and return its result.

        Raises `LimitReached` if too many queries of `client` run or wait.
        """
        calls = self._calls.setdefault(client, _Calls())
        if calls.count >= self._max_client_calls:
            raise LimitReached(
                f"{calls.count} requests of this client read the ledger, which is the maximum. Wait until they are "
                "complete, then try again.",
                retry_after=RETRY_SECONDS,
                code="ledger-readers",
            )
        calls.count += 1
        try:
            await calls.threads.acquire()
        except BaseException:
            self._remove(client)
            raise
        if self._is_stopped:
            self._release(client)
            raise ShuttingDown
        loop = asyncio.get_running_loop()
        is_rejected = False

        def call_unless_rejected() -> ResultT:
            if is_rejected:  # the executor keeps a call for which no thread started
                raise CancelledError
            return function(*arguments, **named)

        try:
            call = self._executor.submit(call_unless_rejected)
        except RuntimeError:  # the system has no thread left
            is_rejected = True
            self._release(client)
            raise

        def release(_: Future[Any]) -> None:
            if not loop.is_closed():  # a query may end after the server
                loop.call_soon_threadsafe(self._release, client)

        call.add_done_callback(release)  # a client that disconnects keeps its thread until the query ends
        return await asyncio.wrap_future(call)

    async def stop(self) -> None:
        """Cancel the calls that wait for a thread. Calls that run end by themselves."""
        self._is_stopped = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _release(self, client: str) -> None:
        self._calls[client].threads.release()
        self._remove(client)

    def _remove(self, client: str) -> None:
        self._calls[client].count -= 1
        if not self._calls[client].count:
            del self._calls[client]
