"""What a reader of the ledger may read.

A query ends after some seconds, and a search after some requests. A member sees only the requests of its own keys:
`restrict_rows` rewrites each query on a connection, so that no page can forget the condition.
"""

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import ColumnClause, Connection, Engine, FromClause, Select, Table, TextClause, event, exc, func, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.sql.selectable import AliasedReturnsRows
from sqlalchemy.sql.util import ClauseAdapter
from sqlalchemy.sql.visitors import iterate

from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.request_queries import (
    narrow_to_matching_hours,
    request_conditions,
    uncommon_value_condition,
)
from anthropic_proxy.console.ledger.tables import contents, hourly, requests, session_hours, virtual_keys

MAX_READ_SECONDS = 10.0
"""Maximum time in seconds of a query on PostgreSQL, and of all queries of one connection on SQLite."""
MAX_SEARCHED_REQUESTS = 100_000
_INSTRUCTIONS = 10_000
"""Number of instructions of SQLite's virtual machine between two checks of the time: less than a millisecond."""
_CANCELED_STATE = "57014"
"""SQLSTATE of a PostgreSQL query that exceeded `statement_timeout`."""


class ReadFailure(Struct, frozen=True):
    status: int
    message: str


def limit_query_time(engine: Engine, seconds: float = MAX_READ_SECONDS) -> None:
    """Make database queries on connections of `engine` fail if they need more than `seconds`. On SQLite, the time
    counts from the opening of the connection, so all queries of a connection share this limit.
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
    """Shorten the range of a search that would read more than `max_requests`.

    A page `before` a position loses the oldest part, a page `after` one the newest. Positions are starts of requests in
    microseconds.
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


class RestrictedQueryError(Exception):
    """Error: a query on a restricted connection could return rows of other keys, so it is not sent to the database."""


def find_key_labels(connection: Connection, owner: str) -> list[str]:
    """Revoked keys included. Upper and lower case of `owner` are equal."""
    if not owner:
        return []
    query = select(virtual_keys.c.label).where(func.lower(virtual_keys.c.owner) == owner.lower())
    return list(connection.execute(query.order_by(virtual_keys.c.label)).scalars())


def restrict_rows(connection: Connection, key_labels: Sequence[str]) -> None:
    """A query that cannot be limited, such as SQL text, then raises `RestrictedQueryError`."""
    labels = list(key_labels)
    permitted: dict[Table, FromClause] = {
        table: select(table).where(table.c.key_label.in_(labels)).subquery(table.name)
        for table in (hourly, session_hours)
    }
    # no virtual key has the label `local`
    indexed = (requests.c.key_label.in_(labels), uncommon_value_condition("key_label"))
    permitted[requests] = select(requests).where(*indexed).subquery(requests.name)
    own = select(requests.c.id).where(*indexed)
    permitted[contents] = select(contents).where(contents.c.request_id.in_(own)).subquery(contents.name)

    @event.listens_for(connection, "before_execute", retval=True)
    def restrict(_: Connection, statement: Any, several: Any, values: Any, options: Any) -> tuple[Any, Any, Any]:
        if not isinstance(statement, Select):
            raise RestrictedQueryError(f"a statement of the type {type(statement).__name__}")
        elements = list(iterate(statement))
        for element in elements:
            is_renamed = isinstance(element, AliasedReturnsRows) and isinstance(element.element, Table)
            # SQL text as a column, other than `count(*)`, can contain a query
            is_text = isinstance(element, TextClause) or (
                isinstance(element, ColumnClause) and element.is_literal and element.name not in ("*", "1")
            )
            if is_renamed or is_text:
                raise RestrictedQueryError(f"a query with {type(element).__name__}, whose rows cannot be restricted")
        for table in {element for element in elements if isinstance(element, Table)}:
            if table not in permitted:
                raise RestrictedQueryError(f"a query of the table {table.name}")
            statement = ClauseAdapter(permitted[table]).traverse(statement)
        return statement, several, values
