"""Leases: renewed by their workers, taken back from the dead, and the one that elects the sweeper.

`status || ''` in a condition keeps the partial indexes out of the plan: rows that are named by their ids are found so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text

from api_schemas import jsontext
from api_schemas.event_numbers import FIRST_END
from worker.db.clock import after_sql, is_postgres, now_sql
from worker.db.jobs.ended import RETURNED, Ended, EndedCall, ended
from worker.db.jobs.ledger import DUE


@dataclass(frozen=True, slots=True)
class Renewed:
    """A claim that still stands; `cancel` is whether its cancellation was requested."""

    job_id: str
    fence: int
    cancel: bool


def renew(conn: Connection, owner: str, ids: Sequence[str], *, lease: float) -> list[Renewed]:
    """Renew the leases of these jobs of `owner` in one statement; what is missing in the answer is lost.

    Only what the worker reports to hold: a claim whose acknowledgement was lost, or whose story crashed, shall run out.
    A row that another transaction has locked stands as it is: it is renewed with the next heartbeat, and the others do
    not wait for it. Without that one held row would let all leases of a living worker run out.
    """
    postgres = is_postgres(conn)
    mine = f"""
        {"id = ANY(CAST(:ids AS text[]))" if postgres else "id IN (SELECT value FROM json_each(:ids))"}
        AND lease_owner = :owner AND status = 'in_progress'"""
    until = after_sql(conn, ":lease")
    # The column itself is returned: SQLite 3.40 answers `IS NOT NULL` wrongly in a RETURNING clause.
    statement = (
        f"""
        WITH free AS MATERIALIZED (SELECT id FROM jobs WHERE {mine} FOR UPDATE SKIP LOCKED),
        renewed AS (UPDATE jobs AS j SET lease_until = {until} FROM free WHERE j.id = free.id)
        SELECT id, fence, cancel_requested_at FROM jobs WHERE {mine}
        """
        if postgres
        else f"UPDATE jobs SET lease_until = {until} WHERE {mine} RETURNING id, fence, cancel_requested_at"
    )
    rows = conn.execute(
        text(statement),
        {"owner": owner, "lease": lease, "ids": list(ids) if postgres else jsontext.dumps(list(ids)).decode()},
    )
    return [Renewed(row.id, row.fence, row.cancel_requested_at is not None) for row in rows]


#: What a lost lease means for its job. Cancelled first; then policy: a call that may have been made is not repeated
#: under `fail`, and a job that has cost `max_attempts` workers their lives (or leases) is poison.
_VERDICT = """CASE
    WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
    WHEN on_ambiguous = 'fail' OR attempts >= max_attempts THEN 'failed'
    ELSE 'queued' END"""


#: The lease that elects the sweeper.
SWEEPER = "sweeper"
#: A silence of the database that is longer than this part of a lease may have kept living workers from renewing theirs.
SILENT_PART = 0.5


def reclaim(
    conn: Connection, *, limit: int = 256, hold: float = 0.0, steady: float = 0.0, only: str | None = None
) -> list[Ended]:
    """Take back jobs whose lease ran out: their attempt becomes `lost`, they are queued again or end.

    Args:
        limit: how many at most.
        hold: seconds in which a job is due again whose lost call is to be looked up before.
        steady: only if the database has been answering for so many seconds (a lease) without a long silence (`elect`):
            after an outage the leases of living workers have run out, too, and they shall renew them first.
        only: this job, if its lease has.

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
            WHERE status = 'in_progress' AND lease_until < {now} {steady_sql(conn) if steady else ""} {_only(only)}
            ORDER BY lease_owner LIMIT :limit {_for_update(conn)}
            """),
            {"limit": limit} | (steady_params(steady) if steady else {}) | ({"only": only} if only is not None else {}),
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
    lost = conn.execute(
        text(f"""
        UPDATE attempts SET outcome = 'lost', finished_at = {now}, error_class = 'ambiguous',
            error_message = 'the worker let its lease run out', reconciled = '{DUE}',
            cost_picousd = reserved_picousd, counted = CASE WHEN reserved_picousd IS NOT NULL THEN true END,
            cost_source = CASE WHEN reserved_picousd IS NOT NULL THEN 'estimated' END
        WHERE job_id IN :ids AND outcome = 'running'
        RETURNING job_id, attempt, cost_picousd
        """).bindparams(listed),
        {"ids": ids},
    )
    calls = {row.job_id: EndedCall.lost(row.attempt, row.cost_picousd) for row in lost}
    return [ended(row, calls.get(row.id)) for row in rows]


def expire(conn: Connection, *, limit: int = 256, only: str | None = None) -> list[Ended]:
    """End queued jobs whose time is up (`only`: this one). The caller commits.

    `settle` ends the time of a job that goes back to the queue although its cancellation was asked for.
    """
    now = now_sql(conn)
    verdict = "CASE WHEN cancel_requested_at IS NULL THEN 'expired' ELSE 'cancelled' END"
    rows = conn.execute(
        # As a subquery PostgreSQL might run it once per row, each time with other rows, and the limit would be none.
        text(f"""
        WITH due AS MATERIALIZED (
            SELECT id FROM jobs {"" if is_postgres(conn) else "INDEXED BY ix_jobs_expiring"}
            WHERE status = 'queued' AND expires_at <= {now} {_only(only)}
            ORDER BY expires_at LIMIT :limit {_for_update(conn)}
        )
        UPDATE jobs SET status = {verdict}, finished_at = {now}, waiting_on = NULL, error_class = {verdict},
            fence = fence + 1, seq = {FIRST_END},
            error_message = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled on request'
                ELSE 'not finished within its time to live' || COALESCE('; last error: ' || error_message, '') END
        WHERE id IN (SELECT id FROM due) AND status || '' = 'queued'
        RETURNING {RETURNED}
        """),
        {"limit": limit} | ({"only": only} if only is not None else {}),
    )
    return [ended(row) for row in rows]


def overdue(conn: Connection, *, limit: int = 256, beyond: int = 0) -> list[str]:
    """Jobs whose lease or whose time is up: those that `reclaim` and `expire` are about; `limit` more than `beyond` of each."""
    now = now_sql(conn)
    lite = not is_postgres(conn)
    found: list[str] = []
    for index, condition in (
        ("ix_jobs_running", f"status = 'in_progress' AND lease_until < {now}"),
        ("ix_jobs_expiring", f"status = 'queued' AND expires_at <= {now}"),
    ):
        hint = f"INDEXED BY {index}" if lite else ""
        rows = conn.execute(
            text(f"SELECT id FROM jobs {hint} WHERE {condition} LIMIT :limit"), {"limit": limit + beyond}
        )
        found += [row[0] for row in rows]
    return found


def _only(job: str | None) -> str:
    return "" if job is None else "AND id = :only"


def steady_sql(conn: Connection, since: str = "") -> str:
    """SQL: the database answered a moment ago, and has for a lease (and since that moment, if it is given).

    Read by its clock when the statement runs, which takes `steady_params`. A statement that had to wait (for a lock, for a
    frozen server) finds that the moment is long gone.
    """
    longer = f"AND leases.steady_since <= {since}" if since else ""
    return f"""AND EXISTS (SELECT 1 FROM leases WHERE name = :name AND leases.seen_at > {after_sql(conn, ":silent")}
        AND leases.steady_since <= {after_sql(conn, ":steady")} {longer})"""


def steady_params(lease: float) -> dict[str, object]:
    """What a statement with `steady_sql` takes; `lease` in seconds."""
    return {"name": SWEEPER, "steady": -lease, "silent": -lease * SILENT_PART}


def elect(conn: Connection, name: str, owner: str, *, seconds: float, lease: float = 0.0) -> bool:
    """Take or keep the lease called `name` for `seconds`; False while another worker holds it. The caller commits.

    With `lease`, a job's in seconds, each candidate notes that the database answers, writing to `jobs` included.
    After a silence longer than `SILENT_PART` of such a lease the database is steady only from now on; and after its clock
    was set back by more than that, which ends the election from before: by its old times the database would be steady,
    and the lease free, only when the clock is there again.

    Who cannot have it and has nothing new to note writes nothing: an update that finds its row taken would lock it, and
    flush that to the disk.
    """
    if lease:
        # Changes nothing, and waits while another transaction holds a lock that keeps heartbeats from renewing leases.
        conn.execute(text("UPDATE jobs SET lease_until = lease_until WHERE id = ''"))
    now = now_sql(conn)
    ahead = lease * SILENT_PART or seconds
    if is_held(conn, name, owner, lease=lease, ahead=ahead):
        return False
    set_back = f"leases.seen_at > {after_sql(conn, ':ahead')}"
    mine = f"leases.owner = excluded.owner OR leases.until < {now} OR {set_back}"
    silent = f"leases.seen_at IS NULL OR leases.seen_at < {after_sql(conn, ':silent')} OR {set_back}"
    row = conn.execute(
        text(f"""
        INSERT INTO leases (name, owner, until, seen_at, steady_since)
        VALUES (:name, :owner, {after_sql(conn, ":seconds")}, {now}, {now})
        ON CONFLICT (name) DO UPDATE SET
            owner = CASE WHEN {mine} THEN excluded.owner ELSE leases.owner END,
            until = CASE WHEN {mine} THEN excluded.until ELSE leases.until END,
            steady_since = CASE WHEN {silent} THEN excluded.steady_since ELSE leases.steady_since END,
            seen_at = excluded.seen_at
        RETURNING owner
        """),
        {
            "name": name,
            "owner": owner,
            "seconds": seconds,
            "silent": -lease * SILENT_PART,
            "ahead": ahead,
        },
    ).one()
    return bool(row.owner == owner)


def is_held(conn: Connection, name: str, owner: str, *, lease: float, ahead: float | None = None) -> bool:
    """Whether another worker than `owner` has the lease called `name` and has noted with it that the database answers.

    `lease` as in `elect`: what is noted there may be a fourth of it old. What is noted as of more than `ahead` seconds
    from now (`SILENT_PART` of a lease) was noted before the database's clock was set back: it counts no more.
    """
    fresh = f"AND seen_at > {after_sql(conn, ':fresh')}" if lease else ""
    held = conn.execute(
        text(f"""
        SELECT 1 FROM leases WHERE name = :name AND owner <> :owner AND until >= {now_sql(conn)} {fresh}
            AND (seen_at IS NULL OR seen_at <= {after_sql(conn, ":ahead")})
        """),
        {"name": name, "owner": owner, "ahead": lease * SILENT_PART if ahead is None else ahead}
        | ({"fresh": -lease * SILENT_PART / 2} if lease else {}),
    )
    return held.first() is not None


def steady_since(conn: Connection) -> object:
    """Since when the database has been steady, as the sweepers noted it: another value after each silence or step of its clock."""
    return conn.execute(text("SELECT steady_since FROM leases WHERE name = :name"), {"name": SWEEPER}).scalar()


def unclaimed(conn: Connection, claims: Mapping[str, int]) -> set[str]:
    """Those of these claims (fence by job) that were taken back although their job was not claimed since."""
    rows = conn.execute(
        text("SELECT id, fence FROM jobs WHERE id IN :ids AND status = 'queued'").bindparams(
            bindparam("ids", expanding=True)
        ),
        {"ids": list(claims)},
    )
    return {row.id for row in rows if claims[row.id] == row.fence}


def release(conn: Connection, name: str, owner: str) -> None:
    """Give up the lease called `name`, if it is `owner`'s. The caller commits."""
    conn.execute(text("DELETE FROM leases WHERE name = :name AND owner = :owner"), {"name": name, "owner": owner})


def resign(conn: Connection, owner: str) -> None:
    """Give up every named lease of `owner`, so that a successor need not wait. The caller commits."""
    conn.execute(
        text(f"UPDATE leases SET until = {after_sql(conn, '-1')} WHERE owner = :owner"),
        {"owner": owner},
    )


def remove(conn: Connection, name: str) -> None:
    """Forget the lease called `name`. The caller commits."""
    conn.execute(text("DELETE FROM leases WHERE name = :name"), {"name": name})


def _for_update(conn: Connection) -> str:
    return "FOR UPDATE SKIP LOCKED" if is_postgres(conn) else ""
