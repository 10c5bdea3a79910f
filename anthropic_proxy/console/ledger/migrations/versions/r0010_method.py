"""Tenth schema of the ledger: the HTTP method of each request."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column `method` to the table `requests`. Called by Alembic."""
    op.add_column("requests", sa.Column("method", sa.Text, nullable=False, server_default=""))
