"""Twelfth schema of the ledger: owner and team of the key of each request, in `requests` and as keys of `hourly`."""

import sqlalchemy as sa
from alembic import op

from anthropic_proxy.console.ledger.migrations.versions.r0007_route import replace_key_of_hourly

revision = "0012"
down_revision = "0011"

_KEYS = [
    *("hour", "instance", "project", "key_label", "provider", "model"),
    *("requested_model", "outcome_class", "route", "owner", "team"),
]


def upgrade() -> None:
    """Add both columns to two tables, with indexes of `requests`, and to the primary key of `hourly`. Called by
    Alembic. They are "" for earlier requests.
    """
    for column in ("owner", "team"):
        for table in ("requests", "hourly"):
            op.add_column(table, sa.Column(column, sa.Text, nullable=False, server_default=""))
        is_rare = sa.text(f"{column} != ''")
        op.create_index(
            f"requests_by_{column}",
            "requests",
            [column, "started_at"],
            sqlite_where=is_rare,
            postgresql_where=is_rare,
        )
    replace_key_of_hourly(_KEYS)
