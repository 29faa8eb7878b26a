"""What the batch keeper writes. The caller commits."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, text

from worker.db.batches.lines_in import SKIPPED
from worker.db.clock import now_sql
from worker.db.jobs.lookup import moment


def now(conn: Connection) -> datetime:
    """This moment by the database's clock, in UTC."""
    return moment(conn.execute(text(f"SELECT {now_sql(conn)}")).scalar_one()) or datetime.now(UTC)


def hold(
    conn: Connection, batch: str, reason: str | None, *, instead_of: str | None, detail: str | None = None
) -> None:
    """Hold a batch, or let it go on, unless that was changed meanwhile; `detail` is the reason in a sentence."""
    same = "held IS NULL" if instead_of is None else "held = :before"
    conn.execute(
        text(
            f"UPDATE batches SET held = :reason, hold_detail = :detail WHERE id = :id AND status = 'in_progress' AND {same}"
        ),
        {"id": batch, "reason": reason, "before": instead_of, "detail": detail},
    )


def bound(conn: Connection, batch: str, limit: int | None) -> None:
    """Bound the calls in flight of a batch; None: no bound."""
    conn.execute(text("UPDATE batches SET most = :limit WHERE id = :id"), {"id": batch, "limit": limit})


def expect_no_more(conn: Connection, batch: str) -> None:
    """Lines that were not imported do not count any more."""
    conn.execute(text("UPDATE batches SET total = imported WHERE id = :id"), {"id": batch})


def failed_alike(conn: Connection, batch: str) -> str | None:
    """What the failed lines of a batch all failed of, in words; None when they failed of different things."""
    rows = conn.execute(
        text("""
        SELECT error_class, error_code, error_status, min(error_message) AS message FROM jobs
        WHERE batch_id = :id AND status = 'failed' AND COALESCE(error_code, '') <> :skipped
        GROUP BY error_class, error_code, error_status LIMIT 2
        """),
        {"id": batch, "skipped": SKIPPED},
    ).all()
    if len(rows) != 1:
        return None
    status = f" {rows[0].error_status}" if rows[0].error_status else ""
    return f"{rows[0].error_class}{status}: {rows[0].message or rows[0].error_code or 'no message'}"[:300]


def excuse_failures(conn: Connection, batch: str) -> None:
    """Let the failed lines there are hold the batch no more."""
    conn.execute(text("UPDATE batches SET failures_excused = failed - copied WHERE id = :id"), {"id": batch})
