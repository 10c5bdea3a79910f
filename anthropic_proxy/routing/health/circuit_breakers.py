"""Circuit breakers, one per upstream. An open circuit is closed again by one successful trial request.

They apply to routes with a fallback. The last remaining target is always called.
"""

import time
from collections.abc import Callable

from msgspec import Struct

from anthropic_proxy.errors import CircuitOpen, UpstreamError

FAILURES_TO_OPEN = 5
"""Consecutive failures after which the circuit opens."""
MIN_OPEN_SECONDS = 5.0
"""Short, because the upstream may be restarting."""
MAX_OPEN_SECONDS = 60.0


class _Breaker(Struct):
    failures: int = 0
    open_seconds: float = MIN_OPEN_SECONDS
    retry_at: float = 0.0
    """Clock time of the next trial request. 0: the circuit is closed."""
    is_trial_running: bool = False
    error: UpstreamError | None = None


class CircuitBreakers:
    """The circuit breakers of all upstreams, by a stable name. `clock` returns monotonic seconds.

    A breaker exists only for an upstream that failed. A healthy upstream costs one dictionary lookup.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}
        self.on_change: Callable[[str, str, float], None] | None = None
        """Called with upstream, status and type of its failure, and the seconds open. 0: the circuit closed."""

    def require_closed(self, upstream: str) -> None:
        """Admit a call. The caller then calls `record_success`, `record_failure` or `release_trial`.

        Raises `CircuitOpen` with the last failure and the seconds until the next trial.
        """
        breaker = self._breakers.get(upstream)
        if breaker is None or breaker.error is None or not breaker.retry_at:
            return
        wait = breaker.retry_at - self._clock()
        if wait > 0 or breaker.is_trial_running:
            raise _circuit_open(breaker.error, breaker.failures, max(wait, 1.0))
        breaker.is_trial_running = True

    def record_success(self, upstream: str) -> None:
        """Close the circuit and delete the recorded failures."""
        if not self._breakers:
            return
        breaker = self._breakers.pop(upstream, None)
        if breaker is not None and breaker.retry_at and self.on_change is not None:
            self.on_change(upstream, "", 0.0)

    def record_failure(self, upstream: str, error: UpstreamError) -> None:
        """Record a failure. A status below 500 counts as a success: the request or key is at fault."""
        if error.status < 500:
            self.record_success(upstream)
            return
        breaker = self._breakers.setdefault(upstream, _Breaker())
        breaker.failures += 1
        breaker.error = error
        if breaker.is_trial_running:
            breaker.open_seconds = min(breaker.open_seconds * 2, MAX_OPEN_SECONDS)
        if breaker.is_trial_running or breaker.failures >= FAILURES_TO_OPEN:
            seconds = max(breaker.open_seconds, min(error.retry_after or 0.0, MAX_OPEN_SECONDS))
            breaker.retry_at = self._clock() + seconds
            if self.on_change is not None:
                self.on_change(upstream, f"{error.status} {error.error_type}", seconds)
        breaker.is_trial_running = False

    def open_from_peer(self, upstream: str, error: UpstreamError, seconds: float) -> None:
        """Open the circuit that another worker opened."""
        breaker = self._breakers.setdefault(upstream, _Breaker())
        breaker.failures = max(breaker.failures, FAILURES_TO_OPEN)
        breaker.open_seconds = min(max(breaker.open_seconds, seconds), MAX_OPEN_SECONDS)
        breaker.error, breaker.retry_at = error, self._clock() + seconds

    def reset_from_peer(self, upstream: str) -> None:
        """Close the circuit that another worker closed."""
        self._breakers.pop(upstream, None)

    def open_count(self) -> int:
        """Return the number of open circuits."""
        now = self._clock()
        return sum(breaker.retry_at > now for breaker in self._breakers.values())

    def release_trial(self, upstream: str) -> None:
        """Release a trial without a result, after the client disconnected."""
        breaker = self._breakers.get(upstream)
        if breaker is not None:
            breaker.is_trial_running = False


def _circuit_open(error: UpstreamError, failures: int, seconds: float) -> CircuitOpen:
    """Return the last failure as an error of a call that was not made."""
    return CircuitOpen(
        f"{error.message.rstrip('.')}. It failed {failures} times in a row; the next call is allowed in "
        f"{seconds:.0f} s.",
        provider=error.provider,
        status=error.status,
        kind=error.error_type,
        retryable=False,
        retry_after=seconds,
        should_retry=error.should_retry,
    )
