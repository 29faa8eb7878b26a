"""Which batches admit lines now, and how many: what the feeder asks before it claims.

A batch that is held, not due or not in progress is simply not in the list. One with a bound (calls in flight, or
money) is claimed under a lock on its row, so that all workers together keep the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from worker.db.budgets.tables import SHUT
from worker.db.clock import is_postgres, now_sql
from worker.db.jobs import claim

#: The first condition is that of the index `ix_batches_active`, to the letter: SQLite draws no conclusions.
_OPEN = "status IN ('in_progress', 'cancelling') AND status = 'in_progress' AND held IS NULL AND due_at <= {now} AND expires_at > {now}"
_AFFORDED = f"NOT {SHUT.format(tenant='batches.tenant')}"
#: A batch none of whose lines was answered yet may be one whose lines all fail: its first are called alone. Not of a
#: stored file: a user of the gateway expects OpenAI's batch, which calls them all.
_UNPROVEN = "(completed = 0 AND input_file_id IS NULL)"
_BOUND = f"most IS NOT NULL OR max_cost_picousd IS NOT NULL OR {_UNPROVEN}"
#: Calls in flight, and failed lines, before the first line is answered: enough to know, and a moment's work.
FIRST_LINES = 20


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch whose lines may be claimed; `bound`: not without asking for room."""

    id: str
    tenant: str
    bound: bool
    model: str | None = None  # of all its lines; None when they name several


def open_batches(conn: Connection) -> list[OpenBatch]:
    """The batches that admit lines and have some left, oldest first."""
    rows = conn.execute(
        text(f"""
        SELECT id, tenant, model, ({_BOUND}) AS bound
        FROM batches {"" if is_postgres(conn) else "INDEXED BY ix_batches_active"}
        WHERE {_OPEN.format(now=now_sql(conn))} AND {_AFFORDED} AND imported > completed + failed + cancelled + expired
        ORDER BY id
        """)
    )
    return [OpenBatch(row.id, row.tenant, bool(row.bound), row.model) for row in rows]


def claim_lines(
    conn: Connection, batch: OpenBatch, limit: int, *, owner: str, lease: float, held: list[str]
) -> list[claim.ClaimedJob]:
    """Claim up to `limit` due lines of a batch, in the order of the file. The caller commits."""
    if batch.bound:
        limit = min(limit, _room(conn, batch.id))
    if limit <= 0:
        return []
    return claim.claim_due(conn, "bulk", limit, owner=owner, lease=lease, held=held, batch=batch.id)


def _room(conn: Connection, batch: str) -> int:
    """How many more lines may be in flight. Locks the batch's row."""
    row = conn.execute(
        text(f"""
        SELECT most AS in_flight_limit, max_cost_picousd, cost_picousd, quoted_picousd, total - duplicates AS jobs,
            completed + failed - copied AS priced, {_UNPROVEN} AS unproven, failed - copied - failures_excused AS failures
        FROM batches WHERE id = :id AND {_OPEN.format(now=now_sql(conn))} {"FOR UPDATE" if is_postgres(conn) else ""}
        """),
        {"id": batch},
    ).first()
    if row is None:
        return 0
    running = in_flight(conn, batch)
    room = claim.MOST if row.in_flight_limit is None else row.in_flight_limit - running
    if row.max_cost_picousd is not None:
        each = line_picousd(row.cost_picousd, row.priced, row.quoted_picousd, row.jobs)
        left = row.max_cost_picousd - row.cost_picousd
        if each:
            room = min(room, left // each - running)
        elif row.quoted_picousd is None or not row.priced:
            room = min(room, FIRST_UNPRICED - running)
    if row.unproven:
        room = min(room, FIRST_LINES - row.failures - running)
    return int(room)


#: Calls in flight while the cost of a line is unknown: the first answers show it.
FIRST_UNPRICED = 4


def line_picousd(cost: int, ended: int, quoted: int | None, jobs: int) -> int:
    """What to reserve for a line that is called for, in 1e-12 US dollars: the dearer of quote and experience.

    0 when neither is known. Copies are not called for: they are neither among the `ended` nor among the `jobs`.
    """
    seen = -(-cost // ended) if ended else 0
    return max(seen, -(-(quoted or 0) // max(1, jobs)))


def in_flight(conn: Connection, batch: str) -> int:
    """Lines of a batch that workers hold now."""
    return sum(in_flight_by_model(conn, batch).values())


def in_flight_by_model(conn: Connection, batch: str) -> dict[str, int]:
    """Lines of a batch that workers hold now, by model."""
    # The few rows in progress, not the many of the batch.
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_running"
    query = text(
        f"SELECT model, count(*) AS lines FROM jobs {hint} WHERE status = 'in_progress' AND batch_id = :id GROUP BY model"
    )
    return {row.model: row.lines for row in conn.execute(query, {"id": batch})}
