"""Signals during start-up, before a server has installed its handlers."""

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
    """Unblock SIGHUP, after `defer_sighup`. A pending SIGHUP is delivered."""
    unblock_signals({signal.SIGHUP})


def exit_immediately(number: int = 0, frame: FrameType | None = None) -> None:
    """End the process with status 0, as a signal handler. Raising an exception is no alternative: code may catch it."""
    os._exit(0)


@contextmanager
def blocked_signals(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals within a `with` statement. A process that is started in it begins with these signals blocked."""
    signals = frozenset(signals)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        unblock_signals(signals)


def unblock_signals(signals: Iterable[signal.Signals]) -> None:
    """Unblock signals of this process. Pending signals are delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
