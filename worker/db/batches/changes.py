"""What may be asked of a batch that exists: hold it, let it go on, cancel it. The caller commits."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import Connection, text

from api_schemas.event_numbers import FIRST_END
from worker.base.errors import NotAllowed
from worker.base.money import PICO
from worker.db.batches import claims, records
from worker.db.batches.records import BatchRow
from worker.db.clock import is_postgres, now_sql
from worker.db.jobs.ended import RETURNED, Ended, ended

#: Lines cancelled in one transaction: a tenth of a second, so that workers settle in between.
SLICE = 5_000
PAUSED = "paused"


def pause(conn: Connection, batch: str, *, tenant: str) -> BatchRow:
    """Admit no more lines; calls in flight go on. Pausing twice does no harm.

    Raises:
        NotFound: no such batch of this tenant.
        NotAllowed: it is over, or being cancelled.
    """
    _in_progress(conn, batch, tenant, "paused")
    conn.execute(text("UPDATE batches SET held = :held WHERE id = :id"), {"held": PAUSED, "id": batch})
    return records.get(conn, batch, tenant=tenant)


def resume(conn: Connection, batch: str, *, tenant: str, max_cost_picousd: int | None = None) -> BatchRow:
    """Admit lines again; `max_cost_picousd` is a new bound for what the batch may cost.

    What had made it hold itself is excused: it holds itself again when that goes on.

    Raises:
        NotFound, NotAllowed: as `pause`.
        StaysHeld: its bound leaves no room for one more line; nothing was changed.
    """
    _in_progress(conn, batch, tenant, "resumed")
    row = records.get(conn, batch, tenant=tenant)
    most = row.max_cost_picousd if max_cost_picousd is None else max_cost_picousd
    if most is not None and row.done < row.total:
        priced, jobs = row.completed + row.failed - row.copied, row.total - row.duplicates
        each = claims.line_picousd(row.cost_picousd, priced, row.quoted_picousd, jobs)
        if most - row.cost_picousd < max(1, each):
            raise StaysHeld(
                f"{batch} stays held: it has cost {_usd(row.cost_picousd)}, and a bound of {_usd(most)} leaves no room"
                f" for one more line"
                + (f" ({_usd(each)})" if each else "")
                + f"; give a higher one: stockpot batch resume {batch} --max-cost USD"
            )
    conn.execute(
        text("""
        UPDATE batches SET held = NULL, hold_detail = NULL, max_cost_picousd = COALESCE(:most, max_cost_picousd),
            failures_excused = failed - copied, unpriced_excused = unpriced WHERE id = :id
        """),
        {"most": max_cost_picousd, "id": batch},
    )
    return records.get(conn, batch, tenant=tenant)


class StaysHeld(NotAllowed):
    """A batch that was to go on would hold itself at once: its bound is reached."""


def _usd(picousd: int) -> str:
    return f"${(Decimal(picousd) / PICO).normalize():f}"


def _in_progress(conn: Connection, batch: str, tenant: str, verb: str) -> None:
    lock = " FOR UPDATE" if is_postgres(conn) else ""
    status = conn.execute(text(f"SELECT status FROM batches WHERE id = :id{lock}"), {"id": batch}).scalar()
    records.get(conn, batch, tenant=tenant)
    if status != "in_progress":
        raise NotAllowed(f"{batch} is {status}; only a batch in progress can be {verb}")


def begin_cancel(conn: Connection, batch: str, *, tenant: str) -> BatchRow:
    """Admit no more lines, for good; lines that were never imported are no longer expected. Repeating it is fine.

    Raises:
        NotFound: no such batch of this tenant.
        NotAllowed: it has ended in another way.
    """
    given = {"id": batch, "tenant": tenant}
    conn.execute(
        text(f"""
        UPDATE batches SET status = 'cancelling', held = NULL, total = imported, cancelling_at = {now_sql(conn)}
        WHERE id = :id AND tenant = :tenant AND status IN ('validating', 'in_progress')
        """),
        given,
    )
    conn.execute(  # its lines are over, its files are not whole: it ends as cancelled
        text(f"""
        UPDATE batches SET cancelling_at = {now_sql(conn)}
        WHERE id = :id AND tenant = :tenant AND status = 'finalizing' AND cancelling_at IS NULL
        """),
        given,
    )
    row = records.get(conn, batch, tenant=tenant)
    if row.cancelling_at is None:
        raise NotAllowed(f"{batch} is {row.status} already; only a batch in progress can be cancelled")
    return row


def cancel_lines(conn: Connection, batch: str, *, limit: int = SLICE) -> list[Ended]:
    """Cancel queued lines of a batch that is being cancelled; those that ended."""
    now = now_sql(conn)
    skip = "FOR UPDATE SKIP LOCKED" if is_postgres(conn) else ""
    done = conn.execute(
        # As a subquery PostgreSQL might run it once per row, each time with other rows, and the limit would be none.
        text(f"""
        WITH chosen AS MATERIALIZED (
            SELECT id FROM jobs WHERE batch_id = :batch AND status = 'queued' ORDER BY due_at, id LIMIT :limit {skip}
        )
        UPDATE jobs SET status = 'cancelled', finished_at = {now}, waiting_on = NULL, error_class = 'cancelled',
            error_code = NULL, error_status = NULL, error_message = 'the batch was cancelled',
            cancel_requested_at = COALESCE(cancel_requested_at, {now}), fence = fence + 1, seq = {FIRST_END}
        WHERE id IN (SELECT id FROM chosen) AND status = 'queued'
        RETURNING {RETURNED}
        """),
        {"batch": batch, "limit": limit},
    )
    return [ended(row) for row in done]


def ask_running_to_stop(conn: Connection, batch: str) -> Sequence[str]:
    """Ask for the cancellation of the lines in flight; their ids, to notify the workers at once."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_running"
    found = [
        row[0]
        for row in conn.execute(
            text(f"SELECT id FROM jobs {hint} WHERE status = 'in_progress' AND batch_id = :batch"), {"batch": batch}
        )
    ]
    for job in found:
        conn.execute(
            text(f"""
            UPDATE jobs SET cancel_requested_at = COALESCE(cancel_requested_at, {now_sql(conn)})
            WHERE id = :id AND status = 'in_progress'
            """),
            {"id": job},
        )
    return found
