"""CPU time, memory and open file descriptors of the server process, for its metrics page."""

import os
import resource
import time
from contextlib import suppress
from typing import NamedTuple


class ProcessStats(NamedTuple):
    """Memory and file descriptors of this process at one moment."""

    resident_bytes: int
    """Physical memory in bytes. 0: unknown (not Linux)."""
    open_fds: int
    """Number of open file descriptors. 0: unknown (not Linux)."""
    max_fds: int
    """Soft limit of open file descriptors."""


def cpu_seconds() -> float:
    """Return the CPU seconds that this process has used, user and system time together."""
    return time.process_time()


def read_process_stats() -> ProcessStats:
    """Return the current memory use and file descriptors. The duration grows with the number of open descriptors."""
    resident_bytes = open_fds = 0
    with suppress(OSError):
        with open("/proc/self/statm", "rb") as file:
            resident_bytes = int(file.read().split()[1]) * resource.getpagesize()
        open_fds = len(os.listdir("/proc/self/fd")) - 1  # without the descriptor of the listing
    return ProcessStats(resident_bytes, open_fds, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
