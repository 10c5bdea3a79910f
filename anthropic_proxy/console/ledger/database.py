"""The database of the ledger: a SQLite file in the data directory of the user, or what `DATABASE_URL` selects.

The module opens and migrates it, and describes its errors. It uses the drivers directly: the running server loads
SQLAlchemy only to read for a page or a command.
"""

import errno
import hashlib
import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from anthropic_proxy.console.ledger.connection import Connection, DatabaseError, Reader, import_psycopg
from anthropic_proxy.console.ledger.migrations import (
    NEWEST_VERSION,
    OWN_TABLES,
    find_schema_version,
    is_known_version,
    upgrade_schema,
)
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.database_address import DatabaseAddress, parse_postgres_url
from anthropic_proxy.plugins import LedgerCondition

ResultT = TypeVar("ResultT")
SCHEMA = "anthropic_proxy"
LOCK_TIMEOUT_SECONDS = 2.0
"""Maximum time in seconds for which a statement waits for the lock of another transaction. Then it fails."""
MAX_WAL_BYTES = 64 * 1024 * 1024
"""Size of the WAL of a SQLite file above which it is emptied. SQLite begins it anew only in a moment without a reader,
and pages may overlap for hours."""
_EMPTYING_SECONDS = 1.0
"""Maximum wait of one attempt for readers, while all writers wait."""
_EMPTYING = "ledger/wal"
"""Name of the row of `shared_values` by which the pages of all processes wait for these attempts. It expires after the
pause."""
_ATTEMPTS_MICROSECONDS = 15_000_000
"""Time for which pages wait: longer than the limit of their queries, so that those before have ended."""
_PAUSE_MICROSECONDS = 300_000_000
"""Time after attempts in vain, because of a reader of another program, in which no page waits."""
_OPENING_TIMEOUT_SECONDS = 5.0
"""Maximum time in seconds for which a process waits while another one creates or migrates the database."""
_LOCK_PAUSE_SECONDS = 0.01
_CONNECT_TIMEOUT_SECONDS = 5
_SILENT_SECONDS = 5.0
"""Time for which pages do not ask a PostgreSQL server again that did not answer within the time limit."""
_SILENCE_MILLISECONDS = 10_000
"""Time in milliseconds without a TCP acknowledgment after which the PostgreSQL server counts as disconnected."""
_KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""The same while an answer is awaited, in seconds. The system would notice after two hours that a host has gone."""
_CACHE_KIBIBYTES = 16_384
_NEEDED_BYTES = 64 * 1024
"""Free space that a SQLite database needs to store a few requests."""
_MAX_LISTED_TABLES = 3
_SPOOL_NAME = "ledger-spool-{}.sqlite3"
"""Name of the file for rows that wait, with a digest of the address of the database."""
_PLACE_PARAMETERS = ("host", "hostaddr", "port", "dbname", "service", "options")
_SQLITE_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
_MIGRATION_LOCK = 0x616E7468
"""Number of the PostgreSQL advisory lock that a process holds during a migration, so that only one process migrates."""


class NewerSchemaError(Exception):
    """The database has the schema of a newer version of the program, which this version cannot write."""


class NoAnswerError(Exception):
    """The database is silent, for an unknown reason."""


DATABASE_ERRORS = (DatabaseError, OSError, NewerSchemaError, NoAnswerError)
LEDGER_FAILURES = (*DATABASE_ERRORS, ConfigurationError)
"""Exceptions of work at the database, and of its address, its driver and its settings."""
_SQLITE_CONDITIONS: dict[int, LedgerCondition] = {
    sqlite3.SQLITE_FULL: "disk full",
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "locked"),
    **dict.fromkeys((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN), "read-only"),
    **dict.fromkeys((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB), "corrupt"),
}
_ERRNO_CONDITIONS: dict[int, LedgerCondition] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "disk full"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "read-only"),
}
_POSTGRES_CONDITIONS: dict[str, LedgerCondition] = {
    "53100": "disk full",
    **dict.fromkeys(("25006", "42501"), "read-only"),
    **dict.fromkeys(("55P03", "40P01"), "locked"),
    **dict.fromkeys(("XX001", "XX002"), "corrupt"),
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


def find_cause(error: BaseException) -> BaseException:
    """Return the error of the driver."""
    return error.cause if isinstance(error, DatabaseError) else error


def classify_database_error(error: BaseException) -> LedgerCondition:
    """The state is `failed` if the cause is unknown or has no other state."""
    if isinstance(error, NewerSchemaError):
        return "newer schema"
    if isinstance(error, NoAnswerError):
        return "unreachable"
    cause = find_cause(error)
    if isinstance(cause, sqlite3.Error):
        code: int = getattr(cause, "sqlite_errorcode", 0)
        return _SQLITE_CONDITIONS.get(code & _PRIMARY_CODE, "failed")
    if isinstance(cause, OSError):
        return _ERRNO_CONDITIONS.get(cause.errno or 0, "failed")
    if hasattr(cause, "sqlstate"):
        state: str | None = cause.sqlstate
        if state in _POSTGRES_CONDITIONS:
            return _POSTGRES_CONDITIONS[state]
        if state is None or state.startswith(("08", "28", "3D", "57P")):  # connection, authorization, no such database
            return "unreachable"
    return "failed"


def describe_database_failure(condition: LedgerCondition, place: str, error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return error.message
    return f"The ledger cannot store requests: {condition} ({place}: {_find_reason(error)}). {_REMEDIES[condition]}"


def _find_reason(error: BaseException) -> str:
    cause = find_cause(error)
    return describe_os_error(cause) if isinstance(cause, OSError) else " ".join(str(cause).split())[:300]


_READING_REMEDIES: dict[LedgerCondition, str] = {
    **_REMEDIES,
    "disk full": "Free space on its disk.",
    "failed": "Set DATABASE_URL to another database.",
}


def describe_reading_failure(address: DatabaseAddress, error: BaseException) -> str:
    """Return the text for a database that cannot be read. `error` may be that of the driver."""
    condition = find_condition(address, error)
    reason = _find_reason(error)
    if condition == "disk full" and isinstance(find_cause(error), sqlite3.Error):
        reason = f"disk full ({reason})"
    return f"The ledger {address.describe()} cannot be read: {reason}. {_READING_REMEDIES[condition]}"


def find_condition(address: DatabaseAddress, error: BaseException) -> LedgerCondition:
    """Return the state of the database `address` after `error`."""
    condition = classify_database_error(error)
    # SQLite reads with a file beside the database, and only says `disk I/O error`
    return "disk full" if condition == "failed" and is_disk_full(address) else condition


def is_disk_full(address: DatabaseAddress) -> bool:
    """Return True if a SQLite file cannot grow. The file and its folders may not exist.

    A file is written if the system states too little free space: its number is without what root may use.
    """
    if address.file is None:
        return False
    try:
        folder = next(folder for folder in address.file.parents if folder.exists())
        if shutil.disk_usage(folder).free >= _NEEDED_BYTES:
            return False
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(os.urandom(_NEEDED_BYTES))  # a file system may store equal bytes without space
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return _ERRNO_CONDITIONS.get(error.errno or 0) == "disk full"
    except StopIteration:
        pass
    return False


def new_full_disk_error() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_value_failure(error: Exception) -> bool:
    """Return True if `error` concerns only one request, so that other requests can still be stored."""
    if isinstance(error, DatabaseError):
        return error.concerns_value
    return not isinstance(error, LEDGER_FAILURES)


def describe_value_failure(error: Exception) -> str:
    cause = find_cause(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]} ({Path(frame.filename).name}:{frame.lineno})"


def find_database(settings: Settings) -> DatabaseAddress:
    """Return where the ledger is stored.

    Raises `ConfigurationError` if the ledger is disabled.
    """
    if not settings.has_ledger():
        raise ConfigurationError(
            "Nothing is stored, because DATABASE_URL is off. Unset DATABASE_URL, or set it to a database."
            if settings.database_url is not None
            else "Nothing is stored, because the environment names no home directory. Set DATABASE_URL."
        )
    if settings.database_url is None:
        assert settings.data_directory is not None
        return DatabaseAddress((settings.data_directory / "ledger.sqlite3").absolute())
    text = settings.database_url.reveal()
    scheme, _, place = text.partition("://")
    if scheme == "sqlite":
        return DatabaseAddress(Path(place.partition("?")[0].removeprefix("/")).absolute())
    return parse_postgres_url(text)


def find_spool_file(settings: Settings) -> Path | None:
    """Return the file for rows that the database does not take, in the data directory. None: there is no directory, as
    in some containers, and the database is on PostgreSQL.
    """
    address = find_database(settings)
    folder = settings.data_directory
    if address.file is not None:
        folder = folder or address.file.parent
        place: list[object] = [str(address.file)]
    else:  # without user and password
        others = map(address.parameters.get, _PLACE_PARAMETERS)
        place = [address.host, address.port or 5432, address.database, *others]
    digest = hashlib.sha256(repr(place).encode()).hexdigest()[:12]
    return None if folder is None else folder / _SPOOL_NAME.format(digest)


def has_spool_file(settings: Settings) -> bool:
    file = find_spool_file(settings)
    return file is not None and may_exist(file)


def may_exist(file: Path) -> bool:
    """False: there is no such file. True also if it cannot be examined, as in a folder of another user."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def needs_migration(settings: Settings) -> bool:
    """Return True if the tables of the ledger have, or may have, another version than this program uses.

    The version of a PostgreSQL database is not read: the result is always True for it.
    """
    if not settings.has_ledger():
        return False
    file = find_database(settings).file
    if file is None:
        return True
    if not os.path.exists(file):  # `Path.exists` raises an exception for a directory without access
        return False
    try:
        with closing(sqlite3.connect(_name_file(file), uri=True, timeout=0.0)) as driver:
            version = find_schema_version(Connection(driver))
    except (sqlite3.Error, DatabaseError):
        return False
    return version not in (None, NEWEST_VERSION)


