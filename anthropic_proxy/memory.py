"""The memory of this process, as its C library manages it; where that is not glibc, nothing is changed."""

import ctypes
import math
from typing import Any

KEPT_BYTES = 32 * 1024 * 1024
"""What the process keeps of freed memory at most, at the end of its heap: as much as the largest body. glibc begins
with 128 KiB, so that the buffers of each larger request are taken from the kernel anew, page by page."""
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
    """Return the bytes of the heap that are free, in microseconds; infinite where nobody knows."""
    if (describe := _find("mallinfo2")) is None:
        return math.inf
    describe.restype = _Heap
    return float(describe().fordblks)


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
