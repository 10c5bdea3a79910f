"""CPU time, memory and file descriptors of this process."""

import os
import resource
import time
from contextlib import suppress

from anthropic_proxy.metrics.totals import Gauges

_FRAME_BYTES = resource.getpagesize()
"""Size of a memory page."""


def cpu_seconds() -> float:
    """Return the user and system CPU time of this process."""
    return time.process_time()


def read_memory_and_fds(started: float) -> Gauges:
    """Return memory and descriptors, which only Linux reports. `started`: seconds since the epoch."""
    now = Gauges(started=started)
    with suppress(OSError):
        with open("/proc/self/statm", "rb") as file:
            now.resident_bytes = int(file.read().split()[1]) * _FRAME_BYTES
        now.descriptors = len(os.listdir("/proc/self/fd")) - 1  # without the descriptor of the listing
    now.max_fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return now
