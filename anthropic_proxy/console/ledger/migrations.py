"""Migration of a database from an earlier version of the schema, in steps of SQL. A new database needs none of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from anthropic_proxy.console.ledger.schema import COUNT, TEXT, TIME, VERSION_TABLE, list_statements
from anthropic_proxy.engine.patterns import compile_later

if TYPE_CHECKING:
    from anthropic_proxy.console.ledger.database import Connection, Reader

OWN_TABLES = (VERSION_TABLE, "requests", "hourly")
"""Tables that every version of the schema has. Other programs also have a table `alembic_version`."""
_FIRST_VERSION = "0001"
_Step = Callable[["Connection"], Iterator[str]]


def _add_contents(connection: "Connection") -> Iterator[str]:
    blob = "BYTEA" if connection.is_postgres else "BLOB"
    yield (
        f"CREATE TABLE contents (request_id TEXT NOT NULL, kind TEXT NOT NULL, started_at {TIME}, "
        f"size INTEGER NOT NULL, data {blob} NOT NULL, PRIMARY KEY (request_id, kind))"
    )
    yield "CREATE INDEX contents_by_time ON contents (started_at)"


def _add_virtual_keys(connection: "Connection") -> Iterator[str]:
    yield (
        f"CREATE TABLE virtual_keys (id TEXT NOT NULL PRIMARY KEY, label TEXT NOT NULL UNIQUE, owner {TEXT}, "
        f"team {TEXT}, rules {TEXT}, created_at {TIME}, expires_at BIGINT, revoked_at BIGINT)"
    )
    yield (
        f"CREATE TABLE key_hashes (hash TEXT NOT NULL PRIMARY KEY, key_id TEXT NOT NULL, hint {TEXT}, "
        f"created_at {TIME}, expires_at BIGINT)"
    )
    yield "CREATE INDEX ix_key_hashes_key_id ON key_hashes (key_id)"
    yield f"CREATE TABLE teams (name TEXT NOT NULL PRIMARY KEY, rules {TEXT})"
    number = "SERIAL" if connection.is_postgres else "INTEGER"
    yield (
        f"CREATE TABLE audit_log (id {number} NOT NULL PRIMARY KEY, at {TIME}, actor {TEXT}, action {TEXT}, "
        f"object {TEXT}, changes {TEXT})"
    )


def _add_session_hours(_: "Connection") -> Iterator[str]:
    """The sums of sessions are calculated from the stored requests."""
    for table in ("requests", "hourly"):
        yield f"ALTER TABLE {table} ADD COLUMN cache_write_1h_tokens {COUNT}"
    tokens = "input_tokens cache_read_tokens cache_write_tokens output_tokens thinking_tokens cache_write_1h_tokens"
    costs = ("cost", "unknown_cost_requests", "requested_cost", "unknown_requested_cost_requests")
    counts = ("requests", "errors", "cancelled", *tokens.split(), *costs, "max_context")
    yield (
        "CREATE TABLE session_hours (hour INTEGER NOT NULL, instance TEXT NOT NULL, session TEXT NOT NULL, "
        f"project TEXT NOT NULL, key_label TEXT NOT NULL, {', '.join(f'{name} {COUNT}' for name in counts)}, "
        f"started_at {TIME}, last_at {TIME}, PRIMARY KEY (hour, instance, session, project, key_label))"
    )
    yield "CREATE INDEX session_hours_by_session ON session_hours (session, hour)"
    yield (
        f"INSERT INTO session_hours (hour, instance, session, project, key_label, {', '.join(counts)}, started_at, "
        "last_at) SELECT started_at / 3600000000, '', session, project, key_label, count(*), "
        "sum(CASE WHEN outcome_class = 'error' THEN 1 ELSE 0 END), "
        "sum(CASE WHEN outcome_class = 'cancelled' THEN 1 ELSE 0 END), "
        f"{', '.join(f'sum({name})' for name in tokens.split())}, "
        "coalesce(sum(cost), 0), sum(CASE WHEN cost IS NULL THEN 1 ELSE 0 END), "
        "coalesce(sum(requested_cost), 0), sum(CASE WHEN requested_cost IS NULL THEN 1 ELSE 0 END), "
        "max(input_tokens + cache_read_tokens + cache_write_tokens), min(started_at), max(started_at) "
        "FROM requests GROUP BY 1, session, project, key_label"
    )


def _add_columns(columns: str, kind: str = TEXT, tables: str = "requests") -> _Step:
    """Names of columns and tables are separated by spaces."""

    def step(_: "Connection") -> Iterator[str]:
        for table in tables.split():
            yield from (f"ALTER TABLE {table} ADD COLUMN {column} {kind}" for column in columns.split())

    return step


def _add_route(_: "Connection") -> Iterator[str]:
    """A later step adds the column to the key of `hourly`, which SQLite does by a new table."""
    for table in ("requests", "hourly"):
        yield f"ALTER TABLE {table} ADD COLUMN route {TEXT}"
    yield "CREATE INDEX requests_by_route ON requests (route, started_at)"


def _make_indexes_smaller(_: "Connection") -> Iterator[str]:
    """Leave out the rows with the most common value of a column."""
    common = {"project": "", "session": "", "key_label": "local", "outcome_class": "ok", "route": ""}
    for column, value in common.items():
        yield f"DROP INDEX requests_by_{column}"
        yield f"CREATE INDEX requests_by_{column} ON requests ({column}, started_at) WHERE {column} != '{value}'"
    yield "DROP INDEX requests_by_time"
    yield "CREATE INDEX requests_by_time ON requests (started_at)"


def _add_owner_and_team(connection: "Connection") -> Iterator[str]:
    for column in ("owner", "team"):
        for table in ("requests", "hourly"):
            yield f"ALTER TABLE {table} ADD COLUMN {column} {TEXT}"
        yield f"CREATE INDEX requests_by_{column} ON requests ({column}, started_at) WHERE {column} != ''"
    keys = "hour instance project key_label provider model requested_model outcome_class route owner team"
    yield from _change_hourly_key(connection, keys.split())


_PRIMARY_KEY = compile_later(r"PRIMARY KEY \([^)]*\)")


def _change_hourly_key(connection: "Connection", columns_of_key: Sequence[str]) -> Iterator[str]:
    """Columns that a step has added to `hourly` become part of its key with all others that `columns_of_key` lists."""
    key = f"PRIMARY KEY ({', '.join(columns_of_key)})"
    if connection.is_postgres:
        yield "ALTER TABLE hourly DROP CONSTRAINT hourly_pkey"
        yield f"ALTER TABLE hourly ADD {key}"
        return
    # SQLite cannot change a key: a new table has the same columns
    ((sql,),) = connection.query("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'hourly'")
    columns = ", ".join(name for (name,) in connection.query("SELECT name FROM pragma_table_info('hourly')"))
    yield "ALTER TABLE hourly RENAME TO hourly_before"
    yield _PRIMARY_KEY.sub(key, sql)
    yield f"INSERT INTO hourly ({columns}) SELECT {columns} FROM hourly_before"
    yield "DROP TABLE hourly_before"


def _add_prefix_change(_: "Connection") -> Iterator[str]:
    yield f"ALTER TABLE requests ADD COLUMN prefix_change {TEXT}"
    yield f"ALTER TABLE requests ADD COLUMN prefix_change_tokens {COUNT}"


def _add_purpose(connection: "Connection") -> Iterator[str]:
    for column in ("agent_type", "prompt_id"):
        yield f"ALTER TABLE requests ADD COLUMN {column} {TEXT}"
        yield f"CREATE INDEX requests_by_{column} ON requests ({column}, started_at) WHERE {column} != ''"
    yield "CREATE INDEX requests_by_kind ON requests (kind, started_at)"
    for column in ("kind", "agent_type"):
        yield f"ALTER TABLE hourly ADD COLUMN {column} {TEXT}"
    keys = "hour instance project key_label provider model requested_model outcome_class route owner team"
    yield from _change_hourly_key(connection, [*keys.split(), "kind", "agent_type"])


def _add_verdict(connection: "Connection") -> Iterator[str]:
    for table in ("requests", "hourly"):
        yield f"ALTER TABLE {table} ADD COLUMN verdict {TEXT}"
    yield f"ALTER TABLE requests ADD COLUMN tool_times {TEXT}"
    yield "CREATE INDEX requests_by_verdict ON requests (verdict, started_at) WHERE verdict != ''"
    keys = "hour instance project key_label provider model requested_model outcome_class route owner team kind"
    yield from _change_hourly_key(connection, [*keys.split(), "agent_type", "verdict"])


def _add_budget_alerts(_: "Connection") -> Iterator[str]:
    yield (
        f"CREATE TABLE budget_alerts (id TEXT NOT NULL PRIMARY KEY, created_at {TIME}, ends_at BIGINT, body {TEXT}, "
        "attempts INTEGER NOT NULL DEFAULT 0, next_at BIGINT)"
    )
    yield "CREATE INDEX budget_alerts_by_time ON budget_alerts (next_at) WHERE next_at IS NOT NULL"


def _add_sign_ins(_: "Connection") -> Iterator[str]:
    texts = ", ".join(f"{name} {TEXT}" for name in ("person", "provider_token", "device", "address"))
    times = ", ".join(f"{name} {TIME}" for name in ("created_at", "checked_at", "refreshed_at", "ends_at"))
    yield (
        "CREATE TABLE sign_ins (id TEXT NOT NULL PRIMARY KEY, key_id TEXT NOT NULL, refresh_hash TEXT NOT NULL UNIQUE, "
        f"{texts}, {times}, ended_at BIGINT, claimed_until {COUNT})"
    )
    names = ("state", "reason", "device", "address", "key_id", "person", "provider_token")
    texts = ", ".join(f"{name} {TEXT}" for name in names)
    yield (
        "CREATE TABLE device_codes (code_hash TEXT NOT NULL PRIMARY KEY, user_code TEXT NOT NULL UNIQUE, "
        f"{texts}, created_at {TIME}, expires_at {TIME})"
    )


def _add_creator_and_ends(_: "Connection") -> Iterator[str]:
    """A person that was revoked before has no session any more."""
    yield f"ALTER TABLE virtual_keys ADD COLUMN creator {TEXT}"
    for column in ("owner_since", "sessions_from"):
        yield f"ALTER TABLE virtual_keys ADD COLUMN {column} BIGINT"
    yield (
        "UPDATE virtual_keys SET sessions_from = revoked_at WHERE revoked_at IS NOT NULL "
        "AND id NOT IN (SELECT key_id FROM key_hashes)"
    )
    yield f"ALTER TABLE requests ADD COLUMN texts_of {TEXT}"


_STEPS: Mapping[str, _Step] = {
    "0002": _add_contents,
    "0003": _add_virtual_keys,
    "0004": _add_session_hours,
    "0005": _add_columns("attempt_times"),
    "0006": _add_columns("reply_blocks"),
    "0007": _add_route,
    "0008": _make_indexes_smaller,
    "0009": _add_columns("tool_results tool_errors malformed_replies", COUNT, "requests hourly session_hours"),
    "0010": _add_columns("method"),
    "0011": _add_columns("error_code"),
    "0012": _add_owner_and_team,
    "0013": _add_prefix_change,
    "0014": _add_columns("billed_searches", COUNT),
    "0015": _add_columns("kind parent checks"),
    "0016": _add_purpose,
    "0017": _add_verdict,
    "0018": _add_budget_alerts,
    "0019": _add_columns("inspections"),
    "0020": _add_sign_ins,
    "0021": _add_columns("person", tables="virtual_keys"),
    "0022": _add_creator_and_ends,
    "0023": _add_columns("remedy"),
}
"""Version of the schema → function that returns the statements of the migration from the version before."""
NEWEST_VERSION = max(_STEPS)
"""Version of the schema that the module `schema` describes."""


def is_known_version(version: str) -> bool:
    """Return False if a newer version of the program has created the schema."""
    return version == _FIRST_VERSION or version in _STEPS


def find_schema_version(connection: "Reader") -> str | None:
    """Return the revision of the tables. None: the database has no tables of the ledger."""
    if connection.is_postgres:
        found = connection.query(f"SELECT {', '.join(['to_regclass(?)'] * len(OWN_TABLES))}", OWN_TABLES)[0]
        has_tables = None not in tuple(found)
    else:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        has_tables = {*OWN_TABLES} <= {name for (name,) in connection.query(query)}
    if not has_tables:
        return None
    found = connection.query(f"SELECT version_num FROM {VERSION_TABLE}")
    return str(found[0][0]) if found else None


def upgrade_schema(connection: "Connection", version: str | None, newest: str = NEWEST_VERSION) -> None:
    """Create the tables, or migrate those of `version` to those of `newest`, in the open transaction."""
    if version is None:
        for statement in list_statements(is_postgres=connection.is_postgres):
            connection.execute(statement)
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", (newest,))
        return
    for number, step in _STEPS.items():
        if version < number <= newest:
            for statement in step(connection):
                connection.execute(statement)
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = ?", (newest,))
