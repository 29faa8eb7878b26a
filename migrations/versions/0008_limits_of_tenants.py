"""limits of tenants: calls, tokens and calls in flight of all its callers together

Revision: 0008 · after: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Apply."""
    op.add_column("api_calls", sa.Column("over", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.execute("CREATE INDEX IF NOT EXISTS ix_api_calls_tenant ON api_calls (tenant, created_at)")
    op.execute("CREATE INDEX IF NOT EXISTS ix_api_calls_open ON api_calls (tenant) WHERE NOT over")
    op.create_table(
        "tenant_limits",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("rpm", sa.Integer(), nullable=True),
        sa.Column("tpm", sa.BigInteger(), nullable=True),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("set_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenant_limits")),
    )
