"""`FirstChecks`: the first check of each watchdog, all with one timer of the event loop.

Most exchanges end before theirs, and a timer for each would cost more than all else that a watchdog does.
"""

import asyncio
from collections.abc import Callable

FIRST_CHECK_DELAY_SECONDS = 0.05
_RESOLUTION_SECONDS = 0.001
"""Time by which uvloop may call a timer too early."""


class FirstChecks:
    def __init__(self) -> None:
        self._waiting: dict[Callable[[], None], float] = {}
        """Check → time on the loop clock at which it is called, in the order of the times."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """Event loop that has a timer for the first of the checks. None: there is no timer."""

    def add(self, check: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Call the check after the delay, unless `cancel` is called before. `loop`: the running event loop."""
        self._waiting[check] = loop.time() + FIRST_CHECK_DELAY_SECONDS
        if loop is not self._loop:  # a program may run one event loop after another
            self._set_timer(loop)

    def cancel(self, check: Callable[[], None]) -> None:
        self._waiting.pop(check, None)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        at = next(iter(self._waiting.values()), None)
        self._loop = None if at is None else loop
        if at is not None:
            loop.call_at(at, self._call_due, loop)

    def _call_due(self, loop: asyncio.AbstractEventLoop) -> None:
        limit = loop.time() + _RESOLUTION_SECONDS
        try:
            while self._waiting:
                check, at = next(iter(self._waiting.items()))
                if at > limit:
                    break
                del self._waiting[check]
                check()
        finally:
            self._set_timer(loop)
