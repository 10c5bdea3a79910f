"""The database of the ledger: a SQLite file in the data directory of the user, or what `DATABASE_URL` selects.

The module opens it, migrates it with a copy of the earlier version beside it, checks it, and names the reason and the
remedy of its errors.
"""

import errno
import os
import shutil
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    Table,
    create_engine,
    event,
    exc,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from anthropic_proxy.console.ledger.migrations import (
    NEWEST_VERSION,
    OWN_TABLES,
    find_schema_version,
    find_sqlite_file,
    is_known_version,
    upgrade_schema,
)
from anthropic_proxy.console.ledger.records import RequestCounts
from anthropic_proxy.console.ledger.tables import hourly, requests
from anthropic_proxy.console.ledger.units import MICROSECONDS_PER_HOUR
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import LedgerCondition

SCHEMA = "anthropic_proxy"
LOCK_TIMEOUT_SECONDS = 2.0
"""Maximum time in seconds for which a SQLite transaction waits for the end of another one. Then it fails."""
_OPENING_TIMEOUT_SECONDS = 5.0
"""Maximum time in seconds for which a process waits while another one creates or migrates a SQLite database."""
_CONNECT_TIMEOUT_SECONDS = 5
_SILENCE_MILLISECONDS = 10_000
"""Time in milliseconds without a TCP acknowledgment after which the PostgreSQL server counts as disconnected."""
_CACHE_KIBIBYTES = 16_384
_MAX_LISTED_TABLES = 3
_SQLITE_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
_MIGRATION_LOCK = 0x616E7468
"""Number of the PostgreSQL advisory lock that a process holds during a migration, so that only one process migrates."""


class NewerSchemaError(Exception):
    """The database has the schema of a newer version of the program, which this version cannot write."""


def find_database_url(settings: Settings) -> URL:
    """Raises `ConfigurationError` if the ledger (database of requests) is disabled."""
    if not settings.has_ledger():
        raise ConfigurationError(
            "No requests are stored, because DATABASE_URL is off. Unset DATABASE_URL, or set it to a database."
            if settings.database_url is not None
            else "No requests are stored, because the environment names no home directory. Set DATABASE_URL."
        )
    if (file := find_sqlite_file(settings)) is not None:
        return URL.create("sqlite", database=str(file))
    assert settings.database_url is not None
    return make_url(settings.database_url.reveal()).set(drivername="postgresql+psycopg")


