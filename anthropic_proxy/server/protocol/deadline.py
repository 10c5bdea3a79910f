"""Until when something is waited for."""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls a function in so many seconds, unless it is stopped before; holds on to it only as long."""

    __slots__ = ("_loop", "_since", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        """None: nothing is waited for."""

    def start(self, seconds: float, end: Callable[[], None]) -> None:
        """Begin to wait; where that has begun already, begin anew."""
        self.stop()
        self._since = self._loop.time()
        self.timer = self._loop.call_later(seconds, end)

    def stop(self) -> None:
        """Wait no longer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def seconds(self) -> float:
        """Return for how long something is waited for; 0: nothing is."""
        return 0.0 if self.timer is None else self._loop.time() - self._since
