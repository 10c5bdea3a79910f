"""What a reader of the ledger may read.

A query ends after some seconds, and a search after some requests. A member sees only the own requests, and everybody
only the own texts: `restrict_reading` rewrites each query on a connection, so that no page can forget the condition.
Texts of others must be opened first, request by request.

Whose a request is, the row says: the owner and the team that the key had when the request was sent (`Senders`). A later
change of the key moves neither requests nor costs. Rows without owner and team (of a key without them, or stored by an
earlier version) are those of nobody: only who reads all requests reads them. The same columns decide for `requests`,
`hourly`, `session_hours` and `activity`; for `virtual_keys` they are those of now. A row of `contents` and
`session_titles` is that of its request. No other table can be read on a restricted connection.
"""

import sqlite3
import time
from collections.abc import Collection, Sequence
from typing import Any

from msgspec import Struct, field, structs
from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Select,
    Table,
    TextClause,
    and_,
    event,
    exc,
    exists,
    false,
    func,
    or_,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.sql.selectable import AliasedReturnsRows
from sqlalchemy.sql.util import ClauseAdapter
from sqlalchemy.sql.visitors import iterate

from anthropic_proxy.console.ledger.database import classify_database_error
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.records import COMMON_VALUES, OF_OTHER_PEOPLE, StoredRequest
from anthropic_proxy.console.ledger.request_queries import (
    narrow_to_matching_hours,
    request_conditions,
    uncommon_value_condition,
)
from anthropic_proxy.console.ledger.tables import (
    activity,
    contents,
    former_labels,
    hourly,
    requests,
    session_hours,
    session_titles,
    virtual_keys,
)
from anthropic_proxy.console.ledger.users import LedgerUser
from anthropic_proxy.gateway.permissions import may
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client

MAX_READ_SECONDS = 10.0
"""Maximum time in seconds of a query on PostgreSQL, and of all queries of one connection on SQLite."""
MAX_GROUPS = 50_000
"""Maximum number of groups that a reply of the server lists. It needs about 2 KiB of memory for each."""
MAX_GROUPED_ROWS = 200_000
"""Maximum number of rows of a query of the server that groups by time too, for a chart."""
_TEXT_TABLES = frozenset((contents, session_titles))
MAX_SEARCHED_REQUESTS = 100_000
_INSTRUCTIONS = 10_000
"""Number of instructions of SQLite's virtual machine between two checks of the time: less than a millisecond."""
_CANCELED_STATE = "57014"
"""SQLSTATE of a PostgreSQL query that exceeded `statement_timeout`."""


class TooManyGroups(exc.SQLAlchemyError):
    """Error: the server does not list so many groups."""


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


def read_groups(connection: Connection, query: Select[Any], max_groups: int = MAX_GROUPS) -> Sequence[Any]:
    """Return the rows of a query with `GROUP BY`. On a connection with the execution option `limits_groups`, raises
    `TooManyGroups` if there are more than `max_groups`.
    """
    if not connection.get_execution_options().get("limits_groups"):
        return connection.execute(query).all()
    rows = connection.execute(query.limit(max_groups + 1)).all()
    if len(rows) > max_groups:
        raise TooManyGroups(f"The sums have more than {max_groups:,} groups. Choose a shorter range, or add a filter.")
    return rows


