"""`RetryBudget`: limits the proxy's retries for each upstream (provider and host), because retries worsen an outage.

The budget of an upstream is the number of retries that are still allowed. Each retry spends 1. The budget grows with
time, and with the first call of each request.
"""

import time
from collections.abc import Callable

from msgspec import Struct

RETRY_RATIO = 0.2
"""Number of retries added to the budget of an upstream by the first call of each request."""
RETRIES_PER_SECOND = 5.0
"""Number of retries added to each budget per second, so that rare calls can always be retried."""
MAX_SAVED_RETRIES = 50.0
"""Maximum and initial number of retries in the budget of an upstream."""


class _Account(Struct):
    balance: float
    updated_at: float


class RetryBudget:
    """The number of retries that are still allowed for each upstream (provider and host).

    `clock` returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        """Upstream → its budget. Absent: no retry yet, so the budget is full."""

    def record_first_call(self, upstream: str) -> None:
        """Add `RETRY_RATIO` to the retry budget of an upstream. Call this for the first call of a request."""
        if self._accounts and (account := self._accounts.get(upstream)) is not None:
            account.balance = min(account.balance + RETRY_RATIO, MAX_SAVED_RETRIES)

    def try_spend_retry(self, upstream: str) -> bool:
        """Return True if a retry is allowed, and subtract it from the retry budget of the upstream."""
        now = self._clock()
        account = self._accounts.setdefault(upstream, _Account(MAX_SAVED_RETRIES, now))
        account.balance = min(account.balance + (now - account.updated_at) * RETRIES_PER_SECOND, MAX_SAVED_RETRIES)
        account.updated_at = now
        if account.balance < 1:
            return False
        account.balance -= 1
        return True
