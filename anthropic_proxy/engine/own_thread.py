"""`run_in_own_thread`: for a function that waits for another program, or has turns of its own.

The threads of `asyncio.to_thread` are few, and pages, metrics and large requests need them to compute. A database or a
command that does not answer would hold them all.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import TypeVar, TypeVarTuple

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")
_CLOSE_SECONDS = 2.0


async def run_in_own_thread(name: str, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
    """Return the result of a function, called in a new thread that does not delay the end of the process.

    The caller limits how many run at the same time. If it is cancelled, the thread goes on.
    """
    return await asyncio.wrap_future(start_in_own_thread(name, function, *arguments))


async def close_in_own_thread(name: str, close: Callable[[], None]) -> None:
    """Call `close` at the end of the process, and wait at most two seconds: what it closes may be in use by a thread
    that waits for a program which does not answer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await run_in_own_thread(name, close)


def start_in_own_thread(
    name: str, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
) -> Future[_Result]:
    """Start the thread now, and return its result as a future. Raises `RuntimeError` if the system has none left."""
    result: Future[_Result] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            found = function(*arguments)
        except BaseException as error:  # noqa: BLE001  # for the caller
            result.set_exception(error)
        else:
            result.set_result(found)

    Thread(target=run, name=name, daemon=True).start()
    return result
