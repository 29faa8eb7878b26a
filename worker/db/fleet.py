"""The fleet in numbers, for gauges, `stockpot top`, `status` and the dashboard. Reads only.

Each query ends within what waits or runs, never within history, and counts to `AT_MOST`: beyond that a number changes
a difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy import Connection, text

from worker.base.money import PICO
from worker.db.budgets.tables import ALL_TENANTS, SHUT
from worker.db.clock import day_sql, is_postgres, now_sql, seconds_until_sql
from worker.db.workers import registry

#: Rows that one count reads: some ten milliseconds within a partial index.
AT_MOST = 100_000
#: Budgets with gauges of their own; more than these would make as many time series.
BUDGETS_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class LaneState:
    """One lane. `due`: queued and due; `later`: queued for a later time; `oldest_due_seconds`: 0 when nothing is due.

    Lines of batches are counted by their batches: `due` has those of batches that admit lines, `held` the others.
    """

    due: int = 0
    later: int = 0
    held: int = 0
    in_progress: int = 0
    oldest_due_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget in dollars; `left` may be below zero. `tenant` is `*` for all tenants together."""

    tenant: str
    period: str
    limit: Decimal
    spent: Decimal
    shut: bool


@dataclass(frozen=True, slots=True)
class FleetState:
    """The fleet at one moment, by the database's clock. Seconds; `sweeper_seconds` is how long the leader's term lasts.

    `sweeper_seconds` is negative when the term ran out (there is no sweeper), None when no worker was ever elected.
    """

    lanes: dict[str, LaneState]
    held_batches: dict[str, int]
    waiting_on: dict[str, int]
    webhooks_oldest_seconds: float
    workers_alive: int
    workers_silent: int
    sweeper_seconds: float | None
    budgets: list[BudgetState] = field(default_factory=list)


