"""What a key and a tenant may do, counted from their own calls under a lock on their row.

It is counted in the transaction that accepts the next call. Nothing is kept that a crash could leave wrong.

    requests    calls of the last 60 seconds; those of the future are from before the clock was set back
    tokens      what these took, or may take while they run
    in flight   those that are not over
    budget      a key's: what all its calls have cost, and what those that run may cost
                a tenant's (`stockpot budget`): what its calls have cost, and what was set aside for those that run or wait

A key's call that is over is counted once into the key's own sum; a tenant's is marked. Neither is looked at again.
The order of locks is everywhere tenant, key, budgets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sqlalchemy import Connection, text

from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.db.calls import tenants
from worker.db.clock import after_sql, is_postgres, seconds_until_sql
from worker.db.keys import records as keys
from worker.db.keys.records import Key
from worker.db.sums import added_sql

#: The window of requests and tokens per minute, in seconds; it slides.
WINDOW_SECONDS = 60
#: The end of a call in flight is not known ahead; a call that waits for its place looks again after so many seconds.
SOON_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What of its minute is left to a caller, for the rate headers: of its key's and its tenant's limits the nearer one."""

    rpm: int | None = None
    requests_left: int | None = None
    requests_reset: float = 0.0  # seconds until all of it is free again
    tpm: int | None = None
    tokens_left: int | None = None
    tokens_reset: float = 0.0


class Refused(Exception):  # the gateway answers with it
    """A limit is reached. `retry_after` is None when waiting does not help."""

    def __init__(self, limit: str, message: str, retry_after: float | None, standing: Standing) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after
        self.standing = standing


class _Reason(NamedTuple):
    """Why a call does not pass; `wait` is None when waiting does not help."""

    limit: str
    message: str
    wait: float | None


@dataclass(frozen=True, slots=True)
class _Counted:
    """Whose calls are counted together: a key's or a tenant's."""

    whose: Literal["key", "tenant"]
    id: str
    rpm: int | None
    tpm: int | None
    max_in_flight: int | None

    @property
    def column(self) -> str:
        """The column of `api_calls` by which its calls are found."""
        return "key_id" if self.whose == "key" else "tenant"

    @property
    def settled(self) -> str:
        """The column that is true of calls which are over and were seen to be."""
        return "counted" if self.whose == "key" else "over"


class _Minute(NamedTuple):
    """The calls of the last minute, oldest first: when each leaves the window, and the tokens of each."""

    leaves: list[float]
    tokens: list[int]


def admit(conn: Connection, *, tenant: str, key_id: str | None, tokens: int, picousd: int | None) -> Standing:
    """Let one more call pass, which may take `tokens` and cost `picousd` (None: unknown).

    Args:
        key_id: its key, when that has limits.

    Raises:
        Refused: it does not fit.
    """
    shared = tenants.lock(conn, tenant)
    key = None if key_id is None else keys.lock(conn, key_id)
    counted = []
    if shared is not None:
        tenants.mark_over(conn, tenant)
        counted.append(_Counted("tenant", tenant, shared.rpm, shared.tpm, shared.max_in_flight))
    if key is not None:
        counted.append(_Counted("key", key.id, key.rpm, key.tpm, key.max_in_flight))
    minutes = [(one, _minute(conn, one)) for one in counted]
    reasons = [reason for one, minute in minutes for reason in _reasons(conn, one, minute, tokens)]
    if key is not None and (key.max_in_flight is not None or key.budget_usd is not None):
        spent = _count(conn, key.id)
        if key.budget_usd is not None and not reasons:
            reasons += _key_budget(conn, key, int(key.budget_usd * PICO) - spent, picousd)
    if not reasons:
        reasons += _tenant_budgets(conn, tenant, picousd)
    standing = _nearest([_standing(one, minute, 0 if reasons else 1, tokens) for one, minute in minutes])
    if reasons:
        worst = max(reasons, key=lambda reason: float("inf") if reason.wait is None else reason.wait)
        raise Refused(worst.limit, worst.message, worst.wait, standing)
    return standing


