"""What a key may do, counted from its own calls under a lock on its row.

It is counted in the transaction that accepts the next call. Nothing is kept that a crash could leave wrong.

    requests    its calls of the last 60 seconds
    tokens      what these took, or may take while they run
    in flight   those that are not over
    budget      what all its calls have cost, and what those that run may cost

A call that is over is counted once into the key's own sum, and looked at no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from worker.base.money import PICO
from worker.db.clock import after_sql, is_postgres, seconds_until_sql
from worker.db.keys import records as keys
from worker.db.keys.records import Key

#: The window of requests and tokens per minute, in seconds; it slides.
WINDOW_SECONDS = 60
#: When a call in flight ends nobody knows; whoever waits for its place looks again after so long, in seconds.
SOON_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands: what of its minute is left, for the rate headers."""

    rpm: int | None = None
    requests_left: int | None = None
    requests_reset: float = 0.0  # seconds until all of it is free again
    tpm: int | None = None
    tokens_left: int | None = None
    tokens_reset: float = 0.0


class Refused(Exception):  # the gateway answers with it
    """A limit of the key is reached. `retry_after` is None when waiting does not help."""

    def __init__(self, limit: str, message: str, retry_after: float | None, standing: Standing) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after
        self.standing = standing


def admit(conn: Connection, key_id: str, *, tokens: int, picousd: int | None) -> Standing:
    """Let one more call of a key pass, which may take `tokens` and cost `picousd` (None: nobody knows).

    Raises:
        Refused: it does not fit.
    """
    key = keys.lock(conn, key_id)
    if not key.limited:
        return Standing()
    standing, waits = _minute(conn, key, tokens)
    spent = _count(conn, key_id) if key.max_in_flight is not None or key.budget_usd is not None else 0
    if key.max_in_flight is not None and (running := _running(conn, key_id)) >= key.max_in_flight:
        message = f"Limit of calls in flight reached for this key: {running} run, the limit is {key.max_in_flight}."
        raise Refused("in_flight", message, SOON_SECONDS, standing)
    for limit, wait in waits.items():
        if wait is not None:
            raise Refused(limit, f"Rate limit reached for this key on {limit} per minute.", wait, standing)
    if key.tpm is not None and tokens > key.tpm:
        message = f"Request too large for this key: it may take {tokens:,} tokens, the limit is {key.tpm:,} per minute."
        raise Refused("tokens", message, None, standing)
    if key.budget_usd is not None:
        _within_budget(conn, key, int(key.budget_usd * PICO) - spent, picousd, standing)
    return standing


def _minute(conn: Connection, key: Key, tokens: int) -> tuple[Standing, dict[str, float | None]]:
    """Where the key stands with this call, and how long it must wait for each limit."""
    if key.rpm is None and key.tpm is None:
        return Standing(), {}
    used = "COALESCE((SELECT SUM(a.total_tokens) FROM attempts AS a WHERE a.job_id = c.job_id), 0)"
    taken = f"CASE WHEN j.finished_at IS NULL THEN c.tokens ELSE {used} END" if key.tpm is not None else "0"
    rows = conn.execute(
        text(f"""
        SELECT {seconds_until_sql(conn, "c.created_at")} + {WINDOW_SECONDS} AS leaves, {taken} AS tokens
        FROM api_calls AS c LEFT JOIN jobs AS j ON j.id = c.job_id
        WHERE c.key_id = :key AND c.created_at > {after_sql(conn, f"-{WINDOW_SECONDS}")} ORDER BY c.created_at
        """),
        {"key": key.id},
    ).all()
    leaves = [max(0.0, float(row.leaves)) for row in rows]
    spent = [int(row.tokens) for row in rows]
    waits: dict[str, float | None] = {"requests": None, "tokens": None}
    if key.rpm is not None and len(rows) >= key.rpm:
        waits["requests"] = leaves[len(rows) - key.rpm]
    if key.tpm is not None and sum(spent) + tokens > key.tpm >= tokens:
        over = sum(spent) + tokens - key.tpm
        waits["tokens"] = next(
            (left for left, freed in zip(leaves, _running_sums(spent), strict=True) if freed >= over), leaves[-1]
        )
    passed = all(wait is None for wait in waits.values())
    last = WINDOW_SECONDS if passed else (leaves[-1] if leaves else 0.0)
    standing = Standing(
        rpm=key.rpm,
        requests_left=None if key.rpm is None else max(0, key.rpm - len(rows) - passed),
        requests_reset=last,
        tpm=key.tpm,
        tokens_left=None if key.tpm is None else max(0, key.tpm - sum(spent) - (tokens if passed else 0)),
        tokens_reset=last,
    )
    return standing, waits


def _running_sums(values: list[int]) -> list[int]:
    sums, total = [], 0
    for value in values:
        total += value
        sums.append(total)
    return sums


def _running(conn: Connection, key_id: str) -> int:
    return int(
        conn.execute(
            text("""
            SELECT COUNT(*) FROM api_calls AS c JOIN jobs AS j ON j.id = c.job_id
            WHERE c.key_id = :key AND NOT c.counted AND j.finished_at IS NULL
            """),
            {"key": key_id},
        ).scalar_one()
    )


def _within_budget(conn: Connection, key: Key, left: int, picousd: int | None, standing: Standing) -> None:
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
    # Of whose call nobody knows the cost takes all that is left, and none runs beside it.
    unknown = any(row.reserved is None for row in rows)
    if room <= 0 or (picousd or 1) > room or (rows and (unknown or picousd is None)):
        exhausted = room <= 0 and not rows
        message = f"You exceeded the budget of this key: {key.budget_usd:.6g} USD."
        raise Refused("budget", message, None if exhausted or not rows else SOON_SECONDS, standing)


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
            UPDATE api_keys SET spent_picousd = spent_picousd
                + COALESCE((SELECT SUM(cost_picousd) FROM attempts WHERE job_id IN ({listed})), 0)
            WHERE id = :key
            """),
            {"key": key_id, **part},
        )
        true = "true" if is_postgres(conn) else "1"
        conn.execute(text(f"UPDATE api_calls SET counted = {true} WHERE job_id IN ({listed})"), part)
    return int(conn.execute(text("SELECT spent_picousd FROM api_keys WHERE id = :key"), {"key": key_id}).scalar_one())
