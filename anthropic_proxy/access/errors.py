"""Errors for client requests with a virtual key, which is a key that the proxy issues to a client.

Functions `*_error` return an exception with the message for the client. Functions `require_*` raise one if the key does
not permit a request.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from anthropic_proxy.access.descriptions import format_time
from anthropic_proxy.access.key_table import Ending, KeyEntry
from anthropic_proxy.access.limits import KeyLimit, Scope
from anthropic_proxy.access.rules import Budget, find_period_end
from anthropic_proxy.errors import AuthenticationFailed, LimitReached, PermissionDenied, ProxyBusy
from anthropic_proxy.plugins import AdmissionRequest, AdmissionTarget, Reservation

RESERVED_WAIT_SECONDS = 1.0
"""Value of `Reservation.retry_after_seconds` for a budget that has no room only because running requests have reserved
the remainder."""

_REJECTED: Mapping[Ending, str] = {
    "unknown": "The key is not a key of this proxy{typed}. Its administrator creates one:  "
    "anthropic-proxy keys create LABEL",
    "revoked": "The key {label!r} is revoked{typed}. The administrator of the proxy creates another one:  "
    "anthropic-proxy keys create LABEL",
    "expired": "The key {label!r} expired at {end}{typed}. The administrator of the proxy extends it:  "
    "anthropic-proxy keys change {label!r} --expires 30d",
    "replaced": "The key {label!r} was replaced at {end}{typed}. Use its new text, or create another one:  "
    "anthropic-proxy keys rotate {label!r}",
}
"""Reason for which a virtual key is rejected → text of the message for the client."""


class KeysUnavailable(ProxyBusy):
    """Error: virtual keys cannot be checked or read, because their database is not available. The client may retry."""

    def __init__(self) -> None:
        super().__init__(
            "The proxy cannot check keys, because its database is not available. Try again in a moment.",
            retry_after=2,
        )


def rejected_key_error(entry: KeyEntry, has_valid_checksum: bool) -> AuthenticationFailed:
    """Return the error (401) for a virtual key that the proxy does not accept.

    `has_valid_checksum` is False if the key text is mistyped or incomplete.
    """
    typed = ("" if has_valid_checksum else ", or it was not copied completely") * (entry.ending == "unknown")
    end = format_time(max(entry.ends_at, 0.0))
    message = _REJECTED[entry.ending].format(label=entry.key.label, end=end, typed=typed)
    return AuthenticationFailed(message, should_retry=False)


def limit_reached_error(refused: KeyLimit, reservation: Reservation, now: float) -> LimitReached:
    """Return the error (429) for a request that would exceed a limit of its virtual key or team.

    `now` is in seconds since the epoch.
    """
    wait = reservation.retry_after_seconds
    scope, maximum = refused.scope, refused.limit.maximum
    if refused.budget is not None:
        return _budget_error(refused, refused.budget, wait, now)
    if refused.rule == "concurrency":
        message = (
            f"{scope.describe()} has {_count(maximum, 'request')} in progress, which is its limit. Try again when one "
            f"ends. Another limit:  {scope.format_change_command('--concurrency N')}"
        )
        return LimitReached(message, retry_after=wait)
    unit, option = _UNITS[refused.rule]
    message = (
        f"{scope.describe()} has reached its limit of {_count(maximum, unit)} per minute. Try again in "
        f"{math.ceil(wait)} s. Another limit:  {scope.format_change_command(f'{option} N')}"
    )
    return LimitReached(message, retry_after=wait)


_UNITS = {
    "requests_per_minute": ("request", "--rpm"),
    "token_counts_per_minute": ("token count", "--rpm"),
    "tokens_per_minute": ("token", "--tpm"),
}
"""Field of `Rules` with the limit → (unit of its amount, command option that sets the limit)."""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _budget_error(refused: KeyLimit, budget: Budget, wait: float, now: float) -> LimitReached:
    scope = refused.scope
    end = find_period_end(budget.period, datetime.fromtimestamp(now, UTC))
    change = f"Another budget:  {scope.format_change_command(f'--budget AMOUNT/{budget.period}')}"
    if wait <= RESERVED_WAIT_SECONDS:
        message = (
            f"{scope.describe()} has a budget of {budget.describe()}, and running requests reserve the remainder. Try "
            f"again when one ends. {change}"
        )
        return LimitReached(message, retry_after=wait)
    renewal = "It is not renewed." if end is None else f"It is renewed at {format_time(end.timestamp())}."
    message = f"{scope.describe()} has used up its budget of {budget.describe()}. {renewal} {change}"
    retry_after = None if end is None else end.timestamp() - now
    return LimitReached(message, retry_after=retry_after, should_retry=False)


def require_allowed_models(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """Raise `PermissionDenied` if a virtual key or its team may not use a model or provider of `request`."""
    for scope in scopes:
        rules = scope.rules
        used = [f"{target.prefix}/{target.model}" for target in request.targets]
        if not rules.allows_model([request.normalized_model or request.model]):  # an alias may name another provider
            denied = next((name for name in used if not rules.allows_model([name])), None)
            if denied is not None or not used:
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the model {request.model!r} ({denied}). Allowed: "
                    f"{', '.join(rules.models)}. Another list:  {scope.format_change_command('--models LIST')}"
                )
        for target in request.targets:
            if not rules.allows_provider(target.prefix):
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the provider {target.prefix!r}, to which {request.model!r} is "
                    f"sent. Allowed: {', '.join(rules.providers)}. Another list:  "
                    f"{scope.format_change_command('--providers LIST')}"
                )


def require_allowed_route(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """Raise `PermissionDenied` if a virtual key or its team may not use the route of `request`.

    A list of allowed routes excludes requests without a route.
    """
    for scope in scopes:
        if scope.rules.allows_route(request.route):
            continue
        allowed = ", ".join(scope.rules.routes)
        if request.route:
            raise PermissionDenied(
                f"{scope.describe()} does not allow the route {request.route!r}, which matches this request. Allowed: "
                f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}"
            )
        raise PermissionDenied(
            f"{scope.describe()} allows only requests of certain routes, and no route matches this one. Allowed: "
            f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}"
        )


def unknown_price_error(scope: Scope, target: AdmissionTarget) -> PermissionDenied:
    """Return the error (403) for a request to a model without a known price.

    The virtual key or team `scope` has a budget in dollars, which cannot be checked without a price.
    """
    name = f"{target.prefix}/{target.model}"
    return PermissionDenied(
        f"{scope.describe()} has a budget in dollars, and the price of {name} is unknown. Add a table "
        f'[prices."{name}"] to anthropic-proxy.toml, or use a budget in tokens.'
    )
