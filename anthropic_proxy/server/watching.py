"""Notices that a file has changed, and that a terminal has gone."""

import os

LOOK_SECONDS = 0.5
"""Between two looks at a file."""
_TERMINALS = (0, 1, 2)


class FileWatch:
    """Looks at one file again and again; it need not exist."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known = self._seen = self._state()

    def look(self) -> bool:
        """Say whether it has changed, and is as it was at the last look: who writes it may not be done before."""
        before, self._seen = self._seen, self._state()
        if self._seen != before or self._seen == self._known:
            return False
        self._known = self._seen
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


class Terminal:
    """The terminal that a process was started at, if any: SIGHUP means something else once it is closed."""

    def __init__(self) -> None:
        self._ours = [number for number in _TERMINALS if _is_terminal(number)]

    def gone(self) -> bool:
        """Say whether there was one and it was closed."""
        return bool(self._ours) and not any(_is_terminal(number) for number in self._ours)


def _is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False
