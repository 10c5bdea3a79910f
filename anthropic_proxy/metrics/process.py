"""What this process takes of the machine, as far as the system says."""

import os
import resource
import time
from contextlib import suppress

from anthropic_proxy.metrics.totals import Now

_PAGE = resource.getpagesize()


def cpu_seconds() -> float:
    """Return the processor time so far, user and system."""
    return time.process_time()


def look(started: float) -> Now:
    """Return memory and descriptors, which only Linux tells of a running process; `started`: when it was."""
    now = Now(started=started)
    with suppress(OSError):
        with open("/proc/self/statm", "rb") as file:
            now.memory = int(file.read().split()[1]) * _PAGE
        now.descriptors = len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them
    now.most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return now
