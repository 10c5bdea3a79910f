"""Signals that come before there is anything that they could be told to."""

import os
import signal
from types import FrameType


def hold_back() -> None:
    """Until a server listens to signals itself: let SIGTERM and SIGINT end the process at once, and SIGHUP wait.

    Nothing is lost by that, because nothing is served yet. By default SIGHUP would end it, and SIGINT with a trace.
    """
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def let_through() -> None:
    """Let SIGHUP come, also one that has waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def leave(number: int = 0, frame: FrameType | None = None) -> None:
    """End the process with status 0, whatever it is doing: an exception could be raised anywhere, and caught there."""
    os._exit(0)
