"""Ninth schema of the ledger: counts of tool results, failed tools and replies with malformed tool calls."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns `tool_results`, `tool_errors` and `malformed_replies` to three tables. Called by Alembic."""
    for table in ("requests", "hourly", "session_hours"):
        for name in ("tool_results", "tool_errors", "malformed_replies"):
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
