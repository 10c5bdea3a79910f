"""A backup has the whole ledger, and becomes the ledger again: on SQLite and on PostgreSQL."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anthropic_proxy.console.keys.administration import open_administration
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.backup import restore_ledger_backup, write_ledger_backup
from anthropic_proxy.console.ledger.database import NewerSchemaError, find_database, open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import new_database, new_receipt, read_rows, store
from tests.support.virtual_keys import create_key

FOUND = f"requests: 2, virtual keys: 1, sign-ins: 0, schema: {NEWEST_VERSION}"


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql" and shutil.which("pg_dump") is None:
        pytest.skip("engine: the client programs of PostgreSQL")
    return str(request.param)


@pytest.fixture
def full(kind: str, tmp_path: Path) -> Iterator[Settings]:
    with new_database(kind, tmp_path / "full") as settings:
        yield settings


@pytest.fixture
def empty(kind: str, tmp_path: Path) -> Iterator[Settings]:
    with new_database(kind, tmp_path / "empty") as settings:
        yield settings


async def fill(settings: Settings) -> str:
    await store(settings, new_receipt(1), new_receipt(2))
    with open_administration(settings, "test") as administration:
        _, text = create_key(administration, VirtualKey(id="", label="ci"))
    return text


def keys_of(settings: Settings) -> list[tuple[str, str]]:
    with closing(open_for_reading(settings)) as connection:
        query = "SELECT label, hash FROM virtual_keys JOIN key_hashes ON key_id = virtual_keys.id"
        return [tuple(row) for row in connection.query(query)]


def problem_of(settings: Settings, source: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        restore_ledger_backup(settings, source, replaces=False)
    return error.value.message


async def test_a_backup_has_requests_and_keys_and_is_restored_into_another_database(
    full: Settings, empty: Settings, tmp_path: Path
) -> None:
    await fill(full)
    copy = tmp_path / "copy"
    assert write_ledger_backup(full, copy) == FOUND
    assert copy.stat().st_mode & 0o777 == 0o600
    assert not copy.with_name("copy.incomplete").exists()
    assert restore_ledger_backup(empty, copy, replaces=False) == (FOUND, None)
    assert (read_rows(empty), keys_of(empty)) == (read_rows(full), keys_of(full))
    open_for_writing(empty).close()  # as a server does


async def test_a_ledger_with_requests_is_replaced_only_if_the_user_says_so(full: Settings, tmp_path: Path) -> None:
    await fill(full)
    copy = tmp_path / "copy"
    write_ledger_backup(full, copy)
    await store(full, new_receipt(3))
    place = find_database(full).describe()
    assert problem_of(full, copy) == (
        f"{place} is not empty (requests: 3, virtual keys: 1, sign-ins: 0). `--force` replaces it with the backup."
    )
    found, kept = restore_ledger_backup(full, copy, replaces=True)
    assert (found, len(read_rows(full))) == (FOUND, 2)
    if (file := find_database(full).file) is not None:
        assert kept == file.with_name("ledger.sqlite3.replaced")
        with closing(sqlite3.connect(kept)) as earlier:
            assert earlier.execute("SELECT count(*) FROM requests").fetchone() == (3,)


async def test_a_ledger_that_another_program_has_opened_is_not_replaced(full: Settings, tmp_path: Path) -> None:
    await fill(full)
    copy = tmp_path / "copy"
    write_ledger_backup(full, copy)
    address = find_database(full)
    with closing(open_for_writing(full)) as server:
        server.query("SELECT 1 FROM requests")
        with pytest.raises(ConfigurationError) as error:
            restore_ledger_backup(full, copy, replaces=True)
    assert error.value.message == (
        f"Other connections of this user to {address.describe()} are open (1), such as those of running proxies. Stop "
        "them, and restore again."
        if address.file is None
        else f"Another program has opened {address.file}, such as a running proxy. Stop it, and restore again."
    )
    assert len(read_rows(full)) == 2


async def test_a_backup_of_a_newer_version_is_refused(full: Settings, empty: Settings, tmp_path: Path) -> None:
    await fill(full)
    with closing(open_for_writing(full)) as connection, connection.transaction():
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    copy = tmp_path / "copy"
    write_ledger_backup(full, copy)
    with pytest.raises(NewerSchemaError, match="9999"):
        restore_ledger_backup(empty, copy, replaces=False)
    file = find_database(empty).file
    assert file is None or not file.exists()


async def test_what_is_no_backup_and_no_new_file_is_named(full: Settings, empty: Settings, tmp_path: Path) -> None:
    text, missing = tmp_path / "text", tmp_path / "missing"
    text.write_text("no database" * 100)
    assert problem_of(empty, missing) == f"There is no file {missing}."
    found = problem_of(empty, text)
    assert found in (
        f"{text} is no backup of a ledger in SQLite: file is not a database.",
        "pg_restore failed: pg_restore: error: input file does not appear to be a valid archive",
    )
    for target, problem in (
        (text, f"{text} exists. Name a new file."),
        (missing / "copy", f"There is no folder {missing}. Create it, or name another file."),
        (missing, f"There is no ledger at {find_database(full).describe()} yet. The server creates it at its start."),
    ):
        with pytest.raises(ConfigurationError) as error:
            write_ledger_backup(full, target)
        assert error.value.message == problem


def test_a_database_of_another_program_is_no_backup(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE users (name TEXT)")
    assert problem_of(Settings(data_directory=tmp_path / "data"), other) == (
        f"{other} is no backup of a ledger: it has no tables of the ledger."
    )
