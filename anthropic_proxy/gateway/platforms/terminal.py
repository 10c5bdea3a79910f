"""Detection of a closed terminal, to distinguish the two causes of SIGHUP: request to reload, or terminal closed."""

import ctypes
import io
import os
import signal
import sys
from contextlib import suppress

MAX_TERMINAL_CHECKS = 5
"""Number of times, one a second, that a server process checks after a SIGHUP whether the terminal has closed."""

if sys.platform == "win32":

    class Terminal:
        """Console from which this process was started. Windows ends the processes of a closed console."""

        def is_closed(self) -> bool:
            return False

else:

    class Terminal:
        """Terminal from which this process was started, if any.

        At SIGHUP, the server stops if the terminal is closed, and otherwise reloads its settings. Callers repeat the
        check for `MAX_TERMINAL_CHECKS` seconds, because a shell forwards SIGHUP before its terminal closes. A process
        that was started with `nohup` counts as one without a terminal.
        """

        def __init__(self) -> None:
            outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            self._descriptors = [] if outlives else [number for number in range(3) if _is_terminal(number)]
            self._has_controlling = bool(self._descriptors) and _has_controlling_terminal()
            self._leader = os.getsid(0)
            self._has_leader = bool(self._descriptors) and _exists(self._leader)

        def is_closed(self) -> bool:
            if not self._descriptors:
                return False
            if not any(map(_is_terminal, self._descriptors)):
                return True
            return (self._has_controlling and not _has_controlling_terminal()) or (
                self._has_leader and not _exists(self._leader)
            )

    def _is_terminal(number: int) -> bool:
        try:
            return os.isatty(number)
        except OSError:
            return False

    def _has_controlling_terminal() -> bool:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def _exists(process: int) -> bool:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


_UTF_8_OUTPUT = 65001
_STDOUT_HANDLE, _STDERR_HANDLE = -11, -12
"""Numbers of the console handles on Windows (`GetStdHandle`), for standard output and standard error."""
_VIRTUAL_TERMINAL_PROCESSING = 4
"""Bit of the console mode on Windows: the console interprets color sequences (ANSI)."""


def open_missing_streams() -> None:
    """Call this before any other file is opened."""
    # otherwise the next socket gets descriptor 0, 1 or 2, and C code that prints to stderr writes to a client
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    if sys.platform == "win32":
        with suppress(OSError):
            kernel = ctypes.WinDLL("kernel32")
            kernel.SetConsoleOutputCP(_UTF_8_OUTPUT)
            for number in (_STDOUT_HANDLE, _STDERR_HANDLE):
                handle, mode = ctypes.c_void_p(kernel.GetStdHandle(number)), ctypes.c_uint32()
                if kernel.GetConsoleMode(handle, ctypes.byref(mode)):
                    kernel.SetConsoleMode(handle, mode.value | _VIRTUAL_TERMINAL_PROCESSING)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of users may have letters that its charset lacks
