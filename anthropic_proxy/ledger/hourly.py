"""Sums of requests, tokens, costs and durations by hour, which are added to the table `hourly`.

`sum_rows_by_hour` computes the sums of new rows of `requests`. Each sum has a key: the hour, and columns such as model
and project. `add_hourly_sums` adds the sums to the table, in the transaction that stores the requests.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import ClauseElement, and_, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from anthropic_proxy.ledger.driver_statements import DriverConnection, DriverStatement
from anthropic_proxy.ledger.histograms import add_histogram, count_buckets, decode_histogram, encode_histogram
from anthropic_proxy.ledger.rows import Row
from anthropic_proxy.ledger.tables import HOURLY_KEYS, TOOL_COUNTS, hourly
from anthropic_proxy.ledger.units import MICROSECONDS_PER_HOUR

_KEYS = ("hour", "instance", *HOURLY_KEYS)
_TOKENS = (
    *("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("output_tokens", "thinking_tokens"),
)
SUMS = (
    *("requests", "errors", *_TOKENS, *TOOL_COUNTS, "cost", "unknown_cost_requests", "requested_cost"),
    *("unknown_requested_cost_requests", "duration", "first_token_sum", "first_token_count"),
)
"""Columns of the table `hourly` that contain sums."""

_HISTOGRAMS = ("first_token_histogram", "duration_histogram")


def _build_addition(database: str) -> ClauseElement:
    """Return the SQL statement that adds a row of sums to the stored row with the same key, or inserts it.

    The histograms of the row replace the stored ones.
    """
    insert = (postgresql.insert if database == "postgresql" else sqlite.insert)(hourly)
    sums = {name: hourly.c[name] + insert.excluded[name] for name in SUMS}
    histograms = {name: insert.excluded[name] for name in _HISTOGRAMS}
    return insert.on_conflict_do_update(index_elements=_KEYS, set_=sums | histograms)


_find_histograms = DriverStatement(
    lambda _: select(*(hourly.c[name] for name in _HISTOGRAMS)).where(
        and_(*(hourly.c[name] == bindparam(name) for name in _KEYS))
    )
)
_add = DriverStatement(_build_addition)
_read_key = attrgetter(*HOURLY_KEYS)
_ADDED = (*_TOKENS, *TOOL_COUNTS, "duration")
_read_added = attrgetter(*_ADDED)


HourlyKey = tuple[Any, ...]
"""Values of the key columns of the table `hourly`, in the order of the table."""


def sum_rows_by_hour(rows: Iterable[Row], instance: str) -> list[dict[str, Any]]:
    """Return the sums of `rows`, new rows of `requests`, as rows of the table `hourly`, sorted by key.

    `instance` is the id of the process that writes to PostgreSQL, "" on SQLite. The histograms are not yet encoded as
    bytes, because `add_hourly_sums` adds them to the stored ones.
    """
    groups = group_by_hour(rows, instance, _read_key)
    return [_sum_group(key, groups[key]) for key in sorted(groups)]


def group_by_hour(
    rows: Iterable[Row], instance: str, read_key: Callable[[Row], tuple[Any, ...]]
) -> dict[HourlyKey, list[Row]]:
    """Group `rows`, rows of the table `requests`, by hour and the values that `read_key` returns.

    A key of the result consists of the hour, counted since the epoch, `instance`, and these values.
    """
    # `instance` is the id of the writing process on PostgreSQL, and "" on SQLite
    groups: dict[HourlyKey, list[Row]] = {}
    for row in rows:
        key = (row.started_at // MICROSECONDS_PER_HOUR, instance, *read_key(row))
        groups.setdefault(key, []).append(row)
    return groups


def _sum_group(key: HourlyKey, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the sums of `rows`, which have the key `key`."""
    sums: dict[str, Any] = dict(zip(_KEYS, key, strict=True))
    sums.update(zip(_ADDED, map(sum, zip(*map(_read_added, rows), strict=True)), strict=True))
    sums["requests"] = len(rows)
    sums["errors"] = len(rows) if sums["outcome_class"] == "error" else 0
    costs = [row.cost for row in rows if row.cost is not None]
    sums["cost"], sums["unknown_cost_requests"] = sum(costs), len(rows) - len(costs)
    requested = [row.requested_cost for row in rows if row.requested_cost is not None]
    sums["requested_cost"], sums["unknown_requested_cost_requests"] = sum(requested), len(rows) - len(requested)
    first_tokens = [row.first_token for row in rows if row.first_token is not None]
    sums["first_token_sum"], sums["first_token_count"] = sum(first_tokens), len(first_tokens)
    sums["first_token_histogram"] = count_buckets(first_tokens)
    sums["duration_histogram"] = count_buckets(row.duration for row in rows)
    return sums


def add_hourly_sums(connection: DriverConnection, added: list[dict[str, Any]]) -> None:
    """Add the sums `added` to the rows of the table `hourly`, in the transaction of `connection`.

    No other transaction may change the same rows meanwhile, because their histograms are read, added up and written
    again.
    """
    for sums in added:
        stored = _find_histograms.fetch_one(connection, sums) or ()
        for name, data in zip(_HISTOGRAMS, stored, strict=False):
            add_histogram(sums[name], decode_histogram(data))
        for name in _HISTOGRAMS:
            sums[name] = encode_histogram(sums[name])
    _add.execute(connection, added)
