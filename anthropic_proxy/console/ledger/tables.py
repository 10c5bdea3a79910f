"""Tables of the ledger. Those with requests and sums are derived from the structs of `records`.

`requests` has one row per client request. `hourly` and `session_hours` have sums, so that a page about a month reads
thousands of rows instead of millions. `contents` has message texts if they are stored. The other tables are those of
virtual keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import FieldInfo, fields
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    case,
    func,
    text,
)
from sqlalchemy.types import TypeEngine

from anthropic_proxy.console.ledger.records import FACETS, HOURLY_KEYS, SESSION_KEYS, SUM_NAMES, Facet, StoredRequest

metadata = MetaData()


def _text(name: str, *, primary_key: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=False, server_default=None if primary_key else "", primary_key=primary_key)


def _count(name: str, kind: type[TypeEngine[Any]] = BigInteger) -> Column[Any]:
    return Column(name, kind, nullable=False, server_default="0")


def _index_facet(facet: Facet) -> Index:
    column, common = facet.column, facet.common_value
    is_rare = None if common is None else text(f"{column} != '{common}'")
    return Index(f"requests_by_{column}", column, "started_at", sqlite_where=is_rare, postgresql_where=is_rare)


_SMALL_COUNTS: Mapping[str, type[TypeEngine[Any]]] = {
    **dict.fromkeys(("attempts", "tool_count", "message_count", "note_count", "worker"), Integer),
    "status": SmallInteger,
}


def _request_column(field: FieldInfo) -> Column[Any]:
    if field.type is str:
        return _text(field.name, primary_key=field.name == "id")
    if field.type is bool or field.name == "started_at":
        return Column(field.name, Boolean if field.type is bool else BigInteger, nullable=False)
    if field.type is int:
        return _count(field.name, _SMALL_COUNTS.get(field.name, BigInteger))
    return Column(field.name, Float if field.name == "output_rate" else BigInteger)


requests = Table(
    "requests",
    metadata,
    *map(_request_column, fields(StoredRequest)),
    Index("requests_by_time", "started_at"),
    *map(_index_facet, FACETS.values()),
)

hourly = Table(
    "hourly",
    metadata,
    Column("hour", Integer, primary_key=True),
    _text("instance", primary_key=True),
    *(_text(name, primary_key=True) for name in HOURLY_KEYS),
    *(_count(name) for name in SUM_NAMES if name != "cancelled"),
    *map(_count, ("duration", "first_token_sum", "first_token_count")),
    Column("first_token_histogram", LargeBinary, nullable=False),
    Column("duration_histogram", LargeBinary, nullable=False),
)
"""Sums over the requests that started in one hour (hours since the epoch, UTC). `instance` is "" on SQLite, and an id
of the writing process on PostgreSQL. `…_histogram` columns have numbers of durations, encoded by
`sums.encode_histogram`."""

session_hours = Table(
    "session_hours",
    metadata,
    Column("hour", Integer, primary_key=True),
    _text("instance", primary_key=True),
    *(_text(name, primary_key=True) for name in SESSION_KEYS),
    *map(_count, SUM_NAMES),
    _count("max_context"),
    Column("started_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Index("session_hours_by_session", "session", "hour"),
)
"""Sums over the requests of a session that started in one hour. `max_context` is the largest number of input tokens of
one request. `started_at` and `last_at` are the starts of the first and of the last request."""

contents = Table(
    "contents",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("contents_by_time", "started_at"),
)
"""Message texts, only with `LEDGER_CONTENT=true`. `size` is the number of bytes before compression.

`kind` is `request`, `reply`, or `sent`, the structure of the request to the provider.
"""

virtual_keys = Table(
    "virtual_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("label", Text, nullable=False, unique=True),
    _text("owner"),
    _text("team"),
    _text("rules"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)
"""One row per virtual key. `rules`: JSON of `Rules`. `expires_at`, `revoked_at`: NULL: never."""

key_hashes = Table(
    "key_hashes",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("key_id", Text, nullable=False, index=True),
    _text("hint"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
)
"""SHA-256 hashes of virtual keys. After a rotation, a key has the old and the new one.

`hint` has the beginning and the last four characters of the key. `expires_at` is the end of the old one; NULL: none.
"""

teams = Table("teams", metadata, Column("name", Text, primary_key=True), _text("rules"))
"""Rules that all keys of a team share. A team without a row has none."""

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    _text("actor"),
    _text("action"),
    _text("object"),
    _text("changes"),
)
"""One row per change of keys and teams. `changes`: JSON object of field → old and new value, without secrets."""


SUM_TABLES: Mapping[Table, Sequence[str]] = {hourly: HOURLY_KEYS, session_hours: SESSION_KEYS}
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
