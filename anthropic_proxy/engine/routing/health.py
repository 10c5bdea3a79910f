"""Protection of providers after failures: circuit breakers and retry budgets.

A circuit is closed while calls to an upstream (such as `openai api.openai.com`) succeed. After `FAILURES_TO_OPEN`
failures in a row it is open: calls fail at once, until one trial call is allowed. If the trial succeeds, the circuit is
closed; otherwise it stays open for twice the time. Workers inform each other. The last target of a plan, or the only
one, is called although its circuit is open: nothing else could serve the request.

Failures that one request can cause, such as a status 500, open the circuit only for the client of these requests.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec import Struct

from anthropic_proxy.errors import CircuitOpen, UpstreamError, UpstreamProtocolError, UpstreamTimeout

FAILURES_TO_OPEN = 5
"""Number of consecutive failures at which the circuit of an upstream opens."""
MIN_OPEN_SECONDS = 5.0
"""Time from the opening of a circuit to the first trial call. It is short, because the upstream may only be restarting.
"""
_UNAVAILABLE_STATUSES = (502, 503, 529)
_ALL = ""
"""In place of the `Client.id`: for all clients."""
MAX_OPEN_SECONDS = 60.0
"""Maximum time until the next trial call. Each failed trial doubles the time."""


def shows_outage(error: UpstreamError) -> bool:
    """Return True if an error shows that an upstream is not available. After another one, such as a status 500, no data
    in time or a reply that cannot be read, the request itself may be the reason.
    """
    may_be_request = isinstance(error, UpstreamProtocolError | UpstreamTimeout | CircuitOpen)
    return error.stated_status in _UNAVAILABLE_STATUSES and not may_be_request


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


class CircuitBreakers:
    """The circuit breakers of all upstreams. `clock` returns monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[tuple[str, str], _Breaker] = {}
        """Upstream, and `Client.id` or `_ALL` → breaker."""
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
        if not self._breakers:
            return
        now = self._clock()
        opened = [breaker for breaker in self._list_breakers(upstream, client) if breaker.retry_at]
        for breaker in opened:
            wait = breaker.retry_at - now
            error = breaker.error
            if error is not None and (wait > 0 or breaker.is_trial_running):
                raise self._refuse(error, breaker.failures, max(wait, 1.0))
        for breaker in opened:
            breaker.is_trial_running = True

    def _list_breakers(self, upstream: str, client: str) -> list[_Breaker]:
        found = (self._breakers.get((upstream, scope)) for scope in (_ALL, client))
        return [breaker for breaker in found if breaker is not None]

    @staticmethod
    def _refuse(error: UpstreamError, failures: int, seconds: float) -> CircuitOpen:
        # a text of the provider may quote the client whose call failed
        failure = f"{error.provider} failed with status {error.status}" if error.provider_text else error.stored_message
        return CircuitOpen(
            f"{failure.rstrip('.')}. It failed {failures} times in a row; the next call is allowed in {seconds:.0f} s.",
            provider=error.provider,
            status=error.status,
            kind=error.error_type,
            retryable=False,
            retry_after=seconds,
            should_retry=error.should_retry,
        )

    def record_success(self, upstream: str, client: str) -> None:
        if not self._breakers:
            return
        self._breakers.pop((upstream, client), None)
        breaker = self._breakers.pop((upstream, _ALL), None)
        if breaker is not None and breaker.retry_at:
            self._on_change(upstream, "", 0.0)

    def record_failure(self, upstream: str, error: UpstreamError, client: str) -> None:
        """Count a failed call for a client (`Client.id`), and for all clients if the upstream is not available.

        A stated status below 500 counts as a success, because the upstream itself works. A status that only the text of
        the error has lowered counts as neither: the text may quote the client.
        """
        if error.stated_status < 500:
            self.record_success(upstream, client)
            return
        if error.status >= 500:
            self._count_failure((upstream, client), error)
            if shows_outage(error) and (seconds := self._count_failure((upstream, _ALL), error)):
                self._on_change(upstream, f"{error.status} {error.error_type}", seconds)
        self.release_trial(upstream, client)

    def _count_failure(self, key: tuple[str, str], error: UpstreamError) -> float:
        """Return the seconds for which the failure has opened the circuit. 0: it is closed."""
        breaker = self._breakers.setdefault(key, _Breaker())
        breaker.failures += 1
        breaker.error = error
        if breaker.failures < FAILURES_TO_OPEN:
            return 0.0
        if breaker.is_trial_running:
            breaker.open_seconds = min(breaker.open_seconds * 2, MAX_OPEN_SECONDS)
        seconds = max(breaker.open_seconds, min(error.stated_retry_after or 0.0, MAX_OPEN_SECONDS))
        breaker.retry_at = self._clock() + seconds
        return seconds

    def open_circuit_from_peer(self, upstream: str, error: UpstreamError, seconds: float) -> None:
        breaker = self._breakers.setdefault((upstream, _ALL), _Breaker())
        breaker.failures = max(breaker.failures, FAILURES_TO_OPEN)
        breaker.open_seconds = min(max(breaker.open_seconds, seconds), MAX_OPEN_SECONDS)
        breaker.error = error
        breaker.retry_at = self._clock() + seconds

    def close_circuit_from_peer(self, upstream: str) -> None:
        self._breakers.pop((upstream, _ALL), None)

    def open_circuit_count(self) -> int:
        """Return the number of upstreams that are called for nobody. A circuit may be open for one client only."""
        now = self._clock()
        found = ((scope, breaker) for (_, scope), breaker in self._breakers.copy().items())
        return sum(scope == _ALL and breaker.retry_at > now for scope, breaker in found)

    def list_open_circuits(self) -> dict[str, OpenCircuit]:
        """Return the open circuits by upstream, that for all clients before one of a client. Any thread may call the
        method.
        """
        now, found = self._clock(), dict[str, OpenCircuit]()
        for (upstream, scope), breaker in self._breakers.copy().items():  # the event loop changes the dict
            if breaker.retry_at <= now or breaker.error is None or (scope != _ALL and upstream in found):
                continue
            failure = breaker.error.stored_message
            if scope != _ALL:
                failure = f"{failure.rstrip('.')}. Other clients are not concerned."
            found[upstream] = OpenCircuit(breaker.retry_at - now, failure)
        return found

    def release_trial(self, upstream: str, client: str) -> None:
        """End a call that neither succeeded nor failed. The next call becomes the trial."""
        if self._breakers:
            for breaker in self._list_breakers(upstream, client):
                breaker.is_trial_running = False


