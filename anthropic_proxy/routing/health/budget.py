"""How often requests may be repeated: the clients repeat too, and repeats of a failing upstream multiply."""

import time
from collections.abc import Callable

from msgspec import Struct

SHARE = 0.2
"""Repeats that each first call earns."""
PER_SECOND = 5.0
"""Repeats that time gives back: who asks seldom may always repeat."""
MOST_SAVED = 50.0
"""Repeats that may be saved up, and what everybody begins with."""


class _Account(Struct):
    saved: float
    at: float


class RepeatBudget:
    """Counts first calls and repeats per upstream: a few failures are repeated, an outage is not made worse.

    `clock` gives seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        """Only of upstreams that were ever repeated."""

    def earn(self, upstream: str) -> None:
        """Count a first call."""
        if self._accounts and (account := self._accounts.get(upstream)) is not None:
            account.saved = min(account.saved + SHARE, MOST_SAVED)

    def spend(self, upstream: str) -> bool:
        """Say whether a repeat is left, and take it."""
        now = self._clock()
        account = self._accounts.setdefault(upstream, _Account(MOST_SAVED, now))
        account.saved = min(account.saved + (now - account.at) * PER_SECOND, MOST_SAVED)
        account.at = now
        if account.saved < 1:
            return False
        account.saved -= 1
        return True
