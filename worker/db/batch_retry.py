"""The lines of a batch that have no answer and may have one yet: those that failed or expired. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from worker.db.batch_import import ImportLine

_FAILED = "j.batch_id = :batch AND j.status IN ('failed', 'expired')"
_FROM = "FROM jobs AS j JOIN requests AS r ON r.job_id = j.id"


@dataclass(frozen=True, slots=True)
class Failed:
    """How many there are, and how many of them still have their request."""

    lines: int
    with_request: int
    endpoint: str | None
    model: str | None


def failed(conn: Connection, batch: str) -> Failed:
    """Count them."""
    row = conn.execute(
        text(f"""
        SELECT count(*) AS lines, count(r.job_id) AS with_request, min(j.endpoint) AS endpoint, min(j.model) AS first,
            max(j.model) AS last
        FROM jobs AS j LEFT JOIN requests AS r ON r.job_id = j.id WHERE {_FAILED}
        """),
        {"batch": batch},
    ).one()
    return Failed(row.lines, row.with_request, row.endpoint, row.first if row.first == row.last else None)


def page(conn: Connection, batch: str, *, after: int, limit: int) -> list[ImportLine]:
    """Their requests as lines of a new batch, in the order of the file, after a line number."""
    rows = conn.execute(
        text(f"""
        SELECT j.line, j.custom_id, j.endpoint, j.model, j.stream, CAST(r.body AS text) AS body
        {_FROM} WHERE {_FAILED} AND j.line > :after ORDER BY j.line LIMIT :limit
        """),
        {"batch": batch, "after": after, "limit": limit},
    )
    return [
        ImportLine(row.line, row.custom_id, row.endpoint, row.model, bool(row.stream), row.body.encode())
        for row in rows
    ]


def last_line(conn: Connection, batch: str) -> int:
    """The highest line number that a batch has; 0 when it has none."""
    return int(
        conn.execute(text("SELECT COALESCE(max(line), 0) FROM jobs WHERE batch_id = :id"), {"id": batch}).scalar_one()
    )
