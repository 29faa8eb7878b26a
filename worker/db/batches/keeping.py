"""What the batch keeper writes. The caller commits."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, text

from worker.db.clock import now_sql
from worker.db.jobs.lookup import moment


def now(conn: Connection) -> datetime:
    """This moment by the database's clock, in UTC."""
    return moment(conn.execute(text(f"SELECT {now_sql(conn)}")).scalar_one()) or datetime.now(UTC)


def hold(conn: Connection, batch: str, reason: str | None, *, instead_of: str | None) -> None:
    """Hold a batch, or let it go on, unless somebody has changed that meanwhile."""
    same = "held IS NULL" if instead_of is None else "held = :before"
    conn.execute(
        text(f"UPDATE batches SET held = :reason WHERE id = :id AND status = 'in_progress' AND {same}"),
        {"id": batch, "reason": reason, "before": instead_of},
    )


def bound(conn: Connection, batch: str, limit: int | None) -> None:
    """Bound the calls in flight of a batch; None: no bound."""
    conn.execute(text("UPDATE batches SET most = :limit WHERE id = :id"), {"id": batch, "limit": limit})


def expect_no_more(conn: Connection, batch: str) -> None:
    """Lines that were not imported do not count any more."""
    conn.execute(text("UPDATE batches SET total = imported WHERE id = :id"), {"id": batch})
