"""Detection of changes of the settings files, for `serve --watch-config`.

The server calls `FileWatch.has_changed` every `POLL_INTERVAL_SECONDS`.
"""

import os
from collections.abc import Sequence

POLL_INTERVAL_SECONDS = 0.5
"""Seconds between two calls of `FileWatch.has_changed` by the server process or the supervisor."""


class FileWatch:
    """Detector of changed files, by modification time, size and inode. Creation and deletion are changes too."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._reported = self._latest = self._state()

    def has_changed(self) -> bool:
        """Return True once for each change of the files.

        A change is reported when two successive calls find the same new state, because a file may at first be
        incomplete.
        """
        before, self._latest = self._latest, self._state()
        if self._latest != before or self._latest == self._reported:
            return False
        self._reported = self._latest
        return True

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(path) for path in self._paths]


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