def find_database_file(url: URL) -> Path | None:
    """Return the path of the SQLite file at the address `url`. None: the database is on PostgreSQL."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def describe_database_location(url: URL) -> str:
    """Return the path of the SQLite file, or the host and database name on PostgreSQL, without a password."""
    file = find_database_file(url)
    return str(file) if file is not None else f"PostgreSQL {url.host or 'localhost'}/{url.database or ''}"


def open_for_reading(settings: Settings) -> Engine:
    """Return an engine for queries in any thread. It does not create tables. Raises `ConfigurationError` if the ledger
    is disabled.
    """
    url = find_database_url(settings)
    if (file := find_database_file(url)) is None:
        return _open_postgres(url)
    address = f"{file.as_uri()}?mode=rw"  # read-only connections cannot open the shared memory of a WAL
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_SECONDS, check_same_thread=False),
        poolclass=NullPool,
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.execute("PRAGMA query_only=ON")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIBIBYTES}")  # sums are sorted in it, and not in a file

    return engine


def open_for_writing(settings: Settings) -> Engine:
    """Return an engine for use in one thread. Tables are created or migrated first. Raises `NewerSchemaError` for
    tables of a newer version, and `ConfigurationError` for a database of another program.
    """
    url = find_database_url(settings)
    file = find_database_file(url)
    if file is not None:
        _require_own_file(file)
    engine = _open_postgres(url) if file is None else _open_sqlite(url, file)
    try:
        migrate(engine, file)
        if file is not None:
            with engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={round(LOCK_TIMEOUT_SECONDS * 1_000)}")
    except BaseException:
        engine.dispose()
        raise
    return engine


def migrate(engine: Engine, file: Path | None) -> str:
    """ "": it had no tables. Raises `NewerSchemaError` for tables of a newer version."""
    with engine.connect() as connection:
        version = find_schema_version(connection)
    if version == NEWEST_VERSION:
        return version
    with engine.begin() as connection:
        if file is None:
            if version is None:
                _require_own_database(connection, describe_database_location(engine.url))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        version = find_schema_version(connection)  # another process may have migrated meanwhile
        if version is not None and not is_known_version(version):
            raise NewerSchemaError(version)
        if version != NEWEST_VERSION:
            if file is not None and version is not None:
                write_backup(file, version)
            upgrade_schema(connection)
    return version or ""


def _require_own_file(file: Path) -> None:
    """Raise `ConfigurationError` if a SQLite file has tables of another program. The file is only read."""
    if not file.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_SECONDS)) as connection:
            tables = [str(name) for (name,) in connection.execute(_SQLITE_TABLES)]
    except sqlite3.Error:
        return  # the next use of the file reports it
    if not {*OWN_TABLES} <= {*tables}:
        _require_no_tables(tables, str(file), "")


def _require_own_database(connection: Connection, place: str) -> None:
    """Raise `ConfigurationError` if a PostgreSQL database without our schema has tables of another program."""
    if connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": SCHEMA}).scalar() is not None:
        return
    query = (
        "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') "
        "ORDER BY schemaname, tablename"
    )
    tables = [str(name) for (name,) in connection.execute(text(query))]
    _require_no_tables(tables, place, f", or create the schema for it yourself:  CREATE SCHEMA {SCHEMA}")


def _require_no_tables(tables: Sequence[str], place: str, other_remedy: str) -> None:
    if tables:
        listed = ", ".join(tables[:_MAX_LISTED_TABLES]) + (", …" if len(tables) > _MAX_LISTED_TABLES else "")
        raise ConfigurationError(
            f"The database {place} belongs to another program: it has tables ({listed}), and none of the ledger. "
            f"Nothing was created. Set DATABASE_URL to a database of its own{other_remedy or '.'}",
            code="database-of-another-program",
        )


def has_tables(connection: Connection, place: str) -> bool:
    """Return False if the database has no tables. `place`: for the error message.

    Raises `ConfigurationError` for tables of another version or of another program.
    """
    version = find_schema_version(connection)
    if version is None:
        if connection.dialect.name == "sqlite":
            tables = [str(name) for name in connection.execute(text(_SQLITE_TABLES)).scalars()]
            _require_no_tables(tables, place, "")
        else:
            _require_own_database(connection, place)
        return False
    if version == NEWEST_VERSION:
        return True
    if is_known_version(version or ""):
        raise ConfigurationError(
            f"The ledger {place} has the tables of an earlier version. Migrate them:  anthropic-proxy db upgrade",
            code="ledger-not-readable",
        )
    raise ConfigurationError(
        f"The ledger {place} has the tables of a newer version. Update this program, or set DATABASE_URL.",
        code="ledger-not-readable",
    )


def _open_sqlite(url: URL, file: Path) -> Engine:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_private_file(file)
    engine = create_engine(url, poolclass=StaticPool, connect_args={"timeout": _OPENING_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins transactions, not the module sqlite3
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # effective in an empty file only
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing, a power failure the last rows

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # a transaction that reads first could not wait for the lock

    return engine


def _open_postgres(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=1,
        max_overflow=4,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "tcp_user_timeout": _SILENCE_MILLISECONDS,
            "prepare_threshold": None,  # a connection pooler in front of the server may change the session
        },
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.execute(f"SET search_path TO {SCHEMA}")
        connection.commit()

    return engine


_TEXTS = "contents"
"""Name of the table with message texts. It is empty in the copy."""
_RESERVE_BYTES = 16 << 20
_creating = threading.Lock()


def write_backup(
    file: Path, version: str, find_free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
) -> Path:
    """Return the path of the copy, such as `ledger.sqlite3.backup-0001`. Raises `OSError` if the disk has too little
    space.
    """
    target = file.with_name(f"{file.name}.backup-{version}")
    incomplete = target.with_name(f"{target.name}.incomplete")
    incomplete.unlink(missing_ok=True)
    create_private_file(incomplete)
    try:
        with closing(sqlite3.connect(incomplete, isolation_level=None)) as copy:
            copy.execute("ATTACH ? AS source", (str(file),))
            copy.execute("BEGIN")
            free = find_free_bytes(file.parent)
            names = ("page_count", "freelist_count", "page_size")
            count, unused, size = (int(copy.execute(f"PRAGMA source.{name}").fetchone()[0]) for name in names)
            needed = (count - unused) * size
            if copy.execute("SELECT 1 FROM source.sqlite_master WHERE name = ?", (_TEXTS,)).fetchone() is not None:
                needed -= int(copy.execute(f"SELECT coalesce(sum(length(data)), 0) FROM source.{_TEXTS}").fetchone()[0])
            if free < (needed := needed + _RESERVE_BYTES):
                problem = f"the copy before the migration needs {needed >> 20} MB, and {free >> 20} MB are free"
                raise OSError(errno.ENOSPC, problem, str(file))  # noqa: TRY301
            _copy_tables(copy)
            copy.execute("COMMIT")
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise
    incomplete.replace(target)
    for earlier in file.parent.glob(f"{file.name}.backup-*"):
        if earlier != target:
            earlier.unlink(missing_ok=True)
    return target


def create_private_file(file: Path) -> None:
    # POSIX: the close of any descriptor of a file releases all locks of this process on the file, also those of SQLite
    # connections in other threads. Another process could then delete the WAL that they use
    # (sqlite.org/howtocorrupt.html, section 2.2, read 2026-11).
    with _creating:  # no thread connects to the new file before its descriptor is closed
        if not file.exists():
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))


def _copy_tables(copy: sqlite3.Connection) -> None:
    query = "SELECT type, name, sql FROM source.sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    objects = copy.execute(query).fetchall()
    for kind, name, sql in objects:
        if kind == "table":
            copy.execute(sql)
            if name != _TEXTS:
                quoted = name.replace('"', '""')
                copy.execute(f'INSERT INTO main."{quoted}" SELECT * FROM source."{quoted}"')
    for kind, _, sql in objects:
        if kind != "table":
            copy.execute(sql)


_COMPARED = (*RequestCounts.__struct_fields__, "cost")


def find_database_problems(connection: Connection) -> Iterator[str]:
    """Problems are damaged SQLite files, and hourly sums that differ from the requests."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        yield from (f"The file is damaged: {line}" for line in found if line != "ok")
    # the oldest hour is not compared: some of its requests may already be deleted
    oldest = connection.execute(select(func.min(requests.c.started_at))).scalar()
    if oldest is None:
        return
    hour = oldest // MICROSECONDS_PER_HOUR + 1
    rows = connection.execute(
        select(func.count(), *(func.sum(requests.c[name]) for name in _COMPARED)).where(
            requests.c.started_at >= hour * MICROSECONDS_PER_HOUR, _has_rows(requests)
        )
    ).one()
    sums = connection.execute(
        select(func.sum(hourly.c.requests), *(func.sum(hourly.c[name]) for name in _COMPARED)).where(
            hourly.c.hour >= hour, _has_rows(hourly)
        )
    ).one()
    for name, counted, summed in zip(("requests", *_COMPARED), rows, sums, strict=True):
        if int(counted or 0) != int(summed or 0):
            yield f"The sum of {name} is {int(summed or 0)}, but the requests have {int(counted or 0)}."


