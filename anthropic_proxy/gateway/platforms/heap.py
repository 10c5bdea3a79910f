"""Memory of the server process: return of free memory to the system, and less work for Python's garbage collector.

The functions about the heap need glibc. With another C library they have no effect, and the measurement is infinite.
"""

import ctypes
import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

RETAINED_FREE_BYTES = 32 * 1024 * 1024
"""Freed bytes that glibc keeps at the top of the heap for later requests: the maximum size of a request body."""
TRIM_AFTER_IDLE_SECONDS = 10.0
"""Seconds without a finished request after which `HeapTrimmer` returns all free heap memory to the system."""
_GC_THRESHOLDS = (10_000, 10, 10)
"""Thresholds of the garbage collector (`gc.set_threshold`). CPython's default for the first one is 700."""
_BURST_BYTES = 4 << 20
"""Bytes of finished requests since the last trim above which the heap is trimmed after a burst of requests."""
_BURST_END_BYTES = 1 << 20
"""Minimum bytes of requests that finish within one second of a burst. With fewer bytes, the burst is over."""
_FREE_BYTES = 8 << 20
"""Minimum free bytes in the heap for a trim after a burst."""
_TRIM_INTERVAL_SECONDS = 5.0
"""Minimum seconds between two trims of the heap during a burst of requests."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Option numbers for `mallopt` (malloc.h). Setting one of the thresholds ends glibc's dynamic adjustment of both."""


def tune_gc() -> None:
    """Exclude all present objects from garbage collection, and collect less often. Call this at the end of start-up."""
    # requests create no cycles; with the default thresholds, one large request in ten waits for a full collection
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


@contextmanager
def permanent_objects() -> Iterator[None]:
    """Exclude what is loaded in the block from garbage collection, because it stays until the end of the process.

    No collection runs meanwhile, and the other present objects are excluded too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def retain_freed_memory() -> None:
    """Make glibc keep freed memory at the top of the heap for later requests, up to `RETAINED_FREE_BYTES`.

    All threads share this heap. Call this before the first of them starts.
    """
    # threads take turns in the interpreter, so a heap for each of them would only add free memory
    if (option := _find("mallopt")) is not None:
        option(_M_TRIM_THRESHOLD, RETAINED_FREE_BYTES)
        option(_M_MMAP_THRESHOLD, RETAINED_FREE_BYTES)
        option(_M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Return the freed memory of the whole heap to the system. Blocks for milliseconds."""
    if (trim := _find("malloc_trim")) is not None:
        trim(0)


def measure_unallocated_heap_bytes() -> float:
    """Return the number of free bytes in the heap, which belong to no allocation. Infinity: the number is unknown.

    The number includes pages that were already returned to the system.
    """
    if (describe := _find("mallinfo2")) is None:
        return math.inf
    describe.restype = _Heap
    return float(describe().fordblks)


class HeapTrimmer:
    """Returns free heap memory to the system after a burst of large requests.

    The server calls `trim_if_due` once a second.
    """

    # A trim does not free objects below 512 bytes, which Python stores in its own arenas. Measured with 500 streams
    # after simultaneous requests of 120 KB: each holds 300 KiB, and 45 KiB after a trim, which takes 20 ms.

    def __init__(
        self,
        measure_free: Callable[[], float] = measure_unallocated_heap_bytes,
        trim_heap: Callable[[], object] = trim_heap,
    ) -> None:
        self._measure_free = measure_free
        self._trim_heap = trim_heap
        self._freed_bytes = self._freed_at_tick = self._freed_at_trim = 0
        """Bytes of finished requests: in total, at the last call of `trim_if_due`, at the last trim outside a burst."""
        self._busy_at = self._trimmed_at = 0.0
        """Monotonic seconds of the last second with a finished request, and of the last trim."""

    def count_freed_bytes(self, byte_count: int) -> None:
        self._freed_bytes += byte_count

    def trim_if_due(self, now: float) -> None:
        """Return free heap memory to the system if requests have freed much memory, or if the server has become idle.

        Call this once a second. `now` is in monotonic seconds.
        """
        fresh, self._freed_at_tick = self._freed_bytes - self._freed_at_tick, self._freed_bytes
        if fresh:
            self._busy_at = now
        in_burst = fresh >= _BURST_END_BYTES
        since = self._freed_bytes - self._freed_at_trim
        if in_burst:
            is_due = now - self._trimmed_at >= _TRIM_INTERVAL_SECONDS and self._measure_free() > RETAINED_FREE_BYTES
        elif now - self._busy_at >= TRIM_AFTER_IDLE_SECONDS:
            is_due = since > 0
        else:
            is_due = since >= _BURST_BYTES and self._measure_free() >= _FREE_BYTES
        if is_due:
            if not in_burst:
                self._freed_at_trim = self._freed_bytes
            self._trimmed_at = now
            self._trim_heap()


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of malloc.h, the heap statistics of glibc. `fordblks`: free bytes."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def _find(name: str) -> Any:
    """Return the function called `name` of the C library. None: it does not exist (musl, macOS, Windows)."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
