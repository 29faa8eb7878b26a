"""A worker announces itself with each heartbeat; others list them and ask one to drain. The caller commits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from worker.db.clock import after_sql, now_sql
from worker.db.columns import Instant
from worker.db.refusals import ALL, Part

#: Heartbeats that a living worker may miss before it is shown as silent: a lease has three as well.
MISSED = 3
#: Rows of workers that ended without a word are kept this long, in seconds, for an operator who looks what happened.
KEPT_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Presence:
    """What a worker reports of itself. Seconds and bytes; `memory_bytes` is the resident size, None where unknown."""

    owner: str
    host: str
    pid: int
    version: str
    heartbeat_seconds: float
    concurrency: int
    in_flight: int
    loop_lag_seconds: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as others see it; `alive` by the database's clock."""

    owner: str
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    concurrency: int
    in_flight: int
    loop_lag_seconds: float
    memory_bytes: int | None
    drain_requested_at: datetime | None
    alive: bool


def announce(conn: Connection, presence: Presence) -> bool:
    """Write or renew a worker's row; whether it was asked to drain."""
    now = now_sql(conn)
    row = conn.execute(
        text(f"""
        INSERT INTO workers (owner, host, pid, version, started_at, seen_at, heartbeat_seconds, concurrency, in_flight,
            loop_lag_seconds, memory_bytes)
        VALUES (:owner, :host, :pid, :version, {now}, {now}, :heartbeat_seconds, :concurrency, :in_flight,
            :loop_lag_seconds, :memory_bytes)
        ON CONFLICT (owner) DO UPDATE SET seen_at = excluded.seen_at, in_flight = excluded.in_flight,
            loop_lag_seconds = excluded.loop_lag_seconds, memory_bytes = excluded.memory_bytes
        RETURNING drain_requested_at
        """),
        asdict(presence),
    ).one()
    return row.drain_requested_at is not None


def leave(conn: Connection, owner: str) -> None:
    """Take away the row of a worker that ends in order."""
    conn.execute(text("DELETE FROM workers WHERE owner = :owner"), {"owner": owner})


def silent(conn: Connection, _beyond: int = 0) -> list[str]:
    """The workers that were not seen for `KEPT_SECONDS`."""
    seen = after_sql(conn, ":kept")
    found = conn.execute(text(f"SELECT owner FROM workers WHERE seen_at < {seen}"), {"kept": -KEPT_SECONDS})
    return [row[0] for row in found]


def forget_silent(conn: Connection, part: Part = ALL) -> int:
    """Delete the rows of those of these workers that were not seen for `KEPT_SECONDS`; how many."""
    seen = after_sql(conn, ":kept")
    statement = text(f"DELETE FROM workers WHERE owner = :owner AND seen_at < {seen}")
    owners = [owner for owner in silent(conn) if owner in part]
    return sum(conn.execute(statement, {"owner": owner, "kept": -KEPT_SECONDS}).rowcount for owner in owners)


def listed(conn: Connection) -> list[WorkerRow]:
    """Every worker that is known, the longest-lived first."""
    late = after_sql(conn, f"-{MISSED} * heartbeat_seconds")
    rows = conn.execute(
        text(f"""
        SELECT owner, host, pid, version, started_at, seen_at, concurrency, in_flight, loop_lag_seconds, memory_bytes,
            drain_requested_at, seen_at >= {late} AS alive
        FROM workers ORDER BY started_at, owner
        """).columns(started_at=Instant, seen_at=Instant, drain_requested_at=Instant)
    )
    return [WorkerRow(**{**row._mapping, "alive": bool(row.alive)}) for row in rows]  # noqa: SLF001 -- its public name


def ask_to_drain(conn: Connection, owner: str) -> bool:
    """Ask a worker to finish what it has and end; it learns that with its next heartbeat. False when there is no such row."""
    done = conn.execute(
        text(f"""
        UPDATE workers SET drain_requested_at = COALESCE(drain_requested_at, {now_sql(conn)}) WHERE owner = :owner
        """),
        {"owner": owner},
    )
    return done.rowcount > 0
