"""Cancel and retry: what a caller may ask of a job that already exists."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from worker.base.errors import NotAllowed, NotFound
from worker.db.clock import after_sql, now_sql


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancellation did: `status` is `cancelled`, or `in_progress` while its worker is being told."""

    job_id: str
    status: str
    fence: int
    seq: int
    logged: bool
    changed: bool
    metadata: str | None = None
    webhook: str | None = None
    answers: int = 1  # lines of its batch that it answers


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
            waiting_on = NULL,
            error_class = CASE WHEN status = 'queued' THEN 'cancelled' ELSE error_class END,
            error_message = CASE WHEN status = 'queued' THEN 'cancelled on request' ELSE error_message END,
            cancel_requested_at = COALESCE(cancel_requested_at, {now})
        WHERE id = :id AND tenant = :tenant AND status IN ('queued', 'in_progress')
        RETURNING status, fence, seq, stream, lane, batch_id, CAST(metadata AS text) AS metadata, webhook, answers
        """),
        {"id": job_id, "tenant": tenant},
    ).first()
    if row is not None:
        logged = bool(row.stream) or (row.batch_id is None and row.lane == "interactive")
        told = {"metadata": row.metadata, "webhook": row.webhook, "answers": row.answers}
        return Cancelled(job_id, row.status, row.fence, row.seq, logged, changed=True, **told)
    status = _status(conn, job_id, tenant)
    if status != "cancelled":
        raise NotAllowed(f"{job_id} is {status} already; only a queued or running job can be cancelled")
    return Cancelled(job_id, status, 0, 0, logged=False, changed=False)


def retry(conn: Connection, job_id: str, *, tenant: str, ttl: float) -> None:
    """Queue a failed, cancelled or expired job again, with its attempts given back. The caller commits.

    The ledger keeps every call that was made; what the job had answered so far is dropped.

    Raises:
        NotFound: no such job of this tenant.
        NotAllowed: the job is not in one of those states, or is a line of a batch, whose results are final.
    """
    done = conn.execute(
        text(f"""
        UPDATE jobs SET status = 'queued', finished_at = NULL, due_at = {now_sql(conn)}, attempts = 0,
            expires_at = {after_sql(conn, ":ttl")}, cancel_requested_at = NULL, waiting_on = NULL, finish_reason = NULL,
            error_class = NULL, error_code = NULL, error_message = NULL, error_status = NULL
        WHERE id = :id AND tenant = :tenant AND status IN ('failed', 'cancelled', 'expired') AND batch_id IS NULL
        """),
        {"id": job_id, "tenant": tenant, "ttl": ttl},
    ).rowcount
    if done == 0:
        batch = conn.execute(
            text("SELECT batch_id FROM jobs WHERE id = :id AND tenant = :tenant"), {"id": job_id, "tenant": tenant}
        ).scalar()
        if batch is not None:
            raise NotAllowed(
                f"{job_id} is a line of {batch}; `stockpot batch retry-failed {batch}` makes a batch of its failed lines"
            )
        status = _status(conn, job_id, tenant)
        raise NotAllowed(f"{job_id} is {status}; only a failed, cancelled or expired job can be retried")
    conn.execute(text("DELETE FROM results WHERE job_id = :id"), {"id": job_id})


def _status(conn: Connection, job_id: str, tenant: str) -> str:
    status = conn.execute(
        text("SELECT status FROM jobs WHERE id = :id AND tenant = :tenant"), {"id": job_id, "tenant": tenant}
    ).scalar()
    if status is None:
        raise NotFound(f"there is no job {job_id}" + ("" if tenant == "default" else f" of tenant {tenant}"))
    return str(status)
