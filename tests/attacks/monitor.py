"""Resource use of a server process and its responsiveness while it is attacked.

Run as a program: polls `/health` until standard input ends, then prints one line of JSON. It is a process of its own,
because the attacking process is busy.
"""

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.01
_GIVE_UP_SECONDS = 120.0
_REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Responsiveness:
    """Waits for `/health` during one attack."""

    max_wait_seconds: float
    max_block_seconds: float
    """Processor time of the server's threads during one wait, which is independent of the load of the machine.

    All threads count, because a call into C in another thread keeps the interpreter lock until it returns. Time for
    which this process waits for a processor does not count: the answer may have come before."""
    polls: int


def read_main_thread_seconds(pid: int) -> float:
    """Return the processor time of the process's main thread."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def _read_threads_seconds(pid: int) -> float:
    """Return the processor time of all threads of the process that exist now."""
    nanoseconds = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            nanoseconds += int(file.read_text().split()[0])
    return nanoseconds / 1e9


def _read_own_delay() -> float:
    """Return the seconds for which this thread has waited for a processor."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def read_memory(pid: int, field: str = "VmRSS") -> float:
    """Return a memory figure of the process in MiB; `VmHWM` is the peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def reset_peak_memory(pid: int) -> None:
    """Reset `VmHWM` to the memory in use."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Monitor:
    """Measures from construction to `finish`."""

    def __init__(self, port: int, pid: int) -> None:
        command = [sys.executable, "-m", "tests.attacks.monitor", str(port), str(pid)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()  # the first answer has been received

    def finish(self) -> Responsiveness:
        """Stop polling and return the figures; a wait in progress is completed first."""
        output, _ = self._process.communicate(timeout=_GIVE_UP_SECONDS + 30)
        return Responsiveness(**json.loads(output))


def _main(port: int, pid: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port), timeout=_GIVE_UP_SECONDS)
    max_wait = max_block = 0.0
    polls = 0
    while True:
        block, start, delay = _read_threads_seconds(pid), time.monotonic(), _read_own_delay()
        try:
            connection.sendall(_REQUEST)
            answered = connection.recv(65_536)
        except OSError:
            answered = b""
        max_wait = max(max_wait, time.monotonic() - start)
        delay = (_read_own_delay() - delay) * (os.cpu_count() or 1)
        max_block = max(max_block, _read_threads_seconds(pid) - block - delay)
        polls += 1
        if polls == 1:
            print("ready", flush=True)
            max_wait = max_block = 0.0
        if not answered or select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
            break
    if not answered:
        max_wait = max(max_wait, _GIVE_UP_SECONDS)
    print(json.dumps({"max_wait_seconds": max_wait, "max_block_seconds": max_block, "polls": polls}))


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
