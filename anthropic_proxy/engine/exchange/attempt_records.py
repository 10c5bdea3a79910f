"""`AttemptRecords`: the record of each call to a provider in the receipt of a request."""

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from msgspec import structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import record_bytes
from anthropic_proxy.engine.hooks import Receipt, UpstreamAttempt
from anthropic_proxy.engine.messages.deltas import Usage, sum_usages
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.trace_context import new_span_id
from anthropic_proxy.engine.wires.contract import UpstreamRequest
from anthropic_proxy.errors import ProxyError

_DEFAULT_PORTS = {"http": 80, "https": 443}


class AttemptRecords:
    """Writer of `Receipt.attempts`: duration, status, error and tokens of each call.

    At most one attempt is open (without a recorded end) at a time.
    """

    def __init__(self, receipt: Receipt, engine: Engine, clock: Callable[[], float]) -> None:
        """`clock`: that of the exchange."""
        self._receipt = receipt
        self._engine = engine
        self._clock = clock
        self._open: UpstreamAttempt | None = None
        self._uncounted: UpstreamAttempt | None = None
        """Last attempt without a failure, until its token usage is recorded. None: no such attempt."""
        self.unread_usage: Usage | None = None
        """Token usage of attempts that failed before their first content, which the client's reply does not count.
        None: no such attempt."""

    def begin_attempt(self, target: Target, request: UpstreamRequest, max_tokens: int = 0) -> UpstreamRequest:
        """Record the start of an attempt, and return `request` with its trace headers, if the proxy exports traces."""
        if self._open is not None:
            self.end_attempt()
        receipt = self._receipt
        host, port = _find_address(target.base_url)
        attempt = UpstreamAttempt(
            provider=target.provider.name,
            model=target.model,
            host=host,
            port=port,
            offset_seconds=self._clock() - receipt.started_at,
            max_tokens=max_tokens,
        )
        receipt.attempts.append(attempt)
        self._open = attempt
        self._uncounted = attempt
        if recorders := [*self._engine.recorders]:
            record_bytes(recorders, self._engine.log, receipt.request_id, "upstream request", request.body)
        if receipt.trace is None or not receipt.trace.span_id:
            return request
        attempt.span_id = new_span_id()
        return structs.replace(request, trace_headers=receipt.trace.encode_headers(attempt.span_id))

    def fail_attempt(self, error: ProxyError, usage: Usage | None = None) -> None:
        """Record that the open attempt ended with `error`. The caller has removed API keys from its message."""
        if self._open is not None:
            self._open.error_type = error.error_type
            self._open.error = error.message
            self._uncounted = None
            if usage is not None:
                self._open.set_usage(usage)
        self.end_attempt()

    def count_unread_reply(self, usage: Usage) -> None:
        """Record the token usage of the open attempt, which has failed before its first content."""
        if self._open is not None:
            self._open.set_usage(usage)
            self.unread_usage = usage if self.unread_usage is None else sum_usages(self.unread_usage, usage)

    def end_attempt(self) -> None:
        if self._open is not None:
            self._open.duration_seconds = self._clock() - self._receipt.started_at - self._open.offset_seconds
            self._open = None

    def add_usage(self, usage: Usage) -> None:
        """Record the usage of the last attempt: `usage`, the sum of the reply so far, minus the earlier attempts."""
        self._uncounted = None
        last = self._receipt.attempts[-1]
        last.set_usage(usage if self.unread_usage is None else sum_usages(self.unread_usage, usage))
        for earlier in self._receipt.attempts[:-1]:
            last.subtract_usage(earlier)

    def finish_last_attempt(self) -> None:
        """Complete the record of the last attempt when the client request ends.

        It gets the usage of the client request that no earlier attempt has, unless it failed or `add_usage` has
        recorded its usage.
        """
        receipt = self._receipt
        last = self._uncounted
        if last is None:
            return
        if self._open is not None:
            if receipt.outcome == "error":
                last.error_type = receipt.error_type
                last.error = receipt.error
            self.end_attempt()
        last.copy_usage(receipt)
        for earlier in receipt.attempts[:-1]:
            last.subtract_usage(earlier)

    @property
    def lacks_input(self) -> bool:
        """True if the provider of the last call may bill its input and has not reported it, when the client request has
        ended: the client disconnected, or the reply began without a count.
        """
        receipt = self._receipt
        last = receipt.attempts[-1] if receipt.attempts else None
        if last is None or last.all_input_tokens:
            return False
        if receipt.outcome == "cancelled":
            return not last.error_type
        return receipt.first_token_seconds is not None and not receipt.all_input_tokens

    def add_input(self, tokens: int) -> None:
        """Count the estimated input `tokens` for the last call, but at least the input of each earlier one."""
        receipt = self._receipt
        tokens = max(tokens, *(attempt.all_input_tokens for attempt in receipt.attempts))
        receipt.attempts[-1].input_tokens = tokens
        receipt.input_tokens += tokens


@lru_cache(maxsize=64)
def _find_address(base_url: str) -> tuple[str, int]:
    try:
        url = urlsplit(base_url)
        return url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme, 0)
    except ValueError:
        return "", 0
