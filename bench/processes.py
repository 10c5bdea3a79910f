"""Processes of the bench: started, watched through the kernel's counts, stopped."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_CLOCK_OF_PROCESS = 2
"""Linux's numbering of clocks: clock_getcpuclockid(3) makes such a number of a process."""
_POLL_SECONDS = 0.01
_MAX_SETTLING_POLLS = 200
"""Looks after which a process that is never still is taken as it is."""


class Process:
    """A child process with a log file; a context manager that stops it."""

    def __init__(
        self, command: Sequence[str], directory: Path, environment: Mapping[str, str], name: str, logs: Path
    ) -> None:
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as log:
            self._spent: dict[int, float] = {}
            self._process = subprocess.Popen(
                command, cwd=directory, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def alive(self) -> bool:
        """Return whether it still runs."""
        return self._process.poll() is None

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def cpu_seconds(self) -> float:
        """Return user and system time of the process and its descendants so far, of those that ended as last seen."""
        for pid in _tree(self._process.pid):
            self._spent[pid] = max(self._spent.get(pid, 0.0), _cpu_seconds(pid))
        return sum(self._spent.values())

    def background_cpu_seconds(self) -> float:
        """Return the CPU time so far of all running threads of the process except the main thread (Linux)."""
        pid = str(self._process.pid)
        texts = [_read(f"/proc/{pid}/task/{task}/schedstat") for task in _tasks(self._process.pid) if task != pid]
        return sum(int(text.split()[0]) for text in texts if text) / 1e9  # the first field is in nanoseconds

    async def settle(self) -> float:
        """Wait until it does nothing more, and return its CPU seconds: some write their logs after the reply."""
        spent = self.cpu_seconds()
        for _ in range(_MAX_SETTLING_POLLS):
            await asyncio.sleep(_POLL_SECONDS)
            before, spent = spent, self.cpu_seconds()
            if spent - before < _POLL_SECONDS / 10:
                break
        return spent

    def resident_mib(self) -> float:
        """Return the memory that the process and its descendants hold, shared pages counted once where /proc allows."""
        return sum(_memory_kib(pid) for pid in _tree(self._process.pid)) / 1024

    def forget_peak(self) -> None:
        """Reset `peak_mib`; where the kernel does not allow it, it stays the peak of the process's life."""
        for pid in _tree(self._process.pid):
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """Return the most memory that was resident since `forget_peak`, summed over the process and its descendants."""
        return sum(_kib(f"/proc/{pid}/status", "VmHWM:") for pid in _tree(self._process.pid)) / 1024

    def last_words(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])


def free_port() -> int:
    """Return a port that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in _tasks(pid):
            children = _read(f"/proc/{pid}/task/{task}/children").split()
            found += [int(child) for child in children]
    return found


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of all its threads, ended ones too: of its own clock, else in ticks of 10 ms."""
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | _CLOCK_OF_PROCESS)
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _memory_kib(pid: int) -> int:
    return _kib(f"/proc/{pid}/smaps_rollup", "Pss:") or _kib(f"/proc/{pid}/status", "VmRSS:")


def _kib(path: str, label: str) -> int:
    lines = (line for line in _read(path).splitlines() if line.startswith(label))
    return next((int(line.split()[1]) for line in lines), 0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
