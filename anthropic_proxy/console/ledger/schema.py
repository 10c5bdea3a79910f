"""Tables of the ledger, and the SQL text that creates them. Those with requests and sums are derived from `records`.

`requests` has one row per client request. `hourly` and `session_hours` have sums, so that a page about a month reads
thousands of rows instead of millions. `contents` has message texts if they are stored. The other tables are those of
virtual keys, of sign-ins from Claude Code, and of what instances share. A changed table needs a step in `migrations`
too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import fields

from anthropic_proxy.console.ledger.activity import ACTIVITY_KEYS, ACTIVITY_NAMES
from anthropic_proxy.console.ledger.records import FACETS, HOURLY_KEYS, SESSION_KEYS, SUM_NAMES, StoredRequest

VERSION_TABLE = "alembic_version"
"""Table with the version of the schema. The name is that of Alembic, which earlier versions of the program used."""
_KEY = "TEXT NOT NULL"
TEXT = "TEXT NOT NULL DEFAULT ''"
COUNT = "BIGINT NOT NULL DEFAULT 0"
TIME = "BIGINT NOT NULL"
_NEWEST = ("created_at DESC", "id")
"""Order of the lists of keys and sign-ins."""


class Index(NamedTuple):
    name: str
    columns: Sequence[str]
    """Columns, or expressions of one."""
    condition: str = ""
    """"": the index has all rows."""
    is_unique: bool = False


class TableDefinition(NamedTuple):
    name: str
    columns: Mapping[str, str]
    """Name → SQL type with constraints. `BLOB` is `BYTEA` on PostgreSQL, and `SERIAL` an integer on SQLite."""
    key: Sequence[str]
    indexes: Sequence[Index] = ()


_TYPE_KINDS = {str: TEXT, bool: "BOOLEAN NOT NULL", int: COUNT}
_FIELD_KINDS = {
    **dict.fromkeys(("attempts", "tool_count", "message_count", "note_count", "worker"), "INTEGER NOT NULL DEFAULT 0"),
    "id": _KEY,
    "started_at": TIME,
    "status": "SMALLINT NOT NULL DEFAULT 0",
    "output_rate": "FLOAT",
}
"""Field of `StoredRequest` → its SQL type. The others have that of their type in `_TYPE_KINDS`, or else `BIGINT`."""
REQUESTS = TableDefinition(
    "requests",
    {
        field.name: _FIELD_KINDS.get(field.name) or _TYPE_KINDS.get(field.type, "BIGINT")
        for field in fields(StoredRequest)
    },
    ("id",),
    (
        Index("requests_by_time", ("started_at",)),
        Index("requests_by_model_usage", ("started_at",), "model_usage != ''"),
        Index("requests_by_person", ("lower(owner)", "started_at"), "owner != ''"),
        *(
            Index(
                f"requests_by_{facet.column}",
                (facet.column, "started_at"),
                "" if facet.common_value is None else f"{facet.column} != '{facet.common_value}'",
            )
            for facet in FACETS.values()
        ),
    ),
)

HOURLY = TableDefinition(
    "hourly",
    {
        "hour": "INTEGER NOT NULL",
        **dict.fromkeys(("instance", *HOURLY_KEYS), _KEY),
        **dict.fromkeys((name for name in SUM_NAMES if name != "cancelled"), COUNT),
        **dict.fromkeys(("duration", "first_token_sum", "first_token_count", "untimed_output_tokens"), COUNT),
        **dict.fromkeys(("first_token_histogram", "duration_histogram"), "BLOB NOT NULL"),
    },
    ("hour", "instance", *HOURLY_KEYS),
    (Index("hourly_by_key_label", ("key_label", "hour")), Index("hourly_by_team", ("team", "hour"))),
)
"""Sums over the requests that started in one hour (hours since the epoch, UTC). `instance` is "" on SQLite, and an id
of the writing process on PostgreSQL. `…_histogram` columns have numbers of durations, encoded by
`histograms.encode_histogram`. `untimed_output_tokens` are those without a known time: that a model has written for
requests of another one, within a provider, and those of batches, whose `duration` is 0."""

SESSION_HOURS = TableDefinition(
    "session_hours",
    {
        "hour": "INTEGER NOT NULL",
        **dict.fromkeys(("instance", *SESSION_KEYS), _KEY),
        **dict.fromkeys((*SUM_NAMES, "max_context"), COUNT),
        **dict.fromkeys(("started_at", "last_at"), TIME),
    },
    ("hour", "instance", *SESSION_KEYS),
    (Index("session_hours_by_session", ("session", "hour")),),
)
"""Sums over the requests of a session that started in one hour. `max_context` is the largest number of input tokens of
one request of the conversation. `started_at` and `last_at` are the starts of the first and of the last request."""

CONTENTS = TableDefinition(
    "contents",
    {"request_id": _KEY, "kind": _KEY, "started_at": TIME, "size": "INTEGER NOT NULL", "data": "BLOB NOT NULL"},
    ("request_id", "kind"),
    (Index("contents_by_time", ("started_at",)),),
)
"""Message texts, only with `LEDGER_CONTENT=true`. `size` is the number of bytes before compression.

