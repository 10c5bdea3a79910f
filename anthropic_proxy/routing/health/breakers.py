"""A breaker per upstream: who fails again and again is left alone for a while, then tried by one request.

It serves routes that have somebody else to turn to; the last one that is left is always asked.
"""

import time
from collections.abc import Callable

from msgspec import Struct

from anthropic_proxy.errors import UpstreamError, UpstreamResting

FAILURES_TO_OPEN = 5
"""Failures in a row after which an upstream is left alone."""
FIRST_REST_SECONDS = 5.0
"""Short: somebody may just be starting it again."""
LONGEST_REST_SECONDS = 60.0


class _Breaker(Struct):
    failures: int = 0
    rest: float = FIRST_REST_SECONDS
    opens_at: float = 0.0
    """When the next request may try; 0: it is not left alone."""
    trying: bool = False
    error: UpstreamError | None = None


class Breakers:
    """The breakers of all upstreams, by any name that stays the same. `clock` gives seconds that only grow.

    A breaker exists only for an upstream that failed, so one that works costs a look into a dictionary.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}
        self.told: Callable[[str, str, float], None] | None = None
        """Is given who is left alone, status and kind of the failure, and the seconds; 0 s: it works again."""

    def admit(self, upstream: str) -> None:
        """Let a call pass. Who is admitted says later `succeeded`, `failed` or `abandoned`.

        Raises `UpstreamResting`: the failure that it had last, with the seconds until it is tried again.
        """
        breaker = self._breakers.get(upstream)
        if breaker is None or breaker.error is None or not breaker.opens_at:
            return
        wait = breaker.opens_at - self._clock()
        if wait > 0 or breaker.trying:
            raise _resting(breaker.error, breaker.failures, max(wait, 1.0))
        breaker.trying = True

    def succeeded(self, upstream: str) -> None:
        """Say that it answered: what was before is forgotten."""
        if not self._breakers:
            return
        breaker = self._breakers.pop(upstream, None)
        if breaker is not None and breaker.opens_at and self.told is not None:
            self.told(upstream, "", 0.0)

    def failed(self, upstream: str, error: UpstreamError) -> None:
        """Say how it failed. What it refuses for a reason of the request's or the key's does not speak against it."""
        if error.status < 500:
            self.succeeded(upstream)
            return
        breaker = self._breakers.setdefault(upstream, _Breaker())
        breaker.failures += 1
        breaker.error = error
        if breaker.trying:
            breaker.rest = min(breaker.rest * 2, LONGEST_REST_SECONDS)
        if breaker.trying or breaker.failures >= FAILURES_TO_OPEN:
            seconds = max(breaker.rest, min(error.retry_after or 0.0, LONGEST_REST_SECONDS))
            breaker.opens_at = self._clock() + seconds
            if self.told is not None:
                self.told(upstream, f"{error.status} {error.kind}", seconds)
        breaker.trying = False

    def leave_alone(self, upstream: str, error: UpstreamError, seconds: float) -> None:
        """Do as another process does, to whom it failed."""
        breaker = self._breakers.setdefault(upstream, _Breaker())
        breaker.failures = max(breaker.failures, FAILURES_TO_OPEN)
        breaker.rest = min(max(breaker.rest, seconds), LONGEST_REST_SECONDS)
        breaker.error, breaker.opens_at = error, self._clock() + seconds

    def forgive(self, upstream: str) -> None:
        """Forget what was before: it answered another process."""
        self._breakers.pop(upstream, None)

    def count_resting(self) -> int:
        """Return how many upstreams are left alone now."""
        now = self._clock()
        return sum(breaker.opens_at > now for breaker in self._breakers.values())

    def abandoned(self, upstream: str) -> None:
        """Say that nobody will know: the client left before the upstream had answered."""
        breaker = self._breakers.get(upstream)
        if breaker is not None:
            breaker.trying = False


def _resting(error: UpstreamError, failures: int, seconds: float) -> UpstreamResting:
    """Return the failure again, as one that was not tried."""
    return UpstreamResting(
        f"{error.message.rstrip('.')}. It failed {failures} times in a row and is asked again in {seconds:.0f} s.",
        provider=error.provider,
        status=error.status,
        kind=error.kind,
        retryable=False,
        retry_after=seconds,
        should_retry=error.should_retry,
    )
