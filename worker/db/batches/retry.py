"""The lines of a batch that have no answer and may have one yet: those that failed, expired or were cancelled. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from worker.db.batches.lines_in import SKIPPED, ImportCopy, ImportLine
from worker.db.payloads import of as payloads_of

#: Which lines are taken.
FAILED = "('failed', 'expired')"
FAILED_OR_CANCELLED = "('failed', 'expired', 'cancelled')"
#: Without the bad lines that were skipped: they ask nothing.
_TAKEN = f"j.batch_id = :batch AND j.status IN {{statuses}} AND COALESCE(j.error_code, '') <> '{SKIPPED}'"


@dataclass(frozen=True, slots=True)
class Failed:
    """How many lines there are, how many of them are copies, and how many jobs have lost their request."""

    lines: int
    duplicates: int
    without_request: int
    endpoint: str | None
    model: str | None


def failed(conn: Connection, batch: str, statuses: str) -> Failed:
    """Count them."""
    row = conn.execute(
        text(f"""
        SELECT COALESCE(SUM(j.answers), 0) AS lines, count(*) AS jobs, count(r.job_id) AS with_request,
            min(j.endpoint) AS endpoint, min(j.model) AS first, max(j.model) AS last
        FROM jobs AS j LEFT JOIN requests AS r ON r.job_id = j.id WHERE {_TAKEN.format(statuses=statuses)}
        """),
        {"batch": batch},
    ).one()
    model = row.first if row.first == row.last else None
    return Failed(int(row.lines), int(row.lines) - row.jobs, row.jobs - row.with_request, row.endpoint, model)


def page(conn: Connection, batch: str, statuses: str, *, after: int, limit: int) -> list[ImportLine]:
    """Their requests as lines of a new batch, in the order of the file, after a line number."""
    rows = conn.execute(
        text(f"""
        SELECT j.id, j.line, j.custom_id, j.endpoint, j.model, j.stream, CAST(r.body AS text) AS body, j.answers
        FROM jobs AS j JOIN requests AS r ON r.job_id = j.id
        WHERE {_TAKEN.format(statuses=statuses)} AND j.line > :after ORDER BY j.line LIMIT :limit
        """),
        {"batch": batch, "after": after, "limit": limit},
    )
    payloads = payloads_of(conn)
    lines = []
    for row in rows:
        body = payloads.open_json(row.body, f"requests.body:{row.id}").encode()
        lines.append(ImportLine(row.line, row.custom_id, row.endpoint, row.model, bool(row.stream), body, row.answers))
    return lines


def copies(conn: Connection, batch: str, statuses: str, *, after: int, limit: int) -> list[ImportCopy]:
    """Their copies, in the order of the file, after a line number."""
    rows = conn.execute(
        text(f"""
        SELECT c.line, c.first_line, c.custom_id FROM batch_copies AS c
        JOIN jobs AS j ON j.batch_id = c.batch_id AND j.line = c.first_line
        WHERE c.batch_id = :batch AND {_TAKEN.format(statuses=statuses)} AND c.line > :after ORDER BY c.line LIMIT :limit
        """),
        {"batch": batch, "after": after, "limit": limit},
    )
    return [ImportCopy(row.line, row.first_line, row.custom_id) for row in rows]
