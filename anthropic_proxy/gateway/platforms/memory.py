"""`find_memory_limit`: the memory that the system gives to this process and its children."""

import os
import sys
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MAX_LIMIT = 1 << 50
"""A control group of version 1 without a limit states a larger number."""


def find_memory_limit(process: Path = Path("/proc/self/cgroup"), groups: Path = _CGROUPS) -> int | None:
    """Return the smallest limit in bytes of the control group of this process and of those that contain it. None: there
    is none, or the system has no control groups.

    In a container, the root is mostly its own group. Source: cgroups(7), and the kernel's page on version 2, 2026-11.
    """
    found = list[int]()
    with suppress(OSError, UnicodeDecodeError):
        for line in process.read_text().splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                found += _read_limits(groups, path, "memory.max")
            elif "memory" in controllers.split(","):
                found += _read_limits(groups / "memory", path, "memory.limit_in_bytes")
    return min(found, default=None)


def find_machine_memory() -> int | None:
    """Return the bytes of memory of the machine. None: the system does not tell."""
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _read_limits(root: Path, path: str, name: str) -> list[int]:
    parts = [part for part in path.split("/") if part and part != ".."]
    limits = list[int]()
    for count in range(len(parts) + 1):
        with suppress(OSError, ValueError):  # "max": no limit
            limits.append(int(root.joinpath(*parts[:count], name).read_text()))
    return [limit for limit in limits if 0 < limit < _MAX_LIMIT]
