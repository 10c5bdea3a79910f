"""Signals of the server process. Windows has no SIGHUP, but SIGBREAK (Ctrl+Break)."""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

if sys.platform == "win32":
    STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGBREAK})
    """Signals that stop the server. On Windows, SIGTERM is raised by the process itself only."""
    RELOAD_SIGNAL: signal.Signals | None = None
    """Signal that reloads the settings: SIGHUP. None on Windows; `serve --watch-config` reloads there."""
    INTERACTIVE_SIGNALS = frozenset({signal.SIGINT, signal.SIGBREAK})
    """Signals that a terminal sends to all of its processes."""
else:
    STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
    RELOAD_SIGNAL = signal.SIGHUP
    INTERACTIVE_SIGNALS = frozenset({signal.SIGINT, signal.SIGHUP})
SUPERVISOR_SIGNALS = STOP_SIGNALS if RELOAD_SIGNAL is None else STOP_SIGNALS | {RELOAD_SIGNAL}
"""Signals that a supervisor handles and sends to its workers as commands: all stop signals and the reload signal."""


def defer_sighup() -> None:
    """Call this at the start: SIGHUP has no handler yet and would end the process. A stop needs no cleanup yet."""
    for number in STOP_SIGNALS:
        signal.signal(number, exit_immediately)
    if RELOAD_SIGNAL is not None:
        _block({RELOAD_SIGNAL})


def restore_sighup() -> None:
    if RELOAD_SIGNAL is not None:
        unblock_signals({RELOAD_SIGNAL})


def restore_default_signals() -> None:
    """Restore the usual signal handling of Python programs, for a command that is not a server. Ctrl+C then raises
    `KeyboardInterrupt`, and SIGTERM and SIGHUP end the process.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    restore_sighup()


def exit_immediately(number: int = 0, frame: FrameType | None = None) -> None:
    """Status 0, without cleanup. Usable as a signal handler."""
    # an exception (`SystemExit`) would not be safe, because other code may catch it
    os._exit(0)


@contextmanager
def blocked_signals(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """No effect on Windows."""
    # a child process that is started inside inherits the blocked signals
    signals = frozenset(signals)
    _block(signals)
    try:
        yield
    finally:
        unblock_signals(signals)


def unblock_signals(signals: Iterable[signal.Signals]) -> None:
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _block(signals: Iterable[signal.Signals]) -> None:
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)


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
        def __init__(self, expire: Callable[[], None]) -> None:
            self._expire = expire
            self._thread: threading.Timer | None = None

        def start(self, seconds: float) -> None:
            """May be called in a signal handler."""
            self.stop()
            self._thread = threading.Timer(seconds, self._expire)
            self._thread.daemon = True
            self._thread.start()

        def stop(self) -> None:
            if self._thread is not None:
                self._thread.cancel()

else:

    class _Timer:
        """Timer that calls a function in the main thread, as the handler of SIGALRM."""

        def __init__(self, expire: Callable[[], None]) -> None:
            signal.signal(signal.SIGALRM, lambda number, frame: expire())

        def start(self, seconds: float) -> None:
            """May be called in a signal handler."""
            signal.setitimer(signal.ITIMER_REAL, seconds)

        def stop(self) -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)


def add_signal_callback(number: signal.Signals, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:

    def schedule(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    signal.signal(number, schedule)


class StopSignals:
    """Handlers of stop signals, which call `stop`, and timers that end a process that does not stop. Before a timer
    ends the process, `report` is called to log the requests in progress.
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
        self._loop = loop
        self._timer = _Timer(self._end)
        for number in signals:
            signal.signal(number, self._receive)

    def cancel_timers(self) -> None:
        """Call this when the server has stopped completely. The handlers remain installed."""
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


def new_event_loop() -> asyncio.AbstractEventLoop:
    if sys.platform != "win32":
        with suppress(ImportError):
            import uvloop  # noqa: PLC0415

            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def request_reload(process: int) -> None:
    """Ask a server process of the same user to reload its settings. Raises `OSError`, and does nothing on Windows."""
    if RELOAD_SIGNAL is not None:
        os.kill(process, RELOAD_SIGNAL)
