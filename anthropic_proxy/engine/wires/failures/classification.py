"""Table of provider errors: status, codes and text of an error determine status and error type for the client.

The first row that matches counts. Before that, the modules in `kinds/` recognize errors about size, images and quota.
"""

import re
from collections.abc import Callable

from msgspec import Struct

from anthropic_proxy.engine.wires.failures.error_body import UpstreamFault
from anthropic_proxy.engine.wires.failures.kinds.images import find_image_refusal
from anthropic_proxy.engine.wires.failures.kinds.policy import find_exhausted_quota
from anthropic_proxy.engine.wires.failures.kinds.sizes import RATE_LIMIT_WORDS, KnownTokenCounts, find_token_limit_fault
from anthropic_proxy.errors import (
    UnreadableReply,
    UpstreamError,
    UpstreamErrorCause,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
)

MAX_MESSAGE_CHARACTERS = 2_000
MAX_PROXY_RETRY_DELAY_SECONDS = 5
"""Maximum retry delay of a provider, in seconds, up to which the proxy itself retries. After a longer delay, only the
client may retry."""
DEFAULT_503_RETRY_AFTER_SECONDS = 2.0
"""Seconds in the header `retry-after` for the client, if a provider answered status 503 without a delay."""


class _Row(Struct, frozen=True, kw_only=True):
    """Conditions on a provider error, and the error for the client. One true condition suffices."""

    status: int
    kind: str
    statuses: tuple[int, ...] = ()
    codes: frozenset[str] = frozenset()
    text: str = ""
    """Pattern that is searched in the provider's error message, ignoring case. "": no condition on the message."""
    only: int | None = None
    """HTTP status of the provider with which `text` is searched. None: any status."""
    should_retry: bool | None = None
    """Value of the header `x-should-retry` for the client. None: the header is not sent."""

    def matches(self, fault: UpstreamFault) -> bool:
        if fault.status in self.statuses or self.codes & fault.codes:
            return True
        if not self.text or (self.only is not None and fault.status != self.only):
            return False
        return re.search(self.text, fault.message, re.IGNORECASE) is not None


_BILLING = _Row(status=402, kind="billing_error", should_retry=False)
_ALLOWANCE = _Row(status=429, kind="rate_limit_error", should_retry=False)
_ROWS = (
    _Row(status=402, kind="billing_error", statuses=(402,), should_retry=False),
    _Row(
        status=401,
        kind="authentication_error",
        statuses=(401,),
        codes=frozenset(("invalid_api_key", "API_KEY_INVALID")),
        text=r"api key not valid|incorrect api key",
        should_retry=False,
    ),
    _Row(status=403, kind="permission_error", statuses=(403,), codes=frozenset(("PERMISSION_DENIED",))),
    _Row(
        status=404,
        kind="not_found_error",
        statuses=(404,),
        codes=frozenset(("model_not_found", "NOT_FOUND")),
        text=r"^model [\"'`].*[\"'`] not found|^the model [\"'`][^\"'`]{1,200}[\"'`] does not exist\b",
    ),
    _Row(status=429, kind="rate_limit_error", text=RATE_LIMIT_WORDS.pattern, only=413, should_retry=False),
    _Row(status=413, kind="request_too_large", statuses=(413,), text=r"^request payload size exceeds"),
    _Row(
        status=529,
        kind="overloaded_error",
        statuses=(498, 529),
        codes=frozenset(
            (
                *("engine_overloaded_error", "overloaded_error", "insufficient_system_resource", "network_error"),
                "UNAVAILABLE",
            )
        ),
        text=r"overload|capacity|too busy|high demand",
        only=503,
    ),
    _Row(
        status=429,
        kind="rate_limit_error",
        statuses=(429,),
        codes=frozenset(("RESOURCE_EXHAUSTED", "rate_limit_exceeded", "rate_limit_reached_error", "rate_limit_error")),
    ),
    _Row(status=503, kind="api_error", statuses=(503,)),
    _Row(status=502, kind="api_error", codes=frozenset(("tool_use_failed",))),
    _Row(
        status=504, kind="timeout_error", statuses=(504, 408), codes=frozenset(("DEADLINE_EXCEEDED", "timeout_error"))
    ),
    _Row(status=409, kind="conflict_error", statuses=(409,)),
    _Row(status=400, kind="invalid_request_error", statuses=tuple(range(400, 500))),
)
_NO_KINDS = (401, 402)
"""HTTP statuses with a fixed meaning: 401 (invalid key) and 402 (payment). These errors are not searched for wrong
sizes or images."""
_SERVER_FAILED = _Row(status=500, kind="api_error")
_CLIENT_FAILED = _Row(status=400, kind="invalid_request_error")


