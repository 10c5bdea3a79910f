"""Signals before a server has its handlers, and between the processes of a server."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


def defer_sighup() -> None:
    """End the process at SIGTERM and SIGINT, and block SIGHUP, until a server has installed its handlers.

    No request is served yet. By default SIGHUP would end the process, and SIGINT would print a traceback.
    """
    signal.signal(signal.SIGTERM, exit_immediately)
    signal.signal(signal.SIGINT, exit_immediately)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def restore_sighup() -> None:
    """Unblock SIGHUP. A pending one is delivered."""
    unblock_signals({signal.SIGHUP})


def exit_immediately(number: int = 0, frame: FrameType | None = None) -> None:
    """End the process with status 0. An exception instead could be caught anywhere."""
    os._exit(0)


@contextmanager
def blocked_signals(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals of this thread; a process that is started meanwhile begins with them blocked."""
    signals = frozenset(signals)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        unblock_signals(signals)


def unblock_signals(signals: Iterable[signal.Signals]) -> None:
    """Unblock signals of this thread. Pending ones are delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
