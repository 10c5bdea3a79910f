"""A database is created, migrated with its data and a backup, and shared by several processes."""

import errno
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Inspector, func, inspect, select

from anthropic_proxy.console.ledger import database as database_module
from anthropic_proxy.console.ledger.connection import Connection, DatabaseError
from anthropic_proxy.console.ledger.database import (
    MAX_WAL_BYTES,
    SCHEMA,
    classify_database_error,
    connect_for_reading,
    connect_for_writing,
    describe_reading_failure,
    find_database,
    find_spool_file,
    is_disk_full,
    is_wal_emptied,
    measure_wal,
    open_for_reading,
    open_for_writing,
    require_own_database,
    write_backup,
)
from anthropic_proxy.console.ledger.engines import open_reading_engine, read_ledger
from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION, find_schema_version
from anthropic_proxy.console.ledger.records import COMMON_VALUES, FACETS, UsageSums
from anthropic_proxy.console.ledger.request_queries import sum_session
from anthropic_proxy.console.ledger.tables import requests, session_hours
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.database_address import DatabaseAddress
from anthropic_proxy.secrets import Secret
from tests.support.ledger import (
    count_rows,
    create_earlier_schema,
    new_database,
    new_receipt,
    plain_connection,
    read_hourly,
    read_rows,
    reading,
    running_ledger,
    store,
)
from tests.support.small_disk import fill_disk, mounted_disk
from tests.support.waiting import WAIT_SECONDS, wait_for


