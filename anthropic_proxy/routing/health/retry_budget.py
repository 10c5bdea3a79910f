"""Retry budget per upstream. Clients retry too, so unlimited retries would multiply the load of an outage."""

import time
from collections.abc import Callable

from msgspec import Struct

RETRY_RATIO = 0.2
"""Retries that each first call adds."""
RETRIES_PER_SECOND = 5.0
"""Retries added per second, so that rare calls can always be retried."""
MAX_SAVED_RETRIES = 50.0
"""Maximum and initial number of saved retries."""


class _Account(Struct):
    balance: float
    updated_at: float


class RetryBudget:
    """Counts first calls and retries per upstream. `clock` returns monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        """Upstreams with at least one retry."""

    def record_first_call(self, upstream: str) -> None:
        """Count a first call."""
        if self._accounts and (account := self._accounts.get(upstream)) is not None:
            account.balance = min(account.balance + RETRY_RATIO, MAX_SAVED_RETRIES)

    def try_spend_retry(self, upstream: str) -> bool:
        """Return True and consume a retry, if one is left."""
        now = self._clock()
        account = self._accounts.setdefault(upstream, _Account(MAX_SAVED_RETRIES, now))
        account.balance = min(account.balance + (now - account.updated_at) * RETRIES_PER_SECOND, MAX_SAVED_RETRIES)
        account.updated_at = now
        if account.balance < 1:
            return False
        account.balance -= 1
        return True
