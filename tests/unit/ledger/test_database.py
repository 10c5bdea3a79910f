"""A database is created, migrated with its data and a backup, and shared by several processes."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event, inspect, text

from anthropic_proxy.console.ledger.database import (
    SCHEMA,
    classify_database_error,
    describe_database_location,
    find_database_file,
    find_database_url,
    has_tables,
    open_for_writing,
    write_backup,
)
from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION, find_schema_version, upgrade_schema
from anthropic_proxy.console.ledger.records import COMMON_VALUES, FACETS, UsageSums
from anthropic_proxy.console.ledger.request_queries import sum_session
from anthropic_proxy.console.ledger.tables import metadata
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret
from tests.support.ledger import count_rows, new_receipt, read_hourly, read_rows, reading, running_ledger, store


@contextmanager
def plain_engine(settings: Settings) -> Iterator[Engine]:
    """Yield an engine on an empty database, without any table."""
    url = find_database_url(settings)
    if (file := find_database_file(url)) is not None:
        file.parent.mkdir(parents=True)
    engine = create_engine(url)
    with engine.begin() as connection:
        if file is None:
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            connection.execute(text(f"ALTER DATABASE {url.database} SET search_path TO {SCHEMA}"))
    engine.dispose()
    try:
        yield engine
    finally:
        engine.dispose()


def test_the_migrations_produce_the_tables(database: Settings) -> None:
    engine = open_for_writing(database)
    with engine.connect() as connection:
        assert has_tables(connection, "")
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
        indexes = {each["name"]: each for each in inspect(connection).get_indexes("requests")}
        option = f"{connection.dialect.name}_where"
    engine.dispose()
    assert differences == []
    for column in (facet.column for facet in FACETS.values()):  # the comparison ignores the conditions of indexes
        condition = str(indexes[f"requests_by_{column}"].get("dialect_options", {}).get(option, ""))
        assert (condition != "") == (column in COMMON_VALUES)
        assert condition == "" or f"'{COMMON_VALUES[column]}'" in condition


def test_readers_name_the_remedy_for_the_tables_of_another_version(database: Settings) -> None:
    with plain_engine(database) as engine, engine.connect() as connection:
        assert not has_tables(connection, "x")
        upgrade_schema(connection, "0001")
        place = describe_database_location(find_database_url(database))
        with pytest.raises(ConfigurationError) as raised:
            has_tables(connection, place)
        assert raised.value.message == (
            f"The ledger {place} has the tables of an earlier version. Migrate them:  anthropic-proxy db upgrade"
        )
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(ConfigurationError) as raised:
            has_tables(connection, place)
        assert raised.value.message == (
            f"The ledger {place} has the tables of a newer version. Update this program, or set DATABASE_URL."
        )


@pytest.mark.parametrize("version", [f"{number:04}" for number in range(1, int(NEWEST_VERSION))])
async def test_an_earlier_schema_is_migrated_with_its_data(database: Settings, version: str) -> None:
    with plain_engine(database) as engine, engine.begin() as connection:
        upgrade_schema(connection, version)
        connection.execute(
            text(
                "INSERT INTO requests (id, started_at, stream, model, session, input_tokens, outcome_class) "
                "VALUES ('req_old', 1795262400000000, :no, 'm', 's', 7, 'cancelled')"
            ),
            {"no": False},
        )
        connection.execute(
            text(
                "INSERT INTO hourly (hour, instance, project, key_label, provider, model, requested_model, "
                "outcome_class, input_tokens, first_token_histogram, duration_histogram) "
                "VALUES (498683, '', 'p', '', '', 'm', '', 'cancelled', 7, :none, :none)"
            ),
            {"none": b""},
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
    if (file := find_database_file(find_database_url(database))) is not None:
        backup = file.with_name(f"ledger.sqlite3.backup-{version}")
        with closing(sqlite3.connect(backup)) as connection:
            assert connection.execute("SELECT id FROM requests").fetchall() == [("req_old",)]
            assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(version,)]


def test_a_backup_has_no_texts_and_replaces_earlier_ones(sqlite: Settings) -> None:
    open_for_writing(sqlite).dispose()
    file = find_database_file(find_database_url(sqlite))
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
    open_for_writing(sqlite).dispose()
    file = find_database_file(find_database_url(sqlite))
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
        engines = [*pool.map(lambda _: open_for_writing(database), range(6))]
    with engines[0].connect() as connection:
        assert find_schema_version(connection) == NEWEST_VERSION
    for engine in engines:
        engine.dispose()


async def test_two_instances_share_a_database(database: Settings) -> None:
    with running_ledger(database) as one, running_ledger(database) as other:
        for start in range(0, 1000, 100):
            await one.record(*map(new_receipt, range(start, start + 50)))
            await other.record(*map(new_receipt, range(start + 50, start + 100)))
        one.wait_written(500)
        other.wait_written(500)
    sums = read_hourly(database)
    assert count_rows(database) == sum(row["requests"] for row in sums) == 1000
    assert sum(row["input_tokens"] for row in sums) == 100_000


@pytest.mark.skipif(not hasattr(__import__("os"), "getuid"), reason="platform: no file modes")
def test_only_the_user_may_read_the_files(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    engine = open_for_writing(settings)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == {0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    engine.dispose()


def test_a_second_writer_of_the_process_keeps_the_locks_of_the_first_one(sqlite: Settings) -> None:
    """Without its locks, another process that disconnects deletes the WAL of the first writer, and rows are lost."""
    file = find_database_file(find_database_url(sqlite))
    first = open_for_writing(sqlite)
    open_for_writing(sqlite).dispose()
    assert _count_in_another_process(file) == 0
    with first.begin() as connection:
        connection.execute(text("INSERT INTO contents VALUES ('req_1', 'reply', 1, 1, x'00')"))
    stored = _count_in_another_process(file)
    first.dispose()
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
    return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


FOREIGN_TABLES = ("CREATE TABLE users (name TEXT)", "CREATE TABLE alembic_version (version_num TEXT)")


@pytest.mark.parametrize("migrates", [False, True])
def test_a_database_of_another_program_is_refused_before_anything_is_created(
    database: Settings, migrates: bool
) -> None:
    url = find_database_url(database)
    file = find_database_file(url)
    if file is not None:
        file.parent.mkdir(parents=True)
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in FOREIGN_TABLES[: 1 + migrates]:
            connection.execute(text(statement))
        if migrates:
            connection.execute(text(f"INSERT INTO alembic_version VALUES ('{NEWEST_VERSION}')"))
    before = b"" if file is None else file.read_bytes()
    with pytest.raises(ConfigurationError) as caught:
        open_for_writing(database)
    listed = ", ".join(("alembic_version", "users")[1 - migrates :])
    remedy = f", or create the schema for it yourself:  CREATE SCHEMA {SCHEMA}" if file is None else "."
    assert caught.value.message == (
        f"The database {describe_database_location(url)} belongs to another program: it has tables ({listed}), and "
        f"none of the ledger. Nothing was created. Set DATABASE_URL to a database of its own{remedy}"
    )
    if file is not None:
        assert file.read_bytes() == before
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        engine.dispose()
        return
    with engine.begin() as connection:
        assert SCHEMA not in inspect(connection).get_schema_names()
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    engine.dispose()
    open_for_writing(database).dispose()


def file_of(settings: Settings) -> Path:
    assert settings.data_directory is not None
    return settings.data_directory / "ledger.sqlite3"


@contextmanager
def full_disk() -> Iterator[threading.Event]:
    """Limit each new SQLite database connection to the present size of its file, until the event is set.

    The listener stays for the whole time, because SQLAlchemy must not connect in a thread while listeners change.
    """
    has_space = threading.Event()

    def limit(connection: Any, _: object) -> None:
        if not has_space.is_set():
            connection.execute("PRAGMA max_page_count=1")

    event.listen(Engine, "connect", limit)
    try:
        yield has_space
    finally:
        event.remove(Engine, "connect", limit)


async def test_a_full_disk(sqlite: Settings) -> None:
    open_for_writing(sqlite).dispose()
    with full_disk() as has_space, running_ledger(sqlite) as ledger:
        await ledger.record(*(new_receipt(number, error="x" * 2000) for number in range(600)))
        ledger.wait_until(lambda: ledger.queue.state.condition == "disk full")
        stored = ledger.queue.state.written_rows  # a first batch of few rows may fit
        assert len(ledger.queue) + stored == 600
        assert stored < 100
        has_space.set()
        ledger.wait_written(600)
        state = ledger.queue.state
    assert (state.condition, state.problem, state.dropped_rows) == ("ok", "", 0)
    assert count_rows(sqlite) == sum(row["requests"] for row in read_hourly(sqlite)) == 600
    assert ledger.warnings == [
        f"The ledger cannot store requests: disk full ({file_of(sqlite)}: database or disk is full). "
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
    open_for_writing(sqlite).dispose()
    with closing(sqlite3.connect(file_of(sqlite), isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        await store_after(sqlite, "locked", lambda: other.execute("COMMIT"))


async def test_a_read_only_database(sqlite: Settings) -> None:
    """A write version above 2 in the header makes a file read-only, for root too."""
    open_for_writing(sqlite).dispose()
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
    engine = open_for_writing(database)

    def set_version(version: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))

    set_version("9999")
    await store_after(database, "newer schema", lambda: set_version(NEWEST_VERSION))
    engine.dispose()


async def test_an_unreachable_server_loses_no_row_before_the_stop(tmp_path: Path) -> None:
    settings = Settings(database_url=Secret("postgresql://user:password-1@127.0.0.1:9/x"))
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_until(lambda: ledger.queue.state.condition == "unreachable")
        assert ledger.stop() == 1
    assert "password-1" not in ledger.warnings[0]
    assert ledger.warnings[0].endswith("Start the database server, or correct DATABASE_URL.")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_rows_are_stored_once_after_the_server_ends_the_connection(database: Settings) -> None:
    other = open_for_writing(database)
    with running_ledger(database) as ledger:
        for number in range(5):
            await ledger.record(new_receipt(number))
            ledger.wait_written(number + 1)
            with other.begin() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
    other.dispose()
    assert count_rows(database) == sum(row["requests"] for row in read_hourly(database)) == 5
