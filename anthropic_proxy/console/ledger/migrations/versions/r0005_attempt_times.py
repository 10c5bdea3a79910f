"""Fifth schema of the ledger: the times of the calls to providers of each request."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column `attempt_times` to the table `requests`. Called by Alembic."""
    op.add_column("requests", sa.Column("attempt_times", sa.Text, nullable=False, server_default=""))
