"""Location of the ledger's SQLite file and the version of its tables, found without SQLAlchemy.

The ledger thus does not load SQLAlchemy at the start of the proxy, unless its tables may need a migration.
`find_sqlite_file` returns the path of the file, and `find_file_schema_version` the version.
"""

import os
from contextlib import closing
from pathlib import Path

from anthropic_proxy.settings import Settings

FILE_NAME = "ledger.sqlite3"
"""Name of the default SQLite file."""


def find_sqlite_file(settings: Settings) -> Path | None:
    """Return the absolute path of the SQLite file of the ledger.

    None: the ledger is on PostgreSQL or disabled.
    """
    if not settings.has_ledger():
        return None
    if settings.database_url is None:
        assert settings.data_directory is not None
        return (settings.data_directory / FILE_NAME).absolute()
    scheme, _, place = settings.database_url.reveal().partition("://")
    return Path(place.partition("?")[0].removeprefix("/")).absolute() if scheme == "sqlite" else None


def find_file_schema_version(file: Path) -> str | None:
    """Return the version of the table schema in the SQLite database `file`.

    None: the file does not exist, cannot be read, or has no version.
    """
    if not os.path.exists(file):  # `Path.exists` raises an exception for a directory without access
        return None
    import sqlite3  # noqa: PLC0415  # a start without a database needs none

    address = f"{file.as_uri()}?mode=rw"  # read-only connections cannot open the shared memory of a WAL
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=0.0)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
