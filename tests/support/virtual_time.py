"""An event loop with a clock that moves only while nothing happens: timeouts do not depend on the machine.

All parts of the test have to run in this loop. The clock does not wait for threads and processes.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")
_DELIVERY_SECONDS = 0.001
"""Real time for bytes that are on their way through the loopback interface."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop with timers in virtual time: it advances by a wait instead of waiting."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def advance(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is None:
                return select(None)
            events = select(min(timeout, _DELIVERY_SECONDS))
            if not events:
                self._virtual_now += max(timeout, 0.0)
            return events

        selector.select = advance  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual_now

    def pass_time(self, seconds: float) -> None:
        """Let time pass in which the loop does nothing, as in a process that is paused."""
        self._virtual_now += seconds


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*arguments, **options))

    return run
