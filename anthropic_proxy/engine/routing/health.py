"""Protection of providers after failures: circuit breakers and retry budgets.

A circuit is closed while calls to an upstream (such as `openai api.openai.com`) succeed. After `FAILURES_TO_OPEN`
failures in a row it is open: calls fail at once, until one trial call is allowed. If the trial succeeds, the circuit is
closed; otherwise it stays open for twice the time. Workers inform each other. The last target of a plan, or the only
one, is called although its circuit is open: nothing else could serve the request.

Failures that one request can cause, such as a status 500, open the circuit for the client whose requests have failed
only. They open it for all if requests of two clients have failed so in a row.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct, field

from anthropic_proxy.errors import CircuitOpen, UpstreamError, UpstreamProtocolError

FAILURES_TO_OPEN = 5
"""Number of consecutive failures at which the circuit of an upstream opens."""
MIN_OPEN_SECONDS = 5.0
"""Time from the opening of a circuit to the first trial call. It is short, because the upstream may only be restarting.
"""
_UNAVAILABLE_STATUSES = (502, 503, 504, 529)
MAX_OPEN_SECONDS = 60.0
"""Maximum time until the next trial call. Each failed trial doubles the time."""


def fails_for_all(error: UpstreamError) -> bool:
    """Return True if an error shows that an upstream is not available. After another one, such as a status 500 or a
    reply that cannot be read, the request itself may be the reason.
    """
    is_own = isinstance(error, UpstreamProtocolError | CircuitOpen)  # status 502 or that of an earlier failure
    return error.stated_status in _UNAVAILABLE_STATUSES and not is_own


class OpenCircuit(NamedTuple):
    """Description of an open circuit: calls to one upstream are blocked after failures."""

    seconds_to_trial: float
    failure: str
    """Error message of the last failed call to the upstream, and whether the circuit is open for one client only."""


class _Breaker(Struct):
    failures: int = 0
    """In a row."""
    open_seconds: float = MIN_OPEN_SECONDS
    """Seconds for which the open circuit blocks calls, before the next trial call."""
    retry_at: float = 0.0
    """Time on the monotonic clock from which a trial call is allowed. 0: the circuit is closed."""
    is_trial_running: bool = False
    error: UpstreamError | None = None
    """Last failure."""
    clients: set[str] = field(default_factory=set)
    """`Client.id` of those whose requests have failed since the last success: at most two."""
    is_unavailable: bool = False
    """True if one of these failures cannot be due to a request."""

    @property
    def blocks_all(self) -> bool:
        return self.is_unavailable or len(self.clients) > 1

    def describe_failure(self, error: UpstreamError) -> str:
        return error.message if self.blocks_all else f"{error.message.rstrip('.')}. Other clients are not concerned."


class CircuitBreakers:
    """The circuit breakers of all upstreams. `clock` returns monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}
        self._on_change: Callable[[str, str, float], None] = lambda upstream, failure, seconds: None

    def publish_to(self, send: Callable[[str, str, float], None]) -> None:
        """Call `send` for each opened or closed circuit, with upstream, failure (`503 api_error`) and seconds, for
        other workers. A closed circuit has the failure "" and 0 seconds.
        """
        self._on_change = send

    def require_closed(self, upstream: str, client: str) -> None:
        """Raise `CircuitOpen` if calls to the upstream are blocked now for the requests of a client (`Client.id`).

        After an allowed call, call `record_success`, `record_failure` or `release_trial`.
        """
        breaker = self._breakers.get(upstream)
        if breaker is None or breaker.error is None or not breaker.retry_at:
            return
        if not breaker.blocks_all and client not in breaker.clients:
            return
        wait = breaker.retry_at - self._clock()
        if wait > 0 or breaker.is_trial_running:
            error = breaker.error
            seconds = max(wait, 1.0)
            # a text of the provider may quote the client whose call failed
            failure = f"{error.provider} failed with status {error.status}" if error.provider_text else error.message
            raise CircuitOpen(
                f"{failure.rstrip('.')}. It failed {breaker.failures} times in a row; the next call is allowed "
                f"in {seconds:.0f} s.",
                provider=error.provider,
                status=error.status,
                kind=error.error_type,
                retryable=False,
                retry_after=seconds,
                should_retry=error.should_retry,
            )
        breaker.is_trial_running = True

    def record_success(self, upstream: str) -> None:
        if not self._breakers:
            return
        breaker = self._breakers.pop(upstream, None)
        if breaker is not None and breaker.retry_at and breaker.blocks_all:
            self._on_change(upstream, "", 0.0)

    def record_failure(self, upstream: str, error: UpstreamError, client: str) -> None:
        """Count a failed call for a client (`Client.id`).

        A stated status below 500 counts as a success, because the upstream itself works. A status that only the text of
        the error has lowered counts as neither: the text may quote the client.
        """
        if error.stated_status < 500:
            self.record_success(upstream)
            return
        if error.status < 500:
            self.release_trial(upstream)
            return
        breaker = self._breakers.setdefault(upstream, _Breaker())
        breaker.failures += 1
        breaker.error = error
        breaker.is_unavailable |= fails_for_all(error)
        if not breaker.blocks_all:
            breaker.clients.add(client)
        if breaker.is_trial_running:
            breaker.open_seconds = min(breaker.open_seconds * 2, MAX_OPEN_SECONDS)
        if breaker.is_trial_running or breaker.failures >= FAILURES_TO_OPEN:
            seconds = max(breaker.open_seconds, min(error.stated_retry_after or 0.0, MAX_OPEN_SECONDS))
            breaker.retry_at = self._clock() + seconds
            if breaker.blocks_all:
                self._on_change(upstream, f"{error.status} {error.error_type}", seconds)
        breaker.is_trial_running = False

    def open_circuit_from_peer(self, upstream: str, error: UpstreamError, seconds: float) -> None:
        breaker = self._breakers.setdefault(upstream, _Breaker())
        breaker.failures = max(breaker.failures, FAILURES_TO_OPEN)
        breaker.is_unavailable = True
        breaker.open_seconds = min(max(breaker.open_seconds, seconds), MAX_OPEN_SECONDS)
        breaker.error = error
        breaker.retry_at = self._clock() + seconds

    def close_circuit_from_peer(self, upstream: str) -> None:
        self._breakers.pop(upstream, None)

    def open_circuit_count(self) -> int:
        now = self._clock()
        return sum(breaker.retry_at > now for breaker in self._breakers.values())

    def list_open_circuits(self) -> dict[str, OpenCircuit]:
        """Return the open circuits by upstream. Any thread may call the method."""
        now = self._clock()
        return {
            upstream: OpenCircuit(breaker.retry_at - now, breaker.describe_failure(breaker.error))
            for upstream, breaker in self._breakers.copy().items()  # the event loop changes the dict
            if breaker.retry_at > now and breaker.error is not None
        }

    def release_trial(self, upstream: str) -> None:
        """End a call that neither succeeded nor failed. The next call becomes the trial."""
        breaker = self._breakers.get(upstream)
        if breaker is not None:
            breaker.is_trial_running = False


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
    """The number of retries that are still allowed for each upstream. `clock` returns monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        """Upstream → its budget. Absent: no retry yet, so the budget is full."""

    def record_first_call(self, upstream: str) -> None:
        if self._accounts and (account := self._accounts.get(upstream)) is not None:
            account.balance = min(account.balance + RETRY_RATIO, MAX_SAVED_RETRIES)

    def try_spend_retry(self, upstream: str) -> bool:
        now = self._clock()
        account = self._accounts.setdefault(upstream, _Account(MAX_SAVED_RETRIES, now))
        account.balance = min(account.balance + (now - account.updated_at) * RETRIES_PER_SECOND, MAX_SAVED_RETRIES)
        account.updated_at = now
        if account.balance < 1:
            return False
        account.balance -= 1
        return True
