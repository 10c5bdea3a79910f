"""Clocks of tests and of the processes that they start; each monotonic clock runs as usual.

A pytest plugin: the variable `CLOCK_AHEAD_SECONDS` moves the clock of all tests, to show which ones depend on the day.
"""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from tests.support.machine.sitecustomize import CLOCK, move_clock

RECORDED_AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
"""Time at which tests run whose expected texts depend on the day, because models retire and prices change.

At noon, it is the same day in almost all time zones.
"""
_AHEAD = float(os.environ.get(CLOCK, "0"))
"""Seconds by which the clock of the tests is ahead of that of the machine."""


def pytest_configure() -> None:
    if _AHEAD:
        move_clock(_AHEAD)


def with_clock(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables of a process that has the clock of the tests, unless they give it another one."""
    return {CLOCK: str(_AHEAD), **environment} if _AHEAD else environment


def set_clock(seconds: float) -> dict[str, str]:
    """Return settings of a command or server whose clock is ahead. `seconds` below 0: it is behind."""
    return {CLOCK: str(_AHEAD + seconds)}


def start_at_recorded_time() -> dict[str, str]:
    """Return settings of commands and servers, which share a clock: it shows `RECORDED_AT` now, and goes on."""
    return set_clock(RECORDED_AT.timestamp() - time.time())
