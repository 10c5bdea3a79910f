"""Eleventh schema of the ledger: the entry of the error catalog for the error of each request."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column `error_code` to the table `requests`. Called by Alembic."""
    op.add_column("requests", sa.Column("error_code", sa.Text, nullable=False, server_default=""))
