"""Cancel and retry: what a caller may ask of a job that already exists."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from api_schemas.event_numbers import FIRST_END
from worker.base.errors import NotAllowed, NotFound
from worker.db.clock import after_sql, now_sql
from worker.db.jobs.ended import RETURNED, Ended, ended


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancellation did: `status` is `cancelled`, or `in_progress` until its worker has stopped it.

    `ended` is there when this cancellation ended the job.
    """

    job_id: str
    status: str
    changed: bool
    ended: Ended | None = None


def cancel(conn: Connection, job_id: str, *, tenant: str) -> Cancelled:
    """Cancel a queued job at once, or ask for the cancellation of a running one. The caller commits.

    A job that is cancelled already, or asked to be, is left as it is.

    Raises:
        NotFound: no such job of this tenant.
        NotAllowed: the job is finished in another way.
    """
    now = now_sql(conn)
    row = conn.execute(
        text(f"""
        UPDATE jobs SET
            status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END,
            finished_at = CASE WHEN status = 'queued' THEN {now} ELSE finished_at END,
            fence = fence + CASE WHEN status = 'queued' THEN 1 ELSE 0 END, seq = {FIRST_END},
            waiting_on = NULL,
            error_class = CASE WHEN status = 'queued' THEN 'cancelled' ELSE error_class END,
            error_message = CASE WHEN status = 'queued' THEN 'cancelled on request' ELSE error_message END,
            error_code = CASE WHEN status = 'queued' THEN NULL ELSE error_code END,
            error_status = CASE WHEN status = 'queued' THEN NULL ELSE error_status END,
            cancel_requested_at = COALESCE(cancel_requested_at, {now})
        WHERE id = :id AND tenant = :tenant AND status IN ('queued', 'in_progress')
        RETURNING {RETURNED}
        """),
        {"id": job_id, "tenant": tenant},
    ).first()
    if row is not None:
        return Cancelled(job_id, row.status, changed=True, ended=ended(row) if row.status == "cancelled" else None)
    status = _status(conn, job_id, tenant)
    if status != "cancelled":
        raise NotAllowed(f"{job_id} is {status} already; only a queued or running job can be cancelled")
    return Cancelled(job_id, status, changed=False)


def retry(conn: Connection, job_id: str, *, tenant: str, ttl: float) -> str:
    """Queue a failed, cancelled or expired job again, with its attempts given back; its lane. The caller commits.

    The ledger keeps every call that was made; what the job had answered so far is dropped. The fence rises: no event of
    the old end counts any more.

    Raises:
        NotFound: no such job of this tenant.
        NotAllowed: the job is not in one of those states, or is a line of a batch, whose results are final, or has no
            request: it was purged, or was none.
    """
    done = conn.execute(
        text(f"""
        UPDATE jobs SET status = 'queued', finished_at = NULL, due_at = {now_sql(conn)}, attempts = 0,
            fence = fence + 1,
            expires_at = {after_sql(conn, ":ttl")}, cancel_requested_at = NULL, waiting_on = NULL, finish_reason = NULL,
            error_class = NULL, error_code = NULL, error_message = NULL, error_status = NULL
        WHERE id = :id AND tenant = :tenant AND status IN ('failed', 'cancelled', 'expired') AND batch_id IS NULL
            AND EXISTS (SELECT 1 FROM requests WHERE requests.job_id = jobs.id)
        RETURNING lane
        """),
        {"id": job_id, "tenant": tenant, "ttl": ttl},
    ).first()
    if done is None:
        batch = conn.execute(
            text("SELECT batch_id FROM jobs WHERE id = :id AND tenant = :tenant"), {"id": job_id, "tenant": tenant}
        ).scalar()
        if batch is not None:
            raise NotAllowed(
                f"{job_id} is a line of {batch}; `stockpot batch retry-failed {batch}` makes a batch of its failed lines"
            )
        status = _status(conn, job_id, tenant)
        if status in {"failed", "cancelled", "expired"}:
            raise NotAllowed(f"{job_id} has no request any more, or never had one; submit it anew")
        raise NotAllowed(f"{job_id} is {status}; only a failed, cancelled or expired job can be retried")
    conn.execute(text("DELETE FROM results WHERE job_id = :id"), {"id": job_id})
    return str(done.lane)


def _status(conn: Connection, job_id: str, tenant: str) -> str:
    status = conn.execute(
        text("SELECT status FROM jobs WHERE id = :id AND tenant = :tenant"), {"id": job_id, "tenant": tenant}
    ).scalar()
    if status is None:
        raise NotFound(f"there is no job {job_id}" + ("" if tenant == "default" else f" of tenant {tenant}"))
    return str(status)
