"""where a job comes from: the trace of its submission

Revision: 0010 · after: 0009

No table is rewritten: a column without a default, which PostgreSQL and SQLite keep beside the rows.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("traceparent", sa.Text(), nullable=True))
