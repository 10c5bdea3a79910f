"""Whether a client takes what is written to it: what nobody reads would otherwise be kept for ever."""

import asyncio

_LOOKS = 10
"""In the time that a client may take nothing."""


class WriteLimit:
    """Ends a connection whose client took nothing for so many seconds; looks only while something is unread."""

    __slots__ = ("_loop", "_seconds", "_taken_at", "_timer", "_transport", "_unread")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._taken_at = 0.0

    def start(self) -> None:
        """Begin to look, if anything is unread and nobody looks yet."""
        if self._timer is None and (unread := self._transport.get_write_buffer_size()):
            self._unread, self._taken_at = unread, self._loop.time()
            self._timer = self._loop.call_later(self._seconds / _LOOKS, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        unread, now = self._transport.get_write_buffer_size(), self._loop.time()
        if unread < self._unread:
            self._unread, self._taken_at = unread, now
        elif now - self._taken_at >= self._seconds:
            self._transport.abort()
            return
        if unread:
            self._timer = self._loop.call_later(self._seconds / _LOOKS, self._look)
