"""Query for stored requests in the order of a numeric column, such as the cost or the duration.

`list_sorted_requests` returns one page of the list. A page begins at a position: value, time and id of the last request
of the previous page. A `SortedRequest` is a stored request with its position. Only the latest `MAX_SORTED_REQUESTS`
requests of a selection are sorted, to limit the time of a query.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from anthropic_proxy.ledger.request_queries import (
    REQUEST_COLUMNS,
    RequestSelection,
    StoredRequest,
    narrow_to_matching_hours,
    request_conditions,
    to_stored_request,
)
from anthropic_proxy.ledger.tables import requests

MAX_SORTED_REQUESTS = 30_000
"""Number of the latest requests of a selection that are sorted."""
_column = requests.c
_context = _column.input_tokens + _column.cache_read_tokens + _column.cache_write_tokens
SORT_KEYS: Mapping[str, ColumnElement[Any]] = {
    "in": _context,
    "cached": case((_context > 0, _column.cache_read_tokens * 10_000 // _context), else_=None),
    "cache-write": _column.cache_write_tokens,
    "out": _column.output_tokens,
    "thinking": _column.thinking_tokens,
    "first": _column.first_token,
    "total": _column.duration,
    "rate": _column.output_rate,
    "messages": _column.message_count,
    "tools": _column.tool_count,
    "tool-errors": _column.tool_errors,
    "attempts": _column.attempts,
    "changes": _column.note_count,
    "requested-cost": _column.requested_cost,
    "cost": _column.cost,
}
"""Name of a sortable column in the URL → SQL expression of the number by which requests are sorted."""
_HIGHEST, _LOWEST = float(1 << 62), -1.0


class SortOrder(Struct, frozen=True):
    """Order of a list of requests: a column and its direction.

    Requests with an unknown value are last in both directions.
    """

    name: str
    """Name of the column, a key of `SORT_KEYS`."""
    is_descending: bool = True


class SortedRequest(Struct, frozen=True):
    """A stored request and its position in the sorted list."""

    request: StoredRequest
    position: tuple[float, int, str]
    """Position in the list: value of the sorted column, start in microseconds, and id of the request."""


def list_sorted_requests(
    connection: Connection,
    chosen: RequestSelection,
    order: SortOrder,
    limit: int,
    *,
    before: tuple[float, int, str] | None = None,
    after: tuple[float, int, str] | None = None,
) -> list[SortedRequest]:
    """Return one page of the requests in the selection `chosen`, sorted by `order`, at most `limit`.

    The page begins after the position `before`, or ends before the position `after`. Without both, it is the first
    page. A position is `SortedRequest.position` of a request on another page.
    """
    unknown = _LOWEST if order.is_descending else _HIGHEST
    value = func.coalesce(SORT_KEYS[order.name] * 1.0, unknown).label("value")
    latest = (
        select(_column.id, _column.started_at, value)
        .where(*request_conditions(narrow_to_matching_hours(connection, chosen)))
        .order_by(_column.started_at.desc())
        .limit(MAX_SORTED_REQUESTS)
        .subquery()
    )
    keys = (latest.c.value, latest.c.started_at, latest.c.id)
    descending = [one == (after is None) for one in (order.is_descending, True, True)]
    # the results follow the position `before` in the list, and precede the position `after`
    conditions = [_follows(keys, position, descending) for position in (before or after,) if position is not None]
    ordered = [key.desc() if one else key.asc() for key, one in zip(keys, descending, strict=True)]
    nearest = select(*keys).where(*conditions).order_by(*ordered).limit(limit)
    positions = [(float(row[0]), int(row[1]), str(row[2])) for row in connection.execute(nearest)]
    found = select(*REQUEST_COLUMNS).where(_column.id.in_([position[2] for position in positions]))
    rows = {row.id: row for row in map(to_stored_request, connection.execute(found))}
    listed = [SortedRequest(rows[position[2]], position) for position in positions if position[2] in rows]
    return listed if after is None else listed[::-1]


def _follows(keys: Any, position: tuple[float, int, str], descending: Sequence[bool]) -> ColumnElement[bool]:
    """Return the SQL condition for rows that follow `position` in the sorted list.

    `keys` are the columns of the order. `descending` is True for each column with the highest value first.
    """
    steps = [key < value if one else key > value for key, value, one in zip(keys, position, descending, strict=True)]
    same = [key == value for key, value in zip(keys, position, strict=True)]
    return or_(steps[0], and_(same[0], steps[1]), and_(same[0], same[1], steps[2]))
