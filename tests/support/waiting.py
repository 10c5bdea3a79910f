"""Waits for a condition that another thread or process makes true, and reports on those that fail.

Every wait of the tests has the same limit. It is no requirement on the speed of the machine: it ends a wait that would
last forever. Only a test of an upper bound uses a time of its own.
"""

import asyncio
import inspect
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tests.support.forked_command import ForkedProcess

WAIT_SECONDS = 120
"""Limit of a wait. It is below `SECONDS` of time_limit.py, which ends the process of the tests."""
PAUSE_SECONDS = 0.02
_LOG_LINES = 25
T = TypeVar("T")


@dataclass
class ProcessLog:
    """File with the output of a process."""

    process: "Popen[bytes] | ForkedProcess"
    file: Path

    def render(self, lines: int = _LOG_LINES) -> str:
        status = self.process.poll()
        state = "is running" if status is None else f"ended with {status}"
        text = self.file.read_text("utf-8", "replace") if self.file.exists() else ""
        end = "\n".join(text.splitlines()[-lines:]) or "(no output)"
        return f"--- process {self.process.pid} {state}; the end of {self.file.name}:\n{end}"


@dataclass
class _ProcessLogs:
    """Logs of the processes of the current test. Those that ended are kept until the next test."""

    running: list[ProcessLog] = field(default_factory=list)
    ended: deque[ProcessLog] = field(default_factory=lambda: deque(maxlen=5))

    def render(self, lines: int = _LOG_LINES) -> list[str]:
        return [log.render(lines) for log in (*self.ended, *self.running)]


process_logs = _ProcessLogs()


@contextmanager
def reporting_log(process: "Popen[bytes] | ForkedProcess", file: Path) -> Iterator[None]:
    """Add the output of a process to the reports on failures, until the block ends and the next test begins."""
    log = ProcessLog(process, file)
    process_logs.running.append(log)
    try:
        yield
    finally:
        process_logs.running.remove(log)
        process_logs.ended.append(log)


def wait_for(observe: Callable[[], T], accept: Callable[[T], object] = bool) -> T:
    """Return the first accepted value. A failure shows the last value in full and the logs of the processes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not accept(value := observe()):
        if time.monotonic() > deadline:
            raise AssertionError(_render_failure(observe, accept, value))
        time.sleep(PAUSE_SECONDS)
    return value


async def wait_for_async(observe: Callable[[], T | Awaitable[T]], accept: Callable[[T], object] = bool) -> T:
    """Return the first accepted value, as `wait_for` does. Meanwhile the event loop runs other tasks."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not accept(value := await _resolve(observe())):
        if time.monotonic() > deadline:
            raise AssertionError(_render_failure(observe, accept, value))
        await asyncio.sleep(PAUSE_SECONDS)
    return value


async def _resolve(observed: T | Awaitable[T]) -> T:
    return await observed if isinstance(observed, Awaitable) else observed


def _render_failure(observe: Callable[[], Any], accept: Callable[[Any], object], value: object) -> str:
    condition = _render_source(observe) + ("" if accept is bool else f" is accepted by {_render_source(accept)}")
    title = f"not true within {WAIT_SECONDS} s: {condition}"
    return "\n".join([title, *process_logs.render(), *_render_threads(), f"last value: {_render_value(value)}"])


def _render_threads() -> Iterator[str]:
    """Yield the stacks of the other threads of this process: one of them does not do what is waited for."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.ident in frames:
            yield f"thread {thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}"


def _render_source(function: Callable[..., Any]) -> str:
    try:
        lines = inspect.getsource(function).split()
    except (OSError, TypeError):
        return repr(function)
    return " ".join(lines) if len(lines) < 40 else function.__qualname__


def _render_value(value: object) -> str:
    httpx = sys.modules.get("httpx2")  # some environments of the tests do not have it
    if httpx is not None and isinstance(value, httpx.Response):
        return f"{value.status_code} {value.request.method} {value.url}\n{value.headers}\n{value.text}"
    return value if isinstance(value, str) else repr(value)
