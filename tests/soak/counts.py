"""The resources of a process, as the kernel and it itself count them."""

import json
import os
import re
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.server_process import Proxy

SETTLING_SECONDS = 30.0
_SOCKET = re.compile(r"socket:\[\d+\]")


@dataclass(frozen=True)
class Holdings:
    """Counts at one moment; memory in KiB."""

    tasks: int
    sockets: int
    descriptors: int
    threads: int
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.sockets} sockets, {self.descriptors} descriptors, {self.threads} threads, "
            f"{self.memory / 1024:.1f} MiB"
        )

    def exceeds(self, before: "Holdings") -> list[str]:
        """Return the counts that are higher than before; memory is judged by its growth for each request."""
        names = ("tasks", "sockets", "descriptors", "threads")
        grown = {name: (getattr(before, name), getattr(self, name)) for name in names}
        return [f"{name}: {then} → {now}" for name, (then, now) in grown.items() if now > then]


def count(proxy: Proxy, file: Path) -> Holdings:
    """Return what the server process holds now."""
    folder = Path("/proc") / str(proxy.process.pid)
    links = []
    for link in (folder / "fd").iterdir():
        try:
            links.append(os.readlink(link))
        except OSError:  # closed meanwhile
            continue
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Holdings(
        tasks=_count_tasks(proxy, file),
        sockets=sum(bool(_SOCKET.match(link)) for link in links),
        descriptors=len(links),
        threads=int(status["Threads"]),
        memory=int(status["VmRSS"].split()[0]),
    )


def settle(proxy: Proxy, file: Path, wanted: Holdings | None) -> Holdings:
    """Return what is held once nothing changes any more, or what was wanted is reached."""
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


def _count_tasks(proxy: Proxy, file: Path) -> int:
    file.unlink(missing_ok=True)
    proxy.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + SETTLING_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            raise AssertionError("the server does not say how many tasks it has")
        time.sleep(0.02)
    return int(json.loads(file.read_text())["tasks"])
