"""Sums of requests, tokens, costs and durations by hour, which are added to the table `hourly`.

`sum_rows_by_hour` computes the sums of new rows of `requests`. Each sum has a key: the hour, and columns such as model
and project. `add_hourly_sums` adds the sums to the table, in the transaction that stores the requests.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, and_, bindparam, insert, select, update

from anthropic_proxy.ledger.driver_statements import DriverStatement
from anthropic_proxy.ledger.histograms import Histogram, add_histogram, decode_histogram, encode_histogram, find_bucket
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

_matches_key = and_(*(hourly.c[name] == bindparam(f"key_{name}") for name in _KEYS))
_find = DriverStatement(
    lambda _: select(hourly.c.first_token_histogram, hourly.c.duration_histogram).where(_matches_key)
)
_add = DriverStatement(
    lambda _: (
        update(hourly)
        .where(_matches_key)
        .values(
            {name: hourly.c[name] + bindparam(f"add_{name}") for name in SUMS}
            | {name: bindparam(f"new_{name}") for name in ("first_token_histogram", "duration_histogram")}
        )
    )
)
_insert = DriverStatement(lambda _: insert(hourly))
_read_key = itemgetter(*HOURLY_KEYS)
_ADDED = (*_TOKENS, *TOOL_COUNTS, "duration")
_read_added = itemgetter(*_ADDED)


class HourlySums(Struct):
    """Sums over the requests with the same key: the same hour, model, project and other columns."""

    sums: dict[str, int]
    """Name of a column in `SUMS` → sum."""
    first_tokens: Histogram
    durations: Histogram


HourlyKey = tuple[Any, ...]
"""Values of the key columns of the table `hourly`, in the order of the table."""


def sum_rows_by_hour(rows: Iterable[Row], instance: str) -> dict[HourlyKey, HourlySums]:
    """Return the hourly sums of `rows`, new rows of the table `requests`, by key.

    A key has the hour, `instance`, and columns such as the model.
    """
    return {key: _sum_group(group) for key, group in group_by_hour(rows, instance, _read_key).items()}


def group_by_hour(
    rows: Iterable[Row], instance: str, read_key: Callable[[Row], tuple[Any, ...]]
) -> dict[HourlyKey, list[Row]]:
    """Group `rows`, rows of the table `requests`, by hour and the values that `read_key` returns.

    A key of the result has the hour, `instance`, and these values.
    """
    # `instance` is the id of the writing process on PostgreSQL, and "" on SQLite
    groups: dict[HourlyKey, list[Row]] = {}
    for row in rows:
        key = (row["started_at"] // MICROSECONDS_PER_HOUR, instance, *read_key(row))
        groups.setdefault(key, []).append(row)
    return groups


def _sum_group(rows: Sequence[Row]) -> HourlySums:
    """Return the sums of `rows`, which have the same key."""
    columns: Iterable[tuple[int, ...]] = zip(*map(_read_added, rows), strict=True)
    sums = dict.fromkeys(SUMS, 0) | {name: sum(column) for name, column in zip(_ADDED, columns, strict=True)}
    sums["requests"] = len(rows)
    sums["errors"] = len(rows) if rows[0]["outcome_class"] == "error" else 0
    for cost, unknown in (("cost", "unknown_cost_requests"), ("requested_cost", "unknown_requested_cost_requests")):
        known = [row[cost] for row in rows if row[cost] is not None]
        sums[cost], sums[unknown] = sum(known), len(rows) - len(known)
    first_tokens = [row["first_token"] for row in rows if row["first_token"] is not None]
    sums["first_token_sum"], sums["first_token_count"] = sum(first_tokens), len(first_tokens)
    return HourlySums(sums, _count_buckets(first_tokens), _count_buckets([row["duration"] for row in rows]))


def _count_buckets(durations: Iterable[int]) -> Histogram:
    found: Histogram = {}
    for bucket in map(find_bucket, durations):
        found[bucket] = found.get(bucket, 0) + 1
    return found


def add_hourly_sums(connection: Connection, added: Mapping[HourlyKey, HourlySums]) -> None:
    """Add the sums `added` to the rows of the table `hourly`, in the transaction of `connection`.

    No other transaction may change the same rows at the same time.
    """
    inserted, changed = [], []
    for key in sorted(added):
        new, own = added[key], dict(zip(_KEYS, key, strict=True))
        named = {f"key_{name}": value for name, value in own.items()}
        stored = _find.fetch_one(connection, named)
        if stored is None:
            inserted.append({**own, **new.sums, **_encode(new.first_tokens, new.durations)})
            continue
        first_tokens, durations = map(decode_histogram, stored)
        add_histogram(first_tokens, new.first_tokens)
        add_histogram(durations, new.durations)
        named |= {f"add_{name}": value for name, value in new.sums.items()}
        changed.append(named | {f"new_{name}": data for name, data in _encode(first_tokens, durations).items()})
    if inserted:
        _insert.execute(connection, inserted)
    if changed:
        _add.execute(connection, changed)


def _encode(first_tokens: Histogram, durations: Histogram) -> dict[str, bytes]:
    """Return column of the table `hourly` → bytes of the histogram."""
    return {
        "first_token_histogram": encode_histogram(first_tokens),
        "duration_histogram": encode_histogram(durations),
    }
