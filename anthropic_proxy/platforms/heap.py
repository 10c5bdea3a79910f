"""Heap settings of glibc, and thresholds of the garbage collector. With another C library the heap stays as it is."""

import ctypes
import gc
import math
from collections.abc import Callable
from typing import Any

RETAINED_FREE_BYTES = 32 * 1024 * 1024
"""Freed memory that is kept at the end of the heap: the size of the largest body. With the default of glibc (128 KiB)
each larger request gets its buffers page by page from the kernel."""
TRIM_AFTER_IDLE_SECONDS = 10.0
"""Time without freed requests after which all free memory is returned."""
_GC_THRESHOLDS = (10_000, 10, 10)
"""Thresholds of the garbage collector. The default of CPython begins with 700."""
_BURST_BYTES = 4 << 20
"""Freed bytes of requests after which the free memory is measured."""
_BURST_END_BYTES = 1 << 20
"""Freed bytes of requests per second below which a burst is over."""
_FREE_BYTES = 8 << 20
"""Free memory that is returned after a burst. Sequential requests need less."""
_TRIM_INTERVAL_SECONDS = 5.0
"""Interval of trimming during a burst."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Constants of malloc.h. Setting either ends the dynamic adjustment of both by glibc."""


def tune_gc() -> None:
    """Freeze start-up objects and raise the thresholds of the garbage collector.

    Exchanges create no reference cycles. With the default thresholds one large request in ten would wait for a full
    collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def retain_freed_memory() -> None:
    """Configure glibc to keep up to `RETAINED_FREE_BYTES` of freed memory for later requests."""
    if (option := _find("mallopt")) is not None:
        option(_M_TRIM_THRESHOLD, RETAINED_FREE_BYTES)
        option(_M_MMAP_THRESHOLD, RETAINED_FREE_BYTES)


def trim_heap() -> None:
    """Return freed memory of the whole heap to the system. Takes milliseconds."""
    if (trim := _find("malloc_trim")) is not None:
        trim(0)


def free_heap_bytes() -> float:
    """Return the free bytes of the heap; infinity if the C library does not report them. Takes microseconds.

    Pages that were already returned to the system are included.
    """
    if (describe := _find("mallinfo2")) is None:
        return math.inf
    describe.restype = _Heap
    return float(describe().fordblks)


class HeapTrimmer:
    """Trimmer that returns free heap memory to the system after a burst of large requests.

    glibc by itself trims only the top of the heap, where running streams soon allocate. Measured: 500 streams with
    simultaneous requests of 120 KB hold 300 KiB each, and 45 KiB after this, which takes 20 ms.
    Objects below 512 bytes are outside its reach, in arenas of Python. After 300 simultaneous requests of 251 short
    messages each stream holds 243 KiB there; after sequential ones 30 KiB.
    """

    def __init__(
        self, free: Callable[[], float] = free_heap_bytes, trim_heap: Callable[[], object] = trim_heap
    ) -> None:
        self._measure_free = free
        self._trim_heap = trim_heap
        self._freed_bytes = self._freed_at_tick = self._freed_at_trim = 0
        """Freed bytes of requests: in total, at the last tick, and at the last trim outside a burst."""
        self._busy_at = self._trimmed_at = 0.0

    def note_freed(self, byte_count: int) -> None:
        """Count the bytes that a finished request has freed."""
        self._freed_bytes += byte_count

    def trim_if_due(self, now: float) -> None:
        """Trim the heap if due. Called once a second. `now`: monotonic seconds."""
        fresh, self._freed_at_tick = self._freed_bytes - self._freed_at_tick, self._freed_bytes
        if fresh:
            self._busy_at = now
        in_burst = fresh >= _BURST_END_BYTES
        if self._is_due_in_burst(now) if in_burst else self._is_due(now):
            if not in_burst:
                self._freed_at_trim = self._freed_bytes
            self._trimmed_at = now
            self._trim_heap()

    def _is_due(self, now: float) -> bool:
        since = self._freed_bytes - self._freed_at_trim
        if now - self._busy_at >= TRIM_AFTER_IDLE_SECONDS:
            return since > 0
        return since >= _BURST_BYTES and self._measure_free() >= _FREE_BYTES

    def _is_due_in_burst(self, now: float) -> bool:
        return now - self._trimmed_at >= _TRIM_INTERVAL_SECONDS and self._measure_free() > RETAINED_FREE_BYTES


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def _find(name: str) -> Any:
    """Return a function of the C library. None: it has no such function (musl, macOS), or the system is Windows."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