`kind` is `request`, `reply`, or `sent`, the structure of the request to the provider.
"""

SESSION_TITLES = TableDefinition(
    "session_titles",
    {"session": _KEY, "key_label": _KEY, "request_id": _KEY, "started_at": TIME, "title": TEXT},
    ("session", "key_label"),
)
"""Latest title of a session that a client with this key got, with the request for it. Empty with `LEDGER_TITLES=false`.
"""

VIRTUAL_KEYS = TableDefinition(
    "virtual_keys",
    {
        "id": _KEY,
        "label": f"{_KEY} UNIQUE",
        **dict.fromkeys(("owner", "team", "rules"), TEXT),
        "created_at": TIME,
        **dict.fromkeys(("expires_at", "revoked_at"), "BIGINT"),
        **dict.fromkeys(("person", "creator"), TEXT),
        **dict.fromkeys(("owner_since", "sessions_from"), "BIGINT"),
        "exceptions": TEXT,
        **dict.fromkeys(("issuer", "client_id", "subject"), TEXT),
        "left_at": "BIGINT",
        **dict.fromkeys(("ended_by", "cost_center"), TEXT),
    },
    ("id",),
    (
        Index("virtual_keys_by_subject", ("issuer", "subject"), "subject != ''", is_unique=True),
        Index("virtual_keys_by_person", ("person",), "person != ''"),
        Index("virtual_keys_by_time", _NEWEST),
        Index("virtual_keys_by_owner", ("lower(owner)",)),
        Index("virtual_keys_by_team", ("team", *_NEWEST)),
    ),
)
"""One row per virtual key, with the fields of `VirtualKey`. `rules`: JSON of `Rules`. `exceptions`: JSON of field →
`FieldException`. A time that is NULL: never."""

FORMER_LABELS = TableDefinition(
    "former_labels",
    {"label": _KEY, "key_id": _KEY},
    ("label",),
    (Index("former_labels_by_key", ("key_id",)),),
)
"""Labels that a key had before. No other key gets one, because the ledger has requests with it."""

KEY_HASHES = TableDefinition(
    "key_hashes",
    {"hash": _KEY, "key_id": _KEY, "hint": TEXT, "created_at": TIME, "expires_at": "BIGINT"},
    ("hash",),
    (Index("ix_key_hashes_key_id", ("key_id",)),),
)
"""SHA-256 hashes of virtual keys. After a rotation, a key has the old and the new one.

