"""Detection of changes of the settings file (`.env`), for `serve --watch-config`."""

import os

POLL_INTERVAL_SECONDS = 0.5
"""Interval at which server process and supervisor call `FileWatch.has_changed`."""


class FileWatch:
    """Change detection for one file by its modification time, size and inode. Creation and deletion are changes too."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reported = self._latest = self._state()

    def has_changed(self) -> bool:
        """Return True if the file has changed since the last True, or since construction. Call this repeatedly.

        A change is reported by the second call that finds the same new state. At the first call, a program may still be
        writing the file.
        """
        before, self._latest = self._latest, self._state()
        if self._latest != before or self._latest == self._reported:
            return False
        self._reported = self._latest
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
