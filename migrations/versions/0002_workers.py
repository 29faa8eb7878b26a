"""workers: who lives, with what load

Revision: 0002 · after: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "workers",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("seen_at", Instant(), nullable=False),
        sa.Column("heartbeat_seconds", sa.Double(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("loop_lag_seconds", sa.Double(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("drain_requested_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_workers")),
    )
