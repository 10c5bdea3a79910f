"""Schema versions of the ledger, and the forward migration of a database with Alembic.

The module loads neither SQLAlchemy nor Alembic: at a start, most databases need no migration.
"""

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from anthropic_proxy.gateway.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

NEWEST_VERSION = "0011"
"""Version of the schema that the module `tables` describes."""
OWN_TABLES = ("alembic_version", "requests", "hourly")
"""Tables that every version of the schema has. Other programs also have a table `alembic_version`."""
_FOLDER = Path(__file__).parent


def find_sqlite_file(settings: Settings) -> Path | None:
    """Return the absolute path of the SQLite file of the ledger. None: it is on PostgreSQL, or disabled."""
    if not settings.has_ledger():
        return None
    if settings.database_url is None:
        assert settings.data_directory is not None
        return (settings.data_directory / "ledger.sqlite3").absolute()
    scheme, _, place = settings.database_url.reveal().partition("://")
    return Path(place.partition("?")[0].removeprefix("/")).absolute() if scheme == "sqlite" else None


def needs_migration(settings: Settings) -> bool:
    """Return True if the tables of the ledger have, or may have, another version than this program uses.

    The version of a PostgreSQL database is not read: the result is always True for it.
    """
    if not settings.has_ledger():
        return False
    file = find_sqlite_file(settings)
    if file is None:
        return True
    if not os.path.exists(file):  # `Path.exists` raises an exception for a directory without access
        return False
    import sqlite3  # noqa: PLC0415  # a start without a database needs none

    address = f"{file.as_uri()}?mode=rw"  # read-only connections cannot open the shared memory of a WAL
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=0.0)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return False
    return row is not None and str(row[0]) != NEWEST_VERSION


def find_schema_version(connection: "Connection") -> str | None:
    """Return the schema version of the database of `connection`. None: the database has no tables of the ledger."""
    from sqlalchemy import inspect, text  # noqa: PLC0415

    inspector = inspect(connection)
    if not all(inspector.has_table(name) for name in OWN_TABLES):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def is_known_version(version: str) -> bool:
    """Return False if a newer version of the program has created the schema."""
    return any(_FOLDER.glob(f"versions/r{version}_*.py"))


def upgrade_schema(connection: "Connection", version: str = NEWEST_VERSION) -> None:
    """Migrate the database of `connection` forward to the schema version `version`, in the open transaction."""
    from alembic import command, config  # noqa: PLC0415  # needed only after an update of the program

    options = config.Config()
    options.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    options.set_main_option("path_separator", "os")
    options.attributes["connection"] = connection
    command.upgrade(options, version)
