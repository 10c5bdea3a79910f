"""Files that several processes share: a lock of a folder, replacement of files in use, detection of changes.

The lock is held on the folder and not on a file in it, because a replaced file has another identity. Windows cannot
lock folders, so a file in the folder is locked there. The system releases the lock when the process ends, also after a
crash.
"""

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_CONFIG_BYTES = 4 * 1024 * 1024
"""Maximum bytes of a settings file without a limit of its own, such as a configuration file with 10,000 routes."""

LOCK_SECONDS = 5.0
"""Maximum seconds of the wait for a lock."""
WATCH_INTERVAL_SECONDS = 0.5
"""Seconds between two calls of `FileWatch.has_changed`."""
_RETRY_SECONDS = 0.02
_REPLACE_ATTEMPTS, _REPLACE_PAUSE_SECONDS = 10, 0.05


@contextmanager
def locked_folder(folder: Path, timeout_seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of a folder, so that only one thread or process at a time replaces a file in it.

    Raises `TimeoutError` after `timeout_seconds` (None: `LOCK_SECONDS`), and `OSError` if the folder cannot be opened.
    """
    descriptor = _open(folder)
    try:
        _lock(descriptor, LOCK_SECONDS if timeout_seconds is None else timeout_seconds)
        yield
    finally:
        os.close(descriptor)


def may_keep_owner(status: os.stat_result) -> bool:
    """Return True if this process may write a file again without a change of its owner."""
    return sys.platform == "win32" or os.geteuid() in (0, status.st_uid)


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
        return os.open(folder / ".anthropic-proxy.lock", os.O_RDWR | os.O_CREAT)

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLOCK):
                raise
            return False
        return True

    def _is_locked(descriptor: int) -> bool:
        # there is no shared lock, so this one may be held by another check, which ends within this time
        try:
            _lock(descriptor, 0.1)
        except TimeoutError:
            return True
        return False

else:
    import fcntl

    _UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
    """Error numbers of file systems without locks, such as some network file systems."""

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


def repeat_while_read(change: Callable[[], object]) -> None:
    """Replace or remove a file, which fails on Windows while another process reads the file. Raises `OSError`."""
    for _ in range(_REPLACE_ATTEMPTS - 1):
        try:
            change()
        except PermissionError:
            time.sleep(_REPLACE_PAUSE_SECONDS)
        else:
            return
    change()


class FileWatch:
    """Detector of changed files, by modification time, size and inode. Creation and deletion are changes too."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._reported = self._latest = self._read_state()

    def has_changed(self) -> bool:
        """Return True once for each change of the files.

        A change is reported when two successive calls find the same new state, because a file may at first be
        incomplete.
        """
        before, self._latest = self._latest, self._read_state()
        if self._latest != before or self._latest == self._reported:
            return False
        self._reported = self._latest
        return True

    def _read_state(self) -> list[tuple[int, int, int] | None]:
        states: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                states.append(None)
            else:
                states.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return states


def write_whole_file(file: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file of which no reader sees a part. Its folder is created. Raises `OSError`.

    `mode`: permissions, without those that the umask of the process removes.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda path, flags: os.open(path, flags, mode)) as stream:
            stream.write(content)
        repeat_while_read(lambda: temporary.replace(file))
    finally:
        with suppress(OSError):
            temporary.unlink()


def is_written_by_user_only(file: Path) -> bool:
    """Return True if a file exists, belongs to the current user, and no other user may change it."""
    try:
        status = file.stat(follow_symlinks=False)
    except OSError:
        return False
    return sys.platform == "win32" or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def find_volatile_folder() -> Path | None:
    """Return a folder for files of this user that a restart of the system may remove: in memory, or on another disk
    than the home directory. It may not exist. None: the system has none, or another user has made it.
    """
    if sys.platform == "win32":
        return None
    root = next((root for root in ("/dev/shm", "/tmp") if os.access(root, os.W_OK | os.X_OK)), "")
    folder = Path(root, f"anthropic-proxy-{os.getuid()}")
    return folder if root and (is_written_by_user_only(folder) or not os.path.lexists(folder)) else None


def managed_claude_settings_paths(environ: Mapping[str, str]) -> list[Path]:
    """Return the paths of the settings files with which an organization controls Claude Code on this machine."""
    if sys.platform == "win32":
        names = [environ.get("PROGRAMFILES", r"C:\Program Files"), environ.get("PROGRAMDATA", r"C:\ProgramData")]
        roots = [Path(name) / "ClaudeCode" for name in names]
    elif sys.platform == "darwin":
        roots = [Path("/Library/Application Support/ClaudeCode")]
    else:
        roots = [Path("/etc/claude-code")]
    return [
        file
        for root in roots
        for file in (root / "managed-settings.json", *sorted((root / "managed-settings.d").glob("*.json")))
    ]


class UnsuitableFileError(OSError):
    """Error: a file is too large for its purpose, or a device or pipe, which may have no end."""


def read_bounded_file(path: str | Path, max_bytes: int = MAX_CONFIG_BYTES) -> bytes:
    """Return the contents of a regular file. Raises `OSError`, also for a device, a pipe or a larger file."""
    # checked before it is opened: opening a pipe waits for a writer
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise UnsuitableFileError("it is no regular file")
    with open(path, "rb") as file:
        return require_size(file.read(max_bytes + 1), max_bytes)


def require_size(content: bytes, max_bytes: int) -> bytes:
    """Return `content`. Raises `UnsuitableFileError` if it is too large for the file of its kind."""
    if len(content) > max_bytes:
        raise UnsuitableFileError(f"it has more than {max_bytes:,} bytes")
    return content
