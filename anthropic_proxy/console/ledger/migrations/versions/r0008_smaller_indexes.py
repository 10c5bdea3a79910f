"""Eighth schema of the ledger: smaller indexes of `requests`, which leave out the most common value of a column."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_COMMON_VALUES = {"project": "", "session": "", "key_label": "local", "outcome_class": "ok", "route": ""}
"""Column → value that its index leaves out."""


def upgrade() -> None:
    """Replace six indexes of the table `requests`. Called by Alembic.

    Five of them then leave out rows with the most common value of their column. The sixth, `requests_by_time`, then has
    only the column `started_at`.
    """
    for column, value in _COMMON_VALUES.items():
        op.drop_index(f"requests_by_{column}", "requests")
        is_rare = sa.text(f"{column} != '{value}'")
        op.create_index(
            f"requests_by_{column}",
            "requests",
            [column, "started_at"],
            sqlite_where=is_rare,
            postgresql_where=is_rare,
        )
    op.drop_index("requests_by_time", "requests")
    op.create_index("requests_by_time", "requests", ["started_at"])