class RepetitionShare(Struct, frozen=True):
    """How many calls may be repeated."""

    per_call: float
    """Number of repetitions added to a budget by the first call of each request."""
    per_second: float
    """Number of repetitions added to a budget per second, so that rare calls can always be repeated."""
    saved: float
    """Maximum and initial number of repetitions in a budget."""


RETRIES = RepetitionShare(per_call=0.2, per_second=5.0, saved=50.0)
REPAIRS = RepetitionShare(per_call=0.0, per_second=0.1, saved=20.0)
"""Repetitions of refused requests in a plainer form."""
NO_REPETITIONS = RepetitionShare(per_call=0.0, per_second=0.0, saved=0.0)
_MAX_ACCOUNTS = 10_000


class _Account(Struct):
    balance: float
    updated_at: float


class RepetitionBudget:
    """The number of repeated calls that are still allowed for each account, such as an upstream or a client.

    `clock` returns monotonic seconds.
    """

    def __init__(self, share: RepetitionShare = RETRIES, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        """Absent: no repetition yet, so the budget is full."""

    def record_first_call(self, account: str) -> None:
        if self._accounts and (known := self._accounts.get(account)) is not None:
            known.balance = min(known.balance + self._share.per_call, self._share.saved)

    def try_spend(self, account: str) -> bool:
        return self.try_spend_all({account: 1.0})

    def try_spend_all(self, amounts: Mapping[str, float]) -> bool:
        """Spend an amount of each account, or nothing if one of them has too little."""
        if not self.allows(amounts):
            return False
        now = self._clock()
        for account, amount in amounts.items():
            balance = self._find_balance(account, now) - amount
            self._accounts.pop(account, None)
            self._accounts[account] = _Account(balance, now)
        while len(self._accounts) > _MAX_ACCOUNTS:  # the one that has spent nothing for longest
            del self._accounts[next(iter(self._accounts))]
        return True

    def allows(self, amounts: Mapping[str, float]) -> bool:
        """Return True if `try_spend_all` would spend these amounts."""
        now = self._clock()
        return all(self._find_balance(account, now) >= amount for account, amount in amounts.items())

    def _find_balance(self, account: str, now: float) -> float:
        known = self._accounts.get(account)
        if known is None:
            return self._share.saved
        return min(known.balance + (now - known.updated_at) * self._share.per_second, self._share.saved)
