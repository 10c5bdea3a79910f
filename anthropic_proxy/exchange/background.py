"""`BackgroundWork`: long computations beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

MAX_BYTES_ON_LOOP = 2 * 1024 * 1024
"""Bytes of a request that are decoded and encoded on the event loop: about 5 ms."""
MAX_REPLY_BYTES_ON_LOOP = 256 * 1024
"""Bytes of a reply in one piece that are decoded on the event loop, where calls in its text are searched too."""
BYTES_PER_TOOL = 512
"""Cost of one small tool definition in bytes of processing, besides its own bytes."""

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


class BackgroundWork:
    """Long computations in a thread, one at a time.

    Several threads share one interpreter lock: they would need more memory, delay the event loop more, and not finish
    earlier.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(1)

    async def run(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function, computed in a thread.

        A cancelled computation still occupies the thread until it ends: threads cannot be stopped.
        """
        await self._free.acquire()
        computation = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        computation.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(computation)

    async def run_if(self, large: bool, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function, computed in a thread if its input is large."""
        return await self.run(function, *arguments) if large else function(*arguments)
