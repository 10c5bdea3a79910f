"""First schema of the ledger: the tables `requests` (one row per request) and `hourly` (sums by hour)."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_FACETS = ("provider", "model", "requested_model", "project", "session", "key_label", "outcome_class")


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False, server_default="") for name in names]


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in names]


def _small_counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer, nullable=False, server_default="0") for name in names]


def upgrade() -> None:
    """Create the tables `requests` and `hourly` and their indexes. Called by Alembic."""
    _create_requests()
    _create_hourly()


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        *_texts("client", "key_label", "project", "session", "agent", "user_agent", "path"),
        sa.Column("stream", sa.Boolean, nullable=False),
        *_texts("requested_model", "provider", "prefix", "model", "route_reason"),
        *_small_counts("attempts"),
        *_texts("failed_attempts"),
        sa.Column("status", sa.SmallInteger, nullable=False, server_default="0"),
        *_texts("outcome", "outcome_class", "error_type", "error"),
        *_small_counts("tool_count", "message_count"),
        *_counts("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "thinking_tokens"),
        sa.Column("cost", sa.BigInteger),
        sa.Column("requested_cost", sa.BigInteger),
        *_texts("price_source"),
        sa.Column("first_token", sa.BigInteger),
        *_counts("duration"),
        sa.Column("output_rate", sa.Float),
        *_texts("notes"),
        *_small_counts("note_count"),
        *_texts("adaptations", "instance"),
        *_small_counts("worker"),
    )
    op.create_index("requests_by_time", "requests", ["started_at", "id"])
    for facet in _FACETS:
        op.create_index(f"requests_by_{facet}", "requests", [facet, "started_at"])


def _create_hourly() -> None:
    keys = ("instance", "project", "key_label", "provider", "model", "requested_model", "outcome_class")
    op.create_table(
        "hourly",
        sa.Column("hour", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Text, primary_key=True) for name in keys),
        *_counts("requests", "errors"),
        *_counts("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "thinking_tokens"),
        *_counts("cost", "unknown_cost_requests", "requested_cost", "unknown_requested_cost_requests"),
        *_counts("duration", "first_token_sum", "first_token_count"),
        sa.Column("first_token_histogram", sa.LargeBinary, nullable=False),
        sa.Column("duration_histogram", sa.LargeBinary, nullable=False),
    )