def _has_rows(table: Table) -> ColumnElement[bool]:
    """Return the condition for requests that are all rows: of those that limits of keys reject, only some are."""
    return (table.c.outcome_class != "error") | (table.c.provider != "")


DATABASE_ERRORS = (exc.SQLAlchemyError, OSError, NewerSchemaError)
_SQLITE_CONDITIONS: dict[int, LedgerCondition] = {
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_CANTOPEN: "read-only",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}
_ERRNO_CONDITIONS: dict[int, LedgerCondition] = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
}
_POSTGRES_CONDITIONS: dict[str, LedgerCondition] = {
    "53100": "disk full",
    "25006": "read-only",
    "42501": "read-only",
    "55P03": "locked",
    "40P01": "locked",
    "XX001": "corrupt",
    "XX002": "corrupt",
}
_REMEDIES: dict[LedgerCondition, str] = {
    "disk full": "Free space on its disk, or set LEDGER_MAX_MB to a smaller number.",
    "locked": "Another program holds its lock. End the transaction of that program.",
    "read-only": "Give the user of the proxy write access to it and its directory, or set DATABASE_URL.",
    "corrupt": "Move the file to another directory: the proxy then creates a new database.",
    "unreachable": "Start the database server, or correct DATABASE_URL.",
    "newer schema": "A newer version of the program has migrated it. Update this one, or set DATABASE_URL.",
    "failed": "Check the database, or set DATABASE_URL to another one.",
}
_PRIMARY_CODE = 0xFF
"""Bits of an extended SQLite result code that contain the primary code."""


