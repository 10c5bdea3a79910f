"""Tables of the module `schema` for queries with SQLAlchemy, and the expressions of their sums."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    case,
    func,
)
from sqlalchemy.types import TypeEngine

from anthropic_proxy.console.ledger import schema
from anthropic_proxy.console.ledger.records import SUM_NAMES

metadata = MetaData()
_KINDS: Mapping[str, type[TypeEngine[Any]]] = {
    "TEXT": Text,
    "BIGINT": BigInteger,
    "INTEGER": Integer,
    "SERIAL": Integer,
    "SMALLINT": SmallInteger,
    "BOOLEAN": Boolean,
    "FLOAT": Float,
    "BLOB": LargeBinary,
}


def _build(table: schema.TableDefinition) -> Table:
    columns: list[Column[Any]] = [
        Column(name, _KINDS[kind.split()[0]], primary_key=name in table.key) for name, kind in table.columns.items()
    ]
    return Table(table.name, metadata, *columns)


requests, hourly, session_hours = map(_build, (schema.REQUESTS, schema.HOURLY, schema.SESSION_HOURS))
contents, virtual_keys = map(_build, (schema.CONTENTS, schema.VIRTUAL_KEYS))
sign_ins, people, device_codes = map(_build, (schema.SIGN_INS, schema.PEOPLE, schema.DEVICE_CODES))
key_hashes, teams, audit_log = map(_build, (schema.KEY_HASHES, schema.TEAMS, schema.AUDIT_LOG))
session_titles = _build(schema.SESSION_TITLES)
instances = _build(schema.INSTANCES)
activity = _build(schema.ACTIVITY)
former_labels = _build(schema.FORMER_LABELS)
SUM_TABLES: Mapping[Table, Sequence[str]] = {table: schema.SUM_TABLES[table.name] for table in (hourly, session_hours)}
"""Table of sums by hour → its keys besides hour and instance."""


def hourly_sums(table: Table) -> list[ColumnElement[Any]]:
    """`table`: `hourly` or `session_hours`."""
    column = table.c
    if table is session_hours:
        return [func.sum(column[name]) for name in SUM_NAMES]
    cancelled = func.sum(case((column.outcome_class == "cancelled", column.requests), else_=0))
    return [cancelled if name == "cancelled" else func.sum(column[name]) for name in SUM_NAMES]


def request_sums(columns: Any) -> list[ColumnElement[Any]]:
    """`columns` is the column collection `requests.c`, or that of a subquery with the same columns."""
    counts: Mapping[str, ColumnElement[Any]] = {
        "requests": func.count(),
        "errors": _count_if(columns.outcome_class == "error"),
        "cancelled": _count_if(columns.outcome_class == "cancelled"),
        "unknown_cost_requests": _count_if(columns.cost.is_(None)),
        "unknown_requested_cost_requests": _count_if(columns.requested_cost.is_(None)),
    }
    return [counts[name] if name in counts else func.coalesce(func.sum(columns[name]), 0) for name in SUM_NAMES]


def _count_if(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((condition, 1), else_=0))
