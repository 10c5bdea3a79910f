"""Silence, and a client that leaves: one timer and one task a request, nothing wrapped round a read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

FIRST_PING_SECONDS = 8.0
"""Silence after which a stream begins without a first delta; earlier would give up real HTTP statuses."""
PING_SECONDS = 10.0
"""Silence between later pings."""
WRITING_SECONDS = 600.0
"""How long a client may take for one piece. Longer than our own server waits, which sees every byte that it takes."""
LEAVING_SECONDS = 0.05
"""How long a client may have left before anybody looks: what is answered by then needs no task to watch for it."""


class Watch:
    """Watches one exchange from its own task; ends that task's waiting by cancelling it, and says why.

    The loops that read and write only set `upstream_at` and `client_at`: two stores of a number per network read.
    """

    def __init__(
        self,
        *,
        gone: Callable[[], Awaitable[None]],
        silent: Callable[[], Awaitable[None]] | None,
        first_byte_seconds: float,
        idle_seconds: float,
        write_seconds: float = WRITING_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        """The clock of both marks, in seconds."""
        self.upstream_at = self.client_at = self._loop.time()
        """When the upstream was last heard, and when the client last heard of us."""
        self.upstream_limit = first_byte_seconds
        """Seconds of the upstream's silence that are allowed now."""
        self.reason: Literal["", "gone", "upstream silent"] = ""
        """Why the exchange's task was cancelled by this watch; empty: it was not."""
        self.writing = False
        """Whether the exchange waits for the client to take what was written: that silence is not the upstream's."""
        self.queueing = False
        """Whether it waits for something of our own, a place in the queue or an errand: nor is that silence."""
        self._idle_seconds = idle_seconds
        self._first_byte_seconds = first_byte_seconds
        self._write_seconds = write_seconds
        self._writing_since = self._written_to = 0.0
        """Since when the client takes the piece that is being written, and when we last looked at that."""
        self._silent = silent
        """Tells the client that we live; None where it does not stream."""
        self._ping_seconds = FIRST_PING_SECONDS
        self._pinging: asyncio.Task[None] | None = None
        self._exchange = asyncio.current_task(self._loop)
        self._gone = gone
        self._leaving: asyncio.Task[None] | None = None
        self._timer = self._loop.call_at(min(self._due(), self.upstream_at + LEAVING_SECONDS), self._tick)

    def call_sent(self) -> None:
        """Say that a new upstream call begins: its first byte may take long."""
        self.upstream_at = self._loop.time()
        self.upstream_limit = self._first_byte_seconds

    def first_byte(self) -> None:
        """Say that something of the answer is here: from its first byte on the idle limit holds."""
        self.upstream_at = self.now()
        if self.upstream_limit == self._idle_seconds:
            return
        self.upstream_limit = self._idle_seconds
        if self._timer.when() > self.upstream_at + self._idle_seconds and self._exchange is not None:
            self._timer.cancel()  # it was set for the first byte, which may take longer
            self._timer = self._loop.call_at(self._due(), self._tick)

    def forgive_silence(self) -> bool:
        """Say whether the upstream's silence ended the wait; then the exchange goes on and is watched anew."""
        if self.reason != "upstream silent" or self._exchange is None:
            return False
        self.reason = ""
        self._exchange.uncancel()
        self.upstream_at = self._loop.time()
        self._timer = self._loop.call_at(self._due(), self._tick)
        return True

    def stop(self) -> None:
        """End the watch; nothing of it runs afterwards, and it holds on to nothing of the exchange."""
        self._timer.cancel()
        for task in (self._leaving, self._pinging):
            if task is not None:
                task.cancel()
        self._leaving = self._pinging = self._exchange = self._silent = None

    def _due(self) -> float:
        due = self.upstream_at + self.upstream_limit
        if self._silent is not None:
            due = min(due, self.client_at + self._ping_seconds)
        return due

    def _tick(self) -> None:
        now = self._loop.time()
        if self._leaving is None:
            self._leaving = self._loop.create_task(self._watch_client())
        if self.writing:
            if self.upstream_at != self._written_to:  # the exchange went on since the last look
                self._writing_since = now
            elif now >= self._writing_since + self._write_seconds:
                self._end("gone")
                return
            self.upstream_at = self.client_at = self._written_to = now
        elif self.queueing:
            self.upstream_at = now
        if now >= self.upstream_at + self.upstream_limit:
            self._end("upstream silent")
            return
        if self._silent is not None and now >= self.client_at + self._ping_seconds:
            self.client_at = now
            self._ping_seconds = PING_SECONDS
            if self._pinging is None or self._pinging.done():
                self._pinging = self._loop.create_task(_quietly(self._silent))
        self._timer = self._loop.call_at(self._due(), self._tick)

    async def _watch_client(self) -> None:
        await self._gone()
        self._end("gone")

    def _end(self, reason: Literal["gone", "upstream silent"]) -> None:
        if not self.reason and self._exchange is not None:
            self.reason = reason
            self._exchange.cancel()


async def _quietly(silent: Callable[[], Awaitable[None]]) -> None:
    try:
        await silent()
    except OSError:
        return  # the client has left; the other watch says so
