"""Waits of jobs after the database's clock was set back: what was noted by the clock as it was lies too far ahead.

The row shows whose wait it is. A job that was claimed once (`fence`) has had its own start; one that is due as it was made has
none. A start that its submitter named is left alone, and so are lines of a batch, which start with it.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from worker.db.clock import after_sql, is_postgres, now_sql

#: Jobs in one statement, which reads all that wait.
SLICE = 10_000


def bring_forward(conn: Connection, *, longest: float, limit: int = SLICE) -> int:
    """Make due what waits for longer than `longest` seconds, the longest wait that any rule sets; how many. The caller commits."""
    postgres = is_postgres(conn)
    rows = conn.execute(
        text(f"""
        WITH ahead AS MATERIALIZED (
            SELECT id FROM jobs {"" if postgres else "INDEXED BY ix_jobs_expiring"}
            WHERE status = 'queued' AND due_at > {after_sql(conn, ":longest")}
                AND (fence > 0 OR (batch_id IS NULL AND due_at = created_at))
            LIMIT :limit {"FOR UPDATE SKIP LOCKED" if postgres else ""}
        )
        UPDATE jobs SET due_at = {now_sql(conn)} WHERE id IN (SELECT id FROM ahead) AND status || '' = 'queued'
        RETURNING 1
        """),
        {"longest": longest, "limit": limit},
    )
    return len(rows.all())  # SQLite counts no rows of a statement that begins with WITH