def describe_schema(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return columns, keys and indexes of each table, without the order of columns and the defaults of keys."""
    engine = open_reading_engine(settings)
    inspector: Inspector = inspect(engine)
    option = f"{engine.dialect.name}_where"
    found: dict[str, dict[str, Any]] = {}
    for table in inspector.get_table_names():
        key = inspector.get_pk_constraint(table)["constrained_columns"]
        found[table] = {
            "columns": {
                one["name"]: (str(one["type"]), one["nullable"], None if one["name"] in key else one["default"])
                for one in inspector.get_columns(table)
            },
            "key": {*key},
            "unique": [one["column_names"] for one in inspector.get_unique_constraints(table)],
            "indexes": {
                one["name"]: (one["column_names"], str(one.get("dialect_options", {}).get(option, "")))
                for one in inspector.get_indexes(table)
            },
        }
    engine.dispose()
    for columns in (found["requests"]["columns"], found["hourly"]["columns"]):
        for name, (kind, is_nullable, default) in columns.items():  # the first version wrote numbers as texts
            columns[name] = (kind, is_nullable, re.sub(r"'0'(::\w+)?", "0", default or ""))
    return found


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_a_migrated_database_has_the_tables_of_a_new_one(
    database: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with plain_connection(database) as connection:
        create_earlier_schema(connection, "0001")
    open_for_writing(database).close()
    migrated = describe_schema(database)
    with new_database(request.node.callspec.params["database"], tmp_path / "new") as other:
        open_for_writing(other).close()
        created = describe_schema(other)
    assert migrated == created
    indexes = created["requests"]["indexes"]
    for column in (facet.column for facet in FACETS.values()):
        condition = indexes[f"requests_by_{column}"][1]
        assert (condition != "") == (column in COMMON_VALUES)
        assert condition == "" or f"'{COMMON_VALUES[column]}'" in condition


def test_readers_name_the_remedy_for_the_tables_of_another_version(database: Settings) -> None:
    place = find_database(database).describe()
    with plain_connection(database) as connection:
        with read_ledger(database) as reader:
            assert reader is None
        create_earlier_schema(connection, "0001")
        with pytest.raises(ConfigurationError) as raised, read_ledger(database):
            pass
        assert raised.value.message == (
            f"The ledger {place} has the tables of an earlier version. The next start of the proxy "
            "migrates them. To do it now:  anthropic-proxy db upgrade"
        )
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(ConfigurationError) as raised, read_ledger(database):
            pass
        assert raised.value.message == (
            f"The ledger {place} has the tables of a newer version. Update this program, or set DATABASE_URL."
        )


@pytest.mark.parametrize("version", [f"{number:04}" for number in range(1, int(NEWEST_VERSION))])
async def test_an_earlier_schema_is_migrated_with_its_data(database: Settings, version: str) -> None:
    with plain_connection(database) as connection:
        create_earlier_schema(connection, version)
        connection.execute(
            "INSERT INTO requests (id, started_at, stream, model, requested_model, session, input_tokens, "
            "outcome_class) VALUES ('req_old', 1795262400000000, ?, 'm', 'm', 's', 7, 'cancelled')",
            (False,),
        )
        connection.execute(
            "INSERT INTO hourly (hour, instance, project, key_label, provider, model, requested_model, "
            "outcome_class, input_tokens, first_token_histogram, duration_histogram) "
            "VALUES (498683, '', 'p', '', '', 'm', '', 'cancelled', 7, ?, ?)",
            (b"", b""),
        )
    await store(database, new_receipt())
    assert [row["model"] for row in read_rows(database)] == ["small", "m"]
    sums = [(row["project"], row["model"], row["route"], row["input_tokens"]) for row in read_hourly(database)]
    assert sums == [("p", "m", "", 7), ("", "small", "", 100)]
    if version < "0004":  # later versions have the sums of sessions already
        with reading(database) as opened, opened.connect() as stored:
            session = sum_session(stored, "s")
        assert session is not None
        assert session.sums == UsageSums(
            requests=1, cancelled=1, input_tokens=7, unknown_cost_requests=1, unknown_requested_cost_requests=1
        )
        assert (session.started_at, session.last_at, session.max_context) == (1795262400000000, 1795262400000000, 7)
    if (file := find_database(database).file) is not None:
        backup = file.with_name(f"ledger.sqlite3.backup-{version}")
        with closing(sqlite3.connect(backup)) as connection:
            assert connection.execute("SELECT id FROM requests").fetchall() == [("req_old",)]
            assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(version,)]


def test_sums_of_sessions_get_the_owner_and_the_team_of_their_requests(database: Settings) -> None:
    hour = 498_684
    rows = [  # session, owner, team
        ("s1", "ann", "build"),
        ("s1", "ann", "build"),
        ("s2", "ann", "build"),
        ("s2", "bob", "build"),  # the key got another owner within the hour
        ("s3", "", ""),
    ]
    with plain_connection(database) as connection:
        create_earlier_schema(connection, "0039")
        for number, (session, owner, team) in enumerate(rows):
            values = (f"req_{number}", (hour * 3_600 + number) * 1_000_000, False, session, owner, team)
            connection.execute(
                "INSERT INTO requests (id, started_at, stream, session, owner, team, key_label) "
                "VALUES (?, ?, ?, ?, ?, ?, 'ci')",
                values,
            )
        for session, label, at in (("s1", "ci", hour), ("s2", "ci", hour), ("s3", "ci", hour), ("s1", "ci", 1)):
            connection.execute(
                "INSERT INTO session_hours (hour, instance, session, project, key_label, requests, started_at, "
                "last_at) VALUES (?, '', ?, '', ?, 2, 1, 1)",
                (at, session, label),
            )
    open_for_writing(database).close()
    with closing(open_for_reading(database)) as reader:
        found = reader.query("SELECT hour, session, owner, team, requests FROM session_hours ORDER BY hour, session")
    assert [tuple(row) for row in found] == [
        (1, "s1", "", "", 2),  # its requests are deleted
        (hour, "s1", "ann", "build", 2),
        (hour, "s2", "", "build", 2),
        (hour, "s3", "", "", 2),
    ]


def test_addresses_of_owners_get_the_spelling_of_people(database: Settings) -> None:
    owners = {"key_1": "Anna@Corp.com", "key_2": "Bots", "key_3": "repo:Org/x@Main"}
    with plain_connection(database) as connection:
        create_earlier_schema(connection, "0044")
        for number, (key, owner) in enumerate(owners.items()):
            connection.execute(
                "INSERT INTO virtual_keys (id, label, owner, created_at) VALUES (?, ?, ?, 1)", (key, key, owner)
            )
            if key != "key_3":  # a service
                connection.execute(
                    "INSERT INTO key_hashes (hash, key_id, created_at) VALUES (?, ?, 1)", (str(number), key)
                )
    open_for_writing(database).close()
    with closing(open_for_reading(database)) as reader:
        found = {str(key): str(owner) for key, owner in reader.query("SELECT id, owner FROM virtual_keys")}
    assert found == {**owners, "key_1": "anna@corp.com"}


def test_a_backup_has_no_texts_and_replaces_earlier_ones(sqlite: Settings) -> None:
    open_for_writing(sqlite).close()
    file = find_database(sqlite).file
    assert file is not None
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("INSERT INTO contents VALUES ('req_1', 'reply', 1, 5, 'words')")
        expected = database.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
    write_backup(file, "0001")
    copy = write_backup(file, "0002")
    assert [path.name for path in file.parent.glob("*backup*")] == ["ledger.sqlite3.backup-0002"]
    assert copy.stat().st_mode & 0o077 == 0
    assert b"words" not in copy.read_bytes()
    with closing(sqlite3.connect(copy)) as backup:
        assert backup.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall() == expected
        assert backup.execute("SELECT version_num FROM alembic_version").fetchall() == [(NEWEST_VERSION,)]
        assert backup.execute("SELECT count(*) FROM contents").fetchall() == [(0,)]


def test_a_failed_backup_leaves_no_file(sqlite: Settings) -> None:
    open_for_writing(sqlite).close()
    file = find_database(sqlite).file
    assert file is not None
    with pytest.raises(OSError, match="the copy before the migration needs 16 MB, and 3 MB are free") as raised:
        write_backup(file, "0001", lambda _: 3 << 20)
    assert classify_database_error(raised.value) == "disk full"
    file.write_bytes(b"x" * 8192)
    with pytest.raises(sqlite3.DatabaseError):
        write_backup(file, "0001")
    assert [*file.parent.glob("*backup*")] == []


def test_several_processes_may_create_a_database_together(database: Settings) -> None:
    with ThreadPoolExecutor(6) as pool:
        connections = [*pool.map(lambda _: open_for_writing(database), range(6))]
    assert find_schema_version(connections[0]) == NEWEST_VERSION
    for connection in connections:
        connection.close()


def test_connections_that_begin_a_file_together_wait_for_each_other(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def connect(file: Path) -> Any:
        together.wait()
        return connect_for_writing(DatabaseAddress(file=file))

    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            for driver in [*pool.map(connect, [tmp_path / f"{number}.sqlite3"] * 4)]:
                assert driver.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
                driver.close()


async def test_two_instances_share_a_database(database: Settings) -> None:
    with running_ledger(database) as one, running_ledger(database) as other:
        for start in range(0, 1000, 100):
            await one.record(*(new_receipt(number, session="one") for number in range(start, start + 50)))
            await other.record(*(new_receipt(number, session="one") for number in range(start + 50, start + 100)))
        one.wait_written(500)
        other.wait_written(500)
    sums = read_hourly(database)
    assert count_rows(database) == sum(row["requests"] for row in sums) == 1000
    assert sum(row["input_tokens"] for row in sums) == 100_000
    with reading(database) as engine, engine.connect() as connection:
        query = select(func.sum(session_hours.c.requests), func.sum(session_hours.c.input_tokens))
        assert connection.execute(query).one() == (1000, 100_000)


@pytest.mark.skipif(not hasattr(__import__("os"), "getuid"), reason="platform: no file modes")
def test_only_the_user_may_read_the_files(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    connection = open_for_writing(settings)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == {0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    connection.close()


def test_a_second_writer_of_the_process_keeps_the_locks_of_the_first_one(sqlite: Settings) -> None:
    """Without its locks, another process that disconnects deletes the WAL of the first writer, and rows are lost."""
    file = find_database(sqlite).file
    first = open_for_writing(sqlite)
    open_for_writing(sqlite).close()
    assert _count_in_another_process(file) == 0
    with first.transaction():
        first.execute("INSERT INTO contents VALUES ('req_1', 'reply', 1, 1, x'00')")
    stored = _count_in_another_process(file)
    first.close()
    assert stored == 1


def _count_in_another_process(file: Path | None) -> int:
    """Return the number of rows of `contents` that another process reads, which then disconnects."""
    script = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "print(connection.execute('SELECT count(*) FROM contents').fetchone()[0])\n"
        "connection.close()\n"
    )
    command = [sys.executable, "-c", script, str(file)]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=True).stdout)


def test_tables_that_another_process_has_created_meanwhile_are_not_those_of_another_program(database: Settings) -> None:
    with closing(open_for_writing(database)) as connection:
        require_own_database(connection, "ledger.sqlite3")


FOREIGN_TABLES = ("CREATE TABLE users (name TEXT)", "CREATE TABLE alembic_version (version_num TEXT)")


@pytest.mark.parametrize("migrates", [False, True])
def test_a_database_of_another_program_is_refused_before_anything_is_created(
    database: Settings, migrates: bool
) -> None:
    address = find_database(database)
    file = address.file
    if file is not None:
        file.parent.mkdir(parents=True)
        other = Connection(sqlite3.connect(file, isolation_level=None))
    else:
        other = Connection(connect_for_writing(address))
        other.execute("SET search_path TO public")
    for statement in FOREIGN_TABLES[: 1 + migrates]:
        other.execute(statement)
    if migrates:
        other.execute(f"INSERT INTO alembic_version VALUES ('{NEWEST_VERSION}')")
    before = b"" if file is None else file.read_bytes()
    with pytest.raises(ConfigurationError) as caught:
        open_for_writing(database)
    listed = ", ".join(("alembic_version", "users")[1 - migrates :])
    remedy = f", or create the schema for it yourself:  CREATE SCHEMA {SCHEMA}" if file is None else "."
    assert caught.value.message == (
        f"The database {address.describe()} belongs to another program: it has tables ({listed}), and "
        f"none of the ledger. Nothing was created. Set DATABASE_URL to a database of its own{remedy}"
    )
    if file is not None:
        assert file.read_bytes() == before
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        other.close()
        return
    assert other.query("SELECT to_regnamespace(?)", (SCHEMA,)) == [(None,)]
    other.execute(f"CREATE SCHEMA {SCHEMA}")
    other.close()
    open_for_writing(database).close()


def file_of(settings: Settings) -> Path:
    assert settings.data_directory is not None
    return settings.data_directory / "ledger.sqlite3"


async def test_the_wal_is_emptied_although_pages_read_without_a_gap(sqlite: Settings) -> None:
    """A page that begins meanwhile waits until those before it have ended, but not for a reader that does not end. A
    command does not wait.
    """
    address = find_database(sqlite)
    with running_ledger(sqlite) as ledger, ThreadPoolExecutor(1) as threads, ExitStack() as opened:
        await ledger.record(new_receipt(1))
        ledger.wait_written(1)
        reading = opened.enter_context(closing(connect_for_reading(address)))
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM requests").fetchall()
        with closing(open_for_writing(sqlite)) as other:
            other.insert("shared_values", ("name", "value", "expires_at"), [("large", "x" * 70_000_000, 0)])
        assert measure_wal(address) > MAX_WAL_BYTES

        def count_as_page() -> int:
            with read_ledger(sqlite, 120) as connection:
                assert connection is not None
                return connection.execute(select(func.count()).select_from(requests)).scalar_one()

        await ledger.record(new_receipt(2))
        ledger.wait_written(2)
        wait_for(lambda: is_wal_emptied(address))
        page = threads.submit(count_as_page)
        with read_ledger(sqlite) as connection:
            assert connection is not None
        assert not page.done()
        move = "UPDATE shared_values SET expires_at = expires_at - ? WHERE name = 'ledger/wal'"
        with closing(open_for_writing(sqlite)) as other:
            other.execute(move, (20_000_000,))
        assert page.result(WAIT_SECONDS) == count_as_page() == 2
        await ledger.record(new_receipt(3))
        ledger.wait_written(3)
        assert measure_wal(address) > MAX_WAL_BYTES
        assert not is_wal_emptied(address)
        with closing(open_for_writing(sqlite)) as other:
            other.execute(move, (300_000_000,))
        await ledger.record(new_receipt(4))
        wait_for(lambda: is_wal_emptied(address))
        opened.close()
        wait_for(lambda: measure_wal(address), lambda size: size < 1_000_000)
        assert not is_wal_emptied(address)
        assert count_as_page() == 4
        assert ledger.warnings == []


async def test_a_full_disk(sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there is space, each database connection is limited to the present size of its file."""
    open_for_writing(sqlite).close()
    has_space, connect = threading.Event(), sqlite3.connect

    def connect_with_limit(*place: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*place, **options)
        if not has_space.is_set():
            connection.execute("PRAGMA max_page_count=1")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_with_limit)
    with running_ledger(sqlite) as ledger:
        await ledger.record(*(new_receipt(number, error="x" * 2000) for number in range(600)))
        state = ledger.queue.state
        ledger.wait_until(lambda: state.condition == "disk full")
        ledger.wait_until(lambda: ledger.queue.state.queued_rows + state.written_rows == 600)
        assert state.written_rows < 100  # a first batch of few rows may fit
        has_space.set()
        ledger.wait_written(600)
        state = ledger.queue.state
    assert (state.condition, state.problem, state.dropped_rows) == ("ok", "", 0)
    assert count_rows(sqlite) == sum(row["requests"] for row in read_hourly(sqlite)) == 600
    assert ledger.warnings == [
        f"The ledger cannot store requests: disk full ({file_of(sqlite)}: database or disk is full). "
        "Free space on its disk, or set LEDGER_MAX_MB to a smaller number.",
        f"Requests wait in {find_spool_file(sqlite)} until the ledger can store them.",
        "The ledger stores requests again. 0 were dropped since the start.",
    ]


