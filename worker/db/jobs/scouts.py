"""Which job finds out whether a paused model or account takes calls again.

Not one that was refused for the account itself while another waits: the refusal may be its own. All workers read the same
rows, so that this holds for the fleet. What is looked at is bounded: behind many rows that cannot go, a job is missed, and
asked for again soon.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, text

from worker.db.budgets.tables import SHUT
from worker.db.clock import is_postgres, now_sql
from worker.db.jobs.tenant_fairness import ALONE, groups

#: Classes of the error that a refusal for the account leaves with its job.
REFUSED_CLASSES = frozenset({"account", "authentication"})
_REFUSED = "COALESCE(error_class, '') IN ('account', 'authentication')"
#: What keeps a job from its call beside the pause; such a job finds nothing out.
_STUCK = "COALESCE(waiting_on, '') IN ('budget', 'price', 'payload_key')"
#: Rows of one queue that are looked at.
_MOST_ROWS = 1_000
_BATCHES = "status = 'in_progress' AND held IS NULL AND due_at <= {now} AND expires_at > {now}"


def next_of(conn: Connection, model: str, lanes: Collection[str]) -> str | None:
    """A due job of the model in these lanes, one that was not refused before others; None if there is none."""
    found = [
        row
        for lane in sorted(lanes)
        for tenant in _tenants(conn, lane, model)
        if (row := _first(conn, f"{ALONE} AND lane = :lane AND tenant = :tenant AND model = :model", "ix_jobs_queued",
            lane=lane, tenant=tenant, model=model)) is not None
    ]  # fmt: skip
    if not any(not refused for _, refused in found) and "bulk" in lanes:
        found += [row for batch in _open(conn) if (row := _first_line(conn, batch, model)) is not None]
    return min(found, key=lambda row: row[1])[0] if found else None


def others_wait(conn: Connection, job: str, lanes: Collection[str]) -> bool:
    """Whether another job, one that was not refused itself, is due in these lanes or in a worker's hands."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_running"
    running = text(f"SELECT 1 FROM jobs {hint} WHERE status = 'in_progress' AND id <> :job AND NOT {_REFUSED} LIMIT 1")
    if conn.execute(running, {"job": job}).first() is not None:
        return True
    for lane in sorted(lanes):
        for tenant in _tenants(conn, lane, None):
            row = _first(
                conn, f"{ALONE} AND lane = :lane AND tenant = :tenant", "ix_jobs_queued", lane=lane, tenant=tenant
            )
            if row is not None and not row[1]:
                return True
    if "bulk" not in lanes:
        return False
    lines = (_first_line(conn, batch, None) for batch in _open(conn))
    return any(row is not None and not row[1] for row in lines)


def _tenants(conn: Connection, lane: str, model: str | None) -> list[str]:
    """The tenants whose jobs wait in a lane (for a model) and may be paid for."""
    pairs, shut = groups(conn, lane, None)
    return list(dict.fromkeys(tenant for tenant, its in pairs if tenant not in shut and model in (None, its)))


def _open(conn: Connection) -> list[str]:
    """The batches whose lines may be claimed one by one."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_batches_active"
    query = f"""
        SELECT id FROM batches {hint}
        WHERE status IN ('in_progress', 'cancelling') AND {_BATCHES.format(now=now_sql(conn))}
            AND NOT {SHUT.format(tenant="batches.tenant")} AND imported > completed + failed + cancelled + expired
        ORDER BY id
    """
    return [row.id for row in conn.execute(text(query))]


def _first_line(conn: Connection, batch: str, model: str | None) -> tuple[str, bool] | None:
    where = "status = 'queued' AND batch_id IS NOT NULL AND batch_id = :batch"
    return _first(conn, where, "ix_jobs_queued_line", model=model, batch=batch)


def _first(
    conn: Connection, where: str, index: str, *, model: str | None = None, **given: str
) -> tuple[str, bool] | None:
    """The job of these that goes first, and whether it was refused itself."""
    query = f"""
        SELECT id, {_REFUSED} AS refused FROM (
            SELECT id, model, due_at, error_class, waiting_on FROM jobs {"" if is_postgres(conn) else f"INDEXED BY {index}"}
            WHERE {where} AND due_at <= {now_sql(conn)} AND expires_at > {now_sql(conn)} ORDER BY due_at, id LIMIT {_MOST_ROWS}
        ) AS due
        WHERE NOT ({_STUCK}){"" if model is None else " AND model = :model"} ORDER BY refused, due_at, id LIMIT 1
    """
    row = conn.execute(text(query), given if model is None else {**given, "model": model}).first()
    return None if row is None else (row.id, bool(row.refused))