`hint` has the beginning and the last four characters of the key. `expires_at` is the end of the old one; NULL: none.
"""

TEAMS = TableDefinition("teams", {"name": _KEY, "rules": TEXT}, ("name",))
"""Rules that all keys of a team share. A team without a row has none."""

SIGN_INS = TableDefinition(
    "sign_ins",
    {
        "id": _KEY,
        "key_id": _KEY,
        "refresh_hash": f"{_KEY} UNIQUE",
        **dict.fromkeys(("person", "provider_token", "device", "address"), TEXT),
        **dict.fromkeys(("created_at", "checked_at", "refreshed_at", "ends_at"), TIME),
        "ended_at": "BIGINT",
        "claimed_until": COUNT,
        "end_reason": TEXT,
        **dict.fromkeys(("refused_at", "denied_at"), "BIGINT"),
    },
    ("id",),
    (Index("sign_ins_by_time", _NEWEST), Index("sign_ins_by_key", ("key_id", *_NEWEST))),
)
"""One row per device on which a person has signed in from Claude Code. `person`: JSON of `OidcUser` at the sign-in, for
its identity; `people` has what was said later. `end_reason`: why the identity provider or the settings refused the
person, as the person reads it. `refused_at`: time since which the provider refuses each refresh; NULL: it does not.
`denied_at`: time of the first refusal of the device after the newest success of any device of the person; NULL: it was
not refused.

`refresh_hash`: hash of the refresh token of the device. `provider_token`: encrypted refresh token of the identity
provider. `claimed_until`: until then, one instance asks the identity provider about the person.
"""

PEOPLE = TableDefinition("people", {"key_id": _KEY, "person": TEXT, "stated_at": TIME}, ("key_id",))
"""What the identity provider has said last about each person, by whatever device or browser. `key_id`: id of the
person's key. `person`: JSON of `OidcUser`. `stated_at`: time at which the provider was asked."""

DEVICE_CODES = TableDefinition(
    "device_codes",
    {
        "code_hash": _KEY,
        "user_code": f"{_KEY} UNIQUE",
        **dict.fromkeys(("state", "reason", "device", "address", "key_id", "person", "provider_token"), TEXT),
        **dict.fromkeys(("created_at", "expires_at"), TIME),
        "stated_at": COUNT,
    },
    ("code_hash",),
)
"""One row per device that waits for a person to sign in. `state`: `pending`, `approved`, `denied`, or `refused` for a
`reason`. The columns `key_id`, `person` and `provider_token` are those of the later sign-in. `stated_at`: time at which
the identity provider has described the person."""

SCIM_USERS = TableDefinition(
    "scim_users",
    {
        "id": _KEY,
        "user_name": f"{_KEY} UNIQUE",
        **dict.fromkeys(("external_id", "address", "key_id", "body"), TEXT),
        "is_active": "INTEGER NOT NULL DEFAULT 0",
        "version": COUNT,
        **dict.fromkeys(("created_at", "changed_at"), TIME),
        "cost_center": TEXT,
    },
    ("id",),
    (
        Index("scim_users_by_external_id", ("external_id",)),
        Index("scim_users_by_address", ("address",), "address != ''", is_unique=True),
        Index("scim_users_by_key", ("key_id",), "key_id != ''", is_unique=True),
    ),
)
"""One row per user of SCIM. `user_name` and `address` are in lower case. `body`: JSON of the attributes. `key_id`: the
virtual key that the person is."""

SCIM_GROUPS = TableDefinition(
    "scim_groups",
    {
        "id": _KEY,
        "name_key": f"{_KEY} UNIQUE",
        **dict.fromkeys(("name", "external_id"), TEXT),
        "version": COUNT,
        **dict.fromkeys(("created_at", "changed_at"), TIME),
    },
    ("id",),
    (Index("scim_groups_by_external_id", ("external_id",)),),
)
"""One row per group of SCIM. `name_key`: the name in lower case."""

SCIM_MEMBERS = TableDefinition(
    "scim_members",
    dict.fromkeys(("group_id", "user_id"), _KEY),
    ("group_id", "user_id"),
    (Index("scim_members_by_user", ("user_id",)),),
)

PENDING_TABLES = TableDefinition("pending_tables", {"key_id": _KEY}, ("key_id",))
"""Keys of people whose groups or cost centers SCIM has changed, until an instance has applied the table of their group.
"""

