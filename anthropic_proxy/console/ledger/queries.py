"""Sums over stored requests: by day, model, key or another group, by period, latencies, errors, and counts of facets.

Theory of operation: a sum over a long range comes from `hourly` or `session_hours`, with one row per hour and group. A
range of at most three hours, or a filter or group that those tables lack, needs the single requests. `_find_source`
decides this; `_read` runs the same query on either table. An hour of `hourly` belongs to the period in which its last
second lies, so that each hour counts once in time zones with half hours.
"""

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal, NamedTuple

from msgspec import Struct, structs
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    select,
)

from anthropic_proxy.console.ledger.activity import Activity
from anthropic_proxy.console.ledger.forecasts import PeriodBounds, PeriodUse
from anthropic_proxy.console.ledger.histograms import Histogram, count_buckets, encode_histogram, sum_encoded_histograms
from anthropic_proxy.console.ledger.periods import (
    MAX_UTC_SECONDS,
    RequestSelection,
    find_month,
    find_period_start,
    find_utc_offset,
)
from anthropic_proxy.console.ledger.read_access import MAX_GROUPED_ROWS, MAX_GROUPS, read_groups
from anthropic_proxy.console.ledger.records import (
    FACETS,
    HOURLY_KEYS,
    MOVED_COLUMNS,
    SESSION_KEYS,
    SUM_NAMES,
    GroupName,
    KeyT,
    MovedSums,
    SplitName,
    StoredRequest,
    UsageSums,
    add_up,
    add_up_groups,
    move_sums,
)
from anthropic_proxy.console.ledger.request_queries import (
    LATEST_START,
    SEARCHED_COLUMNS,
    hourly_conditions,
    list_stored_requests,
    narrow_to_matching_hours,
    request_conditions,
    search_conditions,
    value_condition,
)
from anthropic_proxy.console.ledger.tables import (
    SUM_TABLES,
    hourly,
    hourly_sums,
    request_sums,
    requests,
    session_hours,
    virtual_keys,
)
from anthropic_proxy.console.units import DAY_SECONDS, HOUR_SECONDS, MICROSECONDS, MICROSECONDS_PER_HOUR


class UsageGroup(Struct, frozen=True, kw_only=True):
    name: str
    """Name of the group, such as a day (`2026-11-20`), an hour (`2026-11-20T13:00Z`) or a model."""
    provider: str = ""
    """Name of the provider of a model. "": not grouped by model, or no provider was called."""
    part: Sequence[str] = ()
    """Value of the facet by which groups are divided: one text, or provider and model. (): they are not divided."""
    sums: UsageSums
    activity: Activity | None = None
    """What the clients of the group have stated about their work. None: it is not known for such groups."""


class _GroupSums(NamedTuple):
    start: int
    """Beginning of the period in seconds since the epoch. 0: there is one period."""
    keys: Sequence[str]
    """Values of the columns by which requests are grouped."""
    sums: UsageSums


def sum_usage(
    connection: Connection,
    selection: RequestSelection,
    by: GroupName,
    split: SplitName | None = None,
) -> list[UsageGroup]:
    """Days and hours are in order of time, others by descending cost. `split`: each group is divided by this facet, the
    part with the highest cost first. Raises `TooManyGroups`.
    """
    parts = _list_columns(split) if split else ()
    if by in ("day", "hour"):
        times = _sum(connection, selection, DAY_SECONDS if by == "day" else HOUR_SECONDS, parts)
        groups = [UsageGroup(name=name_time(by, start), part=keys, sums=sums) for start, keys, sums in times]
        return sorted(groups, key=lambda group: (group.name, *_rank(group.sums), group.part))
    columns = _list_columns(by)
    by_session = by == "session" and not parts
    group_sums = (
        _sum_sessions(connection, selection) if by_session else _sum(connection, selection, 0, (*columns, *parts))
    )
    size = len(columns)
    groups = [
        UsageGroup(name=keys[size - 1], provider=keys[0] if by == "model" else "", part=tuple(keys[size:]), sums=sums)
        for _, keys, sums in group_sums
    ]
    totals = add_up_groups(((group.provider, group.name), group.sums) for group in groups)

    def place(group: UsageGroup) -> tuple[object, ...]:
        whole = totals[group.provider, group.name]
        return (*_rank(whole), group.name, group.provider, *_rank(group.sums), group.part)

    return sorted(groups, key=place)