def _minute(conn: Connection, counted: _Counted) -> _Minute:
    if counted.rpm is None and counted.tpm is None:
        return _Minute([], [])
    used = "COALESCE((SELECT SUM(a.total_tokens) FROM attempts AS a WHERE a.job_id = c.job_id), 0)"
    taken = f"CASE WHEN j.finished_at IS NULL THEN c.tokens ELSE {used} END" if counted.tpm is not None else "0"
    rows = conn.execute(
        text(f"""
        SELECT {seconds_until_sql(conn, "c.created_at")} + {WINDOW_SECONDS} AS leaves, {taken} AS tokens
        FROM api_calls AS c LEFT JOIN jobs AS j ON j.id = c.job_id
        WHERE c.{counted.column} = :id AND c.created_at > {after_sql(conn, f"-{WINDOW_SECONDS}")}
            AND c.created_at < {after_sql(conn, f"{WINDOW_SECONDS}")} ORDER BY c.created_at
        """),
        {"id": counted.id},
    ).all()
    return _Minute([max(0.0, float(row.leaves)) for row in rows], [int(row.tokens) for row in rows])


def _reasons(conn: Connection, counted: _Counted, minute: _Minute, tokens: int) -> Iterator[_Reason]:
    """What of its rates and its calls in flight one more call would exceed."""
    whose = counted.whose
    if counted.max_in_flight is not None and (running := _running(conn, counted)) >= counted.max_in_flight:
        message = (
            f"Limit of calls in flight reached for this {whose}: {running} run, the limit is {counted.max_in_flight}."
        )
        yield _Reason("in_flight", message, SOON_SECONDS)
    if counted.rpm is not None and len(minute.leaves) >= counted.rpm:
        wait = minute.leaves[len(minute.leaves) - counted.rpm]
        yield _Reason("requests", f"Rate limit reached for this {whose} on requests per minute: {counted.rpm}.", wait)
    if counted.tpm is None:
        return
    if tokens > counted.tpm:
        message = f"it may take {tokens:,} tokens, the limit is {counted.tpm:,} per minute."
        yield _Reason("tokens", f"Request too large for this {whose}: {message}", None)
    elif (over := sum(minute.tokens) + tokens - counted.tpm) > 0:
        freed = zip(minute.leaves, _running_sums(minute.tokens), strict=True)
        wait = next((leaves for leaves, total in freed if total >= over), minute.leaves[-1])
        yield _Reason("tokens", f"Rate limit reached for this {whose} on tokens per minute: {counted.tpm:,}.", wait)


def _standing(counted: _Counted, minute: _Minute, passed: int, tokens: int) -> Standing:
    reset = float(WINDOW_SECONDS) if passed else (minute.leaves[-1] if minute.leaves else 0.0)
    rpm, tpm = counted.rpm, counted.tpm
    return Standing(
        rpm=rpm,
        requests_left=None if rpm is None else max(0, rpm - len(minute.leaves) - passed),
        requests_reset=reset,
        tpm=tpm,
        tokens_left=None if tpm is None else max(0, tpm - sum(minute.tokens) - tokens * passed),
        tokens_reset=reset,
    )


def _nearest(standings: Sequence[Standing]) -> Standing:
    """Of each limit the one of which least is left."""
    requests = min(
        (one for one in standings if one.rpm is not None), key=lambda one: one.requests_left or 0, default=None
    )
    tokens = min((one for one in standings if one.tpm is not None), key=lambda one: one.tokens_left or 0, default=None)
    requests, tokens = requests or Standing(), tokens or Standing()
    return Standing(
        requests.rpm,
        requests.requests_left,
        requests.requests_reset,
        tokens.tpm,
        tokens.tokens_left,
        tokens.tokens_reset,
    )


def _running_sums(values: list[int]) -> list[int]:
    sums, total = [], 0
    for value in values:
        total += value
        sums.append(total)
    return sums


def _running(conn: Connection, counted: _Counted) -> int:
    return int(
        conn.execute(
            text(f"""
            SELECT COUNT(*) FROM api_calls AS c JOIN jobs AS j ON j.id = c.job_id
            WHERE c.{counted.column} = :id AND NOT c.{counted.settled} AND j.finished_at IS NULL
            """),
            {"id": counted.id},
        ).scalar_one()
    )