AUDIT_LOG = TableDefinition(
    "audit_log",
    {"id": "SERIAL NOT NULL", "at": TIME, **dict.fromkeys(("actor", "action", "object", "changes"), TEXT)},
    ("id",),
)
"""One row per change of keys and teams. `changes`: JSON object of field → old and new value, without secrets."""

BUDGET_ALERTS = TableDefinition(
    "budget_alerts",
    {
        "id": _KEY,
        "created_at": TIME,
        "ends_at": "BIGINT",
        "body": TEXT,
        "attempts": "INTEGER NOT NULL DEFAULT 0",
        "next_at": "BIGINT",
    },
    ("id",),
    (Index("budget_alerts_by_time", ("next_at",), "next_at IS NOT NULL"),),
)
"""Used shares of budgets that were reported, or are to be sent to the webhook of `[alerts]` from `next_at` on."""

VERDICT_LOG = TableDefinition("verdict_log", {"id": "SERIAL NOT NULL", "at": TIME, "body": TEXT}, ("id",))
"""Verdicts about tool calls and texts that wait for a destination of `[siem]`. `body`: JSON of an event."""

EVENT_CURSORS = TableDefinition(
    "event_cursors",
    {
        **dict.fromkeys(("destination", "source"), _KEY),
        **dict.fromkeys(("position", "attempts", "next_at"), COUNT),
        "failing_since": "BIGINT",
        "batch_end": COUNT,
    },
    ("destination", "source"),
)
"""Place of each destination of `[siem]` in `audit_log` and `verdict_log`: the id of the last event that it accepted,
and that of the last one of the batch that is sent, or is to be sent again."""

PARKED_EVENTS = TableDefinition(
    "parked_events",
    {
        **dict.fromkeys(("destination", "source"), _KEY),
        "event_id": TIME,
        "at": TIME,
        **dict.fromkeys(("body", "problem"), TEXT),
        **dict.fromkeys(("parked_at", "next_at"), TIME),
    },
    ("destination", "source", "event_id"),
)
"""Events that a destination of `[siem]` has rejected while it accepted others. They are sent again from
`next_at` on. `body`: JSON of an event, as in `verdict_log`. `problem`: the answer."""

INSTANCES = TableDefinition(
    "instances",
    {
        "id": _KEY,
        **dict.fromkeys(("name", "address", "version", "state", "redis", "settings", "files"), TEXT),
        "processes": "INTEGER NOT NULL DEFAULT 1",
        "clock_difference": COUNT,
        **dict.fromkeys(("started_at", "seen_at"), TIME),
    },
    ("id",),
)
"""One row per running server, with all its workers: the fields of `Instance`. The times are those of the database."""

LIMIT_COUNTERS = TableDefinition(
    "limit_counters", {"name": _KEY, "used": COUNT, "expires_at": TIME, "raised_at": COUNT}, ("name",)
)
"""Settled amounts of the limits of the kind `amount`, such as budgets. Without Redis, instances on PostgreSQL share
them. `raised_at`: time at which the ledger has last raised the amount."""

LIMIT_HOLDS = TableDefinition(
    "limit_holds",
    {"reservation": _KEY, "counter": _KEY, "amount": COUNT, "ends_at": TIME},
    ("reservation", "counter"),
    (Index("limit_holds_by_counter", ("counter",), "amount > 0"),),
)
"""Amounts that running requests have reserved. A row without a counter shows that a reservation is settled."""

SHARED_VALUES = TableDefinition("shared_values", {"name": _KEY, "value": TEXT, "expires_at": TIME}, ("name",))
"""Values that instances on PostgreSQL share without Redis, such as sessions of the dashboard, and the secret of
`OwnKeys`, on SQLite too."""
READ_LASTING_VALUE = f"SELECT value FROM {SHARED_VALUES.name} WHERE name = ?"
STORE_LASTING_VALUE = (
    f"INSERT INTO {SHARED_VALUES.name} (name, value, expires_at) VALUES (?, ?, {1 << 62}) ON CONFLICT (name) DO"
)
"""For values that do not expire. What is done with an earlier value follows: `NOTHING`, or `UPDATE SET …`."""

