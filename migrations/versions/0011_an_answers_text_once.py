"""an answer's text is stored once: in the response, where it can be read out of it

Revision: 0011 · after: 0010

No table is rewritten: a column without a default, which PostgreSQL and SQLite keep beside the rows. What is stored stays
as it is. Where there are jobs, versions that read the text from its own column may still run: texts are stored
twice for a day more (`worker.db.jobs.answers`).
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

DAY = 86_400


def upgrade() -> None:
    """Apply."""
    op.add_column("results", sa.Column("text_in_response", sa.Boolean(), nullable=True))
    conn = op.get_bind()
    now = "EXTRACT(EPOCH FROM now())" if conn.dialect.name == "postgresql" else "strftime('%s', 'now')"
    if conn.execute(sa.text("SELECT 1 FROM jobs LIMIT 1")).first() is not None:
        until = conn.execute(sa.text(f"SELECT CAST({now} AS bigint)")).scalar_one() + DAY
        statement = sa.text("INSERT INTO bookmarks (name, place) VALUES ('answers_once', :place)")
        conn.execute(statement, {"place": json.dumps({"until": until})})
