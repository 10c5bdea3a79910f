"""Imported by the interpreter of a tested process: it finds only servers of the test, and has the clock of the test.

A model server of this machine, such as Ollama at localhost:11434, would otherwise change what commands print, and so
would the days on which models retire.
"""

import os
import socket
import time
from typing import Any

SERVERS = "SERVERS_AT_LOCALHOST"
"""Variable with host and port that every usual port of this machine stands for. "": no server listens there."""
CLOCK = "CLOCK_AHEAD_SECONDS"
"""Variable with the seconds by which the clock is ahead; a negative number: it is behind."""
_MONITOR_PAUSES = "EVENT_LOOP_MONITOR_PAUSES"
_NOBODY = "127.0.0.1:9"
_FIRST_FREE_PORT = 20_000
"""Usual ports of servers are smaller, and those of the test larger."""


def set_up() -> None:
    """Follow the variables of this process, and remove them, so that no program that it starts shows them."""
    place, ahead = os.environ.pop(SERVERS, None), os.environ.pop(CLOCK, None)
    if place is not None:
        _replace_localhost(place.removeprefix("http://") or _NOBODY)
    if ahead is not None:
        move_clock(float(ahead))


def move_clock(seconds: float) -> None:
    import time_machine  # slow; the process that forks commands has imported it

    time_machine.travel(time.time() + seconds).start()


def _replace_localhost(place: str, connect: Any = socket.socket.connect) -> None:
    """Let connections of this process to usual ports lead to `place`."""
    address, _, number = place.rpartition(":")

    def connect_elsewhere(self: socket.socket, given: Any) -> None:
        host, port = given[:2] if isinstance(given, tuple) else ("", 0)
        if port < _FIRST_FREE_PORT and host == "::1":
            raise ConnectionRefusedError(f"nobody listens at {host} in this test")
        is_usual = port < _FIRST_FREE_PORT and host == "127.0.0.1"
        connect(self, (address, int(number)) if is_usual else given)

    socket.socket.connect = connect_elsewhere  # type: ignore[method-assign, assignment]


if __name__ == "sitecustomize":
    set_up()
    if _MONITOR_PAUSES in os.environ:
        import event_loop_monitor  # type: ignore[import-not-found]  # noqa: F401
