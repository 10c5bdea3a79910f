"""How long requests hold the event loop: by a step on it, or by a C function in any thread, which keeps the interpreter
lock until it returns.

Times are processor times of one thread, in units of a plain search in the same process (`time_plain_search`).
"""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from tests.growth.measure import NOISE_CHARACTERS, Run, time_plain_search

MAX_UNITS = 36.0
"""Longest time for which a request may hold the event loop: 50 ms on the machine on which a unit takes 1.4 ms."""
_TRIES = 4


def time_unit() -> float:
    return min(time_plain_search(NOISE_CHARACTERS) for _ in range(8))


async def measure_turns(runs: Sequence[Run]) -> tuple[float, str]:
    """Run requests one after the other. Return the longest turn of the event loop in seconds, and the last outcome."""
    longest, outcome = 0.0, ""
    for run in runs:
        task = asyncio.create_task(run())
        turn = time.thread_time()
        while not task.done():
            await asyncio.sleep(0)
            last, turn = turn, time.thread_time()
            longest = max(longest, turn - last)
        outcome = await task
    return longest, outcome


class LockedCalls:
    """Finds the longest call of a C function in all threads in which no Python code runs."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.name = ""
        self._local = threading.local()

    def __enter__(self) -> "LockedCalls":
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # None is allowed

    def _note(self, frame: FrameType, event: str, function: Any) -> None:
        stack = self._local.__dict__.setdefault("stack", [])
        if event == "c_call":
            stack.append(time.thread_time())
        elif event in ("c_return", "c_exception"):
            begun = stack.pop() if stack else None
            if begun is not None and (seconds := time.thread_time() - begun) > self.longest:
                self.longest = seconds
                owner = type(getattr(function, "__self__", None)).__name__
                self.name = f"{owner}.{function.__name__} in {frame.f_code.co_name} ({frame.f_code.co_filename})"
        else:  # Python code: the C functions that have called it give the lock away there
            stack[:] = [None] * len(stack)


def find_longest_turn(runs: Sequence[Run]) -> tuple[float, str]:
    """Return the longest turn of the event loop in units, and the last outcome."""
    gc.collect()
    gc.disable()  # a collection takes as long as a step
    try:
        seconds, outcome = asyncio.run(measure_turns(runs))
    finally:
        gc.enable()
    return seconds / time_unit(), outcome


def find_locked_call(runs: Sequence[Run]) -> tuple[float, str]:
    """Return the longest call of a C function in units, and its name."""

    async def run_all() -> None:
        for run in runs:
            await run()

    gc.collect()
    gc.disable()
    calls = LockedCalls()
    try:
        with calls:
            asyncio.run(run_all())
    finally:
        gc.enable()
    return calls.longest / time_unit(), calls.name


def try_again(find: Any, build: Any) -> tuple[float, str]:
    """Return the least result of some runs: another process may make each of them longer, and none shorter."""
    best: tuple[float, str] = (float("inf"), "")
    for _ in range(_TRIES):
        best = min(best, find(build()))
        if best[0] <= MAX_UNITS:
            break
    return best