async def test_a_full_disk_is_known_without_a_request_and_until_there_is_space(sqlite: Settings) -> None:
    with running_ledger(sqlite) as ledger:
        await ledger.record(new_receipt(1))
        ledger.wait_written(1)
        ledger.full_disk.set()
        ledger.wait_until(lambda: ledger.queue.state.condition == "disk full")
        await ledger.record(new_receipt(2))  # the file has room for it
        ledger.wait_written(2)
        ledger.wait_until(lambda: not len(ledger.queue))
        assert ledger.queue.state.condition == "disk full"
        ledger.full_disk.clear()
        ledger.wait_until(lambda: ledger.queue.state.condition == "ok")
    assert ledger.warnings == [
        f"The ledger cannot store requests: disk full ({file_of(sqlite)}: no space left on device). "
        "Free space on its disk, or set LEDGER_MAX_MB to a smaller number.",
        "The ledger stores requests again. 0 were dropped since the start.",
    ]


async def store_after(settings: Settings, condition: str, repair: Callable[[], object]) -> None:
    """Store a request after the failure `condition` and its repair."""
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == condition)
        repair()
        ledger.wait_written(1)
    assert count_rows(settings) == 1


async def test_a_locked_database(sqlite: Settings) -> None:
    open_for_writing(sqlite).close()
    with closing(sqlite3.connect(file_of(sqlite), isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        await store_after(sqlite, "locked", lambda: other.execute("COMMIT"))


async def test_a_read_only_database(sqlite: Settings) -> None:
    """A write version above 2 in the header makes a file read-only, for root too."""
    open_for_writing(sqlite).close()
    file = file_of(sqlite)
    content = file.read_bytes()
    file.write_bytes(content[:18] + b"\x03" + content[19:])
    await store_after(sqlite, "read-only", lambda: file.write_bytes(content))


async def test_a_corrupt_database_is_kept_and_a_new_one_is_created_once_it_is_moved(sqlite: Settings) -> None:
    file = file_of(sqlite)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database" * 1000)
    await store_after(sqlite, "corrupt", lambda: file.rename(file.with_name("old")))
    assert file.with_name("old").read_bytes() == b"no database" * 1000


async def test_a_removed_database_is_created_again(sqlite: Settings) -> None:
    with running_ledger(sqlite) as ledger:
        await ledger.record(new_receipt(1))
        ledger.wait_written(1)
        for file in [*file_of(sqlite).parent.iterdir()]:
            file.unlink()
        await ledger.record(new_receipt(2))
        ledger.wait_written(2)
    assert count_rows(sqlite) == 1


async def test_a_schema_of_a_newer_program_is_left_alone(database: Settings) -> None:
    connection = open_for_writing(database)

    def set_version(version: str) -> None:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))

    set_version("9999")
    await store_after(database, "newer schema", lambda: set_version(NEWEST_VERSION))
    connection.close()


