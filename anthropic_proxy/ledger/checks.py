"""Check of the ledger's database for damage, and for hourly sums that do not agree with the stored requests.

`find_database_problems` yields the problems, for the command `db check`. Only a SQLite file is checked for damage.
"""

from collections.abc import Iterator

from sqlalchemy import ColumnElement, Connection, Table, func, select

from anthropic_proxy.ledger.tables import TOOL_COUNTS, hourly, requests
from anthropic_proxy.ledger.units import MICROSECONDS_PER_HOUR

_COMPARED = (
    *("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "thinking_tokens", "cost"),
    *TOOL_COUNTS,
)


def find_database_problems(connection: Connection) -> Iterator[str]:
    """Check the database of the ledger, and yield one sentence for each problem.

    Problems are damaged SQLite files, and hourly sums that differ from the requests.
    """
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        yield from (f"The file is damaged: {line}" for line in found if line != "ok")
    # the oldest hour is not compared: some of its requests may already be deleted
    oldest = connection.execute(select(func.min(requests.c.started_at))).scalar()
    if oldest is None:
        return
    hour = oldest // MICROSECONDS_PER_HOUR + 1
    rows = connection.execute(
        select(func.count(), *(func.sum(requests.c[name]) for name in _COMPARED)).where(
            requests.c.started_at >= hour * MICROSECONDS_PER_HOUR, _has_rows(requests)
        )
    ).one()
    sums = connection.execute(
        select(func.sum(hourly.c.requests), *(func.sum(hourly.c[name]) for name in _COMPARED)).where(
            hourly.c.hour >= hour, _has_rows(hourly)
        )
    ).one()
    for name, counted, summed in zip(("requests", *_COMPARED), rows, sums, strict=True):
        if int(counted or 0) != int(summed or 0):
            yield f"The sum of {name} is {int(summed or 0)}, but the requests have {int(counted or 0)}."


def _has_rows(table: Table) -> ColumnElement[bool]:
    """Return the condition for requests that are all rows: of those that limits of keys reject, only some are."""
    return (table.c.outcome_class != "error") | (table.c.provider != "")