SESSION_MODELS = TableDefinition(
    "session_models",
    {**dict.fromkeys(("client", "session"), _KEY), **dict.fromkeys(("model", "replaced"), TEXT), "ends_at": TIME},
    ("client", "session"),
)
"""Models that people have chosen for their running sessions: `SessionModel`. `client`: `Client.id`."""

ACTIVITY = TableDefinition(
    "activity",
    {"hour": "INTEGER NOT NULL", **dict.fromkeys(ACTIVITY_KEYS, _KEY), **dict.fromkeys(ACTIVITY_NAMES, COUNT)},
    ("hour", *ACTIVITY_KEYS),
)
"""Sums of an hour of what Claude Code states in its metrics: `Activity`. Empty with `LEDGER_ACTIVITY=false`."""

ACTIVITY_POINTS = TableDefinition(
    "activity_points",
    {"series": _KEY, "place": TIME, "value": TIME, "ends_at": TIME, "client": TEXT},
    ("series", "place"),
    (Index("activity_points_by_end", ("ends_at",)), Index("activity_points_by_client", ("client", "ends_at"))),
)
"""Numbers of these metrics that are in the sums: `Measurement`. Each is kept until no client can send it again, and
`MAX_POINTS_PER_CLIENT` of each `Client.id`."""

TABLES = (
    REQUESTS,
    HOURLY,
    SESSION_HOURS,
    CONTENTS,
    SESSION_TITLES,
    VIRTUAL_KEYS,
    KEY_HASHES,
    TEAMS,
    AUDIT_LOG,
    BUDGET_ALERTS,
    VERDICT_LOG,
    EVENT_CURSORS,
    PARKED_EVENTS,
    FORMER_LABELS,
    SIGN_INS,
    PEOPLE,
    DEVICE_CODES,
    SCIM_USERS,
    SCIM_GROUPS,
    SCIM_MEMBERS,
    PENDING_TABLES,
    INSTANCES,
    LIMIT_COUNTERS,
    LIMIT_HOLDS,
    SHARED_VALUES,
    SESSION_MODELS,
    ACTIVITY,
    ACTIVITY_POINTS,
)
SUM_TABLES: Mapping[str, Sequence[str]] = {HOURLY.name: HOURLY_KEYS, SESSION_HOURS.name: SESSION_KEYS}
"""Name of a table of sums by hour → its keys besides hour and instance."""
ACTIVITY_TABLES: Mapping[str, str] = {ACTIVITY.name: "hour", ACTIVITY_POINTS.name: "ends_at"}
"""Name of a table with what clients state about work → its column with the time."""


def adapt_types(sql: str, *, is_postgres: bool) -> str:
    return sql.replace("BLOB", "BYTEA") if is_postgres else sql.replace("SERIAL", "INTEGER")


def list_statements(*, is_postgres: bool) -> Iterator[str]:
    """Return the SQL statements that create all tables."""
    yield f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    for table in TABLES:
        columns = ", ".join(f"{name} {kind}" for name, kind in table.columns.items())
        sql = f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY ({', '.join(table.key)}))"
        yield adapt_types(sql, is_postgres=is_postgres)
        for index in table.indexes:
            kind = "UNIQUE INDEX" if index.is_unique else "INDEX"
            text = f"CREATE {kind} {index.name} ON {table.name} ({', '.join(index.columns)})"
            yield f"{text} WHERE {index.condition}" if index.condition else text


IS_NO_RESULT = "NOT (substr(path, 1, 21) = '/v1/messages/batches/' AND substr(id, 1, 4) != 'req_')"
"""Condition of all requests but those for the results of a batch, whose rows stay longer."""
OLDEST_REQUEST = f"SELECT started_at FROM requests WHERE {IS_NO_RESULT} ORDER BY started_at LIMIT 1"
"""From its time on, all requests are stored."""
