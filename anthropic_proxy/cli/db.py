"""Commands `db upgrade`, `check`, `export`, `backup` and `restore` for the ledger, the database of requests."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.commands import new_group
from anthropic_proxy.cli.ledger_access import changing_database, open_ledger_for_reading
from anthropic_proxy.cli.output import Output, encode_printed_json, open_data_output
from anthropic_proxy.console.ledger.backup import restore_ledger_backup, write_ledger_backup
from anthropic_proxy.console.ledger.database import find_database, open_for_writing
from anthropic_proxy.console.ledger.engines import find_database_problems
from anthropic_proxy.console.ledger.export import (
    REQUEST_TITLES,
    build_request_object,
    list_request_values,
    write_csv,
)
from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.console.ledger.request_queries import stream_stored_requests

db = new_group("db")
"""Group of the commands `db upgrade`, `db check`, `db export`, `db backup` and `db restore`."""


@db.command
def upgrade() -> None:
    """Create the database, or migrate it to the schema of this version. The server does the same after its start.

    Before a migration, a SQLite file is copied, for example to ledger.sqlite3.backup-0001.
    """
    settings = load_command_settings()
    output = Output()
    with changing_database(settings) as place:
        open_for_writing(settings).close()
    output.write_line(f"  {output.mark('✓')} {place} has the schema {NEWEST_VERSION}.")


@db.command
def check() -> None:
    """Check the integrity of the database and each stored request, and compare the hourly sums with the requests.

    Exit status: 0 without findings, 1 otherwise.
    """
    settings = load_command_settings()
    output = Output()
    place = find_database(settings).describe()
    with open_ledger_for_reading(settings) as connection:
        if connection is None:
            output.write_line(f"  There is no ledger at {place} yet. The server creates it at its start.")
            return
        problems = [*find_database_problems(connection)]
    for problem in problems:
        output.write_notice(problem, "✕")
    if not problems:
        output.write_line(f"  {output.mark('✓')} {place} has no damage, and its sums are correct.")
    sys.exit(1 if problems else 0)


@db.command
def export(*, form: Annotated[Literal["csv", "json"], Parameter(name="--format")] = "csv") -> None:
    """Print all stored requests, the oldest first: as CSV with a header, or as one JSON object per line.

    Money is in US dollars, durations are in seconds, times in UTC. An unknown value is an empty cell, or null.

    Parameters
    ----------
    form
        csv, or json. In CSV, a text that a spreadsheet would run as a formula begins with an apostrophe.
    """
    with open_ledger_for_reading(load_command_settings()) as connection:
        rows = () if connection is None else stream_stored_requests(connection)
        output = open_data_output()
        if form == "csv":
            write_csv(output, REQUEST_TITLES, map(list_request_values, rows))
            return
        for row in rows:
            output.write(encode_printed_json(build_request_object(row)))


@db.command
def backup(file: Path, /) -> None:
    """Copy the ledger to a new file, also while servers run: requests, texts, keys, teams, sign-ins, audit log.

    SQLite: a database file. PostgreSQL: a dump of the schema anthropic_proxy by pg_dump. Only its user can read it.

    Parameters
    ----------
    file
        File that does not exist yet.
    """
    settings = load_command_settings()
    output = Output()
    with changing_database(settings) as place:
        contents = write_ledger_backup(settings, file)
    output.write_line(f"  {output.mark('✓')} {file} is a copy of {place} ({contents}).")


@db.command
def restore(file: Path, /, *, force: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Make a backup of `db backup` the ledger. Stop all servers before: a database that they have opened is refused.

    An earlier schema is migrated by the next server. A SQLite file that is replaced is kept as ledger.sqlite3.replaced.

    Parameters
    ----------
    file
        Backup.
    force
        Replace a ledger that has requests, keys or sign-ins.
    """
    settings = load_command_settings()
    output = Output()
    with changing_database(settings) as place:
        contents, kept = restore_ledger_backup(settings, file, replaces=force)
    output.write_line(f"  {output.mark('✓')} {place} is now a copy of {file} ({contents}).")
    if kept is not None:
        output.write_line(f"  The ledger before it is {kept}.")
