"""Preparation of the standard streams (stdin, stdout, stderr) of a process.

`open_missing_streams` replaces streams that the parent process has closed (`2>&-`). On Windows, it also prepares the
console for UTF-8 and colors.
"""

import ctypes
import os
import sys
from contextlib import suppress

_UTF_8_OUTPUT = 65001
_STDOUT_HANDLE, _STDERR_HANDLE = -11, -12
"""Numbers of the console handles on Windows (`GetStdHandle`), for standard output and standard error."""
_VIRTUAL_TERMINAL_PROCESSING = 4
"""Bit of the console mode on Windows: the console interprets color sequences (ANSI)."""


def open_missing_streams() -> None:
    """Open the null device in place of each closed standard stream. Call this before any other file is opened."""
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
        _prepare_console()
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _prepare_console() -> None:
    """Make the console of Windows accept UTF-8 and color sequences, which the log writes as bytes."""
    if sys.platform != "win32":
        return
    with suppress(OSError):
        kernel = ctypes.WinDLL("kernel32")
        kernel.SetConsoleOutputCP(_UTF_8_OUTPUT)
        for number in (_STDOUT_HANDLE, _STDERR_HANDLE):
            handle, mode = ctypes.c_void_p(kernel.GetStdHandle(number)), ctypes.c_uint32()
            if kernel.GetConsoleMode(handle, ctypes.byref(mode)):
                kernel.SetConsoleMode(handle, mode.value | _VIRTUAL_TERMINAL_PROCESSING)
