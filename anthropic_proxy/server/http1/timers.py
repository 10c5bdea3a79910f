"""Timers of a client connection: one-shot timeout, idle time (keep-alive), and unread responses.

`OneShotTimer` calls a function once. `KeepAliveTimer` closes idle connections. `WriteTimeout` checks periodically if a
client reads the response that waits to be sent, and aborts the connection if it does not.
"""

import asyncio
from collections.abc import Callable

_POLLS = 10
"""Number of checks of the write buffer within one write timeout, to detect if the client reads."""


class OneShotTimer:
    """One-shot timer of a client connection, which can be started again."""

    __slots__ = ("_loop", "_since", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        """Timer of the event loop. None: not started, or stopped."""

    def start(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        """Start or restart the timer. It calls `on_timeout` once after `seconds`, unless `stop` is called before."""
        self.stop()
        self._since = self._loop.time()
        self.timer = self._loop.call_later(seconds, on_timeout)

    def stop(self) -> None:
        """Stop the timer, so that it does not call `on_timeout`. Does nothing if the timer is not started."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def elapsed_seconds(self) -> float:
        """Return the seconds since `start` was called. 0: not started, or stopped."""
        return 0.0 if self.timer is None else self._loop.time() - self._since


class KeepAliveTimer:
    """Timer that calls `on_timeout` when a client connection has been idle (without a request) for `seconds`.

    Call `cancel` when the connection is closed.
    """

    __slots__ = ("_idle_since", "_loop", "_on_timeout", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_timeout: Callable[[], None] | None = on_timeout
        self._idle_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin_idle(self) -> None:
        """Begin an idle period, because the last response is complete and no request has begun."""
        self._idle_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._poll)

    def end_idle(self) -> None:
        """End the idle period, because a request has begun."""
        self._idle_since = None

    def cancel(self) -> None:
        """Cancel the timer and drop the reference to `on_timeout`, because the connection is closed."""
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
    """Timer that aborts a client connection if its client reads no byte of a pending response for `seconds`."""

    __slots__ = ("_loop", "_progress_at", "_seconds", "_timer", "_transport", "_unread")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._progress_at = 0.0

    def start(self) -> None:
        """Begin to check periodically whether the client reads the bytes in the write buffer.

        Does nothing if the write buffer is empty or the checks have already begun.
        """
        if self._timer is None and (unread := self._transport.get_write_buffer_size()):
            self._unread, self._progress_at = unread, self._loop.time()
            self._timer = self._loop.call_later(self._seconds / _POLLS, self._poll)

    def stop(self) -> None:
        """Stop the periodic checks of the write buffer."""
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
