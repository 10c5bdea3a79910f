"""Replacement of standard streams (stdin, stdout, stderr) that were closed before the process started (`2>&-`)."""

import os
import sys


def open_missing_streams() -> None:
    """Open the null device in place of each closed standard stream. Call this before any other file is opened.

    Otherwise the next socket gets descriptor number 0, 1 or 2, and C code that prints to stderr writes to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
