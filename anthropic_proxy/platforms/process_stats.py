"""CPU time, memory and file descriptors of this process."""

import os
import resource
import time
from contextlib import suppress
from typing import NamedTuple


class ProcessStats(NamedTuple):
    """Resource use of this process at one moment. 0: unknown, because only Linux reports it."""

    resident_bytes: int
    open_fds: int
    max_fds: int
    """Soft limit of open file descriptors."""


def cpu_seconds() -> float:
    """Return the user and system CPU time of this process."""
    return time.process_time()


def read_process_stats() -> ProcessStats:
    """Return the current memory and file descriptors. The cost grows with the open descriptors."""
    resident_bytes = open_fds = 0
    with suppress(OSError):
        with open("/proc/self/statm", "rb") as file:
            resident_bytes = int(file.read().split()[1]) * resource.getpagesize()
        open_fds = len(os.listdir("/proc/self/fd")) - 1  # without the descriptor of the listing
    return ProcessStats(resident_bytes, open_fds, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
