"""Migration of a database from an earlier version of the schema, in steps of SQL. A new database needs none of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from anthropic_proxy.console.ledger.bind_people import bind_people, store_former_labels, store_people
from anthropic_proxy.console.ledger.schema import COUNT, TEXT, TIME, VERSION_TABLE, adapt_types, list_statements
from anthropic_proxy.engine.patterns import compile_later

if TYPE_CHECKING:
    from anthropic_proxy.console.ledger.connection import Connection, Reader

OWN_TABLES = (VERSION_TABLE, "requests", "hourly")
"""Tables that every version of the schema has. Other programs also have a table `alembic_version`."""
_FIRST_VERSION = "0001"
_Statements = Callable[["Connection"], Iterator[str]]


def _add_columns(columns: str, kind: str = TEXT, tables: str = "requests") -> Sequence[str]:
    """Names of columns and tables are separated by spaces."""
    return [f"ALTER TABLE {table} ADD COLUMN {column} {kind}" for table in tables.split() for column in columns.split()]


def _index_requests(column: str, common: str | None = None) -> str:
    """`common`: the most common value of the column, which the index leaves out."""
    condition = "" if common is None else f" WHERE {column} != '{common}'"
    return f"CREATE INDEX requests_by_{column} ON requests ({column}, started_at){condition}"


_PRIMARY_KEY = compile_later(r"PRIMARY KEY \([^)]*\)")


def _set_key(columns_of_key: str, table: str = "hourly") -> _Statements:
    """Columns that a step has added to a table of sums become part of its key with all others that `columns_of_key`
    lists. The indexes of the table have to be created again.
    """
    key = f"PRIMARY KEY ({', '.join(columns_of_key.split())})"

    def list_changes(connection: "Connection") -> Iterator[str]:
        if connection.is_postgres:
            yield f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey"
            yield f"ALTER TABLE {table} ADD {key}"
            return
        # SQLite cannot change a key: a new table has the same columns
        ((sql,),) = connection.query("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
        columns = ", ".join(name for (name,) in connection.query(f"SELECT name FROM pragma_table_info('{table}')"))
        yield f"ALTER TABLE {table} RENAME TO {table}_before"
        yield _PRIMARY_KEY.sub(key, sql)
        yield f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}_before"
        yield f"DROP TABLE {table}_before"

    return list_changes


def _find_only(column: str) -> str:
    """Return the expression of the value that all rows of a group have. "": they have several."""
    return f"CASE WHEN min({column}) = max({column}) THEN min({column}) ELSE '' END AS {column}"


_BOTH = "requests hourly"
_FIRST_KEY = "hour instance project key_label provider model requested_model outcome_class route owner team"
_TOKENS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "thinking_tokens",
    "cache_write_1h_tokens",
)
_COSTS = ("cost", "unknown_cost_requests", "requested_cost", "unknown_requested_cost_requests")
_SESSION_COUNTS = ("requests", "errors", "cancelled", *_TOKENS, *_COSTS, "max_context")
_WORK = (
    *("lines_added", "lines_removed", "edits_accepted", "edits_rejected", "commits", "pull_requests"),
    *("user_microseconds", "client_microseconds"),
)
_COMMON_VALUES = {"project": "", "session": "", "key_label": "local", "outcome_class": "ok", "route": ""}
_STEPS: Mapping[str, Sequence[str | _Statements]] = {
    "0002": (
        f"CREATE TABLE contents (request_id TEXT NOT NULL, kind TEXT NOT NULL, started_at {TIME}, "
        "size INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (request_id, kind))",
        "CREATE INDEX contents_by_time ON contents (started_at)",
    ),
    "0003": (
        f"CREATE TABLE virtual_keys (id TEXT NOT NULL PRIMARY KEY, label TEXT NOT NULL UNIQUE, owner {TEXT}, "
        f"team {TEXT}, rules {TEXT}, created_at {TIME}, expires_at BIGINT, revoked_at BIGINT)",
        f"CREATE TABLE key_hashes (hash TEXT NOT NULL PRIMARY KEY, key_id TEXT NOT NULL, hint {TEXT}, "
        f"created_at {TIME}, expires_at BIGINT)",
        "CREATE INDEX ix_key_hashes_key_id ON key_hashes (key_id)",
        f"CREATE TABLE teams (name TEXT NOT NULL PRIMARY KEY, rules {TEXT})",
        f"CREATE TABLE audit_log (id SERIAL NOT NULL PRIMARY KEY, at {TIME}, actor {TEXT}, action {TEXT}, "
        f"object {TEXT}, changes {TEXT})",
    ),
    "0004": (  # the sums of sessions are calculated from the stored requests
        *_add_columns("cache_write_1h_tokens", COUNT, _BOTH),
        "CREATE TABLE session_hours (hour INTEGER NOT NULL, instance TEXT NOT NULL, session TEXT NOT NULL, "
        f"project TEXT NOT NULL, key_label TEXT NOT NULL, {', '.join(f'{name} {COUNT}' for name in _SESSION_COUNTS)}, "
        f"started_at {TIME}, last_at {TIME}, PRIMARY KEY (hour, instance, session, project, key_label))",
        "CREATE INDEX session_hours_by_session ON session_hours (session, hour)",
        f"INSERT INTO session_hours (hour, instance, session, project, key_label, {', '.join(_SESSION_COUNTS)}, "
        "started_at, last_at) SELECT started_at / 3600000000, '', session, project, key_label, count(*), "
        "sum(CASE WHEN outcome_class = 'error' THEN 1 ELSE 0 END), "
        "sum(CASE WHEN outcome_class = 'cancelled' THEN 1 ELSE 0 END), "
        f"{', '.join(f'sum({name})' for name in _TOKENS)}, "
        "coalesce(sum(cost), 0), sum(CASE WHEN cost IS NULL THEN 1 ELSE 0 END), "
        "coalesce(sum(requested_cost), 0), sum(CASE WHEN requested_cost IS NULL THEN 1 ELSE 0 END), "
        "max(input_tokens + cache_read_tokens + cache_write_tokens), min(started_at), max(started_at) "
        "FROM requests GROUP BY 1, session, project, key_label",
    ),
    "0005": _add_columns("attempt_times"),
    "0006": _add_columns("reply_blocks"),
    # a later step adds the column to the key of `hourly`, which SQLite does by a new table
    "0007": (*_add_columns("route", tables=_BOTH), _index_requests("route")),
    "0008": (
        *(f"DROP INDEX requests_by_{name}" for name in (*_COMMON_VALUES, "time")),
        *(_index_requests(name, value) for name, value in _COMMON_VALUES.items()),
        "CREATE INDEX requests_by_time ON requests (started_at)",
    ),
    "0009": _add_columns("tool_results tool_errors malformed_replies", COUNT, f"{_BOTH} session_hours"),
    "0010": _add_columns("method"),
    "0011": _add_columns("error_code"),
    "0012": (
        *_add_columns("owner team", tables=_BOTH),
        *(_index_requests(name, "") for name in ("owner", "team")),
        _set_key(_FIRST_KEY),
    ),
    "0013": (*_add_columns("prefix_change"), *_add_columns("prefix_change_tokens", COUNT)),
    "0014": _add_columns("billed_searches", COUNT),
    "0015": _add_columns("kind parent checks"),
    "0016": (
        *_add_columns("agent_type prompt_id"),
        *(_index_requests(name, "") for name in ("agent_type", "prompt_id")),
        _index_requests("kind"),
        *_add_columns("kind agent_type", tables="hourly"),
        _set_key(f"{_FIRST_KEY} kind agent_type"),
    ),
    "0017": (
        *_add_columns("verdict", tables=_BOTH),
        *_add_columns("tool_times"),
        _index_requests("verdict", ""),
        _set_key(f"{_FIRST_KEY} kind agent_type verdict"),
    ),
    "0018": (
        f"CREATE TABLE budget_alerts (id TEXT NOT NULL PRIMARY KEY, created_at {TIME}, ends_at BIGINT, body {TEXT}, "
        "attempts INTEGER NOT NULL DEFAULT 0, next_at BIGINT)",
        "CREATE INDEX budget_alerts_by_time ON budget_alerts (next_at) WHERE next_at IS NOT NULL",
    ),
    "0019": _add_columns("inspections"),
    "0020": (
        "CREATE TABLE sign_ins (id TEXT NOT NULL PRIMARY KEY, key_id TEXT NOT NULL, refresh_hash TEXT NOT NULL UNIQUE, "
        f"person {TEXT}, provider_token {TEXT}, device {TEXT}, address {TEXT}, created_at {TIME}, checked_at {TIME}, "
        f"refreshed_at {TIME}, ends_at {TIME}, ended_at BIGINT, claimed_until {COUNT})",
        "CREATE TABLE device_codes (code_hash TEXT NOT NULL PRIMARY KEY, user_code TEXT NOT NULL UNIQUE, "
        f"state {TEXT}, reason {TEXT}, device {TEXT}, address {TEXT}, key_id {TEXT}, person {TEXT}, "
        f"provider_token {TEXT}, created_at {TIME}, expires_at {TIME})",
    ),
    "0021": _add_columns("person", tables="virtual_keys"),
    "0022": (
        *_add_columns("creator", tables="virtual_keys"),
        *_add_columns("owner_since sessions_from", "BIGINT", "virtual_keys"),
        # a person that was revoked before has no session any more
        "UPDATE virtual_keys SET sessions_from = revoked_at WHERE revoked_at IS NOT NULL "
        "AND id NOT IN (SELECT key_id FROM key_hashes)",
        *_add_columns("texts_of"),
    ),
    "0023": _add_columns("remedy"),
    "0024": (
        f"CREATE TABLE instances (id TEXT NOT NULL PRIMARY KEY, name {TEXT}, address {TEXT}, version {TEXT}, "
        f"state {TEXT}, redis {TEXT}, settings {TEXT}, files {TEXT}, processes INTEGER NOT NULL DEFAULT 1, "
        f"clock_difference {COUNT}, started_at {TIME}, seen_at {TIME})",
        f"CREATE TABLE limit_counters (name TEXT NOT NULL PRIMARY KEY, used {COUNT}, expires_at {TIME})",
        f"CREATE TABLE limit_holds (reservation TEXT NOT NULL, counter TEXT NOT NULL, amount {COUNT}, ends_at {TIME}, "
        "PRIMARY KEY (reservation, counter))",
        "CREATE INDEX limit_holds_by_counter ON limit_holds (counter) WHERE amount > 0",
        f"CREATE TABLE shared_values (name TEXT NOT NULL PRIMARY KEY, value {TEXT}, expires_at {TIME})",
    ),
    "0025": (
        *_add_columns("model_usage"),
        *_add_columns("untimed_output_tokens", COUNT, "hourly"),
        "CREATE INDEX requests_by_model_usage ON requests (started_at) WHERE model_usage != ''",
    ),
    "0026": _add_columns("exceptions", tables="virtual_keys"),
    "0027": (
        *_add_columns("issuer client_id subject", tables="virtual_keys"),
        *_add_columns("left_at", "BIGINT", "virtual_keys"),
        "CREATE UNIQUE INDEX virtual_keys_by_subject ON virtual_keys (issuer, subject) WHERE subject != ''",
        "CREATE TABLE former_labels (label TEXT NOT NULL PRIMARY KEY, key_id TEXT NOT NULL)",
        "CREATE INDEX former_labels_by_key ON former_labels (key_id)",
        store_former_labels,
        bind_people,
    ),
    "0028": _add_columns("end_reason", tables="sign_ins"),
    "0029": _add_columns("refused_at", "BIGINT", "sign_ins"),
    "0030": (
        *_add_columns("denied_at", "BIGINT", "sign_ins"),
        "UPDATE sign_ins SET denied_at = CASE WHEN ended_at >= ends_at THEN ended_at ELSE "
        "coalesce(refused_at, ended_at) END WHERE refused_at IS NOT NULL OR end_reason != ''",
    ),
    "0031": (
        f"CREATE TABLE verdict_log (id SERIAL NOT NULL PRIMARY KEY, at {TIME}, body {TEXT})",
        f"CREATE TABLE event_cursors (destination TEXT NOT NULL, source TEXT NOT NULL, position {COUNT}, "
        f"attempts {COUNT}, next_at {COUNT}, failing_since BIGINT, PRIMARY KEY (destination, source))",
    ),
    "0032": (
        f"CREATE TABLE session_models (client TEXT NOT NULL, session TEXT NOT NULL, model {TEXT}, replaced {TEXT}, "
        f"ends_at {TIME}, PRIMARY KEY (client, session))",
    ),
    "0033": (
        "CREATE TABLE session_titles (session TEXT NOT NULL, key_label TEXT NOT NULL, request_id TEXT NOT NULL, "
        f"started_at {TIME}, title {TEXT}, PRIMARY KEY (session, key_label))",
    ),
    "0034": (
        *_add_columns("ended_by", tables="virtual_keys"),
        "CREATE TABLE scim_users (id TEXT NOT NULL PRIMARY KEY, user_name TEXT NOT NULL UNIQUE, "
        f"external_id {TEXT}, address {TEXT}, key_id {TEXT}, body {TEXT}, is_active INTEGER NOT NULL DEFAULT 0, "
        f"version {COUNT}, created_at {TIME}, changed_at {TIME})",
        "CREATE INDEX scim_users_by_external_id ON scim_users (external_id)",
        "CREATE UNIQUE INDEX scim_users_by_address ON scim_users (address) WHERE address != ''",
        "CREATE UNIQUE INDEX scim_users_by_key ON scim_users (key_id) WHERE key_id != ''",
        f"CREATE TABLE scim_groups (id TEXT NOT NULL PRIMARY KEY, name_key TEXT NOT NULL UNIQUE, name {TEXT}, "
        f"external_id {TEXT}, version {COUNT}, created_at {TIME}, changed_at {TIME})",
        "CREATE INDEX scim_groups_by_external_id ON scim_groups (external_id)",
        "CREATE TABLE scim_members (group_id TEXT NOT NULL, user_id TEXT NOT NULL, PRIMARY KEY (group_id, user_id))",
        "CREATE INDEX scim_members_by_user ON scim_members (user_id)",
    ),
    "0035": (
        *_add_columns("cost_center", tables=f"{_BOTH} virtual_keys scim_users"),
        _index_requests("cost_center", ""),
        _set_key(f"{_FIRST_KEY} kind agent_type verdict cost_center"),
    ),
    "0036": (
        f"CREATE TABLE parked_events (destination TEXT NOT NULL, source TEXT NOT NULL, event_id {TIME}, at {TIME}, "
        f"body {TEXT}, problem {TEXT}, parked_at {TIME}, next_at {TIME}, PRIMARY KEY (destination, source, event_id))",
    ),
    "0037": (
        "CREATE TABLE activity (hour INTEGER NOT NULL, key_label TEXT NOT NULL, owner TEXT NOT NULL, "
        "team TEXT NOT NULL, cost_center TEXT NOT NULL, project TEXT NOT NULL, session TEXT NOT NULL, "
        "requested_model TEXT NOT NULL, "
        f"{', '.join(f'{name} {COUNT}' for name in _WORK)}, "
        "PRIMARY KEY (hour, key_label, owner, team, cost_center, project, session, requested_model))",
        f"CREATE TABLE activity_points (series TEXT NOT NULL, place {TIME}, value {TIME}, ends_at {TIME}, "
        "PRIMARY KEY (series, place))",
        "CREATE INDEX activity_points_by_end ON activity_points (ends_at)",
    ),
    "0038": (  # a number of before has a client as soon as it is stated again
        *_add_columns("client", tables="activity_points"),
        "CREATE INDEX activity_points_by_client ON activity_points (client, ends_at)",
    ),
    "0039": (f"ALTER TABLE event_cursors ADD COLUMN batch_end {COUNT}",),
    "0040": (  # sums of an hour in which a session had several owners, or whose requests are deleted, have none
        *_add_columns("owner team", tables="session_hours"),
        "UPDATE session_hours SET owner = found.owner, team = found.team FROM (SELECT started_at / 3600000000 AS hour, "
        f"session, project, key_label, {_find_only('owner')}, {_find_only('team')} FROM requests "
        "WHERE key_label != 'local' GROUP BY 1, session, project, key_label) AS found "
        "WHERE session_hours.hour = found.hour AND session_hours.session = found.session "
        "AND session_hours.project = found.project AND session_hours.key_label = found.key_label",
        "DROP INDEX session_hours_by_session",
        _set_key("hour instance project session key_label owner team", "session_hours"),
        "CREATE INDEX session_hours_by_session ON session_hours (session, hour)",
        "CREATE INDEX requests_by_person ON requests (lower(owner), started_at) WHERE owner != ''",
    ),
    "0041": (
        f"CREATE TABLE people (key_id TEXT NOT NULL PRIMARY KEY, person {TEXT}, stated_at {TIME})",
        store_people,
        *_add_columns("stated_at", COUNT, "device_codes"),
    ),
    "0042": ("CREATE INDEX virtual_keys_by_person ON virtual_keys (person) WHERE person != ''",),
    "0043": _add_columns("raised_at", COUNT, "limit_counters"),
    "0044": (
        "CREATE INDEX virtual_keys_by_time ON virtual_keys (created_at DESC, id)",
        "CREATE INDEX virtual_keys_by_owner ON virtual_keys (lower(owner))",
        "CREATE INDEX virtual_keys_by_team ON virtual_keys (team, created_at DESC, id)",
        "CREATE INDEX sign_ins_by_time ON sign_ins (created_at DESC, id)",
        "CREATE INDEX sign_ins_by_key ON sign_ins (key_id, created_at DESC, id)",
    ),
    "0045": (  # addresses
        "UPDATE virtual_keys SET owner = lower(owner) WHERE replace(owner, '@', '') != owner "
        "AND id IN (SELECT key_id FROM key_hashes)",
    ),
    "0046": (
        "CREATE INDEX hourly_by_key_label ON hourly (key_label, hour)",
        "CREATE INDEX hourly_by_team ON hourly (team, hour)",
    ),
    "0047": ("CREATE TABLE pending_tables (key_id TEXT NOT NULL PRIMARY KEY)",),
}
"""Version of the schema → statements of the migration from the version before, or a function that returns some."""
NEWEST_VERSION = max(_STEPS)
"""Version of the schema that the module `schema` describes."""


def is_known_version(version: str) -> bool:
    """Return False if a newer version of the program has created the schema."""
    return version == _FIRST_VERSION or version in _STEPS


def find_schema_version(connection: "Reader") -> str | None:
    """Return the revision of the tables. None: the database has no tables of the ledger."""
    if connection.is_postgres:
        tables = connection.query(f"SELECT {', '.join(['to_regclass(?)'] * len(OWN_TABLES))}", OWN_TABLES)[0]
        has_tables = None not in tuple(tables)
    else:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        has_tables = {*OWN_TABLES} <= {name for (name,) in connection.query(query)}
    if not has_tables:
        return None
    versions = connection.query(f"SELECT version_num FROM {VERSION_TABLE}")
    return str(versions[0][0]) if versions else None


def upgrade_schema(connection: "Connection", version: str | None, newest: str = NEWEST_VERSION) -> None:
    """Create the tables, or migrate those of `version` to those of `newest`, in the open transaction."""
    if version is None:
        for statement in list_statements(is_postgres=connection.is_postgres):
            connection.execute(statement)
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", (newest,))
        return
    for number, step in _STEPS.items():
        if version < number <= newest:
            for part in step:
                for statement in [part] if isinstance(part, str) else part(connection):
                    connection.execute(adapt_types(statement, is_postgres=connection.is_postgres))
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = ?", (newest,))
