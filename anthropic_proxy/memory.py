"""The memory of this process, as its C library manages it; where that is not glibc, nothing is changed."""

import ctypes
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


def _find(name: str) -> Any:
    """Return a function of the C library; None: it has none of that name (musl, macOS; Windows takes no None)."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
