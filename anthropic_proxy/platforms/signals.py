"""Signals of the server process: their names on each operating system, and their handling during start-up.

Windows has no SIGHUP, and no process can send SIGTERM there. It has SIGBREAK instead: Ctrl+Break, which a parent
process can also send to a process group (`CTRL_BREAK_EVENT`). `blocked_signals` blocks signals for a time: a blocked
signal is delivered after `unblock_signals`; `restore_interrupts` is for commands that are no server.
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
    """Make stop signals end the process at once, and block SIGHUP until `restore_sighup` is called.

    Called at the beginning of the start-up, in which no request is served yet. By default, SIGHUP would end the
    process, and SIGINT would print a traceback.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, exit_immediately)
    if RELOAD_SIGNAL is not None:
        _block({RELOAD_SIGNAL})


def restore_sighup() -> None:
    """Unblock SIGHUP, which `defer_sighup` has blocked. A SIGHUP that arrived in between is delivered now."""
    if RELOAD_SIGNAL is not None:
        unblock_signals({RELOAD_SIGNAL})


def restore_interrupts() -> None:
    """Make Ctrl+C raise `KeyboardInterrupt`, and SIGTERM and SIGHUP end the process, as in any Python program.

    For commands that are not a server. `defer_sighup` has set other handlers at the start of the process. A terminal
    sends SIGHUP when it is closed.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    restore_sighup()


def exit_immediately(number: int = 0, frame: FrameType | None = None) -> None:
    """End the process at once with status 0, without cleanup. Usable as a signal handler, which ignores its arguments.

    An exception (`SystemExit`) would not be safe, because other code may catch it.
    """
    os._exit(0)


@contextmanager
def blocked_signals(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Block the given signals within a `with` statement. A child process that is started inside inherits the block.

    No effect on Windows, which cannot block signals.
    """
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
