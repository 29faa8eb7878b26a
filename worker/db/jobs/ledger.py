"""The ledger against the provider's books: which attempts are still to be compared, and what came of it.

`attempts.reconciled` is how an attempt stands in the provider's log:

    matched     it is there, and we have its answer (and now its cost, if the answer did not state it)
    orphaned    it was billed, and its answer is lost
    unbilled    it is not there, or at no cost
    late        it is not there yet, and the provider may still be writing it: to be asked for again
    due         it was sent, its cost is unknown, and the log was not asked yet
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Connection, Text, bindparam, text

from worker.base.money import PICO, picousd
from worker.db.clock import after_sql, day_sql, is_postgres, now_sql
from worker.db.columns import Instant
from worker.db.jobs import costs, usage_days
from worker.db.jobs.costs import Correction
from worker.db.jobs.lookup import moment

#: The mark of a call whose cost the provider has not stated: the workers look it up by themselves.
DUE = "due"
LATE = "late"
#: What has no final mark yet. A call that still runs has no end to compare.
_OVER = "a.outcome <> 'running'"
_OPEN = f"(a.reconciled IS NULL OR a.reconciled IN ('due', 'late')) AND {_OVER}"
#: The same marks as two conditions, each of which an index has.
_OPEN_MARKS = (
    "a.reconciled IS NULL OR a.reconciled = 'late'",
    "a.reconciled = 'due' AND a.reconciled IN ('due', 'late')",
)
_ENTRY = "a.job_id, a.attempt, a.outcome, a.started_at, a.finished_at, a.inference_id, a.cost_picousd, a.cost_source"

#: PostgreSQL wants to know the type of a parameter that may be null.
_TYPED: list[Any] = [
    *(bindparam(name, type_=BigInteger()) for name in ("cost", "input", "output", "total")),
    bindparam("inference_id", type_=Text()),
]


@dataclass(frozen=True, slots=True)
class Entry:
    """An attempt that is to be compared."""

    job_id: str
    attempt: int
    outcome: str
    started_at: datetime
    finished_at: datetime
    inference_id: str | None = None
    cost_usd: Decimal | None = None
    cost_source: str | None = None

    @property
    def client_request_id(self) -> str:
        """What the provider's log calls it."""
        return f"{self.job_id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class Mark:
    """The result of the comparison. Tokens and cost are the provider's; None leaves what the ledger has."""

    job_id: str
    attempt: int
    reconciled: str
    cost_usd: Decimal | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    inference_id: str | None = None


def now(conn: Connection) -> datetime:
    """The database's clock."""
    return _moment(conn.execute(text(f"SELECT {now_sql(conn)}")).scalar_one())


def first_open(conn: Connection, since: datetime | None) -> datetime | None:
    """When the oldest attempt without a final mark began; None when there is none."""
    after = "AND a.started_at >= :since" if since is not None else ""
    found: list[datetime] = []
    for mark in _OPEN_MARKS:
        statement = text(f"SELECT MIN(a.started_at) FROM attempts AS a WHERE ({mark}) AND {_OVER} {after}")
        if since is not None:
            statement = statement.bindparams(bindparam("since", since, type_=Instant()))
        first = conn.execute(statement).scalar()
        found += [] if first is None else [_moment(first)]
    return min(found, default=None)


def open_between(conn: Connection, begin: datetime, end: datetime) -> list[Entry]:
    """The attempts without a final mark that began within [begin, end)."""
    found: list[Entry] = []
    for mark in _OPEN_MARKS:
        statement = text(f"""
            SELECT {_ENTRY} FROM attempts AS a
            WHERE ({mark}) AND {_OVER} AND a.started_at >= :begin AND a.started_at < :end
        """).bindparams(bindparam("begin", begin, type_=Instant()), bindparam("end", end, type_=Instant()))
        found += [_entry(row) for row in conn.execute(statement)]
    return found


def entries(conn: Connection, jobs: Sequence[str]) -> list[Entry]:
    """The attempts of these jobs that are over and have no final mark."""
    statement = text(f"""
        SELECT {_ENTRY} FROM attempts AS a
        WHERE {_OPEN} AND a.job_id IN :jobs
    """).bindparams(bindparam("jobs", expanding=True))
    return [_entry(row) for row in conn.execute(statement, {"jobs": list(jobs)})]


def unasked(conn: Connection, mark: str, *, grace: float, limit: int) -> list[Entry]:
    """The calls marked `due` or `late` that ended at least `grace` seconds ago, oldest jobs first."""
    statement = text(f"""
        SELECT {_ENTRY} FROM attempts AS a
        WHERE a.reconciled = :mark AND a.reconciled IN ('due', 'late') AND a.outcome <> 'running'
            AND a.finished_at <= {after_sql(conn, ":ago")}
        ORDER BY a.job_id LIMIT :limit
    """)
    return [_entry(row) for row in conn.execute(statement, {"mark": mark, "ago": -grace, "limit": limit})]


