"""Schema versions of the ledger and the forward migration of a database, with Alembic.

`find_schema_version` returns the version of a database, and `upgrade_schema` migrates it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

NEWEST_VERSION = "0010"
"""Version of the schema that the module `tables` describes."""
OWN_TABLES = ("alembic_version", "requests", "hourly")
"""Tables that every version of the schema has. Other programs also have a table `alembic_version`."""
_FOLDER = Path(__file__).parent


def find_schema_version(connection: "Connection") -> str | None:
    """Return the schema version of the database of `connection`. None: the database has no tables of the ledger."""
    from sqlalchemy import inspect, text  # noqa: PLC0415

    inspector = inspect(connection)
    if not all(inspector.has_table(name) for name in OWN_TABLES):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def is_known_version(version: str) -> bool:
    """Return True if this program has a migration to the schema version `version`.

    False: a newer version of the program has created the schema.
    """
    return any(_FOLDER.glob(f"versions/r{version}_*.py"))


def upgrade_schema(connection: "Connection", version: str = NEWEST_VERSION) -> None:
    """Migrate the database of `connection` forward to the schema version `version`, in the open transaction."""
    from alembic import command, config  # noqa: PLC0415  # needed only after an update of the program

    options = config.Config()
    options.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    options.set_main_option("path_separator", "os")
    options.attributes["connection"] = connection
    command.upgrade(options, version)
