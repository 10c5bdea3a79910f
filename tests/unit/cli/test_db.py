"""`db` migrates, checks and exports the ledger, and reports damage."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.gateway.settings import Settings
from tests.support.command_line import run_command
from tests.support.ledger import new_receipt, running_ledger


async def store(directory: Path) -> Path:
    folder = directory / ".local/share/anthropic-proxy"
    with running_ledger(Settings(data_directory=folder)) as ledger:
        await ledger.record(new_receipt(1, project="=1+1", agent="\x9b31m"), new_receipt(2, started_at=1_795_270_000.0))
        ledger.wait_written(2)
    return folder / "ledger.sqlite3"


async def test_the_database_is_checked_and_exported(tmp_path: Path) -> None:
    file = await store(tmp_path)
    done = run_command("db", "upgrade", directory=tmp_path, settings={})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"  ✓ {file} has the schema {NEWEST_VERSION}.\n", "")
    done = run_command("db", "check", directory=tmp_path, settings={})
    assert (done.returncode, done.stdout) == (0, f"  ✓ {file} has no damage, and its sums are correct.\n")
    header, first, _ = run_command("db", "export", directory=tmp_path, settings={}).stdout.splitlines()
    assert dict(zip(header.split(","), first.split(","), strict=True))["project"] == "'=1+1"
    lines = run_command("db", "export", "--format", "json", directory=tmp_path, settings={}).stdout.split("\n")[:-1]
    assert all(map(str.isprintable, lines))
    assert json.loads(lines[0])["agent"] == "\x9b31m"
    assert [json.loads(line)["id"][-1] for line in lines] == ["1", "2"]
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE hourly SET input_tokens = 7")
        database.commit()
    done = run_command("db", "check", directory=tmp_path, settings={})
    assert done.returncode == 1
    assert "The sum of input_tokens is 7, but the requests have 100." in done.stdout + done.stderr


def test_a_missing_database_and_one_of_another_program_are_named(tmp_path: Path) -> None:
    file = tmp_path / "other.sqlite3"
    settings = {"DATABASE_URL": f"sqlite:///{file}"}
    done = run_command("db", "check", directory=tmp_path, settings=settings)
    missing = f"  There is no ledger at {file} yet. The server creates it at its start.\n"
    assert (done.returncode, done.stdout, done.stderr, file.exists()) == (0, missing, "", False)
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE users (name TEXT)")
    for words in (("db", "check"), ("db", "export"), ("usage",), ("explain", "--last")):
        done = run_command(*words, directory=tmp_path, settings=settings)
        assert (done.returncode, done.stdout, done.stderr) == (
            2,
            "",
            f"✕ The database {file} belongs to another program: it has tables (users), and none of the ledger. "
            "Nothing was created. Set DATABASE_URL to a database of its own.\n",
        )


def test_a_disabled_ledger_is_named(tmp_path: Path) -> None:
    done = run_command("db", "check", directory=tmp_path, settings={"DATABASE_URL": "off"})
    assert (done.returncode, done.stderr) == (
        2,
        "✕ Nothing is stored, because DATABASE_URL is off. Unset DATABASE_URL, or set it to a database.\n",
    )
