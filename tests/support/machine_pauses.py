"""Pauses of the machine, measured by a process of its own, so that tests do not take them for a blocked event loop.

`pause_file` returns the file with the results. Its content, `PAUSES`, is the time of the last measurement on the
monotonic clock, and the sum of all pauses since the start, both in seconds. `measuring_pauses` runs the process.
`unpaused_time` returns the time of a clock that stands still during a pause, `paused_seconds` the sum of all pauses.
"""

import functools
import mmap
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE_VARIABLE = "EVENT_LOOP_MONITOR_PAUSES"
"""Name of the environment variable with the path of the file, for the module `machine/event_loop_monitor.py`."""
PAUSES = struct.Struct("dd")
_INTERVAL_SECONDS = 0.05
_MAX_DELAY_SECONDS = 0.1
"""Longest delay of a measurement that is not a pause of the machine."""


@functools.cache
def pause_file() -> Path:
    with tempfile.NamedTemporaryFile(prefix="pauses-", delete=False) as file:
        _processes.append(_start(Path(file.name)))
    return Path(file.name)


_processes: "list[subprocess.Popen[bytes]]" = []
"""The process of `pause_file`. It removes the file: the functions of `atexit` also run in forked processes."""


@contextmanager
def measuring_pauses(file: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with _start(file) as process:
        yield process


def _start(file: Path) -> "subprocess.Popen[bytes]":
    """Start the process that updates `file`. It ends at the end of its standard input, so also with this process."""
    file.write_bytes(PAUSES.pack(time.monotonic(), 0.0))
    return subprocess.Popen([sys.executable, "-E", "-S", __file__, str(file)], stdin=subprocess.PIPE)


def unpaused_time() -> float:
    return time.monotonic() - paused_seconds()


def paused_seconds() -> float:
    measured, pauses = PAUSES.unpack(pause_file().read_bytes())
    delay = time.monotonic() - measured - _INTERVAL_SECONDS
    return pauses + (delay if delay > _MAX_DELAY_SECONDS else 0.0)


def write_pauses(memory: mmap.mmap, now: float, pauses: float) -> None:
    """Write a measurement to the file, which another process reads meanwhile.

    A reader may get the new sum with the earlier time, and then finds a longer pause. It never gets the reverse.
    """
    content = PAUSES.pack(now, pauses)  # `pack_into` writes zeros first
    memory[8:] = content[8:]
    memory[:8] = content[:8]


def _measure(file: Path) -> None:
    """Update `file` until the standard input ends, then remove it."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), PAUSES.size) as memory:
        last, last_wait, pauses = time.monotonic(), _find_processor_wait(), 0.0
        while not ended.wait(_INTERVAL_SECONDS):
            now, processor_wait = time.monotonic(), _find_processor_wait()
            delay = now - last - _INTERVAL_SECONDS - (processor_wait - last_wait)
            pauses += delay if delay > _MAX_DELAY_SECONDS else 0.0
            write_pauses(memory, now, pauses)
            last, last_wait = now, processor_wait
    file.unlink()


def _find_processor_wait() -> float:
    """Return the seconds for which this thread has waited for a processor: a busy machine does not pause all processes.

    0: the system does not measure it.
    """
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