def build_upstream_error(
    fault: UpstreamFault,
    provider: str,
    *,
    context_window: int | None,
    estimate_input: Callable[[], int],
    output_limit: int,
) -> UpstreamError:
    if fault.is_unreadable_output:
        return UnreadableReply(
            f"{provider}: the model's reply could not be read ({fault.message})"[:MAX_MESSAGE_CHARACTERS],
            provider=provider,
        )
    if fault.status not in _NO_KINDS:
        shortage = find_token_limit_fault(
            fault,
            KnownTokenCounts(
                context_window=context_window, estimate_input=estimate_input, requested_output=output_limit
            ),
        )
        if shortage is not None:
            error = UpstreamRefused(
                shortage.message or f"{provider}: {fault.message}"[:MAX_MESSAGE_CHARACTERS],
                code="prompt-too-long" if shortage.cause.kind == "overflow" else "",
                provider=provider,
                status=400,
                kind="invalid_request_error",
                parameter=shortage.parameter,
            )
            if RATE_LIMIT_WORDS.search(fault.message):
                # Anthropic's text has no word for a rate limit, so the log shows the original
                error.add_note(fault.message[:200])
            return _caused(error, shortage.cause)
        if (cause := find_image_refusal(fault)) is not None:
            return _caused(_error(_CLIENT_FAILED, fault, provider), cause)
    quota = find_exhausted_quota(fault)
    if quota is not None:
        return _caused(
            _error(_BILLING if quota == "billing" else _ALLOWANCE, fault, provider), UpstreamErrorCause(kind="quota")
        )
    row = next((row for row in _ROWS if row.matches(fault)), None)
    if row is None:
        asked_wrong = fault.status is None and "invalid_request_error" in fault.codes
        row = _CLIENT_FAILED if asked_wrong else _SERVER_FAILED
    return _error(row, fault, provider)


def _caused(error: UpstreamError, cause: UpstreamErrorCause) -> UpstreamError:
    error.cause = cause
    return error


def _error(row: _Row, fault: UpstreamFault, provider: str) -> UpstreamError:
    text = f"{provider}: {fault.message}" if fault.message else f"{provider} returned HTTP {fault.status or row.status}"
    delay = fault.retry_after
    if row.status == 503 and delay is None:
        delay = DEFAULT_503_RETRY_AFTER_SECONDS
    per_day = row.status == 429 and any("perday" in code.lower() for code in fault.codes)
    kinds = {529: UpstreamOverloaded, 504: UpstreamTimeout}
    error = kinds.get(row.status, UpstreamRefused)(
        text[:MAX_MESSAGE_CHARACTERS],
        provider=provider,
        status=row.status,
        kind=row.kind,
        retryable=_is_retryable(row, fault),
        retry_after=delay,
        should_retry=False if per_day or fault.is_permanent else row.should_retry,
        parameter=fault.parameter,
    )
    if fault.excerpt:
        error.add_note(fault.excerpt)
    return error


def _is_retryable(row: _Row, fault: UpstreamFault) -> bool:
    """Return True if the error is temporary, and its retry delay short. Status 429 requires a stated delay."""
    if fault.is_permanent or row.should_retry is False:
        return False
    if fault.retry_after is not None and fault.retry_after > MAX_PROXY_RETRY_DELAY_SECONDS:
        return False
    if row.status == 429:
        return fault.retry_after is not None
    return row.status in (502, 503, 529) or fault.status == 502
