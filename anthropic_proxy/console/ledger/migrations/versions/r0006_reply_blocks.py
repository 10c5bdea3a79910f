"""Sixth schema of the ledger: kinds, times and sizes of the content blocks of each reply."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column `reply_blocks` to the table `requests`. Called by Alembic."""
    op.add_column("requests", sa.Column("reply_blocks", sa.Text, nullable=False, server_default=""))
