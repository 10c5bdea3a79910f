"""Tables of the ledger, and the records in them.

`requests` has one row per client request. `hourly` and `session_hours` have sums, so that a page about a month reads
thousands of rows instead of millions. `contents` has message texts if they are stored. The other tables are those of
virtual keys.

Money is in nano-dollars, a duration in microseconds, and a time in microseconds since the epoch, all as integers. In a
text column, "" means that a value is missing. In a number column of `requests`, NULL means unknown or missing, never
zero.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct
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

from anthropic_proxy.console.ledger.sums import SUM_NAMES

NOT_SENT = "not sent"
"""Name of the provider and the model of requests that were sent to none."""


class Facet(NamedTuple):
    """Property by which lists of requests are filtered. Its column in `requests` has an index with the time."""

    column: str
    title: str
    none_text: str = "none"
    """Text for the value ""."""
    common_value: str | None = None
    """Value that most requests have. The index leaves it out. None: no value is that common."""


FACETS: Mapping[str, Facet] = {
    "outcome": Facet("outcome_class", "Outcome", common_value="ok"),
    "provider": Facet("provider", "Provider", NOT_SENT),
    "model": Facet("model", "Model used", NOT_SENT),
    "requested": Facet("requested_model", "Requested"),
    "project": Facet("project", "Project", common_value=""),
    "session": Facet("session", "Session", common_value=""),
    "key": Facet("key_label", "Key", common_value="local"),
    "route": Facet("route", "Route", common_value=""),
}
"""Parameter of the URL → facet."""
COMMON_VALUES = {facet.column: facet.common_value for facet in FACETS.values() if facet.common_value is not None}
HOURLY_KEYS = ("project", "key_label", "provider", "model", "requested_model", "outcome_class", "route")
SESSION_KEYS = ("session", "project", "key_label")


class StoredRequest(Struct, gc=False):
    """One client request: a row of the table `requests`.

    Table, insertion, export and API are derived from these fields. A new field needs a migration, and a value in
    `RowBuilder`.
    """

    id: str = ""
    """`request-id` that the client received."""
    started_at: int = 0
    client: str = ""
    """Product name in the user agent."""
    key_label: str = ""
    """Label of the key that the client presented, or `local`."""
    project: str = ""
    session: str = ""
    agent: str = ""
    user_agent: str = ""
    path: str = ""
    stream: bool = False
    requested_model: str = ""
    provider: str = ""
    prefix: str = ""
    model: str = ""
    route_reason: str = ""
    attempts: int = 0
    failed_attempts: str = ""
    """JSON list, as `notes`, `adaptations`, `attempt_times` and `reply_blocks`. "": an empty list."""
    status: int = 0
    outcome: str = ""
    outcome_class: str = ""
    """`ok`, `retried` (served after a failed attempt), `truncated` (the token limit ended the reply), `error`, or
    `cancelled` (the client disconnected)."""
    error_type: str = ""
    error: str = ""
    tool_count: int = 0
    message_count: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cost: int | None = None
    """Price of tokens and billed searches at the used model."""
    requested_cost: int | None = None
    """The same at the requested model."""
    price_source: str = ""
    """Origin of the price, with service tier and number of billed searches."""
    first_token: int | None = None
    """Time to the first token. None: the reply has no content."""
    duration: int = 0
    output_rate: float | None = None
    """Output tokens per second after the first token."""
    notes: str = ""
    note_count: int = 0
    adaptations: str = ""
    instance: str = ""
    """Host name of the proxy."""
    worker: int = 0
    """Process id."""
    attempt_times: str = ""
    reply_blocks: str = ""
    route: str = ""
    """Name of the `[[routes]]` table that chose the target. "": none, or stored by an earlier version."""
    tool_results: int = 0
    """Results of client tools in a request that got a reply."""
    tool_errors: int = 0
    """Those with `is_error`."""
    malformed_replies: int = 0
    """1 if a tool call of the reply had an unknown name, or arguments that are no JSON object. 0 if the proxy does not
    repair the tool calls of the server."""
    method: str = ""
    """HTTP method. "": stored by an earlier version."""
    error_code: str = ""
    """Entry of the error catalog. "": no entry, or stored by an earlier version."""

    @property
    def all_input_tokens(self) -> int:
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens


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


def hourly_sums() -> list[ColumnElement[Any]]:
    column = hourly.c
    cancelled = func.sum(case((column.outcome_class == "cancelled", column.requests), else_=0))
    return [cancelled if name == "cancelled" else func.sum(column[name]) for name in SUM_NAMES]


def session_sums() -> list[ColumnElement[Any]]:
    return [func.sum(session_hours.c[name]) for name in SUM_NAMES]


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
