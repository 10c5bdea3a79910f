"""`count_facets`: counts stored requests by the values of columns, for the filters of the dashboard and the API.

A facet is a column by which requests can be filtered, such as the provider. If possible, the counts come from a table
of hourly sums. Otherwise only the latest `MAX_COUNTED_REQUESTS` requests are counted.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct, structs
from sqlalchemy import Connection, Table, func, select

from anthropic_proxy.ledger.request_queries import (
    SEARCHED_COLUMNS,
    RequestSelection,
    hourly_conditions,
    narrow_to_matching_hours,
    request_conditions,
    search_conditions,
)
from anthropic_proxy.ledger.tables import FACETS, HOURLY_KEYS, SESSION_KEYS, hourly, requests, session_hours

MAX_COUNTED_REQUESTS = 10_000
"""Maximum number of stored requests that one count reads. Only the latest requests of the range are read."""
_READ_COLUMNS = [requests.c[name] for name in dict.fromkeys((*FACETS, *SEARCHED_COLUMNS, "note_count"))]


class FacetCounts(Struct, frozen=True):
    """Result of `count_facets`: numbers of requests by the values of columns."""

    values: Mapping[str, Sequence[tuple[str, int]]]
    """Column → pairs of value and number of requests, the most frequent values first."""
    partial_columns: Collection[str] = ()
    """Columns for which only the latest `MAX_COUNTED_REQUESTS` requests were counted."""


def count_facets(
    connection: Connection, selection: RequestSelection, columns: Sequence[str], limit: int
) -> FacetCounts:
    """Return the number of requests in `selection` for each value of each of `columns`.

    The counts of a column ignore the filter on this column, so that a user can choose another value. `limit` is the
    maximum number of values per column.
    """
    found: dict[str, Sequence[tuple[str, int]]] = {}
    partial_columns = []
    read: dict[str, tuple[Mapping[str, Counter[str]], bool]] = {}
    for column in columns:
        other = structs.replace(
            selection, values={key: value for key, value in selection.values.items() if key != column}
        )
        if (sums := _find_sums(other, column)) is not None:
            found[column] = _count_sums(connection, other, sums, column, limit)
            continue
        key = column if column in selection.values else ""  # columns without a filter have the same selection
        if key not in read:
            read[key] = _count_requests(connection, other, (column,) if key else columns)
        counters, is_whole = read[key]
        found[column] = sorted(counters[column].items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
        if not is_whole:
            partial_columns.append(column)
    return FacetCounts(found, partial_columns)


def _find_sums(selection: RequestSelection, column: str) -> Table | None:
    """Return the table with hourly sums that has `column` and all filtered columns of `selection`.

    None: no such table, so single requests must be counted.
    """
    needed = {column, *selection.values}
    if selection.is_short_range or selection.is_changed or selection.text:
        return None
    tables = ((hourly, HOURLY_KEYS), (session_hours, SESSION_KEYS))
    return next((table for table, keys in tables if needed <= {*keys}), None)


def _count_sums(
    connection: Connection, selection: RequestSelection, sums: Table, column: str, limit: int
) -> list[tuple[str, int]]:
    number = func.sum(sums.c.requests)
    query = select(sums.c[column], number).where(*hourly_conditions(selection, sums)).group_by(sums.c[column])
    rows = connection.execute(query.order_by(number.desc(), sums.c[column]).limit(limit))
    return [(value, int(count)) for value, count in rows]


def _count_requests(
    connection: Connection, selection: RequestSelection, columns: Sequence[str]
) -> tuple[Mapping[str, Counter[str]], bool]:
    """Count the values of `columns` in the latest requests of `selection`.

    The result maps column and value to a number of requests. The second item is False if requests were left out.
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
