"""Timers of one client connection."""

import asyncio
from collections.abc import Callable

_POLLS = 10


class OneShotTimer:
    __slots__ = ("_loop", "_since", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        """Timer of the event loop. None: not started, or stopped."""

    def start(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        self.stop()
        self._since = self._loop.time()
        self.timer = self._loop.call_later(seconds, on_timeout)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def elapsed_seconds(self) -> float:
        return 0.0 if self.timer is None else self._loop.time() - self._since


class KeepAliveTimer:
    """Calls `on_timeout` when a connection has been idle (without a request) for `seconds`. The loop's timer is not
    restarted for each request, which would be slower than one check when it ends.
    """

    __slots__ = ("_idle_since", "_loop", "_on_timeout", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_timeout: Callable[[], None] | None = on_timeout
        self._idle_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin_idle(self) -> None:
        self._idle_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._poll)

    def end_idle(self) -> None:
        self._idle_since = None

    def cancel(self) -> None:
        self._idle_since = self._on_timeout = None
        if self._timer is not None:
            self._timer.cancel()

    def _poll(self) -> None:
        self._timer = None
        if self._idle_since is None or self._on_timeout is None:
            return
        left = self._idle_since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._poll)
        else:
            self._on_timeout()


class WriteTimeout:
    """Aborts a client connection if its client reads no byte of a pending response for `seconds`."""

    __slots__ = ("_loop", "_progress_at", "_seconds", "_timer", "_transport", "_unread")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._progress_at = 0.0

    def start(self) -> None:
        """A repeated call has no effect."""
        if self._timer is None and (unread := self._transport.get_write_buffer_size()):
            self._unread, self._progress_at = unread, self._loop.time()
            self._timer = self._loop.call_later(self._seconds / _POLLS, self._poll)

    def stop(self) -> None:
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