def _key_budget(conn: Connection, key: Key, left: int, picousd: int | None) -> Iterator[_Reason]:
    """`left` is what the calls that are over have left."""
    rows = conn.execute(
        text("""
        SELECT c.reserved_picousd AS reserved,
            COALESCE((SELECT SUM(a.cost_picousd) FROM attempts AS a WHERE a.job_id = c.job_id), 0) AS spent
        FROM api_calls AS c JOIN jobs AS j ON j.id = c.job_id
        WHERE c.key_id = :key AND NOT c.counted AND j.finished_at IS NULL
        """),
        {"key": key.id},
    ).all()
    room = left - sum(max(int(row.spent), int(row.reserved or 0)) for row in rows)
    # A call of unknown cost takes all that is left, and none runs beside it.
    unknown = any(row.reserved is None for row in rows)
    if room <= 0 or (picousd or 1) > room or (rows and (unknown or picousd is None)):
        message = f"You exceeded the budget of this key: {key.budget_usd:.6g} USD."
        yield _Reason("budget", message, SOON_SECONDS if rows else None)


def _tenant_budgets(conn: Connection, tenant: str, picousd: int | None) -> Iterator[_Reason]:
    """The budgets that govern a tenant: a call that fits is accepted, and its worker sets the money aside.

    A call without a bound of its own is not estimated here: its worker gives it what is left.
    """
    budgets = reservations.governing(conn, tenant)
    if not budgets:
        return
    tenants.mark_over(conn, tenant)
    waiting = conn.execute(
        text("""
        SELECT COUNT(*) AS calls,
            COALESCE(SUM(CASE WHEN a.reserved_picousd IS NULL THEN c.reserved_picousd END), 0) AS picousd
        FROM api_calls AS c JOIN jobs AS j ON j.id = c.job_id
        LEFT JOIN attempts AS a ON a.job_id = j.id AND a.attempt = j.calls AND a.fence = j.fence
        WHERE c.tenant = :tenant AND NOT c.over AND j.finished_at IS NULL
        """),
        {"tenant": tenant},
    ).one()
    for budget in budgets:
        if budget.room - int(waiting.picousd) >= max(1, picousd or 1):
            continue
        days = "of this day" if budget.period == "day" else "in all"
        spent = budget.spent_picousd >= budget.limit_picousd
        running = not spent and (waiting.calls > 0 or budget.reserved_picousd > 0)
        message = f"The budget {days} {'is used up' if spent else 'has not enough left for this call'}."
        yield _Reason("budget", message, SOON_SECONDS if running else None)


def _count(conn: Connection, key_id: str) -> int:
    """Count calls that are over into the key's sum; the sum, in 1e-12 US dollars."""
    over = """
        SELECT c.job_id FROM api_calls AS c JOIN jobs AS j ON j.id = c.job_id
        WHERE c.key_id = :key AND NOT c.counted AND j.finished_at IS NOT NULL
    """
    ids = [row[0] for row in conn.execute(text(over), {"key": key_id})]
    for start in range(0, len(ids), 500):
        part = {f"id{number}": job_id for number, job_id in enumerate(ids[start : start + 500])}
        listed = ", ".join(f":{name}" for name in part)
        conn.execute(
            text(f"""
            WITH more AS (SELECT COALESCE(SUM(cost_picousd), 0) AS cost FROM attempts WHERE job_id IN ({listed}))
            UPDATE api_keys SET spent_picousd = {added_sql("spent_picousd", "(SELECT cost FROM more)")} WHERE id = :key
            """),
            {"key": key_id, **part},
        )
        true = "true" if is_postgres(conn) else "1"
        conn.execute(text(f"UPDATE api_calls SET counted = {true} WHERE job_id IN ({listed})"), part)
    return int(conn.execute(text("SELECT spent_picousd FROM api_keys WHERE id = :key"), {"key": key_id}).scalar_one())
