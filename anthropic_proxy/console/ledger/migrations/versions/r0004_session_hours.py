"""Fourth schema of the ledger: hourly sums of sessions, and numbers of tokens that are cached for one hour."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "thinking_tokens")
_COUNTS = (
    *("requests", "errors", "cancelled", *_TOKENS, "cache_write_1h_tokens"),
    *("cost", "unknown_cost_requests", "requested_cost", "unknown_requested_cost_requests", "max_context"),
)


def upgrade() -> None:
    """Create the table `session_hours` with sums of the stored requests, and add a column for one-hour cache writes.

    The column `cache_write_1h_tokens` is added to `requests` and `hourly`. Called by Alembic.
    """
    for table in ("requests", "hourly"):
        op.add_column(table, _count("cache_write_1h_tokens"))
    op.create_table(
        "session_hours",
        sa.Column("hour", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("instance", "session", "project", "key_label")),
        *map(_count, _COUNTS),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("started_at", "last_at")),
    )
    op.create_index("session_hours_by_session", "session_hours", ["session", "hour"])
    counted = ", ".join(f"sum({name})" for name in (*_TOKENS, "cache_write_1h_tokens"))
    op.execute(
        "INSERT INTO session_hours (hour, instance, session, project, key_label, "
        f"{', '.join(_COUNTS)}, started_at, last_at) "
        "SELECT started_at / 3600000000, '', session, project, key_label, count(*), "
        "sum(CASE WHEN outcome_class = 'error' THEN 1 ELSE 0 END), "
        f"sum(CASE WHEN outcome_class = 'cancelled' THEN 1 ELSE 0 END), {counted}, "
        "coalesce(sum(cost), 0), sum(CASE WHEN cost IS NULL THEN 1 ELSE 0 END), "
        "coalesce(sum(requested_cost), 0), sum(CASE WHEN requested_cost IS NULL THEN 1 ELSE 0 END), "
        "max(input_tokens + cache_read_tokens + cache_write_tokens), min(started_at), max(started_at) "
        "FROM requests GROUP BY 1, session, project, key_label"
    )


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
