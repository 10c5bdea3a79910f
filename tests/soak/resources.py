"""The resources of a process, as the kernel and it itself count them."""

import json
import os
import re
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.server_process import Proxy
from tests.support.waiting import wait_for

SETTLING_SECONDS = 30.0
MAX_POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Threads of the event loop's default executor (`ThreadPoolExecutor`, Python documentation). They start on demand and
stay, so a burst after the first count may start one more."""
_POOL_THREAD = re.compile(r"(asyncio|uvloop)_\d+")
_SOCKET = re.compile(r"socket:\[\d+\]")


@dataclass(frozen=True)
class ResourceUsage:
    """Counts at one moment; memory in KiB. `threads` excludes those of the default executor."""

    tasks: int
    sockets: int
    descriptors: int
    threads: int
    pool_threads: int
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.sockets} sockets, {self.descriptors} descriptors, {self.threads} threads and "
            f"{self.pool_threads} of the default executor, {self.memory / 1024:.1f} MiB"
        )

    def exceeds(self, before: "ResourceUsage") -> list[str]:
        """Return the counts that are higher than before; memory is judged by its growth for each request."""
        pairs = {
            "tasks": (before.tasks, self.tasks),
            "sockets": (before.sockets, self.sockets),
            "descriptors": (before.descriptors, self.descriptors),
            "threads": (before.threads, self.threads),
            "threads of the default executor": (max(before.pool_threads, MAX_POOL_THREADS), self.pool_threads),
        }
        return [f"{name}: {then} → {now}" for name, (then, now) in pairs.items() if now > then]


def count(proxy: Proxy, file: Path) -> ResourceUsage:
    """Return the resources that the server process uses now."""
    folder = Path("/proc") / str(proxy.process.pid)
    links = []
    for link in (folder / "fd").iterdir():
        try:
            links.append(os.readlink(link))
        except OSError:  # closed meanwhile
            continue
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    names = _read_names(proxy, file)
    pool_threads = sum(bool(_POOL_THREAD.fullmatch(name)) for name in names["threads"])
    return ResourceUsage(
        tasks=len(names["tasks"]),
        sockets=sum(bool(_SOCKET.match(link)) for link in links),
        descriptors=len(links),
        threads=int(status["Threads"]) - pool_threads,
        pool_threads=pool_threads,
        memory=int(status["VmRSS"].split()[0]),
    )


def settle(proxy: Proxy, file: Path, wanted: ResourceUsage | None) -> ResourceUsage:
    """Return the resources in use once they no longer change, or once the wanted value is reached."""
    deadline, before = time.monotonic() + SETTLING_SECONDS, count(proxy, file)
    while time.monotonic() < deadline:
        time.sleep(1)
        now = count(proxy, file)
        if wanted is not None and not now.exceeds(wanted):
            return now
        if wanted is None and replace(now, memory=0) == replace(before, memory=0):
            return now
        before = now
    return before


def _read_names(proxy: Proxy, file: Path) -> dict[str, list[str]]:
    """Return the names of the tasks and threads of the server process."""
    file.unlink(missing_ok=True)
    proxy.process.send_signal(signal.SIGUSR1)
    wait_for(file.exists)
    names: dict[str, list[str]] = json.loads(file.read_text())
    return names
