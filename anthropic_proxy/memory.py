"""The memory of this process, as its C library manages it; where that is not glibc, nothing is changed."""

import ctypes
import math
from collections.abc import Callable
from typing import Any

KEPT_BYTES = 32 * 1024 * 1024
"""What the process keeps of freed memory at most, at the end of its heap: as much as the largest body. glibc begins
with 128 KiB, so that the buffers of each larger request are taken from the kernel anew, page by page."""
QUIET_SECONDS = 10.0
"""After which all that is free is given back, when no request was let go of meanwhile."""
_RUSH_BYTES = 4 << 20
"""Of requests that were let go of, after which it is worth a look."""
_CALM_BYTES = 1 << 20
"""Of requests within a second, below which a rush is over: the next ones need little of what it left."""
_FREE_BYTES = 8 << 20
"""Free memory that is given back after a rush; requests that come one after another are served with less."""
_REST_SECONDS = 5.0
"""From one time to the next, as long as a rush lasts."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h; setting either ends glibc's own adjusting of both."""


def keep_freed() -> None:
    """Keep freed memory from here on."""
    if (option := _find("mallopt")) is not None:
        option(_M_TRIM_THRESHOLD, KEPT_BYTES)
        option(_M_MMAP_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Give freed memory back to the system, wherever in the heap it lies; takes milliseconds."""
    if (trim := _find("malloc_trim")) is not None:
        trim(0)


def count_free() -> float:
    """Return how many bytes of the heap are free, infinitely many where nobody knows; takes microseconds.

    Pages within the heap that were given back count too, for nobody has taken them again.
    """
    if (describe := _find("mallinfo2")) is None:
        return math.inf
    describe.restype = _Heap
    return float(describe().fordblks)


class Slack:
    """Is told what requests let go of, and has the allocator give back what lay between things that stay.

    It does so by itself only at the upper end of its heap, where the small things of a running stream soon lie: 500
    streams whose requests of 120 KB came at once hold 300 KiB each in its eyes, and 45 after this, which takes 20 ms.
    That holds for requests of few, long messages. Objects of less than 512 bytes lie in arenas of Python's own: where
    300 requests of 251 short messages come at once, something small of a stream stays in each arena, and 243 KiB a
    stream with it, which nothing here reaches; it is 30 KiB where they come one after another.
    """

    def __init__(self, free: Callable[[], float] = count_free, give_back: Callable[[], object] = give_back) -> None:
        self._free = free
        self._give_back = give_back
        self._let_go = self._seen = self._settled = 0
        """Bytes of requests that were let go of: in all, until the last look, and until a rush was last cleared up."""
        self._busy_at = self._given_back_at = 0.0

    def let_go(self, size: int) -> None:
        """Take note that so many bytes of a request are held no longer, whatever became of it."""
        self._let_go += size

    def look(self, now: float) -> None:
        """Give back what is free, where it is time to; to be called once a second. `now`: in seconds."""
        fresh, self._seen = self._let_go - self._seen, self._let_go
        if fresh:
            self._busy_at = now
        in_rush = fresh >= _CALM_BYTES
        if self._is_due_in_rush(now) if in_rush else self._is_due(now):
            if not in_rush:
                self._settled = self._let_go
            self._given_back_at = now
            self._give_back()

    def _is_due(self, now: float) -> bool:
        since = self._let_go - self._settled
        if now - self._busy_at >= QUIET_SECONDS:
            return since > 0
        return since >= _RUSH_BYTES and self._free() >= _FREE_BYTES

    def _is_due_in_rush(self, now: float) -> bool:
        return now - self._given_back_at >= _REST_SECONDS and self._free() > KEPT_BYTES


SLACK = Slack()
"""That of this process, which has one heap, however often its parts are built anew."""


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def _find(name: str) -> Any:
    """Return a function of the C library; None: it has none of that name (musl, macOS; Windows takes no None)."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
