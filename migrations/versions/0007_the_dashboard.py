"""the dashboard: sessions, who pressed what, and what the fleet does over time

Revision: 0007 · after: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant

revision = "0007"
down_revision = "0006"

_Id = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "ui_sessions",
        sa.Column("hash", _Id, nullable=False),
        sa.Column("key_id", _Id, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_ui_sessions")),
    )
    op.create_index("ix_ui_sessions_expires_at", "ui_sessions", ["expires_at"])
    op.create_table(
        "ui_actions",
        sa.Column("id", _Id, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("key_id", _Id, nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ui_actions")),
    )
    op.create_table(
        "fleet_rates",
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("step", "at", "name", name=op.f("pk_fleet_rates")),
    )
