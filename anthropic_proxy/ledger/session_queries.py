"""Queries of sessions: a list of sessions with sums, and the sums and requests of one session.

A session is a conversation of a client such as Claude Code. Sums usually come from the table `session_hours`, which has
hourly sums of sessions but only a few columns for filters. A list for at most three hours, with a text search, or with
a filter by another column is computed from single requests. It then includes only the latest 50,000 requests.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from anthropic_proxy.ledger.request_queries import (
    RequestSelection,
    StoredRequest,
    list_stored_requests,
    request_conditions,
    value_condition,
)
from anthropic_proxy.ledger.sums import UsageSums, request_sums, session_sums, to_sums
from anthropic_proxy.ledger.tables import SESSION_KEYS, requests, session_hours
from anthropic_proxy.ledger.units import MICROSECONDS_PER_HOUR

MAX_SESSION_REQUESTS = 1_000
"""Maximum number of requests that `list_session_requests` returns: the latest ones of a session."""
MAX_SAMPLED_REQUESTS = 50_000
"""Maximum number of requests from which sessions are computed if there are no sums by session."""


class SessionRow(Struct, frozen=True, kw_only=True):
    """Id, project, times and sums of one session."""

    session: str
    project: str
    """Project in the latest request of the session."""
    sums: UsageSums
    started_at: int
    """Start of the first request of the session in microseconds since the epoch."""
    last_at: int
    """Start of the last request of the session in microseconds since the epoch."""
    max_context: int
    """Number of input tokens of the request with the highest number of input tokens."""


class SessionList(Struct, frozen=True):
    """Result of `list_sessions`: the latest sessions of a selection of requests."""

    rows: Sequence[SessionRow]
    count: int
    """Number of all sessions of the selection, also those beyond the limit of the list."""
    is_complete: bool
    """True if all requests of the selection were read. False: only the latest `MAX_SAMPLED_REQUESTS` were read."""


def list_sessions(connection: Connection, chosen: RequestSelection, limit: int) -> SessionList:
    """Return the sessions with requests in the selection `chosen`, the latest first, at most `limit`."""
    if not (chosen.is_short_range or chosen.is_changed or chosen.text or set(chosen.values) - set(SESSION_KEYS)):
        return _select(connection, session_hours.c, _session_columns(), _session_conditions(chosen), limit)
    column = requests.c
    named = and_(*request_conditions(chosen), column.session != "")
    sample = select(*column).where(named).order_by(column.started_at.desc()).limit(MAX_SAMPLED_REQUESTS)
    sampled = sample.subquery().c
    context = sampled.input_tokens + sampled.cache_read_tokens + sampled.cache_write_tokens
    times = (func.min(sampled.started_at), func.max(sampled.started_at))
    return _select(connection, sampled, [*request_sums(sampled), *times, func.max(context)], [], limit)


def sum_session(connection: Connection, session: str) -> SessionRow | None:
    """Return the sums over all requests of the session with the id `session`.

    None: the ledger has no data about this session.
    """
    found = _select(connection, session_hours.c, _session_columns(), [session_hours.c.session == session], 1)
    return found.rows[0] if found.rows else None


def list_session_requests(connection: Connection, session: str) -> list[StoredRequest]:
    """Return the latest requests of the session with the id `session`, in order of time.

    At most `MAX_SESSION_REQUESTS` are returned.
    """
    chosen = RequestSelection(values={"session": session})
    return list_stored_requests(connection, chosen, MAX_SESSION_REQUESTS)[::-1]


def find_latest_models(connection: Connection, rows: Sequence[SessionRow]) -> dict[str, str]:
    """Return session id → id with prefix of the model that served its latest request.

    A session is missing if this request was sent to no model.
    """
    column = requests.c
    latest = [and_(value_condition("session", row.session), column.started_at == row.last_at) for row in rows]
    if not latest:
        return {}
    query = select(column.session, column.prefix, column.provider, column.model).where(or_(*latest), column.model != "")
    return {row.session: f"{row.prefix or row.provider}/{row.model}" for row in connection.execute(query)}


def _session_columns() -> list[ColumnElement[Any]]:
    column = session_hours.c
    return [*session_sums(), func.min(column.started_at), func.max(column.last_at), func.max(column.max_context)]


def _session_conditions(chosen: RequestSelection) -> list[ColumnElement[bool]]:
    column = session_hours.c
    hours = (
        column.hour >= chosen.start // MICROSECONDS_PER_HOUR,
        column.hour < chosen.end_hour,
    )
    return [*hours, column.session != "", *(column[name] == value for name, value in chosen.values.items())]


def _select(
    connection: Connection, column: Any, values: Sequence[Any], conditions: Sequence[ColumnElement[bool]], limit: int
) -> SessionList:
    """Run a query for sessions and return the latest ones, at most `limit`, with the number of all.

    `column` has the columns of the table. `values` are SQL expressions for sums, first time, last time and maximum
    context. `conditions` are SQL conditions for the rows.
    """
    project = (func.min(column.project), func.max(column.project))
    keys = (column.session, *project, func.count().over(), func.sum(values[0]).over())
    query = select(*keys, *values).where(*conditions).group_by(column.session)
    found = connection.execute(query.order_by(values[-2].desc()).limit(limit)).all()
    moved = [session for session, first, last, *_ in found if first != last]
    latest = (
        _find_latest_projects(connection, column, values[-2], [*conditions, column.session.in_(moved)]) if moved else {}
    )
    rows = [
        SessionRow(
            session=session,
            project=latest.get(session, project),
            sums=to_sums(sums[:-3]),
            started_at=sums[-3],
            last_at=sums[-2],
            max_context=sums[-1],
        )
        for session, project, _, _, _, *sums in found
    ]
    count, read = found[0][3:5] if found else (0, 0)
    return SessionList(rows, count, column is session_hours.c or read < MAX_SAMPLED_REQUESTS)


def _find_latest_projects(
    connection: Connection, column: Any, last_at: ColumnElement[Any], conditions: Sequence[ColumnElement[bool]]
) -> dict[str, str]:
    """Return the project of the latest requests of each session, by session id.

    `column` has the columns of the table. `last_at` is the SQL expression for the start of the last request.
    `conditions` are SQL conditions for the rows.
    """
    keys = column.session, column.project
    query = select(*keys).where(*conditions).group_by(*keys).order_by(last_at, column.project)
    return {row.session: row.project for row in connection.execute(query)}
