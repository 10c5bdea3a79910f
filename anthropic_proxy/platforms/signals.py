"""Signal handling during start-up, before the server process has installed its own signal handlers."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


def defer_sighup() -> None:
    """Make SIGTERM and SIGINT end the process at once, and block SIGHUP until `restore_sighup` is called.

    For the time of start-up, in which no request is served yet. By default, SIGHUP would end the process, and SIGINT
    would print a traceback.
    """
    signal.signal(signal.SIGTERM, exit_immediately)
    signal.signal(signal.SIGINT, exit_immediately)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def restore_sighup() -> None:
    """Unblock SIGHUP, which `defer_sighup` has blocked. A SIGHUP that arrived meanwhile is delivered now."""
    unblock_signals({signal.SIGHUP})


def exit_immediately(number: int = 0, frame: FrameType | None = None) -> None:
    """End the process at once with status 0, without cleanup. Usable as a signal handler, which ignores its arguments.

    An exception (`SystemExit`) would not be safe, because other code may catch it.
    """
    os._exit(0)


@contextmanager
def blocked_signals(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Block the given signals within a `with` statement. A child process that is started inside inherits the block."""
    signals = frozenset(signals)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        unblock_signals(signals)


def unblock_signals(signals: Iterable[signal.Signals]) -> None:
    """Unblock the given signals in this process. Those that arrived while they were blocked are delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
