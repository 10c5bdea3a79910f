"""CPU time, memory and open file descriptors of the server process, for its metrics page.

Values that the operating system does not report are 0.
"""

import ctypes
import os
import sys
import time
from contextlib import suppress
from typing import NamedTuple

if sys.platform != "win32":
    import resource


class ProcessStats(NamedTuple):
    """Memory and file descriptors of this process at one moment."""

    resident_bytes: int
    """Physical memory in bytes. 0: unknown (macOS)."""
    open_fds: int
    """Number of open file descriptors. 0: unknown (macOS, Windows)."""
    max_fds: int
    """Soft limit of open file descriptors. 0: no limit (Windows)."""


def cpu_seconds() -> float:
    """Return the CPU seconds that this process has used, user and system time together."""
    return time.process_time()


def read_process_stats() -> ProcessStats:
    """Return the current memory use and file descriptors.

    With many open descriptors the call takes longer, because it lists all of them to count them.
    """
    if sys.platform == "win32":
        return ProcessStats(_working_set_bytes(), 0, 0)
    else:  # noqa: RET505  # mypy
        resident_bytes = open_fds = 0
        with suppress(OSError):
            with open("/proc/self/statm", "rb") as file:
                resident_bytes = int(file.read().split()[1]) * resource.getpagesize()
            open_fds = len(os.listdir("/proc/self/fd")) - 1  # without the descriptor of the listing
        return ProcessStats(resident_bytes, open_fds, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class _MemoryCounters(ctypes.Structure):
    """`PROCESS_MEMORY_COUNTERS` of psapi.h, the memory statistics of a process on Windows."""

    _sizes = "peak_working_set working_set peak_paged paged peak_nonpaged nonpaged pagefile peak_pagefile"
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        *((name, ctypes.c_size_t) for name in _sizes.split()),
    )


def _working_set_bytes() -> int:
    """Return the physical memory of this process on Windows in bytes. 0: unknown."""
    if sys.platform != "win32":
        return 0
    counters = _MemoryCounters(size=ctypes.sizeof(_MemoryCounters))
    try:
        kernel = ctypes.WinDLL("kernel32")
    except OSError:
        return 0
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = ctypes.c_void_p, ctypes.POINTER(_MemoryCounters), ctypes.c_uint32
    if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        return 0
    return int(counters.working_set)
