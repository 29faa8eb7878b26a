"""Leases: renewed by their workers, taken back from the dead, and the one that elects the sweeper.

`status || ''` in a condition keeps the partial indexes out of the plan: rows that are named by their ids are found so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text

from api_schemas import jsontext
from api_schemas.event_numbers import FIRST_END
from worker.db.clock import after_sql, is_postgres, now_sql
from worker.db.jobs.ended import RETURNED, Ended, ended


@dataclass(frozen=True, slots=True)
class Renewed:
    """A claim that still stands; `cancel` says that its cancellation was asked for."""

    job_id: str
    fence: int
    cancel: bool


def renew(conn: Connection, owner: str, ids: Sequence[str], *, lease: float) -> list[Renewed]:
    """Renew the leases of these jobs of `owner` in one statement; what is missing in the answer is lost.

    Only what the worker says it holds: a claim whose acknowledgement was lost, or whose story crashed, shall run out.
    """
    postgres = is_postgres(conn)
    held = "id = ANY(CAST(:ids AS text[]))" if postgres else "id IN (SELECT value FROM json_each(:ids))"
    # The column itself is returned: SQLite 3.40 answers `IS NOT NULL` wrongly in a RETURNING clause.
    rows = conn.execute(
        text(f"""
        UPDATE jobs SET lease_until = {after_sql(conn, ":lease")}
        WHERE {held} AND lease_owner = :owner AND status = 'in_progress'
        RETURNING id, fence, cancel_requested_at
        """),
        {"owner": owner, "lease": lease, "ids": list(ids) if postgres else jsontext.dumps(list(ids)).decode()},
    )
    return [Renewed(row.id, row.fence, row.cancel_requested_at is not None) for row in rows]


#: What a lost lease means for its job. Cancelled first; then policy: a call that may have been made is not repeated
#: under `fail`, and a job that has cost `max_attempts` workers their lives (or leases) is poison.
_VERDICT = """CASE
    WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
    WHEN on_ambiguous = 'fail' OR attempts >= max_attempts THEN 'failed'
    ELSE 'queued' END"""


def reclaim(conn: Connection, *, limit: int = 256, hold: float = 0.0) -> list[Ended]:
    """Take back jobs whose lease ran out: their attempt becomes `lost`, they are queued again or end.

    Those under `on_ambiguous=reconcile` are due in `hold` seconds, so that their lost call can be looked up before.

    The caller commits. The old worker is shut out at once: its writes name a claim in progress, and there is none. An
    end raises the fence, so that its terminal event has a number that the old worker cannot give to another.
    """
    now = now_sql(conn)
    ids = [
        row[0]
        for row in conn.execute(
            text(f"""
            SELECT id FROM jobs {"" if is_postgres(conn) else "INDEXED BY ix_jobs_running"}
            WHERE status = 'in_progress' AND lease_until < {now}
            ORDER BY lease_owner LIMIT :limit {_for_update(conn)}
            """),
            {"limit": limit},
        )
    ]
    if not ids:
        return []
    listed: Any = bindparam("ids", expanding=True)
    rows = conn.execute(
        text(f"""
        UPDATE jobs SET status = {_VERDICT}, lease_owner = NULL, lease_until = NULL,
            fence = fence + CASE WHEN {_VERDICT} = 'queued' THEN 0 ELSE 1 END, seq = {FIRST_END},
            due_at = CASE WHEN on_ambiguous = 'reconcile' THEN {after_sql(conn, ":hold")} ELSE {now} END,
            finished_at = CASE WHEN {_VERDICT} = 'queued' THEN NULL ELSE {now} END,
            error_code = NULL, error_status = NULL,
            error_class = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                WHEN on_ambiguous = 'fail' THEN 'ambiguous' WHEN attempts >= max_attempts THEN 'poison' END,
            error_message = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled on request'
                WHEN on_ambiguous = 'fail' THEN 'the worker died during the call, which may have been billed'
                WHEN attempts >= max_attempts THEN 'every one of ' || attempts || ' attempts ended with its worker' END
        WHERE id IN :ids AND status || '' = 'in_progress'
        RETURNING {RETURNED}
        """).bindparams(listed),
        {"ids": ids, "hold": hold},
    ).all()
    conn.execute(
        text(f"""
        UPDATE attempts SET outcome = 'lost', finished_at = {now}, error_class = 'ambiguous',
            error_message = 'the worker let its lease run out'
        WHERE job_id IN :ids AND outcome = 'running'
        """).bindparams(listed),
        {"ids": ids},
    )
    return [ended(row) for row in rows]


def expire(conn: Connection, *, limit: int = 256) -> list[Ended]:
    """End queued jobs whose time is up. The caller commits.

    `settle` ends the time of a job that goes back to the queue although its cancellation was asked for.
    """
    now = now_sql(conn)
    verdict = "CASE WHEN cancel_requested_at IS NULL THEN 'expired' ELSE 'cancelled' END"
    rows = conn.execute(
        # As a subquery PostgreSQL might run it once per row, each time with other rows, and the limit would be none.
        text(f"""
        WITH due AS MATERIALIZED (
            SELECT id FROM jobs {"" if is_postgres(conn) else "INDEXED BY ix_jobs_expiring"}
            WHERE status = 'queued' AND expires_at <= {now}
            ORDER BY expires_at LIMIT :limit {_for_update(conn)}
        )
        UPDATE jobs SET status = {verdict}, finished_at = {now}, waiting_on = NULL, error_class = {verdict},
            fence = fence + 1, seq = {FIRST_END},
            error_message = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled on request'
                ELSE 'not finished within its time to live' || COALESCE('; last error: ' || error_message, '') END
        WHERE id IN (SELECT id FROM due) AND status || '' = 'queued'
        RETURNING {RETURNED}
        """),
        {"limit": limit},
    )
    return [ended(row) for row in rows]


def elect(conn: Connection, name: str, owner: str, *, seconds: float) -> bool:
    """Take or keep the lease called `name` for `seconds`; False while somebody else holds it. The caller commits.

    Who cannot have it writes nothing: an update that finds its row taken would lock it, and flush that to the disk.
    """
    held = conn.execute(
        text(f"SELECT 1 FROM leases WHERE name = :name AND owner <> :owner AND until >= {now_sql(conn)}"),
        {"name": name, "owner": owner},
    ).first()
    if held is not None:
        return False
    row = conn.execute(
        text(f"""
        INSERT INTO leases (name, owner, until) VALUES (:name, :owner, {after_sql(conn, ":seconds")})
        ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
        WHERE leases.owner = excluded.owner OR leases.until < {now_sql(conn)}
        RETURNING owner
        """),
        {"name": name, "owner": owner, "seconds": seconds},
    ).first()
    return row is not None


def release(conn: Connection, name: str, owner: str) -> None:
    """Give up the lease called `name`, if it is `owner`'s. The caller commits."""
    conn.execute(text("DELETE FROM leases WHERE name = :name AND owner = :owner"), {"name": name, "owner": owner})


def resign(conn: Connection, owner: str) -> None:
    """Give up every named lease of `owner`, so that a successor need not wait. The caller commits."""
    conn.execute(text("DELETE FROM leases WHERE owner = :owner"), {"owner": owner})


def _for_update(conn: Connection) -> str:
    return "FOR UPDATE SKIP LOCKED" if is_postgres(conn) else ""
