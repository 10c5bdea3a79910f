"""Two functions of different threads in every order: one runs before each instruction of the other.

A stress test with many threads finds an error rarely. `interleave` stops one function before each of its instructions
and runs the other one there, so a wrong order occurs in each run of the test. Only instructions of the package and of
the tests count, not those of libraries.
"""

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

Result = TypeVar("Result")
_FOLDERS = tuple(f"{ROOT / name}{os.sep}" for name in ("anthropic_proxy", "tests"))


class Interleaving:
    """One run of `interleave`: stops the first function before the instruction `step` and runs the second one there."""

    def __init__(self, step: int, other: Callable[[], object], blocked_seconds: float) -> None:
        self._left = step
        self._blocked_seconds = blocked_seconds
        self._thread = threading.Thread(target=self._run_other, args=[other], daemon=True)
        self._failure: BaseException | None = None
        self.is_reached = False
        """True if the first function had the instruction `step`."""

    def run(self, function: Callable[[], Result]) -> Result:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return function()
        finally:
            sys.settrace(before)
            if self.is_reached:
                self._thread.join(WAIT_SECONDS)
                assert not self._thread.is_alive(), "the second function did not end after the first one"
                if self._failure is not None:
                    raise self._failure

    def _run_other(self, other: Callable[[], object]) -> None:
        try:
            other()
        except BaseException as failure:  # noqa: BLE001  # raised in the thread of the test
            self._failure = failure

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(_FOLDERS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.is_reached:
            if not self._left:
                self.is_reached = True
                self._thread.start()
                self._thread.join(self._blocked_seconds)
                sys.settrace(None)  # the other instructions need not be counted
            self._left -= 1
        return self._trace


def interleave(
    build: Callable[[], tuple[Callable[[], Result], Callable[[], object]]], blocked_seconds: float = WAIT_SECONDS
) -> list[Result]:
    """Return the results of the first function, with the second one before each of its instructions.

    `build`: returns two new functions, which share their objects with each other and with no other run. The second one
    runs in a thread. An exception of one of them is raised. `blocked_seconds`: time after which the second one
    counts as blocked by a lock of the first one, which then goes on.
    """
    results: list[Result] = []
    while True:
        function, other = build()
        interleaving = Interleaving(len(results), other, blocked_seconds)
        result = interleaving.run(function)
        if not interleaving.is_reached:
            return results
        results.append(result)
