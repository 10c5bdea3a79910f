"""Signals that stop a process, also if its event loop is blocked.

The handler runs in the main thread between two instructions of Python, and within regular expressions, so that a
blocked callback does not delay it. It starts two timers. One raises SIGALRM; its handler logs the requests in progress.
The other is a thread of `faulthandler` that needs no interpreter lock; it writes the stack and ends the process.
Only a call into C code that neither returns nor checks for signals delays the first signal itself.
"""

import asyncio
import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType

EXIT_BLOCKED = 1
"""Exit status of a process with a blocked event loop."""
RESPONSE_TIMEOUT_SECONDS = 1.0
"""Time for an event loop to respond to the second signal."""
_MARGIN_SECONDS = 0.5
"""Time from SIGALRM to the end without a log line."""
_STDERR = 2


def call_at_signal(number: signal.Signals, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call `callback` in the event loop for each signal `number`, unless the loop is blocked."""

    def schedule(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    signal.signal(number, schedule)


class StopSignals:
    """Handlers that call `stop` in the event loop for each signal.

    If the event loop does not respond, they call `report` and end the process.

    `patience`: seconds for the response to the first signal. `total`: seconds from a response to the end of the
    process.
    """

    def __init__(self, stop: Callable[[], None], report: Callable[[], None], *, patience: float, total: float) -> None:
        self._stop = stop
        self._report = report
        self._patience = max(patience, RESPONSE_TIMEOUT_SECONDS)
        self._total = total
        self._received = 0
        self._unanswered_since: float | None = None

    def install(self, loop: asyncio.AbstractEventLoop, signals: Iterable[signal.Signals]) -> None:
        """Install the handlers of these signals."""
        self._loop = loop
        signal.signal(signal.SIGALRM, self._end)
        for number in signals:
            signal.signal(number, self._receive)

    def uninstall(self) -> None:
        """Stop the timers, because the process is ending. The handlers stay installed."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now, since = time.monotonic(), self._unanswered_since
        self._received += 1
        if since is None:
            self._unanswered_since = now
        elif now - since >= RESPONSE_TIMEOUT_SECONDS:
            self._end()
        self._start_timers(self._patience if self._received == 1 else RESPONSE_TIMEOUT_SECONDS)
        self._loop.call_soon_threadsafe(self._respond)

    def _respond(self) -> None:
        if self._unanswered_since is not None:
            self._unanswered_since = None
            self._start_timers(self._total)
        self._stop()

    def _start_timers(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        faulthandler.dump_traceback_later(seconds + _MARGIN_SECONDS, exit=True, file=_STDERR)

    def _end(self, number: int = 0, frame: FrameType | None = None) -> None:
        # the report could wait for a lock that this thread holds
        faulthandler.dump_traceback_later(RESPONSE_TIMEOUT_SECONDS + _MARGIN_SECONDS, exit=True, file=_STDERR)
        self._report()
        os._exit(EXIT_BLOCKED)
