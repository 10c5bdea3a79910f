"""Thirteenth schema of the ledger: the changed beginning of a prompt, and the tokens behind it."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add both columns to the table `requests`. Called by Alembic."""
    op.add_column("requests", sa.Column("prefix_change", sa.Text, nullable=False, server_default=""))
    op.add_column("requests", sa.Column("prefix_change_tokens", sa.BigInteger, nullable=False, server_default="0"))
