"""Child processes of commands: a server that Ctrl+C does not stop, and a client that shares the terminal."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

_EXIT_BY_SIGNAL = 128
"""Added to the number of a signal: the exit status that shells report for a program ended by the signal."""


def background_options() -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a child process that Ctrl+C in the terminal does not stop."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def stop_at_end_of_input() -> None:
    """Start a thread that stops this process (SIGTERM) when its standard input ends.

    The parent process holds the other end of the pipe. The kernel closes that end too if the parent is killed.
    """

    def wait() -> None:
        while os.read(0, 4096):
            pass
        signal.raise_signal(signal.SIGTERM) if sys.platform == "win32" else os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-of-input", daemon=True).start()


def run_in_foreground(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a program in the terminal of this process and return its exit status, as a shell reports it.

    Ctrl+C reaches the program directly. SIGTERM and SIGHUP to this process are sent on to the program. Raises `OSError`
    if the program cannot be started.
    """
    with subprocess.Popen(command, env=environment) as process, _forwarded_signals(process.send_signal):
        status = process.wait()
    return status if status >= 0 else _EXIT_BY_SIGNAL - status


@contextmanager
def _forwarded_signals(send: Callable[[int], None]) -> Iterator[None]:
    """Within a `with` statement, send stop signals on by `send` and ignore SIGINT. Afterwards restore the handlers."""

    def forward(number: int, frame: FrameType | None) -> None:
        send(number)

    def ignore(number: int, frame: FrameType | None) -> None:
        return

    handlers = {signal.SIGINT: ignore, signal.SIGTERM: forward}
    if sys.platform != "win32":
        handlers[signal.SIGHUP] = forward
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
