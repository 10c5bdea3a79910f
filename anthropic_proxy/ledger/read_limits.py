"""Limits of database queries for pages and the API: their time, and the number of requests that a text search reads.

`limit_query_time` makes slow queries fail. `describe_read_failure` returns the message about a failed query.
`limit_search_range` shortens the time range of a text search, which must read each request in the range.
"""

import sqlite3
import time

from msgspec import Struct, structs
from sqlalchemy import Connection, Engine, event, exc, select
from sqlalchemy.engine.interfaces import DBAPIConnection

from anthropic_proxy.ledger.request_queries import RequestSelection, narrow_to_matching_hours, request_conditions
from anthropic_proxy.ledger.tables import requests

MAX_READ_SECONDS = 10.0
"""Maximum time in seconds of a query on PostgreSQL, and of all queries of one connection on SQLite."""
MAX_SEARCHED_REQUESTS = 100_000
"""Maximum number of requests that a search reads."""
_INSTRUCTIONS = 10_000
"""Number of instructions of SQLite's virtual machine between two checks of the time: less than a millisecond."""
_CANCELED_STATE = "57014"
"""SQLSTATE of a PostgreSQL query that exceeded `statement_timeout`."""


class ReadFailure(Struct, frozen=True):
    """HTTP status and message of the response after a database query failed."""

    status: int
    """HTTP status of the response."""
    message: str


def limit_query_time(engine: Engine, seconds: float = MAX_READ_SECONDS) -> None:
    """Make database queries on connections of `engine` fail if they need more than `seconds`.

    On SQLite, the time counts from the opening of the connection, so all queries of a connection share this limit.
    """

    @event.listens_for(engine, "connect")
    def set_statement_timeout(connection: DBAPIConnection, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            end = time.monotonic() + seconds
            connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
            return
        cursor = connection.cursor()
        cursor.execute(f"SET statement_timeout TO {round(seconds * 1_000)}")
        cursor.close()
        connection.commit()


def describe_read_failure(error: exc.SQLAlchemyError) -> ReadFailure:
    """Return the HTTP status and the message for the user after a query failed with `error`."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_INTERRUPT or getattr(cause, "sqlstate", None) == _CANCELED_STATE:
        return ReadFailure(
            504,
            f"The ledger did not reply within {MAX_READ_SECONDS:g} s, because the query reads too many requests. "
            "Choose a shorter range, or add a filter.",
        )
    reason = next(iter(str(cause).splitlines()), type(cause).__name__)
    return ReadFailure(503, f"The ledger cannot be read: {reason}. Requests are still served.")


def limit_search_range(
    connection: Connection,
    chosen: RequestSelection,
    before: int | None = None,
    after: int | None = None,
    max_requests: int = MAX_SEARCHED_REQUESTS,
) -> RequestSelection:
    """Return `chosen` with a shorter time range if its search would read more requests than `max_requests`.

    `before` and `after` are positions in the list of requests: the start of a request in microseconds since the epoch.
    A page before a position has older requests, so the oldest part of the range is cut off. A page after a position has
    newer requests, so the newest part is cut off. Without both, the oldest part is cut off.
    """
    if not (chosen.text or chosen.is_changed):
        return chosen
    column, wide = (
        requests.c.started_at,
        structs.replace(narrow_to_matching_hours(connection, chosen), text="", is_changed=False),
    )
    if before is not None:
        wide = structs.replace(wide, end=min(wide.end, before + 1))
    if after is not None:
        wide = structs.replace(wide, start=max(wide.start, after))
    query = select(column).where(*request_conditions(wide))
    ordered = query.order_by(column.desc() if after is None else column.asc())
    limit = connection.execute(ordered.offset(max_requests).limit(1)).scalar()
    if limit is None:
        return chosen
    return structs.replace(chosen, start=limit) if after is None else structs.replace(chosen, end=limit + 1)
