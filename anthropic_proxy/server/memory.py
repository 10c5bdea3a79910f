"""Freed memory is kept while requests come, and given back to the system in a pause."""

import ctypes
from collections.abc import Callable

KEPT_BYTES = 32 * 1024 * 1024
"""What the process keeps of freed memory at most, at the end of its heap: as much as the largest body. glibc begins
with 128 KiB, so that the buffers of each larger request are taken from the kernel anew, page by page."""
QUIET_SECONDS = 10.0
"""A pause after which what was kept is given back."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h; setting either ends glibc's own adjusting of both."""


class Heap:
    """The memory of this process, as its C library manages it; where that is not glibc, nothing is changed."""

    def __init__(self) -> None:
        self._trim: Callable[[int], object] | None = None
        self._served = self._trimmed_at = 0
        self._quiet_since = 0.0

    def keep(self) -> None:
        """Keep freed memory from here on, for this whole process."""
        try:
            library = ctypes.CDLL(None)
            library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
            library.mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
            self._trim = library.malloc_trim
        except (AttributeError, OSError, TypeError):  # musl, macOS; Windows takes no None
            return

    def look(self, served: int, now: float) -> None:
        """Give back what was kept, once in each pause.

        `served`: how many requests there were until `now`, in seconds; without probes, which come in every pause.
        """
        if served != self._served:
            self._served, self._quiet_since = served, now
        elif self._trim is not None and served != self._trimmed_at and now - self._quiet_since >= QUIET_SECONDS:
            self._trimmed_at = served
            self._trim(0)