def _name_file(file: Path) -> str:
    return f"{file.as_uri()}?mode=rw"  # read-only connections cannot open the shared memory of a WAL


def _decode_text(data: bytes) -> str | bytes:
    """Decode a text of SQLite. One that is no UTF-8 stays bytes, so that it concerns its row only."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def connect_for_reading(address: DatabaseAddress) -> Any:
    """Return a connection of the driver. It creates no tables."""
    if address.file is None:
        return _connect_unless_silent(address)
    driver = sqlite3.connect(_name_file(address.file), uri=True, timeout=LOCK_TIMEOUT_SECONDS, check_same_thread=False)
    driver.text_factory = _decode_text
    driver.execute("PRAGMA query_only=ON")
    driver.execute(f"PRAGMA cache_size=-{_CACHE_KIBIBYTES}")  # sums are sorted in it, and not in a file
    return driver


def open_for_reading(settings: Settings) -> Connection:
    """Open a connection that cannot change the ledger. Raises `ConfigurationError` if the ledger is disabled."""
    address = find_database(settings)
    return _open(address, lambda: connect_for_reading(address))


def open_for_writing(settings: Settings, note_migration: Callable[[], None] = lambda: None) -> Connection:
    """Tables are created or migrated first, and `note_migration` is called before a migration. Raises
    `NewerSchemaError` for tables of a newer version, and `ConfigurationError` for a database of another program.
    """
    address = find_database(settings)
    if address.file is not None:
        _require_own_file(address.file)
    connection = _open(address, lambda: connect_for_writing(address))
    try:
        _migrate(connection, address, note_migration)
        if address.file is not None:
            connection.query(f"PRAGMA busy_timeout={round(LOCK_TIMEOUT_SECONDS * 1_000)}")
    except BaseException:
        connection.close()
        raise
    return connection


def measure_wal(address: DatabaseAddress) -> int:
    """Return the size of the WAL of a SQLite file in bytes. 0: there is none."""
    try:
        return 0 if address.file is None else os.stat(f"{os.path.realpath(address.file)}-wal").st_size
    except OSError:
        return 0


def is_wal_emptied(address: DatabaseAddress) -> bool:
    """Return True while a page must begin no query, because a process empties a large WAL."""
    if measure_wal(address) <= MAX_WAL_BYTES:
        return False
    with suppress(sqlite3.Error, DatabaseError), closing(connect_for_reading(address)) as driver:
        return _has_attempts(Connection(driver).query(_FIND_EMPTYING, (_EMPTYING,)))
    return False


def empty_wal(connection: Connection) -> None:
    """Try to empty a large WAL, for some seconds in which no further page begins a query. Nothing changes if there are
    readers that do not end.
    """
    rows = connection.query(_FIND_EMPTYING, (_EMPTYING,))
    now = to_microseconds(time.time())
    last = now + _ATTEMPTS_MICROSECONDS + _PAUSE_MICROSECONDS
    if not any(now < end <= last for end, _ in rows):
        with connection.transaction():
            forget_attempts(connection)
            connection.insert_row("shared_values", {"name": _EMPTYING, "value": _PROCESS, "expires_at": last})
    elif not (_has_attempts(rows) and rows[0][1] == _PROCESS):
        return
    connection.query(f"PRAGMA busy_timeout={round(_EMPTYING_SECONDS * 1_000)}")
    connection.query("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.query(f"PRAGMA busy_timeout={round(LOCK_TIMEOUT_SECONDS * 1_000)}")


def forget_attempts(connection: Connection) -> None:
    """The WAL is small again, so the next attempts need no pause."""
    connection.execute("DELETE FROM shared_values WHERE name = ?", (_EMPTYING,))


_FIND_EMPTYING = "SELECT expires_at, value FROM shared_values WHERE name = ?"
_PROCESS = secrets.token_hex(8)
"""The process that has begun the attempts makes them."""


def _has_attempts(rows: Sequence[tuple[int, str]]) -> bool:
    """A later end is that of a wrong clock."""
    left = [end - _PAUSE_MICROSECONDS - to_microseconds(time.time()) for end, _ in rows]
    return any(0 < one <= _ATTEMPTS_MICROSECONDS for one in left)


def write_at_once(settings: Settings, function: Callable[[Connection], ResultT]) -> ResultT:
    """Return what `function` returns, for a connection of its own and in one transaction."""
    with closing(open_for_writing(settings)) as connection, connection.transaction():
        return function(connection)


def _open(address: DatabaseAddress, connect: Callable[[], Any]) -> Connection:
    errors = sqlite3.Error if address.file is not None else import_psycopg().Error

    def connect_or_fail() -> Any:
        try:
            return connect()
        except errors as error:
            raise DatabaseError(error, concerns_value=False) from error

    return Connection(connect_or_fail(), address.file, None if address.file is not None else connect_or_fail)


def connect_for_writing(address: DatabaseAddress) -> Any:
    """Return a connection of the driver, which creates a missing SQLite file."""
    if (file := address.file) is None:
        return _connect_postgres(address)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_private_file(file)
    driver = sqlite3.connect(file, timeout=_OPENING_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
    driver.text_factory = _decode_text
    try:
        driver.execute("PRAGMA auto_vacuum=INCREMENTAL")  # effective in an empty file only
        _use_wal(driver)
        driver.execute(f"PRAGMA journal_size_limit={MAX_WAL_BYTES}")
        driver.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing, a power failure the last rows
    except BaseException:
        driver.close()
        raise
    return driver


def _use_wal(driver: sqlite3.Connection) -> None:
    """If two processes create the file together, SQLite refuses one of them at once, without waiting for the lock."""
    end = time.monotonic() + _OPENING_TIMEOUT_SECONDS
    while True:
        try:
            driver.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return


def _connect_postgres(address: DatabaseAddress) -> Any:
    options = {
        "autocommit": True,
        "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "tcp_user_timeout": _SILENCE_MILLISECONDS,
        **_KEEPALIVES,
        "prepare_threshold": None,  # a connection pooler in front of the server may change the session
    }
    driver = import_psycopg().connect(**{**address.list_options(), **options})
    driver.execute(f"SET search_path TO {SCHEMA}; {limit_lock_wait(LOCK_TIMEOUT_SECONDS)}")
    return driver


def limit_lock_wait(seconds: float) -> str:
    """Return the statement for PostgreSQL. A wait without a limit could not be told from a slow statement."""
    return f"SET lock_timeout TO {round(seconds * 1_000)}"


_silent_servers: dict[str, tuple[BaseException, float]] = {}
"""Server that did not answer → the error, and the monotonic time until which it is not asked again."""


def _connect_unless_silent(address: DatabaseAddress) -> Any:
    """Open a connection, or raise the last error of a server that did not answer within the last seconds. Otherwise
    each page would wait for the whole time limit, one after the other.
    """
    place = address.describe()
    failure, until = _silent_servers.get(place, (None, 0.0))
    if failure is not None and time.monotonic() < until:
        raise type(failure)(*failure.args)
    started = time.monotonic()
    try:
        return _connect_postgres(address)
    except import_psycopg().OperationalError as error:
        if time.monotonic() - started >= _CONNECT_TIMEOUT_SECONDS / 2:
            _silent_servers[place] = error, time.monotonic() + _SILENT_SECONDS
        raise


def _migrate(connection: Connection, address: DatabaseAddress, note_migration: Callable[[], None]) -> None:
    if find_schema_version(connection) == NEWEST_VERSION:
        return
    with connection.transaction():
        if address.file is None:
            connection.execute(limit_lock_wait(_OPENING_TIMEOUT_SECONDS).replace("SET", "SET LOCAL"))
            if find_schema_version(connection) is None:
                require_own_database(connection, address.describe())
            connection.query("SELECT pg_advisory_xact_lock(?)", (_MIGRATION_LOCK,))
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        version = find_schema_version(connection)  # another process may have migrated meanwhile
        if version is not None and not is_known_version(version):
            raise NewerSchemaError(version)
        if version != NEWEST_VERSION:
            note_migration()
            if address.file is not None and version is not None:
                write_backup(address.file, version)
            upgrade_schema(connection, version)


def _require_own_file(file: Path) -> None:
    """Raise `ConfigurationError` if a SQLite file has tables of another program. The file is only read."""
    if not file.is_file():
        return
    with (
        suppress(sqlite3.Error, DatabaseError),  # the next use of the file reports it
        closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_SECONDS)) as driver,
    ):
        connection = Connection(driver)
        if not {*OWN_TABLES} <= {name for (name,) in connection.query(_SQLITE_TABLES)}:
            require_own_database(connection, str(file))


def require_own_database(connection: Reader, place: str) -> None:
    """Raise `ConfigurationError` if a database without our tables has those of another program."""
    query = _SQLITE_TABLES
    other_remedy = ""
    if connection.is_postgres:
        if connection.query("SELECT to_regnamespace(?)", (SCHEMA,))[0][0] is not None:
            return
        query = (
            "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') "
            "ORDER BY schemaname, tablename"
        )
        other_remedy = f", or create the schema for it yourself:  CREATE SCHEMA {SCHEMA}"
    tables = [str(name) for (name,) in connection.query(query)]
    # another process may have created our tables since the caller looked for them
    is_own = not connection.is_postgres and {*OWN_TABLES} <= {*tables}
    if tables and not is_own:
        listed = ", ".join(tables[:_MAX_LISTED_TABLES]) + (", …" if len(tables) > _MAX_LISTED_TABLES else "")
        raise ConfigurationError(
            f"The database {place} belongs to another program: it has tables ({listed}), and none of the ledger. "
            f"Nothing was created. Set DATABASE_URL to a database of its own{other_remedy or '.'}",
            code="database-of-another-program",
        )


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
    with replacing_file(target) as incomplete, closing(sqlite3.connect(incomplete, isolation_level=None)) as copy:
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
            raise OSError(errno.ENOSPC, problem, str(file))
        _copy_tables(copy)
        copy.execute("COMMIT")
    for earlier in file.parent.glob(f"{file.name}.backup-*"):
        if earlier != target:
            earlier.unlink(missing_ok=True)
    return target


@contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yield a new file that only the user can read. At the end, it replaces `target`, unless an exception is raised."""
    incomplete = target.with_name(f"{target.name}.incomplete")
    incomplete.unlink(missing_ok=True)
    create_private_file(incomplete)
    try:
        yield incomplete
        incomplete.replace(target)
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise


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
