"""What alembic runs: on the connection that `worker.db.schema` hands over, in its transaction, with timeouts set."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from worker.db.ownership import VERSION_TABLE
from worker.db.schema import metadata


def run(connection: Connection) -> None:
    """Run the pending revisions on `connection`; its owner commits."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