async def test_an_unreachable_server_loses_no_row_before_the_stop(tmp_path: Path) -> None:
    settings = Settings(database_url=Secret("postgresql://user:password-1@127.0.0.1:9/x"))
    with running_ledger(settings, stop_seconds=2) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == "unreachable")
        assert ledger.stop() == 1
    assert "password-1" not in ledger.warnings[0]
    assert ledger.warnings[0].endswith("Start the database server, or correct DATABASE_URL.")


def test_a_server_that_does_not_answer_is_asked_once_for_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="engine: psycopg")
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(database_url=Secret(f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x"))
        texts = set()
        for _ in range(5):
            with pytest.raises(DatabaseError) as raised:
                open_for_reading(settings)
            texts.add(str(raised.value))
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert len(texts) == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_an_address_may_have_options_that_the_proxy_sets_itself(database: Settings) -> None:
    assert database.database_url is not None
    url = f"{database.database_url.reveal()}?connect_timeout=60&application_name=own"
    with closing(open_for_writing(structs.replace(database, database_url=Secret(url)))) as connection:
        assert connection.query("SHOW application_name") == [("own",)]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_rows_are_stored_once_after_the_server_ends_the_connection(database: Settings) -> None:
    other = open_for_writing(database)
    with running_ledger(database) as ledger:
        for number in range(5):
            await ledger.record(new_receipt(number))
            ledger.wait_written(number + 1)
            other.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    other.close()
    assert count_rows(database) == sum(row["requests"] for row in read_hourly(database)) == 5


def _sqlite_error(text: str, code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("file", "error", "text"),
    [
        (
            "/tmp/l.sqlite3",
            _sqlite_error("database or disk is full", sqlite3.SQLITE_FULL),
            "disk full (database or disk is full). Free space on its disk.",
        ),
        (
            "/tmp/l.sqlite3",
            _sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR),
            "disk I/O error. Set DATABASE_URL to another database.",
        ),
        (
            "/tmp/l.sqlite3",
            _sqlite_error("unable to open database file", sqlite3.SQLITE_CANTOPEN),
            "unable to open database file. Give the user of the proxy write access to it and its directory, or set "
            "DATABASE_URL.",
        ),
        (
            "/tmp/l.sqlite3",
            OSError(errno.EACCES, "Permission denied"),
            "permission denied. Give the user of the proxy write access to it and its directory, or set DATABASE_URL.",
        ),
    ],
)
def test_the_advice_for_a_ledger_that_cannot_be_read_fits_the_cause(file: str, error: Exception, text: str) -> None:
    described = describe_reading_failure(DatabaseAddress(Path(file)), error)
    assert described == f"The ledger {file} cannot be read: {text}"


def test_a_failure_on_a_full_disk_is_that_of_the_disk(tmp_path: Path) -> None:
    with mounted_disk(tmp_path) as disk:
        address = DatabaseAddress(disk / "folder/ledger.sqlite3")
        error = _sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR)
        large = fill_disk(disk)
        text = f"The ledger {address.file} cannot be read: disk full (disk I/O error). Free space on its disk."
        assert (is_disk_full(address), describe_reading_failure(address, error)) == (True, text)
        large.unlink()
        text = f"The ledger {address.file} cannot be read: disk I/O error. Set DATABASE_URL to another database."
        assert (is_disk_full(address), describe_reading_failure(address, error)) == (False, text)
        assert [*disk.iterdir()] == []


def test_a_ledger_that_does_not_exist_because_its_disk_is_full_is_not_called_empty(tmp_path: Path) -> None:
    with mounted_disk(tmp_path) as disk:
        settings = Settings(database_url=Secret(f"sqlite:///{disk}/none/ledger.sqlite3"))
        fill_disk(disk)
        with pytest.raises(ConfigurationError) as raised, read_ledger(settings):
            pass
    assert raised.value.message == (
        f"The ledger {disk}/none/ledger.sqlite3 cannot be read: no space left on device. Free space on its disk."
    )
