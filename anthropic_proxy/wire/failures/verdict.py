"""Which of our errors a fault is: one table, the first row that matches."""

import re
from collections.abc import Callable

from msgspec import Struct

from anthropic_proxy.errors import UpstreamError, UpstreamOverloaded, UpstreamRefused, UpstreamTimeout
from anthropic_proxy.messages.deltas import Stop
from anthropic_proxy.wire.failures.fault import Fault
from anthropic_proxy.wire.failures.overflow import find_overflow

MAX_MESSAGE_CHARACTERS = 2_000
SHORT_DELAY_SECONDS = 5
"""A provider that wants no longer a pause than this is asked once more by the proxy itself."""
UNAVAILABLE_SECONDS = 2.0
"""What a client is told to wait after a 503 that names no time."""

_POLICY = frozenset(
    (
        *(
            "content_policy_violation",
            "content_filter",
            "invalid_prompt",
            "bio_policy",
            "misalignment_policy_violation",
        ),
        "ResponsibleAIPolicyViolation",
    )
)


class _Row(Struct, frozen=True, kw_only=True):
    """What a fault must have one of, and what it then is."""

    status: int
    kind: str
    statuses: tuple[int, ...] = ()
    codes: frozenset[str] = frozenset()
    text: str = ""
    """Matches the message without regard to case; where `only` is set, of an answer with that status."""
    only: int | None = None
    should_retry: bool | None = None

    def matches(self, fault: Fault) -> bool:
        if fault.status in self.statuses or self.codes & fault.codes:
            return True
        if not self.text or (self.only is not None and fault.status != self.only):
            return False
        return re.search(self.text, fault.message, re.IGNORECASE) is not None


_ROWS = (
    _Row(
        status=402,
        kind="billing_error",
        statuses=(402,),
        codes=frozenset(("insufficient_quota", "exceeded_current_quota_error", "billing_hard_limit_reached")),
        text=r"credit balance|spending limit|run out of credits|used all available credits|insufficient balance",
        should_retry=False,
    ),
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
        text=r"^model [\"'`].*[\"'`] not found",
    ),
    _Row(status=429, kind="rate_limit_error", text=r"tokens per minute|\bTPM\b", only=413),
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
_SERVER_FAILED = _Row(status=500, kind="api_error")
_CLIENT_FAILED = _Row(status=400, kind="invalid_request_error")


def is_policy_refusal(fault: Fault) -> bool:
    """Whether the provider declined to answer for reasons of content: that is a reply, not a failure."""
    return bool(fault.codes & _POLICY)


def blocked(provider: str, reason: str) -> Stop:
    """Return the end of a reply that the provider declined to give."""
    explanation = f"Blocked by {provider}: {reason}"
    return Stop("refusal", details={"type": "refusal", "category": None, "explanation": explanation})


def judge(
    fault: Fault,
    provider: str,
    *,
    window: int | None = None,
    estimate: Callable[[], int] = lambda: 0,
    asked: int = 0,
) -> UpstreamError:
    """Return the error that a fault is; its text starts with the provider's name, except where clients read it.

    `window`, what `estimate` counts and `asked` (all tokens) complete an overflow text that has no numbers.
    """
    overflow = find_overflow(fault, window, estimate, asked)
    if overflow is not None:
        return UpstreamRefused(
            overflow.message,
            provider=provider,
            status=400,
            kind="invalid_request_error",
            parameter=overflow.parameter,
        )
    row = next((row for row in _ROWS if row.matches(fault)), None)
    if row is None:
        asked_wrong = fault.status is None and "invalid_request_error" in fault.codes
        row = _CLIENT_FAILED if asked_wrong else _SERVER_FAILED
    return _error(row, fault, provider)


def _error(row: _Row, fault: Fault, provider: str) -> UpstreamError:
    text = f"{provider}: {fault.message}" if fault.message else f"{provider} returned HTTP {fault.status or row.status}"
    delay = fault.retry_after
    if row.status == 503 and delay is None:
        delay = UNAVAILABLE_SECONDS
    per_day = row.status == 429 and any("perday" in code.lower() for code in fault.codes)
    kinds = {529: UpstreamOverloaded, 504: UpstreamTimeout}
    error = kinds.get(row.status, UpstreamRefused)(
        text[:MAX_MESSAGE_CHARACTERS],
        provider=provider,
        status=row.status,
        kind=row.kind,
        retryable=_is_retryable(row, fault),
        retry_after=delay,
        should_retry=False if per_day or fault.stays else row.should_retry,
        parameter=fault.parameter,
    )
    if fault.excerpt:
        error.add_note(fault.excerpt)
    return error


def _is_retryable(row: _Row, fault: Fault) -> bool:
    """Whether the proxy itself may ask once more: not where the provider wants a longer pause than a client notices."""
    if fault.stays:
        return False
    if fault.retry_after is not None and fault.retry_after > SHORT_DELAY_SECONDS:
        return False
    if row.status == 429:
        return fault.retry_after is not None
    return row.status in (502, 503, 529) or fault.status == 502
