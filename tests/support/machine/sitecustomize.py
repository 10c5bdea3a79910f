"""Imported by the interpreter of a tested command: the name localhost leads to the servers of the test.

A model server of this machine, such as Ollama at localhost:11434, would otherwise change what commands print.
"""

import os
import socket
from typing import Any

VARIABLE = "SERVERS_AT_LOCALHOST"
"""Variable with host and port that every port of the name localhost stands for. "": no server listens there."""
_NOBODY = "127.0.0.1:9"


def replace_localhost(look_up: Any = socket.getaddrinfo) -> None:
    """Let look-ups of this process find `VARIABLE`, if it is set."""
    if VARIABLE not in os.environ:
        return
    place = os.environ.pop(VARIABLE).removeprefix("http://") or _NOBODY  # a started program does not show it
    address, _, number = place.rpartition(":")

    def find(host: Any, port: Any, *others: Any, **named: Any) -> Any:
        return (
            look_up(address, number, *others, **named) if host == "localhost" else look_up(host, port, *others, **named)
        )

    socket.getaddrinfo = find


replace_localhost()
