"""Budgets: money is reserved before a call, and the call's cost is charged with its result.

    reserve    before the call: it fits into every budget that governs it, or those that lack room become shut
    charge     with the end of the call, in its transaction: adds its cost in the ledger
    tend       once in each sweep: opens a shut budget that has room again
    use_up     once in each sweep: which budgets are used up and were not announced yet
    put        by an operator: set, raise, lower, remove

A reservation is a number in the row of its attempt. It counts while the job is in progress under that claim, and
ends with the claim: by an answer, a failure, a cancellation, or a sweep after the worker's death. If the cost is unknown
then, the transaction that ends the claim writes the reservation to the ledger as the call's estimated cost and charges
it: it counts as spent until the provider's log has the real cost.
A lock on a budget's row makes its reservations one after the other. All code takes locks in the order
jobs, attempts, budgets (by tenant and period).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, text

from worker.db.budgets.budget import Budget, budget_of
from worker.db.budgets.tables import ALL_TENANTS
from worker.db.clock import after_sql, day_sql, is_postgres, now_sql
from worker.db.jobs import usage_days
from worker.db.jobs.usage_days import calls_sql
from worker.db.refusals import ALL, Part
from worker.db.sums import added_sql

#: A claim that began before a budget was committed may not know of it; it has long begun by then, in seconds.
UNAWARE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A call for which money is to be reserved.

    `picousd` is None when its cost is unknown. With `guess` it takes what is left when that is less, but not
    less than `least`, or than calls of its model have cost of late, whichever workers made them. `bound`: its job has a
    bound of its own, so the amount is noted even where no budget governs it.
    """

    job_id: str
    attempt: int
    fence: int
    tenant: str
    picousd: int | None
    guess: bool = False
    bound: bool = False
    least: int = 1


class Reserved(NamedTuple):
    """The jobs whose calls do not fit, and what was reserved for the others, in 1e-12 US dollars."""

    refused: set[str]
    picousd: dict[str, int]


def reserve(conn: Connection, asks: Sequence[Ask]) -> Reserved:
    """Reserve money for calls. The caller commits.

    Calls are decided in the order of `asks`. A call of unknown cost takes all that is left, so that it
    is made and no other runs beside it.
    """
    governed = _governed(conn, {ask.tenant for ask in asks})
    ours = [ask for ask in asks if ALL_TENANTS in governed or ask.tenant in governed]
    noted = [(ask, ask.picousd) for ask in asks if ask.bound and ask.picousd is not None and ask not in ours]
    if not ours:
        _write_reserved(conn, noted)
        return Reserved(set(), {ask.job_id: amount for ask, amount in noted})
    _lock_attempts(conn, [*ours, *(ask for ask, _ in noted)])
    budgets = _read(conn, governed, lock=True)
    _add_reserved(conn, budgets, but={ask.job_id for ask in ours})  # what an earlier try of ours may have written
    fits: list[tuple[Ask, int]] = []
    refused: set[str] = set()
    usual: dict[str, int] | None = None
    for ask in ours:
        over = [budget for budget in budgets if budget.tenant in {ask.tenant, ALL_TENANTS}]
        room = min(budget.room for budget in over)
        wanted = room if ask.picousd is None else min(ask.picousd, room) if ask.guess else ask.picousd
        least = max(1, ask.least) if ask.guess else max(1, ask.picousd or 0)
        if ask.guess and least <= room < (ask.picousd or room + 1):
            if usual is None:  # seldom: the budget is nearly used up
                usual = usage_days.usual_picousd(conn, [one.job_id for one in ours if one.guess])
            least = max(least, usual.get(ask.job_id, 0))
        if room > 0 and wanted <= room and (room >= least or not ask.guess):
            fits.append((ask, wanted))
            for budget in over:
                budget.reserved_picousd += wanted
            continue
        refused.add(ask.job_id)
        for budget in over:
            if budget.room < least:
                budget.needs_picousd = min(least, budget.needs_picousd or least)
    _write_reserved(conn, noted + fits)
    _shut(conn, [budget for budget in budgets if refused and budget.needs_picousd is not None])
    return Reserved(refused, {ask.job_id: amount for ask, amount in noted + fits})