def classify_database_error(error: BaseException) -> LedgerCondition:
    """The state is `failed` if the cause is unknown or has no other state."""
    if isinstance(error, NewerSchemaError):
        return "newer schema"
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    if isinstance(cause, sqlite3.Error):
        code: int = getattr(cause, "sqlite_errorcode", 0)
        return _SQLITE_CONDITIONS.get(code & _PRIMARY_CODE, "failed")
    if isinstance(cause, OSError):
        return _ERRNO_CONDITIONS.get(cause.errno or 0, "failed")
    state: str | None = getattr(cause, "sqlstate", None)
    if isinstance(error, exc.DBAPIError):
        if state in _POSTGRES_CONDITIONS:
            return _POSTGRES_CONDITIONS[state]
        if state is None or state.startswith(("08", "28", "3D", "57P")):  # connection, authorization, no such database
            return "unreachable"
    return "failed"


def describe_database_failure(condition: LedgerCondition, place: str, error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return error.message
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    reason = " ".join(str(cause).split())[:300]
    return f"The ledger cannot store requests: {condition} ({place}: {reason}). {_REMEDIES[condition]}"


def is_value_failure(error: Exception) -> bool:
    """Return True if `error` concerns only one request, so that other requests can still be stored."""
    if isinstance(error, exc.DBAPIError):
        return isinstance(error, (exc.DataError, exc.IntegrityError))
    if isinstance(error, exc.SQLAlchemyError):
        return isinstance(error, exc.StatementError)  # a value that the type of its column rejects
    return not isinstance(error, (*DATABASE_ERRORS, ConfigurationError))


def describe_value_failure(error: Exception) -> str:
    cause = error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]} ({Path(frame.filename).name}:{frame.lineno})"


@contextmanager
def convert_driver_errors(
    dialect: Dialect, close_lost_connection: Callable[[Any], bool] = lambda _: False
) -> Iterator[None]:
    """`close_lost_connection` is called with the error. It returns True if the error means that the connection is lost,
    and may then close it.
    """
    driver_error = dialect.loaded_dbapi.Error
    try:
        yield
    except driver_error as error:
        lost = close_lost_connection(error)
        raise DBAPIError.instance(
            None, None, error, driver_error, connection_invalidated=lost, dialect=dialect
        ) from error
