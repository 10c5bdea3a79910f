"""Failed requests on the pages: names of the kinds of errors, their chart, and incidents.

An incident is a time in which many requests to one provider failed.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import Chart, Periods, chart_groups
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.failures import OF_REQUESTS, ErrorPeriod, FailedAttempts
from anthropic_proxy.console.ledger.queries import ModelPeriod, PeriodSums
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.errors import STATED_IN_TEXT

KINDS: Mapping[str, tuple[str, str]] = {
    "rate_limit_error": ("rate limit", "warn"),
    "overloaded_error": ("overloaded", "error-overloaded"),
    "api_error": ("server error", "error"),
    "timeout_error": ("timeout", "error-timeout"),
    "authentication_error": ("rejected key", "error-key"),
    "billing_error": ("no credit or budget", "error-credit"),
    "permission_error": ("no access", "error-access"),
    "invalid_request_error": ("invalid request", "error-request"),
    "not_found_error": ("not found", "error-not-found"),
    "request_too_large": ("too large", "error-size"),
}
"""Type of error → (name of its kind, CSS class of its color)."""
MIN_INCIDENT_ERRORS = 3
"""Minimum number of failed requests of one provider in one period for an incident."""
MIN_INCIDENT_SHARE = 0.05
"""Their minimum share of all its requests (0 to 1)."""
_MAX_BANDS = 3


class Incident(Struct, frozen=True):
    first: int
    last: int
    label: str
    count: int


def find_error_kind(error_type: str, error_code: str = "") -> str:
    kind = KINDS[error_type][0] if error_type in KINDS else error_type.removesuffix("_error").replace("_", " ")
    return f"{kind} by its text" if error_code == STATED_IN_TEXT else kind


def is_frequent(attempts: FailedAttempts, requests: int) -> bool:
    """`requests`: number of requests that ended at the provider."""
    return is_share_frequent(attempts.requests, requests + attempts.passed_on)


def is_share_frequent(count: int, sent: int) -> bool:
    """Return True if so many of the sent requests are a problem."""
    return count >= MIN_INCIDENT_ERRORS and count >= MIN_INCIDENT_SHARE * sent


def describe_failed_attempts(attempts: FailedAttempts, requests: int, place: str) -> str:
    """`9 of 11 requests failed at openrouter first, and 8 went to another provider.`"""
    sent = formats.plural(requests + attempts.passed_on, "request")
    text = f"{attempts.requests:,} of {sent} failed {place} first"
    return f"{text}, and {attempts.passed_on:,} went to another provider." if attempts.passed_on else f"{text}."


def link_to_failed_attempts(query: ViewQuery, prefix: str) -> str:
    """Return the URL of the requests with a failed attempt at a provider."""
    return query.link("/dashboard/requests", text=f'"{prefix}', measure="")  # the column is JSON: ["groq 503"]


def chart_errors(periods: Periods, errors: Sequence[ErrorPeriod]) -> Chart:
    query = periods.query
    failed = structs.replace(query, facets={**query.facets, "outcome": "error"})
    rows = [
        PeriodSums(period.start, period.error_type, UsageSums(requests=period.count))
        for period in errors
        if period.has_model
    ]
    names = {
        period.error_type: KINDS.get(period.error_type, (find_error_kind(period.error_type), "others"))
        for period in errors
    }
    drawn = chart_groups(structs.replace(periods, query=failed), rows, lambda sums: sums.requests, formats.count, names)
    return structs.replace(drawn, empty_text="No failed requests in this range.")


def find_incidents(
    periods: Periods, errors: Iterable[ErrorPeriod], model_periods: Iterable[ModelPeriod], costs: ModelCosts
) -> list[Incident]:
    """Return the largest incidents, in order of time. `model_periods` has all requests, for the share of failures."""
    numbers = {start: number for number, start in enumerate(periods.starts)}
    sent: dict[tuple[str, int], int] = {}
    for row in model_periods:
        key = row.model.provider, numbers.get(row.start, -1)
        sent[key] = sent.get(key, 0) + row.model.sums.requests
    failed: dict[tuple[str, int], dict[str, int]] = {}
    for period in errors:
        if period.provider and period.error_type not in OF_REQUESTS and period.start in numbers:
            kinds = failed.setdefault((period.provider, numbers[period.start]), {})
            kind = find_error_kind(period.error_type, period.error_code)
            kinds[kind] = kinds.get(kind, 0) + period.count
    incidents: list[Incident] = []
    for (provider, number), kinds in sorted(failed.items()):
        count = sum(kinds.values())
        if count < MIN_INCIDENT_ERRORS or count < MIN_INCIDENT_SHARE * sent.get((provider, number), 0):
            continue
        label = f"{costs.find_prefix(provider)} {max(kinds, key=lambda kind: kinds[kind])}"
        if incidents and (incidents[-1].last, incidents[-1].label) == (number - 1, label):
            before = incidents.pop()
            incidents.append(Incident(before.first, number, label, before.count + count))
        else:
            incidents.append(Incident(number, number, label, count))
    worst = sorted(incidents, key=lambda incident: -incident.count)[:_MAX_BANDS]
    return sorted(worst, key=lambda incident: incident.first)