def name_time(by: str, start: int) -> str:
    """Return the name of the day or the hour (`by`) that begins, or whose first hour begins, at `start`, in seconds
    since the epoch.
    """
    if by == "hour":
        return f"{datetime.fromtimestamp(start, UTC):%Y-%m-%dT%H:00Z}"
    last = datetime.fromtimestamp(start + HOUR_SECONDS - 1, UTC)
    return last.astimezone().date().isoformat()


def _list_columns(by: str) -> Sequence[str]:
    return ("provider", "model") if by == "model" else (FACETS[by].column,)


def _rank(sums: UsageSums) -> tuple[int, int, int]:
    return -sums.cost, -sums.all_tokens, -sums.requests


def _sum_sessions(connection: Connection, selection: RequestSelection) -> list[_GroupSums]:
    every = structs.replace(selection, has_model=False)
    if not selection.has_model or selection.is_short_range or not every.has_sums(SESSION_KEYS):
        return _sum(connection, selection, 0, ("session",))
    # `session_hours` has no requested models, but an index finds the few requests that named none
    others = structs.replace(every, values={**every.values, "requested_model": ""})
    left_out = {keys: sums for _, keys, sums in _sum(connection, others, 0, ("session",))}
    group_sums = []
    for start, keys, sums in _sum(connection, every, 0, ("session",)):
        excess = structs.astuple(left_out.get(keys, UsageSums()))
        remaining = UsageSums(*map(operator.sub, structs.astuple(sums), excess))
        if remaining.requests > 0:
            group_sums.append(_GroupSums(start, keys, remaining))
    return group_sums


class PeriodSums(Struct, frozen=True):
    start: int
    """Beginning of the period in seconds since the epoch."""
    group: str
    """Value of the grouping column, such as a model. "": not grouped, or the column is empty."""
    sums: UsageSums


class ModelSums(Struct, frozen=True):
    provider: str
    model: str
    sums: UsageSums


class ModelPeriod(Struct, frozen=True):
    start: int
    """Beginning of the period in seconds since the epoch."""
    model: ModelSums
    first_tokens: str = ""
    """Times to the first token: encoded histograms as hexadecimal text, for `sum_encoded_histograms`."""
    rated_tokens: int = 0
    """Number of output tokens of the requests that succeeded."""
    rated_time: int = 0
    """Time after the first token of the same requests, in microseconds."""


def sum_periods(
    connection: Connection,
    selection: RequestSelection,
    period_seconds: int,
    group_column: str = "",
    sum_names: Sequence[str] = SUM_NAMES,
) -> list[PeriodSums]:
    """One result for each period and value of `group_column`, without empty periods. Sums outside `sum_names` are 0.

    `period_seconds` 0: one period.
    """
    # above three hours, `period_seconds` is a multiple of 3,600, because the source has hourly sums
    columns = (group_column,) if group_column else ()
    rows = _sum(connection, selection, period_seconds, columns, sum_names, max_groups=MAX_GROUPED_ROWS)
    return [PeriodSums(start, keys[0] if keys else "", sums) for start, keys, sums in rows]


def add_up_periods(periods: Iterable[PeriodSums]) -> list[UsageGroup]:
    """Return the groups of `sum_periods` as `sum_usage` does, without another query."""
    sums_by_group = add_up_groups((period.group, period.sums) for period in periods)
    groups = [UsageGroup(name=name, sums=sums) for name, sums in sums_by_group.items()]
    return sorted(groups, key=lambda group: (*_rank(group.sums), group.name))


class PreviousRange(NamedTuple):
    requests: int
    cost: int
    """Nano-dollars of the requests with a known price."""


def sum_previous_range(connection: Connection, selection: RequestSelection, now: int) -> PreviousRange:
    """Add up the time range directly before that of `selection`, for a comparison. If the range of `selection` ends
    after `now`, the previous range is only as long as its part until `now`.
    """
    is_single = selection.is_short_range or not selection.has_hourly_sums
    start = selection.start if is_single else selection.start // MICROSECONDS_PER_HOUR * MICROSECONDS_PER_HOUR
    end = min(selection.end if is_single else selection.end_hour * MICROSECONDS_PER_HOUR, max(now, start))
    before = structs.replace(selection, start=2 * start - end, end=start)
    first_hour = start // MICROSECONDS_PER_HOUR if is_single else -(-before.start // MICROSECONDS_PER_HOUR)
    # complete hours, and single requests of the part of an hour before them
    fragment = structs.replace(before, end=start if is_single else first_hour * MICROSECONDS_PER_HOUR)
    ranges = [fragment] if is_single else [fragment, structs.replace(before, start=first_hour * MICROSECONDS_PER_HOUR)]
    parts = [part.sums for chosen in ranges for part in _sum(connection, chosen, 0, (), ("requests", "cost"))]
    return PreviousRange(sum(sums.requests for sums in parts), sum(sums.cost for sums in parts))


