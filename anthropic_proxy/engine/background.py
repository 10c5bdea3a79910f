"""What runs beside the requests: long computations in a thread, and tasks that no request waits for.

The event loop serves all requests, so a computation that needs more than some milliseconds runs in a thread. One at a
time does, because several threads share one interpreter lock: they need more memory, delay the loop more, and end no
earlier. The payers of the jobs have turns (`turns.py`), and a job that is long gives way to the others (`slices.py`).
Then it waits in its thread, and another one computes, so that a job is a plain function however often it gives way.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from typing import Any, TypeVar, TypeVarTuple

from msgspec import Struct, structs

from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.slices import call_in_slices
from anthropic_proxy.engine.turns import SharedWorker, Turns
from anthropic_proxy.engine.wires.calls import Call
from anthropic_proxy.engine.wires.dialect import BaseDialect

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

MAX_BYTES_ON_LOOP = 2 * 1024 * 1024
"""Maximum size of a request body that is decoded and encoded on the event loop: about 5 ms. A thread handles larger
ones."""
MAX_STEPS_ON_LOOP = 4_000
"""Maximum steps of schema conversion on the event loop (4 to 10 ms). A conversion with more steps runs in a thread.

With this limit, twelve concurrent requests delay other requests by at most 0.2 s. Conversions are cached, so only the
first request of a session needs a thread."""

THREAD = SharedWorker(name="the thread for large requests", places=1, share=1, max_waiting=256, max_wait_seconds=60.0)
SLICE_SECONDS = 0.05
"""Processor time after which a job gives way to those of other payers."""
_CHECK_SECONDS = 1.0
"""Time after which a job that waits asks whether there is still a server."""
_BYTES_PER_PART = 512
"""Bytes that count as much as one part, which takes up to 10 µs in all steps together: so at most 4,096 parts are read
on the event loop."""


def is_large(size: int, parts: int = 0) -> bool:
    """Return True if a thread does the work on a text of `size` bytes, because it takes the event loop too long.

    `parts`: what each costs time of its own in it, such as messages, blocks, tools and sentences to number. 0: it is
    not known so far, or the step costs no time for each.
    """
    return size + _BYTES_PER_PART * parts > MAX_BYTES_ON_LOOP


class BackgroundWork:
    """The thread for long computations, and the event-loop tasks that no request waits for.

    `clock` returns the processor time of the current thread, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.turns = Turns(THREAD)
        # of its own: the threads that asyncio has for everything may all be in use. A job that gives way keeps its one
        self.threads = ThreadPoolExecutor(1 + THREAD.max_waiting, thread_name_prefix="large-requests")
        self.clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task, and keep a reference to it, because asyncio itself keeps only a weak one."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def of(self, payer: str, *, max_seconds: float = inf, has_begun: bool = False) -> "PayerWork":
        """Return what runs computations for one request in the turns of a payer (`Client.payer`).

        `max_seconds`: processor time after which a job in the thread raises `TimeoutError` where it may give way.
        `has_begun`: other jobs have made what these jobs read.
        """
        return PayerWork(payer, self, max_seconds, has_begun)


class PayerWork(Struct, eq=False):
    """Runner of long computations for one request of a payer."""

    payer: str
    work: BackgroundWork
    max_seconds: float
    """See `BackgroundWork.of`."""
    has_begun: bool
    """True after the first job. Further ones come before those of other requests of the payer: what they need stays in
    memory meanwhile."""

    async def run_in_thread(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function, computed in a thread when it is the payer's turn.

        A cancelled computation still occupies the thread until it ends. Raises `WorkerBusy` after a long wait.
        """
        turns = self.work.turns
        await turns.acquire(self.payer, max_seconds=THREAD.max_wait_seconds, has_begun=self.has_begun)
        self.has_begun = True
        run = partial(_Job(self).run, partial(function, *arguments))
        try:
            computation = asyncio.get_running_loop().run_in_executor(self.work.threads, run)
        except RuntimeError:  # the system has no thread left
            turns.release(self.payer)
            raise
        computation.add_done_callback(lambda _: turns.release(self.payer))
        return await asyncio.shield(computation)

    async def run_in_thread_if_large(
        self, is_large: bool, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Return the result of a function, which is called at once unless `is_large` is True."""
        return await self.run_in_thread(function, *arguments) if is_large else function(*arguments)

    async def run_postponable(self, is_large: bool, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Like `run_in_thread_if_large`, for a function that finds out by itself what takes long: with the argument
        `may_postpone` it raises `WorkPostponed`, and is called again in a thread.
        """
        if not is_large:
            try:
                return function(*arguments, may_postpone=True)
            except WorkPostponed:
                pass
        return await self.run_in_thread(function, *arguments)

    async def run_for_call(
        self, function: Callable[[Call[BaseDialect]], _Result], call: Call[BaseDialect], *, is_large: bool = False
    ) -> _Result:
        """Return `function(call)`, such as the encoded request. It runs in a thread if it needs too many steps."""
        if not is_large:
            try:
                return function(call)
            except WorkPostponed:
                pass
        return await self.run_in_thread(function, structs.replace(call, max_schema_steps=None))


class _Job:
    """A computation in the thread. It begins on the event loop, and gives way in its thread."""

    _end = inf
    _slice_began = 0.0

    def __init__(self, runner: PayerWork) -> None:
        self._payer, self._turns, self._clock = runner.payer, runner.work.turns, runner.work.clock
        self._max_seconds = runner.max_seconds
        self._loop = asyncio.get_running_loop()

    def run(self, function: Callable[[], _Result]) -> _Result:
        self._slice_began = self._clock()
        self._end = self._slice_began + self._max_seconds
        return call_in_slices(self._give_way, function)

    def _give_way(self) -> None:
        """Let the jobs of other payers that wait run first, if this one has had its slice. Raises `TimeoutError`."""
        if self._end < inf and self._clock() > self._end:
            raise TimeoutError
        if not self._turns.is_waited_for(self._payer) or self._clock() - self._slice_began < SLICE_SECONDS:
            return
        is_resumed = threading.Event()
        try:
            self._loop.call_soon_threadsafe(self._turns.give_way, self._payer, is_resumed.set)
        except RuntimeError:  # the server has ended, and nobody waits
            return
        while not is_resumed.wait(_CHECK_SECONDS) and not self._loop.is_closed():
            pass
        self._slice_began = self._clock()
