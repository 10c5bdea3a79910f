"""Queries for failed requests, for charts and lists of errors.

`count_errors` counts them by period, provider, type of error and HTTP status, and returns an `ErrorPeriod` for each
combination. `list_errors` adds up the periods, and reads the latest error message of each provider, type and status.
"""

from collections.abc import Iterable

from msgspec import Struct, structs
from sqlalchemy import Connection, func, select

from anthropic_proxy.ledger.dashboard_records import ErrorGroup
from anthropic_proxy.ledger.local_periods import build_period_number, find_period_start
from anthropic_proxy.ledger.request_queries import RequestSelection, request_conditions
from anthropic_proxy.ledger.tables import requests
from anthropic_proxy.ledger.units import MICROSECONDS

MAX_ERRORS = 8
"""Maximum number of groups of failed requests that `list_errors` returns."""


class ErrorPeriod(Struct, frozen=True):
    """Number of failed requests of one period with the same provider, type of error and HTTP status."""

    start: int
    """Beginning of the period in seconds since the epoch."""
    provider: str
    """Name of the provider. "": the request failed before a provider was called."""
    error_type: str
    """Type of the error in Anthropic's format, such as `rate_limit_error`."""
    status: int
    count: int
    first_at: int
    """Start of the first of these requests, in microseconds since the epoch."""
    last_at: int
    """Start of the latest of these requests, in microseconds since the epoch."""


def count_errors(connection: Connection, selection: RequestSelection, period_seconds: int) -> list[ErrorPeriod]:
    """Return the numbers of failed requests by period, provider, type of error and status, in order of time.

    `period_seconds` is the length of a period. Periods longer than one hour follow the time zone of the process, so a
    day begins at local midnight.
    """
    if selection.values.get("outcome_class", "error") != "error":
        return []
    column = requests.c
    failed = structs.replace(selection, values={**selection.values, "outcome_class": "error"})
    span = selection.start // MICROSECONDS, selection.end // MICROSECONDS
    period = build_period_number(column.started_at // MICROSECONDS, period_seconds, *span)
    keys = (period, column.provider, column.error_type, column.status)
    values = func.count(), func.min(column.started_at), func.max(column.started_at)
    rows = connection.execute(select(*keys, *values).where(*request_conditions(failed)).group_by(*keys)).all()
    found = [ErrorPeriod(find_period_start(int(number), period_seconds), *others) for number, *others in rows]
    return sorted(found, key=lambda one: one.start)


def list_errors(connection: Connection, errors: Iterable[ErrorPeriod]) -> list[ErrorGroup]:
    """Return failed requests, grouped by provider, type of error and HTTP status, with the latest error message.

    The result has at most `MAX_ERRORS` groups, the largest first.
    """
    found: dict[tuple[str, str, int], list[ErrorPeriod]] = {}
    for one in errors:
        found.setdefault((one.provider, one.error_type, one.status), []).append(one)
    column = requests.c
    counts = {key: sum(one.count for one in rows) for key, rows in found.items()}
    groups = []
    for key in sorted(sorted(found), key=lambda key: -counts[key])[:MAX_ERRORS]:
        first_at, last_at = min(one.first_at for one in found[key]), max(one.last_at for one in found[key])
        latest = connection.execute(
            select(column.error, column.id)
            .where(column.started_at == last_at, column.outcome_class == "error", column.provider == key[0])
            .limit(1)
        ).first()
        error, request_id = latest or ("", "")
        groups.append(ErrorGroup(*key, counts[key], first_at, last_at, error, request_id))
    return groups
