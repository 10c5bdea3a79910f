"""`restrict_rows`: limits the queries of a database connection to requests with certain virtual keys.

A virtual key is a key that this proxy gives to a client. The limit is for users that may see only the requests of their
own keys. Each query on the connection is rewritten, so that no page or export can omit the limit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnClause, Connection, FromClause, Select, Table, TextClause, event, func, select
from sqlalchemy.sql.selectable import AliasedReturnsRows
from sqlalchemy.sql.util import ClauseAdapter
from sqlalchemy.sql.visitors import iterate

from anthropic_proxy.ledger.request_queries import uncommon_value_condition
from anthropic_proxy.ledger.tables import contents, hourly, requests, session_hours, virtual_keys


class RestrictedQueryError(Exception):
    """Error: a query on a restricted connection could return rows of other keys, so it is not sent to the database."""


def find_key_labels(connection: Connection, owner: str) -> list[str]:
    """Return the labels (names) of all virtual keys of `owner`, revoked keys included.

    The comparison of owners ignores upper and lower case.
    """
    if not owner:
        return []
    query = select(virtual_keys.c.label).where(func.lower(virtual_keys.c.owner) == owner.lower())
    return list(connection.execute(query.order_by(virtual_keys.c.label)).scalars())


def restrict_rows(connection: Connection, key_labels: Sequence[str]) -> None:
    """Limit all later queries on `connection` to requests with the virtual keys in `key_labels`.

    A query that cannot be limited, such as SQL text, then raises `RestrictedQueryError`.
    """
    permitted = _build_permitted(list(key_labels))

    @event.listens_for(connection, "before_execute", retval=True)
    def restrict(_: Connection, statement: Any, several: Any, values: Any, options: Any) -> tuple[Any, Any, Any]:
        return _rewrite(statement, permitted), several, values


def _build_permitted(labels: Sequence[str]) -> Mapping[Table, FromClause]:
    """Return table → subquery with the rows of this table that belong to keys with these `labels`."""
    found: dict[Table, FromClause] = {
        table: select(table).where(table.c.key_label.in_(labels)).subquery(table.name)
        for table in (hourly, session_hours)
    }
    indexed = (
        requests.c.key_label.in_(labels),
        uncommon_value_condition("key_label"),
    )  # no virtual key has the label `local`
    found[requests] = select(requests).where(*indexed).subquery(requests.name)
    own = select(requests.c.id).where(*indexed)
    found[contents] = select(contents).where(contents.c.request_id.in_(own)).subquery(contents.name)
    return found


def _is_literal(element: Any) -> bool:
    """Return True for SQL text as a column, which can contain a query, other than `count(*)`."""
    return isinstance(element, ColumnClause) and element.is_literal and element.name not in ("*", "1")


def _rewrite(statement: Any, permitted: Mapping[Table, FromClause]) -> Any:
    if not isinstance(statement, Select):
        raise RestrictedQueryError(f"a statement of the type {type(statement).__name__}")
    elements = list(iterate(statement))
    for element in elements:
        is_renamed = isinstance(element, AliasedReturnsRows) and isinstance(element.element, Table)
        is_text = isinstance(element, TextClause) or _is_literal(element)
        if is_renamed or is_text:
            raise RestrictedQueryError(f"a query with {type(element).__name__}, whose rows cannot be restricted")
    for table in {element for element in elements if isinstance(element, Table)}:
        if table not in permitted:
            raise RestrictedQueryError(f"a query of the table {table.name}")
        statement = ClauseAdapter(permitted[table]).traverse(statement)
    return statement
