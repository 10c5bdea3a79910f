"""Lock of a folder (`locked_folder`), so that only one thread or process at a time replaces a file in it.

`is_folder_locked` checks if any holds the lock. `repeat_while_read` replaces a file that others read without the lock.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# the folder is locked, because a replaced file has another identity; Windows locks a file in it
LOCK_SECONDS = 5.0
"""Maximum seconds of the wait for a lock."""
_RETRY_SECONDS = 0.02
_CHECK_SECONDS = 0.1
"""Maximum seconds for which a check waits on Windows for the end of another check."""
_ATTEMPTS, _PAUSE_SECONDS = 10, 0.05
_WINDOWS_LOCK_FILE = ".anthropic-proxy.lock"
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""Error numbers of file systems without locks, such as some network file systems."""


@contextmanager
def locked_folder(folder: Path, timeout_seconds: float | None = None) -> Iterator[None]:
    """Return a context manager that holds the lock of a folder.

    Raises `TimeoutError` after `timeout_seconds` (None: `LOCK_SECONDS`), and `OSError` if the folder cannot be opened.
    """
    # the system releases the lock at the end of the process, also after a crash
    descriptor = _open(folder)
    try:
        _lock(descriptor, LOCK_SECONDS if timeout_seconds is None else timeout_seconds)
        yield
    finally:
        os.close(descriptor)


def repeat_while_read(change: Callable[[], object]) -> None:
    """Replace or remove a file, which fails on Windows while another process reads the file. Raises `OSError`."""
    for _ in range(_ATTEMPTS - 1):
        try:
            change()
        except PermissionError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    change()


def is_folder_locked(folder: Path) -> bool:
    """Return True if a thread or process holds the lock of a folder. Simultaneous calls do not affect each other.

    A call may delay `locked_folder` for a moment. Raises `OSError` if the folder cannot be opened.
    """
    descriptor = _open(folder)
    try:
        return _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not _try_lock(descriptor):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(_RETRY_SECONDS)


if sys.platform == "win32":
    import msvcrt

    def _open(folder: Path) -> int:
        return os.open(folder / _WINDOWS_LOCK_FILE, os.O_RDWR | os.O_CREAT)

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLOCK):
                raise
            return False
        return True

    def _is_locked(descriptor: int) -> bool:
        # there is no shared lock: another check ends within this time
        try:
            _lock(descriptor, _CHECK_SECONDS)
        except TimeoutError:
            return True
        return False

else:
    import fcntl

    def _open(folder: Path) -> int:
        return os.open(folder, os.O_RDONLY)

    def _try_lock(descriptor: int) -> bool:
        return _try_flock(descriptor, fcntl.LOCK_EX)

    def _is_locked(descriptor: int) -> bool:
        return not _try_flock(descriptor, fcntl.LOCK_SH)

    def _try_flock(descriptor: int, kind: int) -> bool:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        return True
