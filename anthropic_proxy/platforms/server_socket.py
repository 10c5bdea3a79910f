"""Options of a listening socket that differ by operating system."""

import socket
import sys


def reserve_address(listener: socket.socket) -> None:
    """Set the options of an unbound socket so that no other running program shares its address."""
    if sys.platform == "win32":
        # SO_REUSEADDR would permit the address of a running program on Windows
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        # the address of a program that has just ended can be used again
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