def is_anything_open(conn: Connection) -> bool:
    """Whether the sweeper has anything to look after: a job or a batch that is not over, a budget that is shut."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_unfinished"
    return bool(
        conn.execute(
            text(f"""
            SELECT EXISTS (SELECT 1 FROM jobs {hint} WHERE finished_at IS NULL)
                OR EXISTS (SELECT 1 FROM batches WHERE status IN ('in_progress', 'cancelling'))
                OR EXISTS (SELECT 1 FROM budgets WHERE needs_picousd IS NOT NULL OR recount
                    OR (used_up_on IS NULL AND spent_picousd >= limit_picousd
                        AND (period = 'total' OR day = {day_sql(conn, now_sql(conn))})))
            """)
        ).scalar_one()
    )


def read(conn: Connection) -> FleetState:
    """Read it all."""
    workers = registry.listed(conn)
    alive = sum(row.alive for row in workers)
    return FleetState(
        lanes={"interactive": _lane(conn, "interactive"), "bulk": _lane(conn, "bulk")},
        held_batches={
            row.hold_reason: row.lines
            for row in conn.execute(
                text(
                    "SELECT held AS hold_reason, count(*) AS lines FROM batches WHERE status IN ('in_progress', 'cancelling') AND status = 'in_progress' AND held IS NOT NULL"
                    " GROUP BY held"
                )
            )
        },
        waiting_on={
            row.waiting_on: row.lines
            for row in conn.execute(
                text(
                    f"SELECT waiting_on, count(*) AS lines FROM (SELECT COALESCE(j.waiting_on, CASE WHEN {SHUT.format(tenant='j.tenant')}"
                    " THEN 'budget' END) AS waiting_on FROM jobs AS j WHERE j.status = 'queued'"
                    " AND j.batch_id IS NULL LIMIT :most) AS seen WHERE waiting_on IS NOT NULL GROUP BY waiting_on"
                ),
                {"most": AT_MOST},
            )
        },
        webhooks_oldest_seconds=_age(
            conn,
            "SELECT min(created_at) FROM (SELECT created_at FROM webhook_events"
            " WHERE status = 'pending' ORDER BY due_at LIMIT 1000) AS seen",
        ),
        workers_alive=alive,
        workers_silent=len(workers) - alive,
        sweeper_seconds=_until(conn, "SELECT until FROM leases WHERE name = 'sweeper'"),
        budgets=_budgets(conn),
    )


def _lane(conn: Connection, lane: str) -> LaneState:
    now = now_sql(conn)
    alone = conn.execute(
        text(f"""
        SELECT count(CASE WHEN due_at <= {now} THEN 1 END) AS due, count(CASE WHEN due_at > {now} THEN 1 END) AS later
        FROM (SELECT due_at FROM jobs WHERE status = 'queued' AND batch_id IS NULL AND lane = :lane LIMIT :most) AS seen
        """),
        {"lane": lane, "most": AT_MOST},
    ).one()
    oldest = _age(
        conn,
        f"""SELECT min(due_at) FROM (SELECT due_at FROM jobs WHERE status = 'queued' AND batch_id IS NULL
            AND lane = :lane AND due_at <= {now} LIMIT :most) AS seen""",
        lane=lane,
        most=AT_MOST,
    )
    running = conn.execute(
        text("SELECT count(*) FROM jobs WHERE status = 'in_progress' AND lane = :lane"), {"lane": lane}
    ).scalar_one()
    if lane != "bulk":
        return LaneState(alone.due, alone.later, 0, running, oldest)
    lines = conn.execute(
        text(f"""
        SELECT COALESCE(sum(CASE WHEN held IS NULL AND due_at <= {now} THEN waiting END), 0) AS due,
            COALESCE(sum(CASE WHEN held IS NULL AND due_at > {now} THEN waiting END), 0) AS later,
            COALESCE(sum(CASE WHEN held IS NOT NULL THEN waiting END), 0) AS held
        FROM (SELECT held, due_at, imported - copies - completed - failed - cancelled - expired + copied AS waiting
              FROM batches WHERE status IN ('in_progress', 'cancelling') AND status = 'in_progress') AS open
        """)
    ).one()
    batches = _age(
        conn,
        f"""SELECT min(first_due) FROM (SELECT (SELECT j.due_at FROM jobs AS j WHERE j.batch_id = b.id
                AND j.status = 'queued' ORDER BY j.due_at, j.id LIMIT 1) AS first_due
            FROM batches AS b WHERE b.status IN ('in_progress', 'cancelling') AND b.status = 'in_progress' AND b.held IS NULL) AS open
            WHERE first_due <= {now}""",
    )
    due = max(0, int(lines.due) - running)
    return LaneState(alone.due + due, alone.later + int(lines.later), int(lines.held), running, max(oldest, batches))


def _age(conn: Connection, moment: str, **values: object) -> float:
    """Seconds since the moment that a query gives; 0 when it gives none or one to come."""
    left = conn.execute(text(f"SELECT {seconds_until_sql(conn, f'({moment})')}"), values).scalar_one()
    return 0.0 if left is None else max(0.0, -float(left))


def _until(conn: Connection, moment: str) -> float | None:
    left = conn.execute(text(f"SELECT {seconds_until_sql(conn, f'({moment})')}")).scalar_one()
    return None if left is None else float(left)


def _budgets(conn: Connection) -> list[BudgetState]:
    today = day_sql(conn, now_sql(conn))
    rows = conn.execute(
        text(f"""
        SELECT tenant, period, limit_picousd, needs_picousd IS NOT NULL AS shut,
            CASE WHEN period = 'day' AND day <> {today} THEN 0 ELSE spent_picousd END AS spent
        FROM budgets ORDER BY CASE WHEN tenant = '{ALL_TENANTS}' THEN 0 ELSE 1 END, spent_picousd DESC LIMIT :most
        """),
        {"most": BUDGETS_AT_MOST},
    )
    return [
        BudgetState(row.tenant, row.period, row.limit_picousd / PICO, row.spent / PICO, bool(row.shut)) for row in rows
    ]
