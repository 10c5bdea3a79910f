"""`Watchdog`: detects an idle provider or a disconnected client during one request, and sends pings.

Theory of operation. A timeout around each read and write would double the cost of an event. Instead, the exchange
notes here when a call, a read or a write begins or ends, and one timer compares these times with the limits (`_check`).
The provider has a limit only while a call is open: `first_byte_seconds` between bytes until its first content, then
`idle_seconds`.
During a write to the client nothing is read, so the provider is not idle then; the write has a limit of its own. After
`UNREAD_SECONDS` of one write, `on_unread` gives up the place of the reply, because the calls to providers are limited,
not the reading of clients. The reply waits for a place before it continues (`resume_upstream_call`). A client that got
nothing for a time gets a ping. A task waits for the disconnect of the client; it starts with the first check, because
most short exchanges end before. So the first checks of all exchanges share a timer (`FirstChecks`).

After a timeout or a disconnect, the watchdog cancels the task of the exchange and sets `reason`, by which the exchange
distinguishes this from the stop of the server. `uncancel` lets the task continue to send an error, and
`recover_from_idle` to call another provider.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

from anthropic_proxy.engine.first_checks import FIRST_CHECK_DELAY_SECONDS, FirstChecks

_Result = TypeVar("_Result")

FIRST_PING_SECONDS = 8.0
"""Idle time after which a stream without content gets its first ping. The ping fixes status 200, so later errors are
events."""
PING_SECONDS = 10.0
"""Seconds without an event for the client after which each further ping is sent."""
UNREAD_SECONDS = 10.0
"""Seconds of one write, from the first check that sees it, after which the reply gives up its place."""
UNREAD_CHECK_SECONDS = 5.0
"""Maximum time between two checks whether a write waits for the client, for replies with `on_unread`."""
WRITE_TIMEOUT_SECONDS = 600.0
"""Maximum seconds of one write to the client. The server itself ends slow clients earlier, by the bytes per time."""
_UNSEEN = math.inf
"""Beginning of a write that no check has seen. Most writes end before one."""


class ClientDisconnected(Exception):  # no failure
    """The client disconnected before its response was complete, so the call to the provider was ended."""


class Watchdog:
    """One timer for the whole exchange, which reports to it when calls, reads and writes begin and end.

    `first_checks`: those of all exchanges. None: this one shares no timer.
    """

    _calling = False
    """True while an upstream call is open. Only then is the upstream limit active."""
    reason: Literal["", "gone", "upstream silent"] = ""
    """Reason of the cancellation. "": not cancelled by this watchdog."""
    _writing_since = 0.0
    """Loop time of the first check since the start of the pending write to the client, or `_UNSEEN`. 0: no write is
    pending."""
    on_unread: Callable[[], None] | None = None
    """Called at each check while the client lets the reply wait. None: nobody needs to know."""
    _ping_seconds = FIRST_PING_SECONDS
    _pinged_at = 0.0
    """Loop time of the latest ping. 0: none."""
    _ping_task: asyncio.Task[None] | None = None
    _disconnect_task: asyncio.Task[None] | None = None
    _timer: asyncio.Handle | None = None
    """Timer for the next check. None: it is the first one. It may have no `when()`: uvloop returns another handle
    if the time has come."""

    def __init__(
        self,
        *,
        wait_disconnected: Callable[[], Awaitable[None]],
        on_idle: Callable[[], Awaitable[None]] | None,
        first_byte_seconds: float,
        idle_seconds: float,
        write_seconds: float = WRITE_TIMEOUT_SECONDS,
        first_checks: FirstChecks | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.now = loop.time
        """Function that returns the time on the loop clock, in seconds, of all times here."""
        now = loop.time()
        self._upstream_at = now
        """Loop time of the last bytes from the provider."""
        self._client_at = now
        """Loop time of the last bytes to the client that were no ping."""
        self.upstream_limit = first_byte_seconds
        """Current limit on the time without bytes from the provider, in seconds."""
        self._idle_seconds = idle_seconds
        """Limit on the time without bytes once the first ones have arrived, in seconds."""
        self._first_byte_seconds = first_byte_seconds
        self._write_seconds = write_seconds
        self._on_idle = on_idle
        """Function that sends a ping to the client. None: the client requested no stream."""
        self._exchange = asyncio.current_task(loop)
        self._wait_disconnected = wait_disconnected
        self._first_checks = first_checks or FirstChecks()
        self._first_checks.add(self._check, loop)

    def begin_upstream_call(self) -> None:
        self._calling = True
        self._upstream_at = self.now()
        self.upstream_limit = self._first_byte_seconds

    def end_upstream_call(self) -> None:
        self._calling = False

    def resume_upstream_call(self) -> None:
        """Continue a call that was ended although more may come from the provider."""
        self._calling = True
        self._upstream_at = self.now()

    def note_bytes(self) -> None:
        """Record that bytes have arrived from the provider."""
        self._upstream_at = self.now()

    def note_content(self) -> None:
        """Record that content has arrived, which limits the time until further bytes.

        What arrives before it shows no more than that the model thinks: some send the first event at once, and nothing
        for minutes.
        """
        self._upstream_at = self.now()
        self.upstream_limit = self._idle_seconds

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the last write to the client that was no ping, whatever the provider sends."""
        return self.now() - self._client_at

    def begin_write(self) -> None:
        """Begin a write to the client. Meanwhile the provider is not idle, because nothing is read from it."""
        self._writing_since = _UNSEEN

    def end_write(self) -> None:
        """End a write to the client. The times without bytes, of the provider and for the client, begin again."""
        self._writing_since = 0.0
        self._upstream_at = self.now()
        self._client_at = self._upstream_at

    def recover_from_idle(self) -> bool:
        """Undo a cancellation that an idle provider caused, and return True. False: it has another reason."""
        if self.reason != "upstream silent" or self._exchange is None:
            return False
        self.reason = ""
        self._exchange.uncancel()
        self._upstream_at = self.now()
        self._schedule(self._upstream_at)
        return True

    def stop(self) -> None:
        """Stop the timer and tasks, and delete all references to the client request, to free memory."""
        if self._exchange is None:
            return
        if self._timer is None:
            self._first_checks.cancel(self._check)
        else:
            self._timer.cancel()
        if self._disconnect_task is not None:
            self._disconnect_task.cancel()
        if self._ping_task is not None:
            self._ping_task.cancel()
        self._disconnect_task = None
        self._ping_task = None
        self._exchange = None
        self._on_idle = self.on_unread = None

    def _schedule(self, now: float) -> None:
        """Set the timer to the next time at which a limit can be reached or a ping is due."""
        # until the next check, the limit may become the shorter one
        shortest = max(min(self._first_byte_seconds, self._idle_seconds), FIRST_CHECK_DELAY_SECONDS)
        at = min(self._upstream_at + self.upstream_limit, now + shortest)
        if self._on_idle is not None:
            at = min(at, max(self._client_at, self._pinged_at) + self._ping_seconds)
        if self.on_unread is not None:
            at = min(at, now + UNREAD_CHECK_SECONDS)
        self._timer = self._loop.call_at(at, self._check)

    def _check(self) -> None:
        now = self.now()
        if self._disconnect_task is None:
            self._disconnect_task = self._loop.create_task(self._watch_client())
        if self._writing_since:
            self._writing_since = min(self._writing_since, now)
            if now >= self._writing_since + self._write_seconds:
                self._end("gone")
                return
            self._upstream_at = self._client_at = now
            if self.on_unread is not None and now >= self._writing_since + UNREAD_SECONDS:
                self.on_unread()
        elif not self._calling:
            self._upstream_at = now
        if now >= self._upstream_at + self.upstream_limit:
            self._end("upstream silent")
            return
        if self._on_idle is not None and now >= max(self._client_at, self._pinged_at) + self._ping_seconds:
            self._pinged_at = now
            self._ping_seconds = PING_SECONDS
            if self._ping_task is None or self._ping_task.done():
                self._ping_task = self._loop.create_task(_suppress_errors(self._on_idle))
        self._schedule(now)

    async def _watch_client(self) -> None:
        await self._wait_disconnected()
        self._end("gone")

    def _end(self, reason: Literal["gone", "upstream silent"]) -> None:
        if not self.reason and self._exchange is not None:
            self.reason = reason
            self._exchange.cancel()


async def end_if_disconnected(
    work: Coroutine[Any, Any, _Result], wait_disconnected: Callable[[], Awaitable[None]]
) -> _Result:
    """Return the result of work before the watchdog exists. It is cancelled if the client disconnects.

    Raises `ClientDisconnected`.
    """
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        await wait_disconnected()
        is_gone = True
        task.cancel()

    watch_task = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not is_gone:
            raise
        uncancel()
        raise ClientDisconnected from None
    finally:
        watch_task.cancel()


async def _suppress_errors(on_idle: Callable[[], Awaitable[None]]) -> None:
    try:
        await on_idle()
    except OSError:
        return  # disconnected; `_watch_client` reports it


def uncancel() -> None:
    """Undo the watchdog's cancellation of the current task."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
