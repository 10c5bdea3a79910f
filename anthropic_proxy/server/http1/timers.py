"""Timers of a connection: timeouts, keep-alive and stalled writes."""

import asyncio
from collections.abc import Callable

_POLLS = 10
"""Polls of the write buffer within a write timeout."""


class Timeout:
    """Calls a function after some seconds, unless it is stopped before. The function is released afterwards."""

    __slots__ = ("_loop", "_since", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        """None: not started."""

    def start(self, seconds: float, end: Callable[[], None]) -> None:
        """Start, or restart, the timer."""
        self.stop()
        self._since = self._loop.time()
        self.timer = self._loop.call_later(seconds, end)

    def stop(self) -> None:
        """Stop the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def seconds(self) -> float:
        """Return the seconds since the start. 0: not started."""
        return 0.0 if self.timer is None else self._loop.time() - self._since


class KeepAliveTimer:
    """Calls `end` after `seconds` without a request. The timer is rescheduled when it fires, not for each request."""

    __slots__ = ("_end", "_loop", "_seconds", "_since", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, end: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._end: Callable[[], None] | None = end
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin an idle period."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._poll)

    def stop(self) -> None:
        """End an idle period."""
        self._since = None

    def release(self) -> None:
        """Cancel the timer and release `end`."""
        self._since = self._end = None
        if self._timer is not None:
            self._timer.cancel()

    def _poll(self) -> None:
        self._timer = None
        if self._since is None or self._end is None:
            return
        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._poll)
        else:
            self._end()


class WriteTimeout:
    """Aborts a connection if its client reads nothing for `seconds`. Without it, unread output stays in memory.

    The write buffer is polled only while it contains unread bytes.
    """

    __slots__ = ("_loop", "_progress_at", "_seconds", "_timer", "_transport", "_unread")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._progress_at = 0.0

    def start(self) -> None:
        """Begin to poll if there are unread bytes."""
        if self._timer is None and (unread := self._transport.get_write_buffer_size()):
            self._unread, self._progress_at = unread, self._loop.time()
            self._timer = self._loop.call_later(self._seconds / _POLLS, self._poll)

    def stop(self) -> None:
        """Stop polling."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._timer = None
        unread, now = self._transport.get_write_buffer_size(), self._loop.time()
        if unread < self._unread:
            self._unread, self._progress_at = unread, now
        elif now - self._progress_at >= self._seconds:
            self._transport.abort()
            return
        if unread:
            self._timer = self._loop.call_later(self._seconds / _POLLS, self._poll)
