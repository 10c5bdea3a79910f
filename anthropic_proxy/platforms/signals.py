"""Signal handling before the server has installed its own handlers."""

import os
import signal
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def exit_immediately(number: int = 0, frame: FrameType | None = None) -> None:
    """End the process with status 0. An exception instead could be caught anywhere."""
    os._exit(0)
