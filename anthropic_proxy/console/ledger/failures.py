"""Failed requests and failed attempts, and whether the same has succeeded since then.

A group is solved if the provider has replied since the last failure. For a failure that the request or the model
caused, the same model must have replied, unless no setting names it any more.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args

import msgspec
from msgspec import Struct, structs
from sqlalchemy import Connection, Integer, cast, func, select

from anthropic_proxy.console.ledger.periods import RequestSelection, find_period_start
from anthropic_proxy.console.ledger.queries import build_period_number
from anthropic_proxy.console.ledger.records import COMMON_VALUES, StoredRequest
from anthropic_proxy.console.ledger.request_queries import (
    build_stored_request,
    request_conditions,
    uncommon_value_condition,
    value_condition,
)
from anthropic_proxy.console.ledger.tables import requests
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.exchange.client_errors import CODES_OF_SEVERAL_STATUSES
from anthropic_proxy.engine.hooks import PLAIN_FORM
from anthropic_proxy.gateway.telemetry.outcomes import OutcomeClass

MAX_ERRORS = 8
_MAX_CHECKED = 50
"""Maximum number of models with failures whose later requests are read. Further ones count as not solved."""
_MAX_LATER_REQUESTS = 1_000
"""Number of the latest successful requests that are compared with a failure without a provider."""
OF_REQUESTS = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})
"""Types of errors that a request or the name of its model causes, not the state of the provider."""
_OF_MODELS = OF_REQUESTS | {"permission_error"}


FindReply = Callable[[int, str, str], int]
"""Function that returns the time of the latest reply of a provider and a model after a time. 0: there is none."""


class ErrorKind(Struct, frozen=True, order=True):
    """What failures of one group have in common."""

    provider: str
    """Name of the provider. "": the request failed before a provider was called."""
    error_type: str
    status: int
    has_model: bool
    """False for requests that no sum includes, as `RequestSelection.has_model` describes them."""
    error_code: str
    """Entry of the error catalog. "": none."""

    @property
    def kind(self) -> "ErrorKind":
        """The kind without the status, if this depends on the client that was told of the error."""
        return ErrorKind(
            provider=self.provider,
            error_type=self.error_type,
            status=0 if self.error_code in CODES_OF_SEVERAL_STATUSES else self.status,
            has_model=self.has_model,
            error_code=self.error_code,
        )


class ErrorPeriod(ErrorKind, frozen=True):
    model: str
    start: int
    """Beginning of the period in seconds since the epoch."""
    count: int
    first_at: int
    """Start of the first of these requests, in microseconds since the epoch."""
    last_at: int
    """Start of the latest of these requests, in microseconds since the epoch."""


class ErrorGroup(ErrorKind, frozen=True):
    models: Sequence[str]
    is_solved: bool
    count: int
    first_at: int
    last_at: int
    latest: StoredRequest

    @property
    def concerns_model(self) -> bool:
        return self.error_type in _OF_MODELS


def count_errors(connection: Connection, selection: RequestSelection, period_seconds: int) -> list[ErrorPeriod]:
    """Return the numbers of failed requests by period, provider, kind of error, model, and whether they named a model,
    in order of time. Periods longer than one hour follow the time zone of the process.
    """
    if selection.values.get("outcome_class", "error") != "error":
        return []
    column = requests.c
    failed = _select_failed(selection)
    span = selection.start // MICROSECONDS, selection.end // MICROSECONDS
    period = build_period_number(column.started_at // MICROSECONDS, period_seconds, *span)
    status = cast(column.status, Integer)  # SQLite stores texts in it too
    has_model = column.requested_model != ""
    keys = (period, column.provider, column.error_type, status, has_model, column.error_code, column.model)
    query = select(
        period.label("period"),
        column.provider,
        column.error_type,
        status.label("status"),
        has_model.label("has_model"),
        column.error_code,
        column.model,
        func.count().label("failures"),
        func.min(column.started_at).label("first_at"),
        func.max(column.started_at).label("last_at"),
    )
    periods = [
        ErrorPeriod(
            provider=row.provider,
            error_type=row.error_type,
            status=row.status,
            has_model=bool(row.has_model),
            error_code=row.error_code,
            model=row.model,
            start=find_period_start(int(row.period), period_seconds),
            count=row.failures,
            first_at=row.first_at,
            last_at=row.last_at,
        )
        for row in connection.execute(query.where(*request_conditions(failed)).group_by(*keys))
    ]
    return sorted(periods, key=lambda failures: failures.start)


def _select_failed(selection: RequestSelection) -> RequestSelection:
    return structs.replace(selection, values={**selection.values, "outcome_class": "error"})


def list_errors(
    connection: Connection,
    selection: RequestSelection,
    errors: Iterable[ErrorPeriod],
    is_set: Callable[[str, str], bool],
    find_reply: FindReply,
) -> list[ErrorGroup]:
    """Groups that are not solved precede the solved ones, and large groups precede small ones. A failure is solved if
    a request succeeded after it. `errors`: those of the selection. `is_set`: returns True for provider and model of a
    current setting.
    """
    by_model: dict[tuple[ErrorKind, str], list[ErrorPeriod]] = {}
    for period in errors:
        by_model.setdefault((period.kind, period.model), []).append(period)
    divided: dict[tuple[ErrorKind, bool], list[ErrorPeriod]] = {}
    # all failures of a provider have one answer, and the query reads all of them if it has not replied
    find = functools.cache(functools.partial(find_reply, selection.start))
    newest = sorted(by_model.values(), key=lambda periods: -max(period.last_at for period in periods))
    for number, periods in enumerate(newest):
        is_checked = number < _MAX_CHECKED
        success = _find_last_success(connection, selection.start, periods, is_set, find) if is_checked else 0
        for period in periods:
            is_divided = period.first_at < success <= period.last_at
            for part in _divide(connection, selection, period, success) if is_divided else [period]:
                divided.setdefault((period.kind, part.last_at < success), []).append(part)
    groups = []
    for (kind, is_solved), parts in sorted(divided.items(), key=_rank_group)[: 2 * MAX_ERRORS]:
        last = max(parts, key=lambda part: part.last_at)
        groups.append(
            ErrorGroup(
                **structs.asdict(structs.replace(kind, status=last.status)),
                models=list(dict.fromkeys(part.model for part in parts)),
                is_solved=is_solved,
                count=sum(part.count for part in parts),
                first_at=min(part.first_at for part in parts),
                last_at=last.last_at,
                latest=_read_latest(connection, last),
            )
        )
    return groups


def _rank_group(group: tuple[tuple[ErrorKind, bool], Sequence[ErrorPeriod]]) -> tuple[bool, int, ErrorKind]:
    (kind, is_solved), parts = group
    return is_solved, -sum(part.count for part in parts), kind


def _divide(
    connection: Connection, selection: RequestSelection, whole: ErrorPeriod, success: int
) -> Iterator[ErrorPeriod]:
    """Yield the failures of a period before a success, and those since then."""
    column = requests.c
    conditions = [
        *request_conditions(_select_failed(structs.replace(selection, start=whole.first_at, end=whole.last_at + 1))),
        column.provider == whole.provider,
        column.error_type == whole.error_type,
        cast(column.status, Integer) == whole.status,
        (column.requested_model != "") == whole.has_model,
        column.error_code == whole.error_code,
        column.model == whole.model,
    ]
    values = func.count(), func.min(column.started_at), func.max(column.started_at)
    for part in (column.started_at < success, column.started_at >= success):
        count, first_at, last_at = connection.execute(select(*values).where(*conditions, part)).one()
        if count:
            yield structs.replace(whole, count=count, first_at=first_at, last_at=last_at)


def _read_latest(connection: Connection, failed: ErrorPeriod) -> StoredRequest:
    column = requests.c
    query = select(requests).where(
        column.started_at == failed.last_at,
        column.outcome_class == "error",
        column.provider == failed.provider,
        column.model == failed.model,
        column.error_code == failed.error_code,
    )
    row = connection.execute(query.limit(1)).first()
    return StoredRequest() if row is None else build_stored_request(connection, row)


def _find_last_success(
    connection: Connection,
    since: int,
    rows: Sequence[ErrorPeriod],
    is_set: Callable[[str, str], bool],
    find: Callable[[str, str], int],
) -> int:
    """Return the start of the latest request that shows these failures of one kind to be solved. 0: there is none.
    `find`: returns that of a provider and a model.
    """
    last = max(rows, key=lambda period: period.last_at)
    if last.provider:
        needs_model = last.error_type in _OF_MODELS and is_set(last.provider, last.model)
        return find(last.provider, last.model if needs_model else "")
    # the latest reply to the same program with the same key; a rejected key has no label
    column = requests.c
    failed = _read_latest(connection, last)
    conditions = [column.started_at > since, column.outcome_class.not_in(_FAILURES)]
    if failed.error_type != "authentication_error":
        conditions.append(value_condition("key_label", failed.key_label))
    later = select(column.client, column.started_at).where(*conditions).order_by(column.started_at.desc())
    latest = later.limit(_MAX_LATER_REQUESTS).subquery().c
    query = select(func.max(latest.started_at)).where(latest.client == failed.client)
    return connection.execute(query).scalar() or 0


def find_last_success(connection: Connection, since: int, provider: str, model: str = "") -> int:
    """Return the start of the latest request after `since` that got a reply of the provider. 0: there is none.
    `model` "": of any model. Times are in microseconds since the epoch.
    """
    column = requests.c
    conditions = [column.started_at > since, column.outcome_class.not_in(_FAILURES), column.provider == provider]
    if model:
        conditions.append(column.model == model)
    query = select(column.started_at).where(*conditions).order_by(column.started_at.desc()).limit(1)
    return connection.execute(query).scalar() or 0


def has_recovered(connection: Connection, provider: str) -> bool:
    """Return True if the provider has replied since its latest failure."""
    column = requests.c
    conditions = column.outcome_class == "error", column.provider == provider
    query = select(column.started_at).where(*conditions).order_by(column.started_at.desc()).limit(1)
    return find_last_success(connection, connection.execute(query).scalar() or 0, provider) > 0


_FAILURES = ("error", "cancelled")
_OTHER_OUTCOMES = [name for name in get_args(OutcomeClass) if name != COMMON_VALUES["outcome_class"]]
"""Outcomes by name, so that the database uses their index and not that of all requests in a range."""
_STATUSES_OF_REQUESTS = frozenset({"400", "413", "422"})
"""Statuses of attempts that failed because of the request. After a 404, the provider lacks the model of a setting."""


class FailedAttempts(Struct):
    requests: int = 0
    """Requests with a failed attempt at the provider, without the failed requests that are counted as its errors, and
    without attempts that failed because of the request."""
    passed_on: int = 0
    """Those of them that ended at another provider."""
    last_at: int = 0
    """Start of the latest of them, in microseconds since the epoch."""


class PlainForms(Struct, frozen=True):
    """Requests to a model without a part that its provider refuses in unknown words."""

    prefix: str
    model: str
    requests: int
    sent: int
    """All requests to the model in this time."""


def list_plain_forms(connection: Connection, selection: RequestSelection) -> list[PlainForms]:
    """Return the models with such requests, most requests first."""
    column = requests.c
    keys = (column.prefix, column.model)
    is_plain = column.adaptations.contains(f'"{PLAIN_FORM}', autoescape=True)
    count = func.sum(cast(is_plain, Integer))
    query = select(*keys, count, func.count()).where(*request_conditions(selection)).group_by(*keys)
    rows = [PlainForms(*row) for row in connection.execute(query) if row[2]]
    return sorted(rows, key=lambda row: (-row.requests, row.prefix, row.model))


def count_failed_attempts(connection: Connection, selection: RequestSelection) -> dict[str, FailedAttempts]:
    """Return prefix of a provider → numbers of requests with failed attempts before their result."""
    column = requests.c
    is_error = column.outcome_class == "error"
    keys = (column.failed_attempts, column.prefix, column.provider, is_error)
    chosen = [
        *request_conditions(selection),
        uncommon_value_condition("outcome_class"),
        column.outcome_class.in_(_OTHER_OUTCOMES),
        column.failed_attempts != "",
    ]
    attempts_by_provider: dict[str, FailedAttempts] = {}
    for text, prefix, provider, failed, count, last_at in connection.execute(
        select(*keys, func.count(), func.max(column.started_at)).where(*chosen).group_by(*keys)
    ):
        try:
            attempts = msgspec.json.decode(str(text), type=list[str])
        except msgspec.DecodeError:  # SQLite stores any value
            continue
        pairs = (attempt.partition(" ")[::2] for attempt in attempts)
        for name in {name for name, cause in pairs if cause not in _STATUSES_OF_REQUESTS}:
            is_last = name == (prefix or provider)
            if not (is_last and failed):
                of_provider = attempts_by_provider.setdefault(name, FailedAttempts())
                of_provider.requests += count
                of_provider.passed_on += 0 if is_last else count
                of_provider.last_at = max(of_provider.last_at, last_at)
    return attempts_by_provider
