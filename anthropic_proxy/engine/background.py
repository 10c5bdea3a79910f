"""What runs beside the requests: long computations in a thread, and tasks that no request waits for.

The event loop serves all requests, so a computation that needs more than some milliseconds runs in a thread.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple

from msgspec import structs

from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.wires.calls import Call
from anthropic_proxy.engine.wires.dialect import BaseDialect

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

MAX_BYTES_ON_LOOP = 2 * 1024 * 1024
"""Maximum size of a request body that is decoded and encoded on the event loop: about 5 ms. A thread handles larger
ones."""
MAX_REPLY_BYTES_ON_LOOP = 256 * 1024
"""Maximum size of an unstreamed reply that is decoded on the event loop. A thread decodes larger ones."""
MAX_STEPS_ON_LOOP = 4_000
"""Maximum steps of schema conversion on the event loop (4 to 10 ms). A conversion with more steps runs in a thread.

With this limit, twelve concurrent requests delay other requests by at most 0.2 s. Conversions are cached, so only the
first request of a session needs a thread."""


_BYTES_PER_TOOL = 512
"""Bytes added to the size of a request for each tool definition, because each definition costs additional time."""


def is_large_request(body: bytes, tool_count: int = 0) -> bool:
    """Return True if a request is decoded and encoded in a thread. `tool_count`: 0 until the request is decoded."""
    return len(body) + _BYTES_PER_TOOL * tool_count > MAX_BYTES_ON_LOOP


class BackgroundWork:
    """Runner of long computations in a thread, one at a time, and of event-loop tasks that no request waits for."""

    def __init__(self) -> None:
        # several threads share one interpreter lock: they need more memory, delay the loop more, and end no earlier
        self._free = asyncio.Semaphore(1)
        # of its own: the threads that asyncio has for everything may all be in use
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-requests")
        self._tasks: set[asyncio.Task[None]] = set()

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task, and keep a reference to it, because asyncio itself keeps only a weak one."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run_in_thread(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function, computed in a thread after earlier computations have ended.

        A cancelled computation still occupies the thread until it ends.
        """
        await self._free.acquire()
        computation = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        computation.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(computation)

    async def run_in_thread_if_large(
        self, is_large: bool, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Return the result of a function, which is called at once unless `is_large` is True."""
        return await self.run_in_thread(function, *arguments) if is_large else function(*arguments)

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