def is_any_unasked(conn: Connection) -> bool:
    """Whether any call is marked `due` or `late`. Reads one row of an index that holds only those."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_attempts_unasked"
    one = text(f"SELECT 1 FROM attempts {hint} WHERE reconciled IN ('due', 'late') LIMIT 1")
    return conn.execute(one).first() is not None


def _entry(row: Any) -> Entry:
    return Entry(
        row.job_id,
        row.attempt,
        row.outcome,
        _moment(row.started_at),
        _moment(row.finished_at),
        inference_id=row.inference_id,
        cost_usd=None if row.cost_picousd is None else Decimal(row.cost_picousd) / PICO,
        cost_source=row.cost_source,
    )


def _moment(value: Any) -> datetime:
    found = moment(value)
    if found is None:
        raise ValueError("the ledger has an attempt that is over and has no time")
    return found


def mark(conn: Connection, marks: Sequence[Mark]) -> None:
    """Write marks. A cost that the provider stated is not overwritten; an estimate, or nothing, is.

    What that changes in the ledger is counted in batches, days and budgets, in the order in which an end counts it. The
    caller commits.
    """
    if not marks:
        return
    calls = [(one.job_id, one.attempt) for one in marks]
    _lock(conn, calls)
    corrections = _corrections(conn, marks)
    costs.correct_batches(conn, corrections)
    usage_days.count(conn, calls, sign=-1)
    conn.execute(
        text("""
        UPDATE attempts SET reconciled = :reconciled,
            counted = CASE WHEN counted IS NOT NULL OR total_tokens IS NULL AND cost_picousd IS NULL THEN
                CASE WHEN COALESCE(total_tokens, CAST(:total AS bigint), cost_picousd, CAST(:cost AS bigint)) IS NOT NULL
                THEN true END END,
            cost_picousd = CASE WHEN CAST(:cost AS bigint) IS NULL OR cost_source = 'provider' THEN cost_picousd ELSE CAST(:cost AS bigint) END,
            cost_source = CASE WHEN CAST(:cost AS bigint) IS NULL THEN cost_source ELSE 'provider' END,
            input_tokens = COALESCE(input_tokens, CAST(:input AS bigint)), output_tokens = COALESCE(output_tokens, CAST(:output AS bigint)),
            total_tokens = COALESCE(total_tokens, CAST(:total AS bigint)), inference_id = COALESCE(inference_id, :inference_id)
        WHERE job_id = :job AND attempt = :attempt AND outcome <> 'running'
            AND (reconciled IS NULL OR reconciled IN ('due', 'late'))
        """).bindparams(*_TYPED),
        [
            {
                "job": one.job_id,
                "attempt": one.attempt,
                "reconciled": one.reconciled,
                "cost": picousd(one.cost_usd),
                "input": one.input_tokens,
                "output": one.output_tokens,
                "total": one.total_tokens,
                "inference_id": one.inference_id,
            }
            for one in marks
        ],
    )
    usage_days.count(conn, calls)
    costs.correct_budgets(conn, corrections)


def _lock(conn: Connection, calls: Sequence[tuple[str, int]]) -> None:
    """Wait for the transaction that is changing these calls, so that what is taken out of their days is what it added."""
    if is_postgres(conn):
        statement = text("""
            SELECT 1 FROM attempts WHERE (job_id, attempt) IN :calls ORDER BY job_id, attempt FOR UPDATE
        """).bindparams(bindparam("calls", expanding=True))
        conn.execute(statement, {"calls": calls})


def _corrections(conn: Connection, marks: Sequence[Mark]) -> list[Correction]:
    """What these marks change in the ledger's costs."""
    found = {(one.job_id, one.attempt): picousd(one.cost_usd) for one in marks if one.cost_usd is not None}
    if not found:
        return []
    rows = conn.execute(
        text(f"""
        SELECT a.job_id, a.attempt, a.cost_picousd, j.tenant, j.batch_id, {day_sql(conn, "a.finished_at")} AS day
        FROM attempts AS a JOIN jobs AS j ON j.id = a.job_id
        WHERE (a.job_id, a.attempt) IN :calls AND {_OPEN} AND (a.cost_source IS NULL OR a.cost_source = 'estimated')
        """).bindparams(bindparam("calls", expanding=True)),
        {"calls": list(found)},
    )
    return [
        Correction(row.tenant, row.day, row.batch_id, found[row.job_id, row.attempt] - (row.cost_picousd or 0))
        for row in rows
    ]


def billed(conn: Connection, marks: Sequence[Mark]) -> list[tuple[str, Decimal]]:
    """The model and the cost of each of these calls that was billed."""
    costs = {one.job_id: one.cost_usd for one in marks if one.cost_usd}
    if not costs:
        return []
    statement = text("SELECT id, model FROM jobs WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
    return [(row.model, costs[row.id]) for row in conn.execute(statement, {"ids": list(costs)})]


def due_now(conn: Connection, jobs: Sequence[str]) -> list[tuple[str, str]]:
    """Let queued jobs that waited for a look-up go on; lane and id of those that did. The caller commits."""
    if not jobs:
        return []
    rows = conn.execute(
        text(f"""
        UPDATE jobs SET due_at = {now_sql(conn)}
        WHERE id IN :ids AND status = 'queued' AND due_at > {now_sql(conn)} RETURNING lane, id
        """).bindparams(bindparam("ids", expanding=True)),
        {"ids": list(jobs)},
    )
    return [(row.lane, row.id) for row in rows]
