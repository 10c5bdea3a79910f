"""Detection of changes of the settings file."""

import os

POLL_INTERVAL_SECONDS = 0.5
"""Interval at which callers check a watched file."""


class FileWatch:
    """Change detection for one file, which may be missing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reported = self._latest = self._state()

    def has_changed(self) -> bool:
        """Return whether the file has changed since the last True.

        A change is reported at the second call that finds the same state: before, a writer may not have finished.
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
