"""Records of the calls to providers in the receipt of a client request: duration, status, error and tokens of each."""

import functools
from urllib.parse import urlsplit

from msgspec import structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_request import record_bytes
from anthropic_proxy.engine.hooks import Receipt, UpstreamAttempt
from anthropic_proxy.engine.messages.deltas import (
    Usage,
    clamp_count,
    sum_usages,
)
from anthropic_proxy.engine.routing.router import Target
from anthropic_proxy.engine.trace_context import new_span_id
from anthropic_proxy.engine.wires.contract import (
    UpstreamRequest,
)
from anthropic_proxy.errors import (
    UpstreamError,
)

_DEFAULT_PORTS = {"http": 80, "https": 443}


class AttemptRecords:
    """Writer of `Receipt.attempts`. At most one attempt is open (without a recorded end) at a time."""

    def __init__(self, receipt: Receipt, engine: Engine) -> None:
        self._receipt = receipt
        self._engine = engine
        self._clock = engine.clock
        self._open: UpstreamAttempt | None = None
        self._uncounted: UpstreamAttempt | None = None
        """Last attempt without a failure, until its token usage is recorded. None: no such attempt."""
        self.unread_usage = Usage()
        """Token usage of attempts that failed before their first content. The reply to the client does not count it."""

    def begin_attempt(self, target: Target, request: UpstreamRequest) -> UpstreamRequest:
        """Record the start of an attempt, and return `request` with its trace headers, if the proxy exports traces."""
        if self._open is not None:
            self.end_attempt()
        receipt, (host, port) = self._receipt, _find_address(target.base_url)
        offset = self._clock() - receipt.started_at
        attempt = self._open = self._uncounted = UpstreamAttempt(
            provider=target.provider.name, model=target.model, host=host, port=port, offset_seconds=offset
        )
        receipt.attempts.append(attempt)
        if self._engine.recorders:
            recorders, log = [*self._engine.recorders], self._engine.log
            record_bytes(recorders, log, receipt.request_id, "upstream request", request.body)
        if receipt.trace is None or not receipt.trace.span_id:
            return request
        attempt.span_id = new_span_id()
        return structs.replace(request, trace_headers=receipt.trace.encode_headers(attempt.span_id))

    def set_status(self, status: int) -> None:
        if self._open is not None:
            self._open.status = status

    def fail_attempt(self, error: UpstreamError, usage: Usage | None = None) -> None:
        """Record that the open attempt ended with `error`. The caller has removed API keys from its message."""
        if self._open is not None:
            self._open.error_type, self._open.error = error.error_type, error.message
            self._uncounted = None
            if usage is not None:
                _set_usage(self._open, usage)
        self.end_attempt()

    def count_unread_reply(self, usage: Usage) -> None:
        """Record the token usage of the open attempt, which has failed before its first content."""
        if self._open is not None:
            _set_usage(self._open, usage)
            self.unread_usage = sum_usages(self.unread_usage, usage)

    def end_attempt(self) -> None:
        if self._open is not None:
            self._open.duration_seconds = self._clock() - self._receipt.started_at - self._open.offset_seconds
            self._open = None

    def add_usage(self, usage: Usage) -> None:
        """Record the usage of the last attempt: `usage`, the sum of the reply so far, minus the earlier attempts."""
        last, self._uncounted = self._receipt.attempts[-1], None
        _set_usage(last, sum_usages(self.unread_usage, usage))
        self._subtract_earlier_attempts(last)

    def finish_last_attempt(self) -> None:
        """Complete the record of the last attempt when the client request ends.

        It gets the usage of the client request minus that of the earlier attempts, unless it failed or `add_usage` has
        recorded its usage.
        """
        receipt, last = self._receipt, self._uncounted
        if last is None:
            return
        if self._open is not None:
            if receipt.outcome == "error":
                last.error_type, last.error = receipt.error_type, receipt.error
            self.end_attempt()
        last.input_tokens, last.output_tokens = receipt.input_tokens, receipt.output_tokens
        last.cache_read_tokens, last.cache_write_tokens = receipt.cache_read_tokens, receipt.cache_write_tokens
        last.cache_write_1h_tokens, last.thinking_tokens = receipt.cache_write_1h_tokens, receipt.thinking_tokens
        last.billed_searches, last.service_tier = receipt.billed_searches, receipt.service_tier
        if len(receipt.attempts) > 1:
            self._subtract_earlier_attempts(last)

    def _subtract_earlier_attempts(self, last: UpstreamAttempt) -> None:
        for earlier in self._receipt.attempts[:-1]:
            last.input_tokens = max(last.input_tokens - earlier.input_tokens, 0)
            last.output_tokens = max(last.output_tokens - earlier.output_tokens, 0)
            last.cache_read_tokens = max(last.cache_read_tokens - earlier.cache_read_tokens, 0)
            last.cache_write_tokens = max(last.cache_write_tokens - earlier.cache_write_tokens, 0)
            last.cache_write_1h_tokens = max(last.cache_write_1h_tokens - earlier.cache_write_1h_tokens, 0)
            last.thinking_tokens = max(last.thinking_tokens - earlier.thinking_tokens, 0)
            last.billed_searches = max(last.billed_searches - earlier.billed_searches, 0)


def _set_usage(attempt: UpstreamAttempt, usage: Usage) -> None:
    if usage.repeated_input is not None:
        usage = sum_usages(usage.repeated_input, usage)
    attempt.input_tokens, attempt.output_tokens = usage.input_tokens or 0, usage.output_tokens or 0
    attempt.cache_read_tokens, attempt.cache_write_tokens = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    attempt.cache_write_1h_tokens = usage.cache_write_1h_tokens or 0
    attempt.thinking_tokens = usage.thinking_tokens or 0
    attempt.billed_searches, attempt.service_tier = clamp_count(usage.billed_searches), usage.billed_tier or ""


@functools.lru_cache(maxsize=64)
def _find_address(base_url: str) -> tuple[str, int]:
    try:
        url = urlsplit(base_url)
        return url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme, 0)
    except ValueError:
        return "", 0
