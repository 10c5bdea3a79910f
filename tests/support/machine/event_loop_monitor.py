"""Start-up of a server under test: of the event loop's own reports on slow callbacks only those that matter stay.

`sitecustomize`, which is beside it, imports it in the servers that `support.server_process` starts.
"""

import asyncio  # with all that reads the clock, so that only uvloop gets another one below
import concurrent.futures  # noqa: F401
import logging
import mmap
import os
import struct
import threading
import time
from contextlib import suppress

BLOCKED_SECONDS = 1.0
"""A callback that takes longer, without pauses of the machine and waiting for the processor, has blocked."""
_THREADS = "/proc/self/task"
_SCHEDULED = "/proc/thread-self/schedstat"
"""Of the thread that opens it: nanoseconds on a processor, nanoseconds of waiting for one, turns (Linux only)."""
_THREADS_INTERVAL_SECONDS = 0.1
"""Time between two measurements of the other threads, which need more time than that of the own thread."""
_START_UP = ("coro=<App.start()", "coro=<App.log_startup()", "coro=<LifespanOn.")
"""Text of a report on a task that prepares the server, ours or uvicorn's."""
_PAUSE_FILE = "EVENT_LOOP_MONITOR_PAUSES"
"""Name of the variable with the path of the file that `tests.support.machine_pauses` updates."""
_PAUSES = struct.Struct("dd")
_INTERVAL_SECONDS = 0.05
"""Time between two measurements of pauses."""
_MAX_DELAY_SECONDS = 0.1
"""Longest delay of a measurement that is not a pause of the machine."""


class _Clock:
    """A clock that stands still while the machine pauses, or is too busy to run the main thread, or to run another one
    that may hold the interpreter lock.
    """

    def __init__(self) -> None:
        self._monotonic = time.monotonic
        with open(os.environ[_PAUSE_FILE], "rb") as file:
            self._pauses = mmap.mmap(file.fileno(), _PAUSES.size, access=mmap.ACCESS_READ)
        self._start()
        os.register_at_fork(after_in_child=self._restart)

    def _start(self) -> None:
        self._file = os.open(_SCHEDULED, os.O_RDONLY | os.O_CLOEXEC)
        self._last = self._time = self._waits_at = self._measure()
        self._waits = _list_waits()

    def _restart(self) -> None:
        os.close(self._file)
        self._start()

    def __call__(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            return self._monotonic()
        now = self._measure()
        passed, self._last = now - self._last, now
        if now >= self._waits_at + _THREADS_INTERVAL_SECONDS:
            waits = _list_waits()
            waited = sum(number - self._waits.get(thread, 0) for thread, number in waits.items()) / 1e9
            self._waits, self._waits_at = waits, now
            if passed >= _THREADS_INTERVAL_SECONDS:
                passed = max(0.0, passed - waited)
        self._time += passed
        return self._time

    def _measure(self) -> float:
        """Return the time without pauses of the machine and waits of the main thread."""
        now = self._monotonic()
        measured, pauses = _PAUSES.unpack_from(self._pauses)
        delay = now - measured - _INTERVAL_SECONDS
        pauses += delay if delay > _MAX_DELAY_SECONDS else 0.0
        return now - pauses - int(os.pread(self._file, 64, 0).split()[1]) / 1e9


def _list_waits() -> dict[str, int]:
    """Return thread → nanoseconds for which it has waited for the processor, of all threads but the main one."""
    found = {}
    for thread in os.listdir(_THREADS):
        if thread != str(os.getpid()):
            with suppress(OSError), open(f"{_THREADS}/{thread}/schedstat", "rb") as file:  # it may have ended
                found[thread] = int(file.read().split()[1])
    return found


def _give_uvloop_its_own_clock() -> bool:
    """Let uvloop, which takes its clock when it is imported and reads it only for its reports, take ours.

    False: there is no uvloop, or no such clock. Without it, a busy or paused machine looks like a blocked loop.
    """
    monotonic = time.monotonic
    try:
        time.monotonic = _Clock()
        import uvloop  # noqa: F401
    except (KeyError, OSError, AttributeError, ImportError):
        return False
    finally:
        time.monotonic = monotonic
    return True


def _matters(record: logging.LogRecord) -> bool:
    if not record.msg.startswith("Executing ") or not isinstance(record.args, tuple):
        return True
    # other threads have event loops of their own, and start-up has no clients yet: what blocks there delays no client
    blocks = record.threadName == "MainThread" and not any(name in record.getMessage() for name in _START_UP)
    return _has_clock and blocks and float(record.args[-1]) >= BLOCKED_SECONDS  # type: ignore[arg-type]


_has_clock = _give_uvloop_its_own_clock()
logging.getLogger(asyncio.__name__).addFilter(_matters)
