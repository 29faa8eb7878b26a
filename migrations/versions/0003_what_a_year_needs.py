"""what a year needs: usage by day, and an index for each thing that is looked for in a long history

Revision: 0003 · after: 0002

No table is rewritten. On PostgreSQL the indexes are made beforehand and beside the workers (`INDEXES`); what is made
here finds them there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

#: Name, table, columns, condition.
INDEXES = (
    ("ix_jobs_unfinished", "jobs", ("id",), "finished_at IS NULL"),
    ("ix_jobs_ended_badly", "jobs", ("id",), "status IN ('failed', 'cancelled', 'expired')"),
    ("ix_jobs_of_tenant", "jobs", ("tenant", "id"), "tenant <> 'default'"),
    ("ix_attempts_unreconciled", "attempts", ("started_at",), "reconciled IS NULL OR reconciled = 'late'"),
)
_ID = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
_COUNTERS = (
    "jobs",
    "attempts",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
    "provider_picousd",
    "estimated_picousd",
    "unpriced",
)
#: A tenth of a table of a hundred million rows is a month: vacuum and statistics come after so many rows instead.
_OFTEN = (
    "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 20000,"
    " autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,"
    " autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_insert_threshold = 50000"
)
#: Few rows, each of which is written all the time: room for the next version beside it, and vacuum at once.
_COUNTING = "fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "usage_days",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("day", "tenant", "model", "lane")),
        sa.Column("batch_id", _ID, server_default="", nullable=False),
        sa.Column("tags", sa.Text(), server_default="", nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in _COUNTERS),
        sa.PrimaryKeyConstraint(
            "day", "tenant", "model", "lane", "batch_id", "tags", "shard", name=op.f("pk_usage_days")
        ),
    )
    op.create_table(
        "usage_keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_usage_keys")),
    )
    op.add_column("attempts", sa.Column("counted", sa.Boolean(), nullable=True))
    for name, table, columns, where in INDEXES:
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({', '.join(columns)}) WHERE {where}")
    if op.get_bind().dialect.name == "postgresql":
        for table in ("jobs", "requests", "results", "attempts", "webhook_events", "webhook_attempts"):
            op.execute(f"ALTER TABLE {table} SET ({_OFTEN})")
        for table in ("usage_days", "batches", "budgets", "leases"):
            op.execute(f"ALTER TABLE {table} SET ({_COUNTING})")
    # A database that has calls already: the sweeper counts them, and until then reports read the calls themselves.
    op.execute(
        "INSERT INTO bookmarks (name, place) SELECT 'usage_days', '{\"after\": \"\"}'"
        " WHERE EXISTS (SELECT 1 FROM attempts)"
    )