def expect_month_cost(
    connection: Connection,
    selection: RequestSelection,
    now: datetime,
    timezone: tzinfo | None = None,
    *,
    ignores_range: bool = False,
) -> int | None:
    """Return the cost in nano-dollars that the requests of `selection` will have had at the end of the calendar month
    that contains `now`. None: there is too little data, or the range of `selection` is not this month until now.
    `timezone` None: that of the process.
    """
    if not selection.has_hourly_sums:
        return None
    local = now.astimezone(timezone)
    (start, end), before = (
        (month[0].timestamp(), month[1].timestamp())
        for day in (local, local.replace(day=1) - timedelta(days=1))
        if (month := find_month(f"{day:%Y-%m}", timezone))
    )
    bounds = PeriodBounds(start, end, before[0], now.timestamp())
    is_month = selection.start // MICROSECONDS_PER_HOUR == int(start) // HOUR_SECONDS
    if not ignores_range and not (is_month and selection.end // MICROSECONDS >= int(bounds.now)):
        return None

    def add_up_until(first: float, last: float) -> UsageSums:
        start = math.floor(first / HOUR_SECONDS)
        end = math.ceil(last / HOUR_SECONDS)
        chosen = structs.replace(selection, start=start * MICROSECONDS_PER_HOUR, end=end * MICROSECONDS_PER_HOUR)
        group_sums = _sum(connection, chosen, 0, (), ("requests", "cost"))
        return group_sums[0].sums if group_sums else UsageSums()

    present = add_up_until(start, bounds.now)
    use = PeriodUse(
        bounds.elapsed_share,
        present.requests,
        present.cost,
        add_up_until(before[0], bounds.same_point_before).cost,
        add_up_until(before[0], start).cost,
    )
    rest = use.expect_rest()
    return None if rest is None or not present.cost else present.cost + rest


def sum_model_periods(connection: Connection, selection: RequestSelection, period_seconds: int) -> list[ModelPeriod]:
    """Return numbers of requests, tokens and costs of each model in each period, in order of time. Latencies and speeds
    are not read, so these fields of the result are empty. `period_seconds` 0 means one period.
    """
    rows = _sum(connection, selection, period_seconds, ("provider", "model"), max_groups=MAX_GROUPED_ROWS)
    return [ModelPeriod(start, ModelSums(keys[0], keys[1], sums)) for start, keys, sums in rows]


def measure_model_performance(
    connection: Connection, selection: RequestSelection, period_seconds: int
) -> list[ModelPeriod]:
    """`period_seconds` 0: one period."""
    source = _find_source(selection)
    column = source.table.c
    is_single = source.table is requests
    waited = func.coalesce(column.first_token, 0) if is_single else column.first_token_sum
    untimed = case((column.duration == 0, column.output_tokens), else_=0) if is_single else column.untimed_output_tokens
    succeeded = column.outcome_class.not_in(("error", "cancelled"))
    output = [
        func.sum(case((succeeded, value), else_=0))
        for value in (column.output_tokens - untimed, column.duration - waited)
    ]
    values = [*source.sums, *output, _list_times(connection, source, "first_token")]
    rows = _read(connection, selection, source, period_seconds, group_columns=("provider", "model"), values=values)
    periods = {
        (start, keys): ModelPeriod(
            start,
            ModelSums(keys[0], keys[1], UsageSums(*map(int, sums))),
            first_tokens=_encode_times(source, times),
            rated_tokens=int(tokens),
            rated_time=int(elapsed),
        )
        for start, keys, (*sums, tokens, elapsed, times) in rows
    }
    if is_single:
        for part in _list_moved(connection, selection, period_seconds, ("provider", "model")):
            key = (part.start, part.keys)
            moved = part.moved
            before = periods.get(key) or ModelPeriod(part.start, ModelSums(moved.provider, moved.model, UsageSums()))
            model = structs.replace(before.model, sums=add_up([before.model.sums, moved.sums]))
            rated = before.rated_tokens + (moved.sums.output_tokens if part.is_timed else 0)
            periods[key] = structs.replace(before, model=model, rated_tokens=rated)
    return [periods[key] for key in sorted(periods, key=lambda key: key[0])]


def group_latencies(rows: Iterable[ModelPeriod], key: Callable[[ModelPeriod], KeyT]) -> dict[KeyT, Histogram]:
    """Groups without such times are missing."""
    texts: dict[KeyT, list[str]] = {}
    for row in rows:
        if row.first_tokens:
            texts.setdefault(key(row), []).append(row.first_tokens)
    return {group: sum_encoded_histograms(" ".join(group_texts)) for group, group_texts in texts.items()}


def group_speeds(rows: Iterable[ModelPeriod], key: Callable[[ModelPeriod], KeyT]) -> dict[KeyT, float]:
    """Tokens per second. Groups without output tokens are missing."""
    totals: dict[KeyT, tuple[int, int]] = {}
    for row in rows:
        tokens, elapsed = totals.get(key(row), (0, 0))
        totals[key(row)] = tokens + row.rated_tokens, elapsed + row.rated_time
    known = ((group, tokens, elapsed) for group, (tokens, elapsed) in totals.items() if tokens and elapsed > 0)
    return {group: tokens * MICROSECONDS / elapsed for group, tokens, elapsed in known}


def sum_models(connection: Connection, selection: RequestSelection) -> list[ModelSums]:
    """The highest cost first."""
    return add_up_model_periods(sum_model_periods(connection, selection, 0))


def add_up_model_periods(by_period: Iterable[ModelPeriod]) -> list[ModelSums]:
    """The highest cost first."""
    sums_by_model = add_up_groups(
        ((period.model.provider, period.model.model), period.model.sums) for period in by_period
    )
    models = [ModelSums(provider, model, sums) for (provider, model), sums in sums_by_model.items()]
    return sorted(models, key=lambda used: (-used.sums.cost, -used.sums.requests))


def collect_latencies(
    connection: Connection,
    selection: RequestSelection,
    period_seconds: int,
    group_columns: Sequence[str] = (),
    quantity: Literal["first_token", "duration"] = "first_token",
) -> dict[tuple[int, tuple[str, ...]], Histogram]:
    """Key: beginning of the period in seconds since the epoch, and values of `group_columns`."""
    # with `period_seconds` 0, the only period has the beginning 0
    source = _find_source(selection)
    times = _list_times(connection, source, quantity)
    is_known = requests.c[quantity] > 0 if source.table is requests else hourly.c[f"{quantity}_histogram"] != b""
    source = structs.replace(source, conditions=[*source.conditions, is_known])
    rows = _read(connection, selection, source, period_seconds, group_columns=group_columns, values=[times])
    return {(start, names): sum_encoded_histograms(_encode_times(source, text)) for start, names, (text,) in rows}


class _Source(Struct, frozen=True):
    """Table from which a query calculates sums, with the SQL expressions for this table."""

    table: Table
    conditions: Sequence[ColumnElement[bool]]
    seconds: ColumnElement[Any]
    """Time of a row in seconds since the epoch; for a row of `hourly`, the last second of the hour."""
    sums: Sequence[ColumnElement[Any]]


def _find_source(selection: RequestSelection, *columns: str) -> _Source:
    """`columns`: those by which the sums are grouped."""
    table = hourly if {*columns} <= {*HOURLY_KEYS} else session_hours
    if selection.is_short_range or not selection.has_sums(SUM_TABLES[table], *columns):
        seconds: ColumnElement[Any] = requests.c.started_at // MICROSECONDS
        return _Source(requests, request_conditions(selection), seconds, request_sums(requests.c))
    seconds = cast(table.c.hour, BigInteger) * HOUR_SECONDS + (HOUR_SECONDS - 1)
    return _Source(table, hourly_conditions(selection, table), seconds, hourly_sums(table))


def _sum(
    connection: Connection,
    selection: RequestSelection,
    period_seconds: int,
    group_columns: Sequence[str],
    sum_names: Sequence[str] = SUM_NAMES,
    *,
    max_groups: int = MAX_GROUPS,
) -> list[_GroupSums]:
    source = _find_source(selection, *group_columns)
    values = [source.sums[SUM_NAMES.index(name)] for name in sum_names]
    rows = _read(
        connection,
        selection,
        source,
        period_seconds,
        group_columns=group_columns,
        values=values,
        max_groups=max_groups,
    )
    sums_by_key = {
        (start, keys): UsageSums(**dict(zip(sum_names, map(int, sums), strict=True)))
        for start, keys, sums in rows
        if None not in sums  # without a group, SQL returns a row without values if there are no requests
    }
    if source.table is requests and not {*group_columns, *selection.values}.isdisjoint(_MODEL_COLUMNS):
        for part in _list_moved(connection, selection, period_seconds, group_columns):
            key = part.start, part.keys
            sums_by_key[key] = add_up([sums_by_key.get(key, UsageSums()), part.moved.sums])
    return [
        _GroupSums(start, keys, sums_by_key[start, keys]) for start, keys in sorted(sums_by_key, key=lambda key: key[0])
    ]


_MODEL_COLUMNS = ("provider", "model")


class _MovedPart(NamedTuple):
    start: int
    keys: tuple[str, ...]
    moved: MovedSums
    is_timed: bool
    """True if the output tokens count for the speed of the model."""


def _list_moved(
    connection: Connection, selection: RequestSelection, period_seconds: int, group_columns: Sequence[str]
) -> Iterator[_MovedPart]:
    """Yield what is added to sums of single requests, so that each model has its own part of a request (`move_sums`).
    The tables of hourly sums have these parts already.
    """
    wanted = {name: value for name, value in selection.values.items() if name in _MODEL_COLUMNS}
    others = {name: value for name, value in selection.values.items() if name not in _MODEL_COLUMNS}
    column = requests.c
    periods = _list_periods(selection, requests, column.started_at // MICROSECONDS, period_seconds)
    has_time = (column.outcome_class.not_in(("error", "cancelled")) & (column.duration > 0)).label("has_time")
    groups = (column[name] for name in group_columns)
    columns = [*periods, *groups, has_time, *(column[name] for name in MOVED_COLUMNS)]
    conditions = request_conditions(structs.replace(selection, values=others))
    first = len(periods)
    last = len(periods) + len(group_columns)
    # the index is used only if the condition has the value
    has_parts = column.model_usage != bindparam(None, "", literal_execute=True)
    for row in connection.execute(select(*columns).where(*conditions, has_parts)):
        start = find_period_start(int(row[0]), period_seconds) if periods else 0
        names = row[first:last]
        is_timed, *values = row[last:]
        for moved in move_sums(**dict(zip(MOVED_COLUMNS, values, strict=True))):
            model_facets = {"provider": moved.provider, "model": moved.model}
            if wanted.items() <= model_facets.items():
                keys = tuple(model_facets.get(name, value) for name, value in zip(group_columns, names, strict=True))
                yield _MovedPart(start, keys, moved, bool(is_timed) and not moved.is_added)


def _read(
    connection: Connection,
    selection: RequestSelection,
    source: _Source,
    period_seconds: int,
    *,
    group_columns: Sequence[str],
    values: Sequence[ColumnElement[Any]],
    max_groups: int = MAX_GROUPED_ROWS,
) -> list[tuple[int, tuple[str, ...], Sequence[Any]]]:
    """Return tuples in order of time: beginning, values of `group_columns`, and `values`.

    `period_seconds` 0: one period that begins at 0. Raises `TooManyGroups`.
    """
    periods = _list_periods(selection, source.table, source.seconds, period_seconds)
    keys = [*periods, *(source.table.c[name] for name in group_columns)]
    query = select(*keys, *values).where(*source.conditions)
    rows = read_groups(connection, query.group_by(*keys).order_by(*periods) if keys else query, max_groups)
    first = len(periods)
    last = len(keys)
    starts = (find_period_start(int(row[0]), period_seconds) if periods else 0 for row in rows)
    return [(start, (*row[first:last],), row[last:]) for start, row in zip(starts, rows, strict=True)]


def _list_periods(
    selection: RequestSelection, table: Table, seconds: ColumnElement[Any], period_seconds: int
) -> list[ColumnElement[Any]]:
    """Return the expression of the number of the period in which a row lies. Empty: one period."""
    if not period_seconds:
        return []
    if table is hourly and period_seconds == HOUR_SECONDS:
        return [hourly.c.hour]  # the primary key has this order, so that nothing has to be sorted
    span = selection.start // MICROSECONDS, selection.end // MICROSECONDS
    return [build_period_number(seconds, period_seconds, *span)]


def build_period_number(seconds: ColumnElement[Any], length: int, start: int, end: int) -> ColumnElement[Any]:
    """`seconds`: column with the time. The offset from UTC may change between `start` and `end`."""
    if length <= MAX_UTC_SECONDS:
        return seconds // length
    *changes, (_, last) = _list_offsets(start, end)
    shift = case(*((seconds < until, offset) for until, offset in changes), else_=last) if changes else last
    return (seconds + shift) // length


_FIRST_SECOND = round(datetime(2020, 1, 1, tzinfo=UTC).timestamp())
_LAST_SECOND = round(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""The offsets of other times are not looked up."""


def _list_offsets(start: int, end: int) -> list[tuple[int, int]]:
    """Pairs: difference in seconds, and the time until which it applies."""
    offsets: list[tuple[int, int]] = []
    start, end = max(start, _FIRST_SECOND), min(end, _LAST_SECOND)
    offset = find_utc_offset(start)
    for day in range(start, end, DAY_SECONDS):
        if find_utc_offset(min(day + DAY_SECONDS, end)) != offset:
            change = next(
                hour
                for hour in range(day // HOUR_SECONDS * HOUR_SECONDS, day + 2 * DAY_SECONDS, HOUR_SECONDS)
                if find_utc_offset(hour) != offset
            )
            offsets.append((change, offset))
            offset = find_utc_offset(change)
    return [*offsets, (end, offset)]


def _list_times(connection: Connection, source: _Source, quantity: str) -> ColumnElement[Any]:
    """Return the SQL expression for all times of a group: microseconds, or histograms as hexadecimal text."""
    if source.table is requests:
        value = requests.c[quantity]
        return func.aggregate_strings(case((value > 0, cast(value, Text))), " ")
    encoded = hourly.c[f"{quantity}_histogram"]
    is_sqlite = connection.dialect.name == "sqlite"
    return func.aggregate_strings(func.hex(encoded) if is_sqlite else func.encode(encoded, "hex"), " ")


def _encode_times(source: _Source, times: str | None) -> str:
    if not times or source.table is not requests:
        return times or ""
    return encode_histogram(count_buckets(map(int, times.split()))).hex()


class LedgerExtent(Struct, frozen=True):
    requests: int
    first_hour: int | None
    """Hours since the epoch. None: the ledger is empty."""
    last_at: int | None
    """Microseconds since the epoch. None: the ledger is empty."""


def read_ledger_extent(connection: Connection) -> LedgerExtent:
    total, first = connection.execute(select(func.sum(hourly.c.requests), func.min(hourly.c.hour))).one()
    # a text, which SQLite stores in any column, is greater than each number
    latest = select(func.max(requests.c.started_at)).where(requests.c.started_at <= LATEST_START)
    return LedgerExtent(int(total or 0), first, connection.execute(latest).scalar())


def find_neighbors(connection: Connection, row: StoredRequest) -> tuple[str, str]:
    """Return the ids of the requests directly before and after a request, in order of time. "": there is none."""
    everything = RequestSelection()
    position = (row.started_at, row.id)
    older = list_stored_requests(connection, everything, 1, before=position)
    newer = list_stored_requests(connection, everything, 1, after=position)
    return older[0].id if older else "", newer[0].id if newer else ""


def find_session_position(connection: Connection, row: StoredRequest) -> tuple[int, int]:
    """Return the number of a request in its session, and the number of all requests of the session."""
    column = requests.c
    until = column.started_at <= row.started_at
    of_session = and_(value_condition("session", row.session), column.requested_model != "")
    query = select(func.sum(case((until, 1), else_=0)), func.count()).where(of_session)
    number, count = connection.execute(query).one()
    return int(number or 0), int(count)


def find_last_key_uses(connection: Connection, labels: Collection[str] | None = None) -> Mapping[str, int]:
    """Return label of a virtual key → time of its last request in microseconds. Keys without requests are missing.
    `labels`: only these. None: all.
    """
    column = requests.c
    of_key = value_condition("key_label", virtual_keys.c.label)
    latest = select(func.max(column.started_at)).where(of_key, column.started_at <= LATEST_START)
    query = select(virtual_keys.c.label, latest.scalar_subquery())
    rows = connection.execute(query if labels is None else query.where(virtual_keys.c.label.in_(labels))).all()
    return {label: started_at for label, started_at in rows if started_at is not None}


MAX_COUNTED_REQUESTS = 10_000
"""Maximum number of stored requests that one count reads. Only the latest requests of the range are read."""
_READ_COLUMNS = [
    requests.c[name]
    for name in dict.fromkeys((*(facet.column for facet in FACETS.values()), *SEARCHED_COLUMNS, "note_count"))
]


class FacetCounts(Struct, frozen=True):
    values: Mapping[str, Sequence[tuple[str, int]]]
    """Column → pairs of value and number of requests, the most frequent values first."""
    partial_columns: Collection[str] = ()
    """Columns for which only the latest `MAX_COUNTED_REQUESTS` requests were counted."""


def count_facets(
    connection: Connection, selection: RequestSelection, columns: Sequence[str], limit: int
) -> FacetCounts:
    """The counts of a column ignore its own filter, so that a user can choose another value. `limit`: values per
    column.
    """
    counts: dict[str, Sequence[tuple[str, int]]] = {}
    partial_columns: list[str] = []
    groups: dict[tuple[Table, str], list[str]] = {}
    for column in columns:
        other = _without_filter(selection, column)
        sums = next((table for table, keys in SUM_TABLES.items() if other.has_sums(keys, column)), None)
        if sums is None or other.is_short_range:
            sums = requests
        # columns without a filter have the same selection
        groups.setdefault((sums, column if column in selection.values else ""), []).append(column)
    for (table, filtered), together in groups.items():
        other = _without_filter(selection, filtered)
        if table is requests:
            counters, is_whole = _count_requests(connection, other, together)
            if not is_whole:
                partial_columns += together
        else:
            counters = _count_sums(connection, other, table, together, limit)
        for column in together:
            # a model that providers have called for a part of requests has no requests of its own
            counted = [pair for pair in counters[column].items() if pair[1]]
            most = sorted(counted, key=lambda pair: (-pair[1], pair[0]))[:limit]
            counts[column] = [(value, int(count)) for value, count in most]
    return FacetCounts(counts, partial_columns)


def _without_filter(selection: RequestSelection, column: str) -> RequestSelection:
    return structs.replace(selection, values={key: value for key, value in selection.values.items() if key != column})


def _count_sums(
    connection: Connection, selection: RequestSelection, table: Table, columns: Sequence[str], limit: int
) -> Mapping[str, Mapping[str, int]]:
    """One query for all `columns` reads the rows once, and returns few combinations of their values. For one column, it
    returns only the `limit` most frequent values: there may be very many sessions.
    """
    keys = [table.c[name] for name in columns]
    number = func.sum(table.c.requests)
    query = select(*keys, number).where(*hourly_conditions(selection, table)).group_by(*keys)
    if len(columns) == 1:
        query = query.order_by(number.desc(), *keys).limit(limit)
    counters: Mapping[str, dict[str, int]] = {name: defaultdict(int) for name in columns}
    rows = connection.execute(query).all()
    for position, counter in enumerate(counters.values()):
        for row in rows:
            counter[row[position]] += row[-1]
    return counters


def _count_requests(
    connection: Connection, selection: RequestSelection, columns: Sequence[str]
) -> tuple[Mapping[str, Mapping[str, int]], bool]:
    """Count the values of `columns` in the latest requests of `selection`. The result maps column and value to a number
    of requests. The second item is False if requests were left out.
    """
    selection = narrow_to_matching_hours(connection, selection)
    indexed = request_conditions(structs.replace(selection, text="", is_changed=False))
    latest = select(*_READ_COLUMNS).where(*indexed).order_by(requests.c.started_at.desc()).limit(MAX_COUNTED_REQUESTS)
    read = latest.subquery()
    search = search_conditions(selection, read.c)
    rows = connection.execute(select(*(read.c[name] for name in columns)).where(*search)).all()
    counters = {name: Counter(row[index] for row in rows) for index, name in enumerate(columns)}
    number = len(rows)
    if search:
        limited = select(requests.c.id).where(*indexed).limit(MAX_COUNTED_REQUESTS).subquery()
        number = connection.execute(select(func.count()).select_from(limited)).scalar() or 0
    return counters, number < MAX_COUNTED_REQUESTS