def describe_read_failure(error: exc.SQLAlchemyError) -> ReadFailure:
    if isinstance(error, TooManyGroups):
        return ReadFailure(400, str(error))
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_INTERRUPT or getattr(cause, "sqlstate", None) == _CANCELED_STATE:
        return ReadFailure(
            504,
            f"The ledger did not reply within {MAX_READ_SECONDS:g} s, because the query reads too many requests. "
            "Choose a shorter range, or add a filter.",
        )
    if classify_database_error(cause) == "locked":
        return ReadFailure(
            503,
            "The ledger cannot be read, because another program holds a lock on its tables. Try again when the "
            "transaction of that program has ended. Requests are still served.",
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
    column = requests.c.started_at
    wide = structs.replace(narrow_to_matching_hours(connection, chosen), text="", is_changed=False)
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


class Senders(Struct, frozen=True, kw_only=True):
    """Whose requests are meant. The owner and the team count that the key had at the time of a request."""

    owners: Collection[str] = ()
    """Names of a person, in lower case: all requests with this owner, whatever key sent them."""
    teams: Collection[str] = ()
    labels: Collection[str] = ()
    """Labels of keys, of which the requests with the owner `owner` and the `texts_of` count."""
    owner: str = ""
    texts_of: str = ""

    def build_condition(self, columns: Any) -> ColumnElement[bool]:
        """`columns`: those of a table with rows of requests, or of their sums, which labels do not choose."""
        chosen: list[ColumnElement[bool]] = []
        if self.owners:
            chosen.append(and_(func.lower(columns.owner).in_(self.owners), uncommon_value_condition("owner", columns)))
        if self.teams:
            chosen.append(and_(columns.team.in_(self.teams), uncommon_value_condition("team", columns)))
        if self.labels and "texts_of" in columns:
            is_own = and_(func.lower(columns.owner) == func.lower(self.owner), columns.texts_of == self.texts_of)
            of_keys = columns.key_label.in_(self.labels)
            if COMMON_VALUES["key_label"] not in self.labels:
                of_keys = and_(of_keys, uncommon_value_condition("key_label", columns))
            chosen.append(and_(of_keys, is_own))
        return or_(false(), *chosen)

    def include(self, client: Client) -> bool:
        """Return True if the requests of `client` are meant. `client`: as it was at the time of the request."""
        owner, texts_of = client.owner.lower(), OF_OTHER_PEOPLE if client.has_foreign_texts else ""
        is_of_key = client.name in self.labels and (owner, texts_of) == (self.owner.lower(), self.texts_of)
        return owner in self.owners or client.team in self.teams or is_of_key


NOBODY = Senders()


class ReadAccess(Struct, kw_only=True):
    """What a connection may read."""

    rows: Senders | None
    """Whose requests may be read. None: all requests."""
    texts: Senders | None
    """Whose stored texts may be read, unless others used the key (`texts_of`), so that nobody gets texts of others by a
    change of a key's owner. None: all texts."""
    opens_others: bool = False
    """True if the user may open further texts."""
    opened: set[str] = field(default_factory=set)
    """Ids of requests whose texts the user opened."""

    def find_others(self, rows: Sequence[StoredRequest]) -> Sequence[StoredRequest]:
        """Return those of `rows` whose texts are not the user's own."""
        if (senders := self.texts) is None:
            return []
        return [row for row in rows if row.texts_of or not senders.include(Client(name=row.key_label, owner=row.owner))]


def find_key_labels(connection: Connection, key_id: str) -> Sequence[str]:
    """Return the labels of a key, the former ones included."""
    key, former = virtual_keys.c, former_labels.c
    earlier = select(former.label).where(former.key_id == key_id)
    return sorted(connection.execute(select(key.label).where(key.id == key_id).union(earlier)).scalars())


def restrict_reading(connection: Connection, user: LedgerUser, settings: Settings) -> ReadAccess:
    """Limit a connection to what the user, who is resolved, may read."""
    rows = None
    if not may(user.role, "read all requests"):
        teams = user.teams if user.names and may(user.role, "read team requests") else ()
        rows = Senders(owners=user.names, teams=teams)
    texts: Senders | None = Senders(owners=user.names)
    if user.role == "owner":
        # the owner of a proxy without other users reads everything, else only what keys of PROXY_API_KEY have sent
        numbers = range(1, len(settings.proxy_api_keys) + 1)
        unkeyed = Senders(labels=(COMMON_VALUES["key_label"], *(f"key {number}" for number in numbers)))
        texts = unkeyed if settings.virtual_keys or settings.oidc is not None else None
    opens_others = may(user.role, "read texts of others") and settings.admins_read_content
    access = ReadAccess(rows=rows, texts=texts, opens_others=opens_others)
    restrict_rows(connection, access)
    return access


def restrict_to_client(connection: Connection, client: Client, user: LedgerUser) -> ReadAccess:
    """Limit a connection to what `client` itself has sent, whatever its role reads besides: a person with all keys, a
    virtual key with its present owner. Nobody knows who has sent a request with the text (secret) of a key, so a key
    reads no texts. `user`: the person of the client, who is resolved.
    """
    if client.sign_in:
        access = ReadAccess(rows=Senders(owners=user.names), texts=Senders(owners=user.names))
    elif client.key_id:
        labels = find_key_labels(connection, client.key_id)
        texts_of = OF_OTHER_PEOPLE if client.has_foreign_texts else ""
        access = ReadAccess(rows=Senders(labels=labels, owner=client.owner, texts_of=texts_of), texts=NOBODY)
    else:
        access = ReadAccess(rows=Senders(labels=(client.name,)), texts=Senders(labels=(client.name,)))
    restrict_rows(connection, access)
    return access


def restrict_rows(connection: Connection, access: ReadAccess) -> None:
    """A query that cannot be limited, such as SQL text, then raises `RestrictedQueryError`."""
    permitted: dict[Table, FromClause] = {}
    if access.rows is not None:
        permitted = {
            table: select(table).where(access.rows.build_condition(table.c)).subquery(table.name)
            for table in (requests, hourly, session_hours, activity, virtual_keys)
        }

    def permit_texts(table: Table) -> FromClause:
        assert access.texts is not None
        is_own = and_(access.texts.build_condition(requests.c), requests.c.texts_of == "")
        is_readable = exists().where(requests.c.id == table.c.request_id, is_own)
        allowed = or_(is_readable, table.c.request_id.in_(sorted(access.opened)))
        return select(table).where(allowed).subquery(table.name)

    @event.listens_for(connection, "before_execute", retval=True)
    def restrict(_: Connection, statement: Any, several: Any, values: Any, options: Any) -> tuple[Any, Any, Any]:
        elements = list(iterate(statement)) if isinstance(statement, Select) else []
        if access.rows is None and not any(element in _TEXT_TABLES for element in elements):
            return statement, several, values
        if not isinstance(statement, Select):
            raise RestrictedQueryError(f"a statement of the type {type(statement).__name__}")
        for element in elements:
            is_renamed = isinstance(element, AliasedReturnsRows) and isinstance(element.element, Table)
            # SQL text as a column, other than `count(*)`, can contain a query
            is_text = isinstance(element, TextClause) or (
                isinstance(element, ColumnClause) and element.is_literal and element.name not in ("*", "1")
            )
            if is_renamed or is_text:
                raise RestrictedQueryError(f"a query with {type(element).__name__}, whose rows cannot be restricted")
        for table in {element for element in elements if isinstance(element, Table)}:
            if table in _TEXT_TABLES:
                if access.texts is not None:
                    statement = ClauseAdapter(permit_texts(table)).traverse(statement)
            elif table in permitted:
                statement = ClauseAdapter(permitted[table]).traverse(statement)
            elif access.rows is not None:
                raise RestrictedQueryError(f"a query of the table {table.name}")
        return statement, several, values
