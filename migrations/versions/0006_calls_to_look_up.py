"""calls to be looked up in the provider's log, and since when the database has answered

Revision: 0006 · after: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant

revision = "0006"
down_revision = "0005"

#: Name, table, columns, condition: made beforehand and beside the workers, where there is a history.
INDEXES = (("ix_attempts_unasked", "attempts", ("reconciled", "job_id"), "reconciled IN ('due', 'late')"),)


def upgrade() -> None:
    """Apply."""
    for name, table, columns, where in INDEXES:
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({', '.join(columns)}) WHERE {where}")
    op.add_column("leases", sa.Column("seen_at", Instant(), nullable=True))
    op.add_column("leases", sa.Column("steady_since", Instant(), nullable=True))
