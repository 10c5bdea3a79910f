"""Seventh schema of the ledger: the name of the route of each request, in `requests` and as a key of `hourly`."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_KEYS = [
    *("hour", "instance", "project", "key_label", "provider", "model"),
    *("requested_model", "outcome_class", "route"),
]


def upgrade() -> None:
    """Add the column `route` to `requests`, with an index, and to the primary key of `hourly`. Called by Alembic.

    Earlier requests have the route "".
    """
    for table in ("requests", "hourly"):
        op.add_column(table, sa.Column("route", sa.Text, nullable=False, server_default=""))
    op.create_index("requests_by_route", "requests", ["route", "started_at"])
    replace_key_of_hourly(_KEYS)


def replace_key_of_hourly(keys: Sequence[str]) -> None:
    """Replace the primary key of `hourly`. SQLite needs a new table with the same columns."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("hourly_pkey", "hourly")
        op.create_primary_key("hourly_pkey", "hourly", [*keys])
        return
    columns = sa.inspect(op.get_bind()).get_columns("hourly")
    names = ", ".join(column["name"] for column in columns)
    op.rename_table("hourly", "hourly_before")
    op.create_table(
        "hourly",
        *(
            sa.Column(
                column["name"],
                column["type"],
                nullable=bool(column["nullable"]),
                server_default=None if column["default"] is None else sa.text(column["default"]),
            )
            for column in columns
        ),
        sa.PrimaryKeyConstraint(*keys),
    )
    op.execute(f"INSERT INTO hourly ({names}) SELECT {names} FROM hourly_before")
    op.drop_table("hourly_before")