def _governed(conn: Connection, tenants: set[str]) -> set[str]:
    """Those of the tenants that have a budget, and ALL_TENANTS if that has one."""
    statement = text("SELECT DISTINCT tenant FROM budgets WHERE tenant IN :tenants").bindparams(_listed("tenants"))
    return {row[0] for row in conn.execute(statement, {"tenants": sorted({*tenants, ALL_TENANTS})})}


def _lock_attempts(conn: Connection, asks: Sequence[Ask]) -> None:
    """Lock attempts before budgets, as a settlement does."""
    if is_postgres(conn):
        statement = text(
            "SELECT 1 FROM attempts WHERE job_id IN :ids AND outcome = 'running' ORDER BY job_id FOR UPDATE"
        )
        conn.execute(statement.bindparams(_listed("ids")), {"ids": [ask.job_id for ask in asks]})


def _read(conn: Connection, tenants: Iterable[str] | None = None, *, lock: bool = False) -> list[Budget]:
    where = "" if tenants is None else "WHERE tenant IN :tenants"
    today = day_sql(conn, now_sql(conn))
    # The clock was set back behind the day that was counted last: what today has cost is in the days until `tend` corrects it.
    ahead = f"""
        (SELECT COALESCE(SUM(u.provider_picousd + u.estimated_picousd), 0) FROM usage_days AS u
        WHERE u.day = {today} AND budgets.tenant IN (u.tenant, '{ALL_TENANTS}'))
    """
    statement = text(f"""
        SELECT tenant, period, limit_picousd, needs_picousd, set_at, recount, used_up_on,
            CASE WHEN period = 'total' OR day = {today} THEN spent_picousd WHEN day > {today} THEN {ahead} ELSE 0 END
                AS spent_picousd
        FROM budgets {where} ORDER BY tenant, period {"FOR UPDATE" if lock and is_postgres(conn) else ""}
    """)
    if tenants is None:
        rows = conn.execute(statement)
    else:
        rows = conn.execute(statement.bindparams(_listed("tenants")), {"tenants": sorted(tenants)})
    return [budget_of(row) for row in rows]


