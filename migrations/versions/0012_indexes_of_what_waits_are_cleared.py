"""indexes of what waits are cleared soon, however long the history

Revision: 0012 · after: 0011

Settings of PostgreSQL's autovacuum; no row is touched. What has waited leaves a dead entry in the index of what waits, and each
look at the queue steps over it until a vacuum has removed it. A vacuum leaves indexes alone where less than a fiftieth
of the table's pages has dead rows, and came after a hundredth of its rows: after half a million of a table of fifty million.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"

#: Tables with a long history that have an index of what is not over.
TABLES = ("jobs", "webhook_events", "api_calls")
_SOON = "vacuum_index_cleanup = on, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000"


def upgrade() -> None:
    """Apply."""
    if op.get_bind().dialect.name != "postgresql":
        return
    # It waits for a vacuum of the table, and for nothing else, nor does anything but vacuums wait for it. PostgreSQL ends an
    # automatic one that is waited for after `deadlock_timeout`, a second.
    before = op.get_bind().exec_driver_sql("SHOW lock_timeout").scalar_one()
    op.execute("SET LOCAL lock_timeout = '3s'")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} SET ({_SOON})")
    op.execute(f"SET LOCAL lock_timeout = '{before}'")
