"""Waits of jobs after the database's clock was set back: what was noted by the clock as it was lies too far ahead.

The row shows whose wait it is. A job that was claimed once (`fence`) has had its own start; one that is due as it was made has
none. A start that its submitter named is left alone, and so are lines of a batch, which start with it.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from worker.db.clock import after_sql, is_postgres, now_sql

#: Jobs that one transaction looks at: some 20 ms.
SLICE = 10_000


def bring_forward(conn: Connection, *, after: str, longest: float, limit: int = SLICE) -> tuple[str | None, int]:
    """Make due what waits for longer than `longest` seconds, the longest wait that any rule sets. The caller commits.

    Args:
        after: the slice begins behind this id; empty for the first one.
        longest: seconds.
        limit: jobs of a slice, whether they wait or run.

    Returns:
        The slice's last id (None: there is nothing behind it), and how many jobs were brought forward.
    """
    hint, locked = _hint(conn), "FOR UPDATE SKIP LOCKED" if is_postgres(conn) else ""
    seen, last = _slice(conn, after, limit)
    if not seen:
        return None, 0
    rows = conn.execute(
        text(f"""
        WITH ahead AS MATERIALIZED (
            SELECT id FROM jobs {hint} WHERE finished_at IS NULL AND id > :after AND id <= :last
                AND status = 'queued' AND due_at > {after_sql(conn, ":longest")}
                AND (fence > 0 OR (batch_id IS NULL AND due_at = created_at))
            {locked}
        )
        UPDATE jobs SET due_at = {now_sql(conn)} WHERE id IN (SELECT id FROM ahead) AND status || '' = 'queued'
        RETURNING 1
        """),
        {"after": after, "last": last, "longest": longest},
    )
    brought = len(rows.all())  # SQLite counts no rows of a statement that begins with WITH
    return (last if seen == limit else None), brought


def next_of(conn: Connection, *, after: str) -> str | None:
    """The first job of the slice behind `after`."""
    return _slice(conn, after, 1)[1]


def _slice(conn: Connection, after: str, limit: int) -> tuple[int, str | None]:
    """How many jobs a slice has, and the last of them."""
    row = conn.execute(
        text(f"""
        SELECT count(*) AS seen, max(id) AS last FROM (
            SELECT id FROM jobs {_hint(conn)} WHERE finished_at IS NULL AND id > :after ORDER BY id LIMIT :limit
        ) AS slice
        """),
        {"after": after, "limit": limit},
    ).one()
    return int(row.seen), row.last


def _hint(conn: Connection) -> str:
    return "" if is_postgres(conn) else "INDEXED BY ix_jobs_unfinished"
