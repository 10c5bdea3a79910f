"""Backups of the ledger: a copy of the SQLite file, or a dump of the schema in PostgreSQL.

A copy has everything of the database: requests, sums, texts, virtual keys, teams, sign-ins and the audit log. It is
consistent, also while servers write.
"""

import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

from anthropic_proxy.console.ledger.connection import Connection, import_psycopg
from anthropic_proxy.console.ledger.database import (
    LOCK_TIMEOUT_SECONDS,
    SCHEMA,
    NewerSchemaError,
    connect_for_reading,
    create_private_file,
    find_database,
    open_for_reading,
    replacing_file,
)
from anthropic_proxy.console.ledger.migrations import find_schema_version, is_known_version
from anthropic_proxy.console.ledger.schema import VERSION_TABLE
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.database_address import DatabaseAddress

_COUNTED = {"requests": "requests", "virtual_keys": "virtual keys", "sign_ins": "sign-ins"}
"""Table → what it has, for messages. Earlier schemas lack some of them."""


def backup_error(text: str) -> ConfigurationError:
    return ConfigurationError(text, code="ledger-backup")


def write_ledger_backup(settings: Settings, target: Path) -> str:
    """Copy the ledger to a new file that only the user can read. Return what it has.

    Raises `ConfigurationError` if the file exists, there is no ledger, or `pg_dump` is missing or fails.
    """
    if target.exists():
        raise backup_error(f"{target} exists. Name a new file.")
    if not target.parent.is_dir():
        raise backup_error(f"There is no folder {target.parent}. Create it, or name another file.")
    address = find_database(settings)
    missing = f"There is no ledger at {address.describe()} yet. The server creates it at its start."
    if address.file is not None and not address.file.exists():
        raise backup_error(missing)
    with closing(open_for_reading(settings)) as connection:
        version = find_schema_version(connection)
        if version is None:
            raise backup_error(missing)
        with replacing_file(target) as incomplete:
            if address.file is None:  # the counts are those of the state that `pg_dump` reads
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                ((snapshot,),) = connection.query("SELECT pg_export_snapshot()")
                options = ("--format=custom", "--no-owner", "--no-privileges", f"--schema={SCHEMA}")
                _run_tool("pg_dump", address, f"--file={incomplete}", *options, f"--snapshot={snapshot}")
                contents = _count(connection)
            else:
                contents = _copy(connect_for_reading(address), incomplete)
    return f"{contents}, schema: {version}"


def restore_ledger_backup(settings: Settings, source: Path, *, replaces: bool) -> tuple[str, Path | None]:
    """Make a backup the ledger. Return what it has, and the file in which the ledger of SQLite before it is kept.

    `replaces`: a ledger with requests or keys is replaced too. Raises `ConfigurationError` if another program uses the
    ledger, and for a file that is no backup; `NewerSchemaError` if a newer version has written it.
    """
    if not source.is_file():
        raise backup_error(f"There is no file {source}.")
    address = find_database(settings)
    if address.file is None:
        return _restore_dump(settings, address, source, replaces=replaces), None
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
            version = _require_backup(find_schema_version(Connection(connection)), source)
            kept = _release(address.file, replaces=replaces) if address.file.exists() else None
            address.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing_file(address.file) as incomplete:
                contents = _copy(connection, incomplete)
                if kept is not None:
                    address.file.replace(kept)
    except sqlite3.DatabaseError as error:
        raise backup_error(f"{source} is no backup of a ledger in SQLite: {error}.") from None
    return f"{contents}, schema: {version}", kept


def _count(connection: Connection) -> str:
    return ", ".join(f"{_COUNTED[table]}: {count:,}" for table, count in _list_counts(connection).items())


def _list_counts(connection: Connection) -> dict[str, int]:
    if connection.is_postgres:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = ?"
        tables = {name for (name,) in connection.query(query, (SCHEMA,))}
    else:
        tables = {name for (name,) in connection.query("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {
        table: int(connection.query(f"SELECT count(*) FROM {table}")[0][0]) for table in _COUNTED if table in tables
    }


def _copy(source: sqlite3.Connection, target: Path) -> str:
    """Copy a database in one step, so that the copy is one state of it although servers write meanwhile."""
    with closing(source), closing(sqlite3.connect(target, isolation_level=None)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a WAL beside it
        (problem,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise backup_error(f"The database is damaged: {problem}. `anthropic-proxy db check` lists the damage.")
        return _count(Connection(copy))


def _require_backup(version: str | None, source: Path) -> str:
    if version is None:
        raise backup_error(f"{source} is no backup of a ledger: it has no tables of the ledger.")
    if not is_known_version(version):
        raise NewerSchemaError(version)
    return version


def _release(file: Path, *, replaces: bool) -> Path:
    """Leave the WAL mode, which is possible only if no other program has opened the file."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=LOCK_TIMEOUT_SECONDS)) as driver:
        _require_replaceable(Connection(driver), str(file), replaces=replaces)
        try:
            driver.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError:
            raise backup_error(
                f"Another program has opened {file}, such as a running proxy. Stop it, and restore again."
            ) from None
    return file.with_name(f"{file.name}.replaced")


def _require_replaceable(connection: Connection, place: str, *, replaces: bool) -> None:
    counts = {} if replaces or find_schema_version(connection) is None else _list_counts(connection)
    if any(counts.values()):
        raise backup_error(f"{place} is not empty ({_count(connection)}). `--force` replaces it with the backup.")


def _restore_dump(settings: Settings, address: DatabaseAddress, source: Path, *, replaces: bool) -> str:
    table = _run_tool("pg_restore", None, "--data-only", f"--table={VERSION_TABLE}", "--file=-", str(source))
    lines = table.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("COPY ")), None)
    version = _require_backup(None if start is None else lines[start + 1], source)
    with closing(open_for_reading(settings)) as connection:
        _require_replaceable(connection, address.describe(), replaces=replaces)
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user "
            "AND pid <> pg_backend_pid()"
        )
        if others := int(connection.query(query)[0][0]):
            raise backup_error(
                f"Other connections of this user to {address.describe()} are open ({others}), such as those of running "
                "proxies. Stop them, and restore again."
            )
    options = ("--single-transaction", "--exit-on-error", "--clean", "--if-exists", "--no-owner", "--no-privileges")
    _run_tool("pg_restore", address, *options, str(source))
    with closing(open_for_reading(settings)) as connection:
        return f"{_count(connection)}, schema: {version}"


def _run_tool(program: str, address: DatabaseAddress | None, *words: str) -> str:
    """Run a program of PostgreSQL. The password is in a file, because command lines are visible to all users."""
    path = shutil.which(program)
    if path is None:
        raise backup_error(
            f"The program {program} of PostgreSQL is not installed. Install its client programs, or run on a machine "
            f"that has them: {program} {' '.join(words)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        place = []
        if address is not None:
            options = address.list_options()
            if (password := options.pop("password", None)) is not None:
                file = Path(folder) / "password"
                create_private_file(file)
                escaped = str(password).replace("\\", "\\\\").replace(":", "\\:")
                file.write_text(f"*:*:*:*:{escaped}\n", "utf-8")
                options["passfile"] = str(file)
            place = [f"--dbname={import_psycopg().conninfo.make_conninfo(**options)}"]
        done = subprocess.run([path, *place, *words], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise backup_error(f"{program} failed: {' '.join(done.stderr.split())[:500]}")
    return done.stdout
