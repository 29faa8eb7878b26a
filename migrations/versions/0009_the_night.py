"""what a night needs: which file a batch has, why it is held, what was purged of it; used-up budgets; every secret of a window

Revision: 0009 · after: 0008

No table is rewritten: columns without a default, or with a constant one, which PostgreSQL and SQLite keep beside the rows.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Apply."""
    for name in ("file_sha256", "hold_detail"):
        op.add_column("batches", sa.Column(name, sa.Text(), nullable=True))
    for name in ("unpriced", "failures_excused", "unpriced_excused"):
        op.add_column("batches", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))
    for name in ("requests_purged_at", "answers_purged_at", "lines_purged_at"):
        op.add_column("batches", sa.Column(name, Instant(), nullable=True))
    op.add_column("budgets", sa.Column("used_up_on", sa.Text(), nullable=True))
    op.add_column("webhook_endpoints", sa.Column("older_secrets", sa.Text(), nullable=True))
    # One row a batch: made at once, in no time.
    op.execute("CREATE INDEX ix_batches_file ON batches (tenant, file_sha256) WHERE file_sha256 IS NOT NULL")
