"""Tables of the ledger: `requests`, the sums in `hourly` and `session_hours`, `contents`, and tables of virtual keys.

`requests` has one row per stored client request, and `contents` has message texts if they are stored. Money is in
nano-dollars, a duration in microseconds, and a time in microseconds since the epoch, all as integers. In a text column,
"" means that a value is missing. In a number column of `requests`, NULL means unknown or missing, never zero.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeEngine

FACETS = ("provider", "model", "requested_model", "project", "session", "key_label", "outcome_class", "route")
"""Columns of the table `requests` by which a list of requests is filtered. Each has an index together with the time."""
COMMON_VALUES = {"project": "", "session": "", "key_label": "local", "outcome_class": "ok", "route": ""}
"""Column in `FACETS` → value that most requests have. The index of the column leaves out this value."""
HOURLY_KEYS = ("project", "key_label", "provider", "model", "requested_model", "outcome_class", "route")
"""Columns by which the sums of `hourly` can be grouped, besides the hour."""
SESSION_KEYS = ("session", "project", "key_label")
"""Columns by which the sums of `session_hours` can be grouped, besides the hour."""
OUTCOME_CLASSES = ("ok", "retried", "truncated", "error", "cancelled")
"""Values of the column `outcome_class`.

`retried`: served after a failed attempt. `truncated`: the token limit ended the reply. `cancelled`: the client
disconnected.
"""
TOOL_COUNTS = ("tool_results", "tool_errors", "malformed_replies")
"""Columns with counts of tool calls in `requests` and in the tables of sums.

`tool_results`: results of client tools in a request that got a reply. `tool_errors`: those with `is_error`.
`malformed_replies`: 1 if a tool call of the reply had an unknown name, or arguments that are no JSON object. It
is 0 if the proxy does not repair the tool calls of the server.
"""

metadata = MetaData()


def _text(name: str, *, primary_key: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=False, server_default=None if primary_key else "", primary_key=primary_key)


def _count(name: str, kind: type[TypeEngine[Any]] = BigInteger) -> Column[Any]:
    return Column(name, kind, nullable=False, server_default="0")


def _index_facet(column: str) -> Index:
    """Return the index of a column in `FACETS`."""
    is_rare = None if column not in COMMON_VALUES else text(f"{column} != '{COMMON_VALUES[column]}'")
    return Index(f"requests_by_{column}", column, "started_at", sqlite_where=is_rare, postgresql_where=is_rare)


requests = Table(
    "requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    _text("client"),
    _text("key_label"),
    _text("project"),
    _text("session"),
    _text("agent"),
    _text("user_agent"),
    _text("path"),
    Column("stream", Boolean, nullable=False),
    _text("requested_model"),
    _text("provider"),
    _text("prefix"),
    _text("model"),
    _text("route_reason"),
    _count("attempts", Integer),
    _text("failed_attempts"),
    _count("status", SmallInteger),
    _text("outcome"),
    _text("outcome_class"),
    _text("error_type"),
    _text("error"),
    _count("tool_count", Integer),
    _count("message_count", Integer),
    _count("input_tokens"),
    _count("cache_read_tokens"),
    _count("cache_write_tokens"),
    _count("output_tokens"),
    _count("thinking_tokens"),
    Column("cost", BigInteger),
    Column("requested_cost", BigInteger),
    _text("price_source"),
    Column("first_token", BigInteger),
    _count("duration"),
    Column("output_rate", Float),
    _text("notes"),
    _count("note_count", Integer),
    _text("adaptations"),
    _text("instance"),
    _count("worker", Integer),
    _count("cache_write_1h_tokens"),
    _text("attempt_times"),
    _text("reply_blocks"),
    _text("route"),
    *map(_count, TOOL_COUNTS),
    _text("method"),
    Index("requests_by_time", "started_at"),
    *(_index_facet(facet) for facet in FACETS),
)
"""One row per client request.

- `id`: the `request-id` that the client received. `client`: product name in the user agent. `key_label`: `local`, or a
  label of the key that the client presented.
- `method`: HTTP method of the client; "": an earlier version stored the request.
- `route`: name of the `[[routes]]` table that chose the target; "": none, or an earlier version stored the request.
- `failed_attempts`, `notes`, `adaptations`, `attempt_times`, `reply_blocks`: JSON texts; "" for an
  empty list.
- `cost`: price of tokens and billed searches at the used model; NULL: unknown. `requested_cost`: the same at the
  requested model. `price_source`: origin of the price, with service tier and number of billed searches; "": unknown.
- `first_token`: NULL: no content. `output_rate`: output tokens per second after the first token; NULL: unknown.
- `instance`: host name of the proxy. `worker`: process id.
"""

hourly = Table(
    "hourly",
    metadata,
    Column("hour", Integer, primary_key=True),
    _text("instance", primary_key=True),
    *(_text(name, primary_key=True) for name in HOURLY_KEYS),
    _count("requests"),
    _count("errors"),
    _count("input_tokens"),
    _count("cache_read_tokens"),
    _count("cache_write_tokens"),
    _count("output_tokens"),
    _count("thinking_tokens"),
    _count("cost"),
    _count("unknown_cost_requests"),
    _count("requested_cost"),
    _count("unknown_requested_cost_requests"),
    _count("duration"),
    _count("first_token_sum"),
    _count("first_token_count"),
    Column("first_token_histogram", LargeBinary, nullable=False),
    Column("duration_histogram", LargeBinary, nullable=False),
    _count("cache_write_1h_tokens"),
    *map(_count, TOOL_COUNTS),
)
"""Sums over the requests that started in one hour (hours since the epoch, UTC).

`instance` is "" on SQLite, and an id of the writing process on PostgreSQL. `…_histogram` columns have numbers of
durations, encoded by `histograms`.
"""

session_hours = Table(
    "session_hours",
    metadata,
    Column("hour", Integer, primary_key=True),
    _text("instance", primary_key=True),
    *(_text(name, primary_key=True) for name in SESSION_KEYS),
    _count("requests"),
    _count("errors"),
    _count("cancelled"),
    _count("input_tokens"),
    _count("cache_read_tokens"),
    _count("cache_write_tokens"),
    _count("cache_write_1h_tokens"),
    _count("output_tokens"),
    _count("thinking_tokens"),
    _count("cost"),
    _count("unknown_cost_requests"),
    _count("requested_cost"),
    _count("unknown_requested_cost_requests"),
    _count("max_context"),
    Column("started_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    *map(_count, TOOL_COUNTS),
    Index("session_hours_by_session", "session", "hour"),
)
"""Sums over the requests of a session that started in one hour. An empty `session` has the requests of no session.

`max_context` is the largest number of input tokens of one request. `started_at` and `last_at` are the starts of the
first and of the last request.
"""

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
"""One row per virtual key. `rules`: JSON of `access.rules.Rules`. `expires_at`, `revoked_at`: NULL: never."""

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
