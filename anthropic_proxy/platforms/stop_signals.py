"""Signal handlers that stop the server process, even if its event loop is blocked.

`StopSignals` installs the handlers of stop signals. `add_signal_callback` installs a handler for another signal, such
as SIGHUP. The handler of a stop signal starts two timers, which `StopSignals.cancel_timers` cancels when the server has
stopped. At the end of the first timer, the requests in progress are logged and the process ends. The second timer is
longer, and ends the process even if Python code can no longer run (`faulthandler`).
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

EXIT_EVENT_LOOP_BLOCKED = 1
"""Exit status of a process that a stop signal ends while its event loop is blocked."""
LOOP_RESPONSE_TIMEOUT_SECONDS = 1.0
"""Seconds for the event loop to respond to the second stop signal. Afterwards the process ends."""
_MARGIN_SECONDS = 3.0
"""Seconds after the end of the first timer at which `faulthandler` ends the process, if it still runs.

Both timers run on while the machine pauses the process. A short margin would then lose the list of requests.
"""
_STDERR = 2

if sys.platform == "win32":

    class _Timer:
        """Timer that calls a function in a thread of its own."""

        def __init__(self, expire: Callable[[], None]) -> None:
            self._expire = expire
            self._thread: threading.Timer | None = None

        def start(self, seconds: float) -> None:
            """Start the timer, or start it again. It may be called in a signal handler."""
            self.stop()
            self._thread = threading.Timer(seconds, self._expire)
            self._thread.daemon = True
            self._thread.start()

        def stop(self) -> None:
            """Stop the timer."""
            if self._thread is not None:
                self._thread.cancel()

else:

    class _Timer:
        """Timer that calls a function in the main thread, as the handler of SIGALRM."""

        def __init__(self, expire: Callable[[], None]) -> None:
            signal.signal(signal.SIGALRM, lambda number, frame: expire())

        def start(self, seconds: float) -> None:
            """Start the timer, or start it again. It may be called in a signal handler."""
            signal.setitimer(signal.ITIMER_REAL, seconds)

        def stop(self) -> None:
            """Stop the timer."""
            signal.setitimer(signal.ITIMER_REAL, 0)


def add_signal_callback(number: signal.Signals, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Install a handler for the signal `number` that schedules `callback` in the event loop.

    A blocked event loop delays the callback.
    """

    def schedule(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    signal.signal(number, schedule)


class StopSignals:
    """Handlers of stop signals, which call `stop`, and timers that end a process that does not stop.

    Before a timer ends the process, `report` is called to log the requests in progress.
    """

    # The process ends with status 1 if the event loop does not respond within `loop_timeout` seconds, or if
    # `cancel_timers` is not called within `exit_timeout` seconds after the response.
    def __init__(
        self, stop: Callable[[], None], report: Callable[[], None], *, loop_timeout: float, exit_timeout: float
    ) -> None:
        self._stop = stop
        self._report = report
        self._loop_timeout = max(loop_timeout, LOOP_RESPONSE_TIMEOUT_SECONDS)
        self._exit_timeout = exit_timeout
        self._received = 0
        self._unanswered_since: float | None = None

    def install(self, loop: asyncio.AbstractEventLoop, signals: Iterable[signal.Signals]) -> None:
        """Install a handler for each of these stop signals.

        The handler schedules the call of `stop` in the event loop `loop`. It also starts the timers that end the
        process if it does not stop in time.
        """
        self._loop = loop
        self._timer = _Timer(self._end)
        for number in signals:
            signal.signal(number, self._receive)

    def cancel_timers(self) -> None:
        """Cancel the timers that would end the process. Call this when the server has stopped completely.

        The signal handlers remain installed.
        """
        self._timer.stop()
        faulthandler.cancel_dump_traceback_later()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now, since = time.monotonic(), self._unanswered_since
        self._received += 1
        if since is None:
            self._unanswered_since = now
        elif now - since >= LOOP_RESPONSE_TIMEOUT_SECONDS:
            self._end()
        self._start_timers(self._loop_timeout if self._received == 1 else LOOP_RESPONSE_TIMEOUT_SECONDS)
        self._loop.call_soon_threadsafe(self._respond)

    def _respond(self) -> None:
        if self._unanswered_since is not None:
            self._unanswered_since = None
            self._start_timers(self._exit_timeout)
        self._stop()

    def _start_timers(self, seconds: float) -> None:
        # this one first: another signal may arrive while a thread starts, and its times must stay
        faulthandler.dump_traceback_later(seconds + _MARGIN_SECONDS, exit=True, file=_STDERR)
        self._timer.start(seconds)

    def _end(self) -> None:
        # the report could wait for a lock that this thread holds
        faulthandler.dump_traceback_later(LOOP_RESPONSE_TIMEOUT_SECONDS + _MARGIN_SECONDS, exit=True, file=_STDERR)
        self._report()
        os._exit(EXIT_EVENT_LOOP_BLOCKED)
