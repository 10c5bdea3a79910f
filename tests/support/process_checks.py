"""Requests to a proxy process, and facts about that process."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.paths import ROOT
from tests.support.platform_marks import HAS_SIGHUP, NO_SIGHUP
from tests.support.raw_http import Answer
from tests.support.server_process import Proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

MESSAGES = "/v1/messages"


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 200,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    return response.status_code, body["error"]["type"], body["error"]["message"]


def reload(proxy: Proxy, text: str = "Settings reloaded") -> str:
    """Make a proxy read its settings again, wait for the log line with a text, and return that line."""
    if not HAS_SIGHUP:
        pytest.skip(NO_SIGHUP)
    before = proxy.log.count(text)
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.log.count(text) > before)
    return [line for line in proxy.log.splitlines() if text in line][-1]


def run_command(*words: str, settings: dict[str, str], directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "anthropic_proxy", *words],
        cwd=directory,
        env={"HOME": str(directory), "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def serve(workers: int) -> tuple[str, ...]:
    return ("-m", "anthropic_proxy", "serve", "--workers", str(workers))


def port_of(proxy: Proxy) -> int:
    return int(proxy.url.rpartition(":")[2])


def events_of(answer: Answer) -> list[str]:
    return [line[7:] for line in answer.body.decode().splitlines() if line.startswith("event: ")]


def children_of(pid: int) -> list[int]:
    """Return the worker processes; multiprocessing has one more of its own."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


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
