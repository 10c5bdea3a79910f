"""Requests to a proxy process, and facts about that process."""

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.platform_marks import HAS_SIGHUP, NO_SIGHUP
from tests.support.raw_http import Answer
from tests.support.server_process import Proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

MESSAGES = "/v1/messages"
RELOADED = "Settings reloaded"


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-4-5", "max_tokens": 200, "messages": [{"role": "user", "content": text}], **fields}


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    return response.status_code, body["error"]["type"], body["error"]["message"]


def reload(proxy: Proxy, text: str = RELOADED) -> str:
    """Return the first line with this text that the proxy writes after the signal."""
    return _reload(proxy, text, _count(proxy, text))


def rewrite(file: Path, content: str, *proxies: Proxy) -> list[str]:
    """Write a settings file, and return the first line of each proxy about it after the signal, or before it: proxies
    with one database and equal files follow each other.
    """
    before = [_count(proxy, RELOADED) for proxy in proxies]
    file.write_text(content)
    return [_reload(proxy, RELOADED, number) for proxy, number in zip(proxies, before, strict=True)]


def _reload(proxy: Proxy, text: str, before: int) -> str:
    if not HAS_SIGHUP:
        pytest.skip(NO_SIGHUP)
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: _count(proxy, text) > before)
    return _list_lines(proxy, text)[before]


def _count(proxy: Proxy, text: str) -> int:
    return len(_list_lines(proxy, text))


def _list_lines(proxy: Proxy, text: str) -> list[str]:
    return [line for line in proxy.log.splitlines() if text in line]


def serve(workers: int) -> tuple[str, ...]:
    return ("-m", "anthropic_proxy", "serve", "--workers", str(workers))


def port_of(proxy: Proxy) -> int:
    return int(proxy.url.rpartition(":")[2])


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def events_of(answer: Answer) -> list[str]:
    return [line[7:] for line in answer.body.decode().splitlines() if line.startswith("event: ")]


def children_of(pid: int) -> list[int]:
    """Return the worker processes; multiprocessing has one more of its own. Skips the test on other systems."""
    if sys.platform != "linux":
        pytest.skip("platform: the test reads /proc")
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if b"spawn_main" in _command_line(child)]


def _command_line(pid: int) -> bytes:
    """Return b"" for a process that has ended since."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def worker_of(proxy: Proxy, response: httpx.Response) -> int | None:
    """Return the worker that has the connection on which an answer came; None: it has just ended."""
    _, port = response.extensions["network_stream"].get_extra_info("client_addr")
    ends = [f":{number:04X}" for number in (port_of(proxy), port)]
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inode = next((line[9] for line in lines if [line[1][-5:], line[2][-5:]] == ends), None)
    return next((worker for worker in workers_of(proxy) if f"socket:[{inode}]" in _list_descriptors(worker)), None)


def _list_descriptors(pid: int) -> list[str]:
    """Return what the descriptors of a process lead to, without those that were closed meanwhile."""
    found = []
    with suppress(OSError):  # the process has ended
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.append(os.readlink(file))
    return found


def workers_of(proxy: Proxy) -> list[int]:
    """Return the workers; none while one of them is just ending."""
    with suppress(OSError):
        return children_of(proxy.process.pid)
    return []


def clients_of(proxy: Proxy, number: int = 2) -> dict[int, httpx.Client]:
    """Return a client for each worker; that worker has the client's one connection."""
    found: dict[int, httpx.Client] = {}

    def connect() -> dict[int, httpx.Client]:
        client = proxy.client()
        if (worker := worker_of(proxy, client.get("/health"))) is not None:
            found.setdefault(worker, client)
        return found

    return wait_for(connect, lambda found: len(found) == number)


def is_alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z")


def is_sleeping(pid: int) -> bool:
    """Return True if the main thread waits for an event. Also True on a platform without `/proc`."""
    return sys.platform != "linux" or _state(pid) == "S"


def _state(pid: int) -> str:
    """Return the letter for the state of a process on Linux. "": it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


METRICS = "/metrics"


def total(response: httpx.Response, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    assert response.status_code == 200, response.text
    return sum(
        sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
