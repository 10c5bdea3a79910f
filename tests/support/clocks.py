"""Processes whose clock is wrong, while their monotonic clock runs as usual."""

import time
from datetime import UTC, datetime

from tests.support.machine.sitecustomize import CLOCK

RECORDED_AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
"""Time at which tests run whose expected texts depend on the day, because models retire and prices change.

At noon, it is the same day in almost all time zones.
"""


def set_clock(seconds: float) -> dict[str, str]:
    """Return settings of a command or server whose clock is ahead. `seconds` below 0: it is behind."""
    return {CLOCK: str(seconds)}


def start_at_recorded_time() -> dict[str, str]:
    """Return settings of commands and servers, which share a clock: it shows `RECORDED_AT` now, and goes on."""
    return set_clock(RECORDED_AT.timestamp() - time.time())
