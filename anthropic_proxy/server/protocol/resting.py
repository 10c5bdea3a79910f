"""How long a connection is kept for a later request."""

import asyncio
from collections.abc import Callable


class RestLimit:
    """Calls `end` after so many seconds of rest. Its timer is set anew when it has run, not for each request."""

    __slots__ = ("_end", "_loop", "_seconds", "_since", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, end: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._end: Callable[[], None] | None = end
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Say that nothing is under way."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def stop(self) -> None:
        """Say that a request comes."""
        self._since = None

    def drop(self) -> None:
        """Look no more, and hold on to nothing."""
        self._since = self._end = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None or self._end is None:
            return
        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._end()
