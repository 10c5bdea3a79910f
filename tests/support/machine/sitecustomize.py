"""Imported by the interpreter of a tested command: usual ports of this machine lead to the servers of the test.

A model server of this machine, such as Ollama at localhost:11434, would otherwise change what commands print.
"""

import os
import socket
from typing import Any

VARIABLE = "SERVERS_AT_LOCALHOST"
"""Variable with host and port that every usual port of this machine stands for. "": no server listens there."""
_NOBODY = "127.0.0.1:9"
_FIRST_FREE_PORT = 20_000
"""Usual ports of servers are smaller, and those of the test larger."""


def replace_localhost(connect: Any = socket.socket.connect) -> None:
    """Let connections of this process to usual ports lead to `VARIABLE`, if it is set."""
    if VARIABLE not in os.environ:
        return
    place = os.environ.pop(VARIABLE).removeprefix("http://") or _NOBODY  # a started program does not show it
    address, _, number = place.rpartition(":")

    def connect_elsewhere(self: socket.socket, given: Any) -> None:
        host, port = given[:2] if isinstance(given, tuple) else ("", 0)
        if port < _FIRST_FREE_PORT and host == "::1":
            raise ConnectionRefusedError(f"nobody listens at {host} in this test")
        is_usual = port < _FIRST_FREE_PORT and host == "127.0.0.1"
        connect(self, (address, int(number)) if is_usual else given)

    socket.socket.connect = connect_elsewhere  # type: ignore[method-assign, assignment]


replace_localhost()
