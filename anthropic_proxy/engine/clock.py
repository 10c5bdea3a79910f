"""The clocks of the proxy. The clock of a machine may be set at any time, so it decides no duration."""

import time
from collections.abc import Callable


def start_clock(now: float) -> Callable[[], float]:
    """Return a clock that begins at `now`, in seconds since the epoch, and that nobody sets.

    The difference of two of its times is a duration.
    """
    first = time.monotonic()
    return lambda: now + (time.monotonic() - first)