def _add_reserved(conn: Connection, budgets: Sequence[Budget], but: Collection[str] = ()) -> None:
    """Add up the reservations of all claims in force, except (`but`) these jobs': one row per call in flight."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_running"
    rows = conn.execute(
        text(f"""
        SELECT j.id, j.tenant, a.reserved_picousd FROM jobs AS j {hint}
        JOIN attempts AS a ON a.job_id = j.id AND a.attempt = j.calls AND a.fence = j.fence
        WHERE j.status = 'in_progress' AND a.reserved_picousd IS NOT NULL
        """)
    )
    reserved: Counter[str] = Counter()
    for row in rows:
        if row.id not in but:
            reserved[row.tenant] += row.reserved_picousd
    for budget in budgets:
        of_all = budget.tenant == ALL_TENANTS
        budget.reserved_picousd = reserved.total() if of_all else reserved[budget.tenant]


def _write_reserved(conn: Connection, fits: Sequence[tuple[Ask, int]]) -> None:
    if not fits:
        return
    conn.execute(
        text("""
        UPDATE attempts SET reserved_picousd = :picousd
        WHERE job_id = :job AND attempt = :attempt AND fence = :fence AND outcome = 'running'
        """),
        [{"job": ask.job_id, "attempt": ask.attempt, "fence": ask.fence, "picousd": amount} for ask, amount in fits],
    )


def _shut(conn: Connection, budgets: Sequence[Budget]) -> None:
    for budget in budgets:
        conn.execute(
            text("UPDATE budgets SET needs_picousd = :needs WHERE tenant = :tenant AND period = :period"),
            {"tenant": budget.tenant, "period": budget.period, "needs": budget.needs_picousd},
        )


def charge(conn: Connection, calls: Sequence[tuple[str, int]]) -> None:
    """Charge the cost of calls (job id, attempt) that have just been written to the ledger. The caller commits."""
    if not calls:
        return
    rows = conn.execute(
        text(f"""
        SELECT j.tenant, {day_sql(conn, "a.finished_at")} AS day, SUM(a.cost_picousd) AS cost
        FROM {calls_sql(postgres=is_postgres(conn))} JOIN attempts AS a ON a.job_id = c.job AND a.attempt = c.attempt
        JOIN jobs AS j ON j.id = a.job_id WHERE a.cost_picousd <> 0 GROUP BY 1, 2
        """),
        {"calls": orjson.dumps([{"job": job, "attempt": attempt} for job, attempt in calls]).decode()},
    )
    spend(conn, {(row.tenant, row.day): int(row.cost) for row in rows})


def spend(conn: Connection, costs: Mapping[tuple[str, str], int]) -> None:
    """Charge costs, in 1e-12 US dollars by tenant and UTC day; below 0 where less was spent than was charged.

    A day that is over has its budget no more; the total has it. The caller commits.
    """
    if not costs or not (governed := _governed(conn, {tenant for tenant, _ in costs})):
        return
    budgets = _read(conn, governed, lock=True)
    for (tenant, day), cost in sorted(costs.items()):
        if not any(budget.tenant in {tenant, ALL_TENANTS} for budget in budgets):
            continue
        conn.execute(
            text(f"""
            UPDATE budgets SET
                spent_picousd = CASE WHEN period = 'total' OR day = :day THEN {added_sql("spent_picousd", ":cost")}
                    WHEN day IS NULL OR day < :day THEN :cost ELSE spent_picousd END,
                day = CASE WHEN period = 'total' THEN NULL WHEN day IS NULL OR day < :day THEN :day ELSE day END
            WHERE tenant IN (:tenant, '*')
            """),
            {"tenant": tenant, "day": day, "cost": cost},
        )


def governed(conn: Connection, _beyond: int = 0) -> list[str]:
    """The tenants that have a budget."""
    return [row[0] for row in conn.execute(text("SELECT DISTINCT tenant FROM budgets ORDER BY tenant"))]


def tend(conn: Connection, part: Part = ALL) -> None:
    """Open what has room again, and count once what began before the counting, of these tenants. The caller commits.

    A budget whose day is in the future, since the database's clock was set back, is counted anew for today.
    """
    found = conn.execute(
        text(f"""
        SELECT tenant, period, day > {day_sql(conn, now_sql(conn))} AS ahead FROM budgets
        WHERE needs_picousd IS NOT NULL OR recount OR day > {day_sql(conn, now_sql(conn))}
        ORDER BY tenant, period
        """)
    )
    rows = [row for row in found if row.tenant in part]
    if not rows:
        return
    for row in rows:
        if row.ahead:
            _recount(conn, row.tenant, row.period)
    budgets = _read(conn, {row.tenant for row in rows})
    _add_reserved(conn, budgets)
    for budget in budgets:
        needs = budget.needs_picousd
        if needs is not None and budget.room >= needs:
            conn.execute(
                text("""
                UPDATE budgets SET needs_picousd = NULL
                WHERE tenant = :tenant AND period = :period AND needs_picousd = :needs
                """),
                {"tenant": budget.tenant, "period": budget.period, "needs": needs},
            )
        if budget.recount and not _unaware(conn, budget):
            _recount(conn, budget.tenant, budget.period, final=True)


def use_up(conn: Connection, part: Part = ALL) -> list[Budget]:
    """These tenants' budgets that are used up and were not announced as that yet, marked as announced. The caller commits.

    A budget per day is announced once a day, one in all once; each again after it was set.
    """
    today = day_sql(conn, now_sql(conn))
    day = f"CASE WHEN period = 'day' THEN {today} ELSE 'total' END"
    fresh = f"(used_up_on IS NULL OR used_up_on <> {day})"
    rows = conn.execute(
        text(f"""
        SELECT DISTINCT tenant FROM budgets
        WHERE {fresh} AND (needs_picousd IS NOT NULL OR spent_picousd >= limit_picousd)
        """)
    )
    tenants = {row.tenant for row in rows if row.tenant in part}
    found = [one for one in _read(conn, tenants) if one.used_up] if tenants else []
    marked: list[Budget] = []
    for budget in found:
        done = conn.execute(
            text(f"""
            UPDATE budgets SET used_up_on = {day} WHERE tenant = :tenant AND period = :period AND {fresh}
            """),
            {"tenant": budget.tenant, "period": budget.period},
        )
        marked += [budget] * done.rowcount
    return marked


def _unaware(conn: Connection, budget: Budget) -> bool:
    """Whether calls may be in flight that began before this budget, so that no reservation counts them."""
    mine = "" if budget.tenant == ALL_TENANTS else "AND j.tenant = :tenant"
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_running"
    margin = after_sql(conn, f"-{UNAWARE_SECONDS}")
    found = conn.execute(
        text(f"""
        SELECT 1 WHERE EXISTS (
            SELECT 1 FROM budgets WHERE tenant = :budget AND period = :period AND set_at > {margin}
        ) OR EXISTS (
            SELECT 1 FROM jobs AS j {hint} JOIN attempts AS a ON a.job_id = j.id AND a.attempt = j.calls
            WHERE j.status = 'in_progress' {mine} AND a.started_at <= (
                SELECT {_plus(conn, "set_at", UNAWARE_SECONDS)} FROM budgets
                WHERE tenant = :budget AND period = :period
            )
        )
        """),
        {"budget": budget.tenant, "period": budget.period, "tenant": budget.tenant},
    )
    return found.first() is not None


def _plus(conn: Connection, at: str, seconds: float) -> str:
    if is_postgres(conn):
        return f"{at} + make_interval(secs => {seconds})"
    return f"strftime('%Y-%m-%d %H:%M:%f', {at}, '+{seconds} seconds')"


def _recount(conn: Connection, tenant: str, period: str, *, final: bool | None = None) -> None:
    """Read the days' sum under a lock on the budget's row: a settlement of now is in the sum or adds to it later.

    While the days are incomplete (after an upgrade), earlier costs are unknown and counted later. `final` is whether it
    was the last time; None leaves that as it is.
    """
    key = {"tenant": tenant, "period": period}
    if is_postgres(conn):
        conn.execute(text("SELECT 1 FROM budgets WHERE tenant = :tenant AND period = :period FOR UPDATE"), key)
    spent = usage_days.spent_picousd(conn, None if tenant == ALL_TENANTS else tenant, today=period == "day")
    if spent is None:
        return
    today = day_sql(conn, now_sql(conn))
    conn.execute(
        text(f"""
        UPDATE budgets SET recount = COALESCE(CAST(:again AS boolean), recount),
            day = CASE WHEN period = 'day' THEN {today} END, spent_picousd = :spent
        WHERE tenant = :tenant AND period = :period
        """),
        {**key, "again": None if final is None else not final, "spent": spent},
    )


def put(conn: Connection, tenant: str, period: str, limit_picousd: int) -> None:
    """Set, raise or lower a budget; a new one begins with what the ledger has of its day, or of all days.

    The caller commits.
    """
    made = conn.execute(
        text(f"""
        INSERT INTO budgets (tenant, period, limit_picousd, set_at)
        VALUES (:tenant, :period, :limit, {now_sql(conn)})
        ON CONFLICT (tenant, period) DO NOTHING RETURNING tenant
        """),
        {"tenant": tenant, "period": period, "limit": limit_picousd},
    ).first()
    if made is not None:
        _recount(conn, tenant, period, final=False)
        return
    conn.execute(
        text("""
        UPDATE budgets SET limit_picousd = :limit, needs_picousd = NULL, used_up_on = NULL
        WHERE tenant = :tenant AND period = :period
        """),
        {"tenant": tenant, "period": period, "limit": limit_picousd},
    )


def remove(conn: Connection, tenant: str, period: str) -> bool:
    """Forget a budget; False when there was none. The caller commits."""
    gone = conn.execute(
        text("DELETE FROM budgets WHERE tenant = :tenant AND period = :period"), {"tenant": tenant, "period": period}
    )
    return bool(gone.rowcount)


def every(conn: Connection) -> list[Budget]:
    """All budgets as they stand, by tenant and period."""
    budgets = _read(conn)
    if budgets:
        _add_reserved(conn, budgets)
    return budgets


def governing(conn: Connection, tenant: str) -> list[Budget]:
    """The budgets that govern a tenant, locked, with the reservations of the claims in force."""
    budgets = _read(conn, {tenant, ALL_TENANTS}, lock=True)
    if budgets:
        _add_reserved(conn, budgets)
    return budgets


def _listed(name: str) -> Any:
    return bindparam(name, expanding=True)
