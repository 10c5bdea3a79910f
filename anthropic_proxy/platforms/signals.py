"""Signals of the server process: their names on each operating system, and functions that block or handle them.

`defer_sighup` blocks SIGHUP during the start-up, and makes stop signals end the process at once. `restore_sighup`
unblocks SIGHUP. `blocked_signals` blocks signals within a `with` statement. `restore_default_signals` is for commands
that are not a server. Windows has no SIGHUP, but SIGBREAK (Ctrl+Break).
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    """Block SIGHUP until `restore_sighup` is called, and make stop signals end the process at once.

    Call this at the beginning of the start-up. SIGHUP has no handler yet, so it would end the process. No request is
    served yet, so a stop needs no cleanup.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, exit_immediately)
    if RELOAD_SIGNAL is not None:
        _block({RELOAD_SIGNAL})


def restore_sighup() -> None:
    """Unblock SIGHUP, which `defer_sighup` has blocked. A SIGHUP that arrived in between is delivered now."""
    if RELOAD_SIGNAL is not None:
        unblock_signals({RELOAD_SIGNAL})


def restore_default_signals() -> None:
    """Restore the usual signal handling of Python programs, for a command that is not a server.

    Ctrl+C then raises `KeyboardInterrupt`, and SIGTERM and SIGHUP end the process.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    restore_sighup()


def exit_immediately(number: int = 0, frame: FrameType | None = None) -> None:
    """End the process at once with status 0, without cleanup. Usable as a signal handler."""
    # an exception (`SystemExit`) would not be safe, because other code may catch it
    os._exit(0)


@contextmanager
def blocked_signals(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Return a context manager that delays signals until the end of a `with` statement.

    The context manager has no effect on Windows.
    """
    # a child process that is started inside inherits the blocked signals
    signals = frozenset(signals)
    _block(signals)
    try:
        yield
    finally:
        unblock_signals(signals)


def unblock_signals(signals: Iterable[signal.Signals]) -> None:
    """Unblock the given signals in this process. Signals that arrived while they were blocked are delivered now."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _block(signals: Iterable[signal.Signals]) -> None:
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
