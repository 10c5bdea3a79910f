"""An event loop with a clock that moves only while nothing happens: timeouts do not depend on the machine.

All parts of the test have to run in this loop, or in threads that it waits for (`run_in_executor`). The clock does not
wait for other threads and for processes.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

P = ParamSpec("P")
Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")
_DELIVERY_SECONDS = 0.001
"""Real time for bytes that are on their way through the loopback interface."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop with timers in virtual time: it advances by a wait instead of waiting."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self._awaited = set[asyncio.Future[Any]]()
        """Results of threads."""
        selector = selectors.DefaultSelector()
        select = selector.select

        def advance(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is None or (timeout > 0 and self._awaited):
                return select(None)
            events = select(min(timeout, _DELIVERY_SECONDS))
            if not events:
                self._virtual_now += max(timeout, 0.0)
            return events

        selector.select = advance  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual_now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[[*Arguments], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        future = super().run_in_executor(executor, func, *args)
        self._awaited.add(future)
        future.add_done_callback(self._awaited.discard)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await super().shutdown_default_executor()  # without a limit, which the clock would reach at once

    def pass_time(self, seconds: float) -> None:
        """Let time pass in which the loop does nothing, as in a process that is paused."""
        self._virtual_now += seconds


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*arguments, **options))

    return run
