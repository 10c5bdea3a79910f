"""Hourly sums of sessions in the table `session_hours`, so that lists of sessions need not read all requests.

A session is a conversation of a client such as Claude Code. `sum_sessions` computes the sums of new rows of the table
`requests`. `add_session_sums` adds these sums to the stored ones, in the transaction that stores the new rows.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import ClauseElement, case
from sqlalchemy.dialects import postgresql, sqlite

from anthropic_proxy.ledger.attempt_times import decode_attempt_times
from anthropic_proxy.ledger.driver_statements import DriverConnection, DriverStatement
from anthropic_proxy.ledger.hourly import group_by_hour
from anthropic_proxy.ledger.rows import Row
from anthropic_proxy.ledger.sums import SUM_NAMES
from anthropic_proxy.ledger.tables import SESSION_KEYS, session_hours

_KEYS = ("hour", "instance", *SESSION_KEYS)
_read_key = attrgetter(*SESSION_KEYS)
_NEXT_CALL = "],["
"""Text between two calls to providers in the column `attempt_times`."""
_COUNTED = tuple(
    name
    for name in SUM_NAMES
    if name not in ("requests", "errors", "cancelled", "unknown_cost_requests", "unknown_requested_cost_requests")
)
_read_counted = attrgetter(*_COUNTED)


def sum_sessions(rows: Iterable[Row], instance: str) -> list[dict[str, Any]]:
    """Return the sums of `rows` by hour and session, as rows to add to the table `session_hours`.

    `rows` are new rows of the table `requests`. `instance` is the id of this process on PostgreSQL, and "" on SQLite.
    """
    groups = group_by_hour(rows, instance, _read_key)
    return [{**dict(zip(_KEYS, key, strict=True)), **_sum_group(groups[key])} for key in sorted(groups)]


def add_session_sums(connection: DriverConnection, sums: list[dict[str, Any]]) -> None:
    """Add `sums`, the result of `sum_sessions`, to the stored sums, in the transaction of `connection`.

    A row of the table `session_hours` that does not exist yet is inserted.
    """
    _add.execute(connection, sums)


def _build_addition(database: str) -> ClauseElement:
    """Return the SQL statement that adds a row of sums to the stored row with the same key, or inserts it."""
    insert = (postgresql.insert if database == "postgresql" else sqlite.insert)(session_hours)
    own, new = session_hours.c, insert.excluded
    changes: dict[str, Any] = {name: own[name] + new[name] for name in SUM_NAMES}
    for name in ("max_context", "last_at"):
        changes[name] = case((own[name] > new[name], own[name]), else_=new[name])
    changes["started_at"] = case((own.started_at < new.started_at, own.started_at), else_=new.started_at)
    return insert.on_conflict_do_update(index_elements=_KEYS, set_=changes)


_add = DriverStatement(_build_addition)


def _sum_group(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the sums of `rows`, which have the same key."""
    columns = zip(_COUNTED, zip(*map(_read_counted, rows), strict=True), strict=True)
    sums: dict[str, Any] = {name: sum(filter(None, column)) for name, column in columns}  # None: unknown cost
    times, outcomes = [row.started_at for row in rows], [row.outcome_class for row in rows]
    return {
        **sums,
        "requests": len(rows),
        "errors": outcomes.count("error"),
        "cancelled": outcomes.count("cancelled"),
        "unknown_cost_requests": [row.cost for row in rows].count(None),
        "unknown_requested_cost_requests": [row.requested_cost for row in rows].count(None),
        "max_context": max(map(_find_context, rows)),
        "started_at": min(times),
        "last_at": max(times),
    }


def _find_context(row: Row) -> int:
    """Return the number of input tokens of the largest call to a provider in `row`, a row of `requests`."""
    total: int = row.input_tokens + row.cache_read_tokens + row.cache_write_tokens
    if _NEXT_CALL not in row.attempt_times:
        return total
    # the tokens of a request are the sum over its calls, which can exceed the context window
    calls = decode_attempt_times(row.attempt_times)
    highest = max(call.context for call in calls) if len(calls) > 1 else 0
    return min(highest, total) or total
