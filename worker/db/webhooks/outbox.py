"""The life of a webhook event, as SQL: enqueue, claim, renew, record, put back. Synchronous; the caller commits.

`enqueue` runs inside the transaction that settles the job, so that a settled job and its hooks are one fact. A claim
raises the event's `fence` and takes a lease; every later write names that fence and leaves alone what another worker
has claimed since. Whatever is lost between a receiver's answer and `record` is delivered again under the same id.
Each function is one statement per table for a whole slice, on PostgreSQL and on SQLite alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import orjson
from sqlalchemy import Connection, text

from worker.db.clock import after_sql, is_postgres, now_sql, seconds_until_sql
from worker.db.payloads import of as payloads_of
from worker.db.refusals import ALL, Part

#: Due events looked at for one claim. It bounds the cost of the ranking below, and is large against any claim.
_SCAN = 2_000
_TRACE = "(SELECT j.traceparent FROM jobs AS j WHERE j.id = webhook_events.job_id) AS traceparent"


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event for one destination: a registered endpoint's id, or the URL of a job's or batch's own hook."""

    id: str
    tenant: str
    type: str
    body: str
    destination: str
    url: str | None = None
    endpoint_id: str | None = None
    job_id: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event that this worker may send now. `tries` counts attempts since the event was made or last replayed.

    `body` is as it is kept, maybe encrypted: who sends it decrypts it.
    """

    id: str
    fence: int
    tenant: str
    type: str
    job_id: str | None
    url: str | None
    endpoint_id: str | None
    destination: str
    body: str
    attempts: int
    tries: int
    traceparent: str | None = None  # of its job's submission, where that is traced


@dataclass(frozen=True, slots=True)
class Held:
    """A lease: the event, and the fence under which it was claimed."""

    id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt came to. `delay` is in seconds from now and counts for `pending` only.

    `attempt` is its ordinal (1, 2, …); with `sent` false nothing was tried, and the log gets no row.
    """

    id: str
    fence: int
    endpoint_id: str | None
    status: Literal["pending", "delivered", "dead", "blocked"]
    delay: float
    attempt: int
    seconds: float
    status_code: int | None = None
    error: str | None = None
    response_head: str | None = None
    sent: bool = True

    @property
    def held(self) -> Held:
        """The claim that it speaks for: an event may have been claimed again meanwhile, by this worker, too."""
        return Held(self.id, self.fence)


def enqueue(conn: Connection, rows: Sequence[EventRow]) -> None:
    """Insert events, due now. One statement for all; none when there are no rows. Doing it twice changes nothing."""
    if not rows:
        return
    columns = ("id", "tenant", "type", "body", "destination", "url", "endpoint_id", "job_id", "batch_id")
    named = ", ".join(columns)
    given = ", ".join(f"r.{name}" for name in columns)
    now = now_sql(conn)
    source = _from_rows(conn, dict.fromkeys(columns, "text"))
    payloads = payloads_of(conn)

    def body(row: EventRow) -> str:
        return payloads.seal(row.body, f"webhook_events.body:{row.id}")

    conn.execute(
        # "WHERE true": SQLite would read ON CONFLICT as a join's ON.
        text(f"""
        INSERT INTO webhook_events ({named}, due_at, created_at)
        SELECT {given}, {now}, {now} FROM {source} WHERE true
        ON CONFLICT (id) DO NOTHING
        """),
        {"rows": orjson.dumps([asdict(row) | {"body": body(row)} for row in rows]).decode()},
    )


def claim(
    conn: Connection,
    owner: str,
    *,
    limit: int,
    each: int,
    lease_seconds: float,
    busy: Collection[str] = (),
    traced: bool = False,
    busy_hosts: Collection[str] = (),
    only: str | None = None,
) -> list[Claimed]:
    """Claim due events, oldest first, taking turns between destinations.

    Args:
        owner: the worker, for people and for the lease.
        limit: events at most.
        each: events at most of one destination, so that one with a backlog does not take every place.
        lease_seconds: how long the claim holds without `renew`.
        busy: destinations to leave alone.
        traced: read the trace of each event's job.
        busy_hosts: how the names of further destinations begin that are to be left alone.
        only: this event, if it is due.
    """
    where_free = (
        "destination <> ALL(CAST(:busy AS text[]))"
        if is_postgres(conn)
        else "destination NOT IN (SELECT value FROM json_each(:busy))"
    )
    if busy_hosts:
        hosts = "unnest(CAST(:hosts AS text[])) AS h(value)" if is_postgres(conn) else "json_each(:hosts) AS h"
        where_free += f" AND NOT EXISTS (SELECT 1 FROM {hosts} WHERE substr(destination, 1, length(h.value)) = h.value)"
    lock = "FOR UPDATE OF e SKIP LOCKED" if is_postgres(conn) else ""
    rows = conn.execute(
        text(f"""
        WITH due AS (
            SELECT id, destination, due_at FROM webhook_events
            WHERE status = 'pending' AND due_at <= {now_sql(conn)} AND {where_free} {_only(only)}
            ORDER BY due_at LIMIT :scan
        ), ranked AS (
            SELECT id, row_number() OVER (PARTITION BY destination ORDER BY due_at, id) AS turn FROM due
        ), chosen AS (
            SELECT e.id FROM webhook_events e JOIN ranked ON ranked.id = e.id
            WHERE ranked.turn <= :each AND e.status || '' = 'pending'
            ORDER BY ranked.turn, e.due_at LIMIT :limit {lock}
        )
        UPDATE webhook_events SET status = 'delivering', fence = fence + 1, lease_owner = :owner,
            lease_until = {after_sql(conn, ":lease")}
        WHERE id IN (SELECT id FROM chosen)
        RETURNING id, fence, tenant, type, job_id, url, endpoint_id, destination, body, attempts,
            attempts - replayed_at_attempt AS tries{", " + _TRACE if traced else ""}
        """),
        {
            "busy": list(busy) if is_postgres(conn) else orjson.dumps(list(busy)).decode(),
            "hosts": list(busy_hosts) if is_postgres(conn) else orjson.dumps(list(busy_hosts)).decode(),
            "scan": _SCAN,
            "each": each,
            "limit": limit,
            "owner": owner,
            "lease": lease_seconds,
        }
        | ({} if only is None else {"only": only}),
    )
    return [Claimed(**row) for row in rows.mappings()]


def renew(conn: Connection, held: Sequence[Held], lease_seconds: float) -> set[str]:
    """Prolong leases; returns the ids of the events that are still ours."""
    if not held:
        return set()
    source = _from_rows(conn, {"id": "text", "held": "integer"})
    rows = conn.execute(
        text(f"""
        UPDATE webhook_events SET lease_until = {after_sql(conn, ":lease")} FROM {source}
        WHERE webhook_events.id = r.id AND webhook_events.fence = r.held AND status || '' = 'delivering'
        RETURNING webhook_events.id
        """),
        {"rows": _held(held), "lease": lease_seconds},
    )
    return {row.id for row in rows}


def put_back(conn: Connection, held: Sequence[Held], delay: float) -> None:
    """Give claimed events back unsent, due `delay` seconds from now; it costs them no attempt."""
    if not held:
        return
    source = _from_rows(conn, {"id": "text", "held": "integer"})
    conn.execute(
        text(f"""
        UPDATE webhook_events SET status = 'pending', lease_owner = NULL, lease_until = NULL,
            due_at = {after_sql(conn, ":delay")}
        FROM {source}
        WHERE webhook_events.id = r.id AND webhook_events.fence = r.held AND status || '' = 'delivering'
        """),
        {"rows": _held(held), "delay": delay},
    )


def due(limit: int, conn: Connection, beyond: int) -> list[str]:
    """The events that are due, oldest first; `beyond` more than `limit`."""
    statement = f"""
        SELECT id FROM webhook_events WHERE status = 'pending' AND due_at <= {now_sql(conn)} ORDER BY due_at LIMIT :limit
    """
    return [row[0] for row in conn.execute(text(statement), {"limit": limit + beyond})]


def expired(conn: Connection, _beyond: int = 0) -> list[str]:
    """The events whose worker let the lease run out."""
    statement = f"SELECT id FROM webhook_events WHERE status = 'delivering' AND lease_until < {now_sql(conn)}"
    return [row[0] for row in conn.execute(text(statement))]


def reclaim_expired(conn: Connection, only: str | None = None) -> int:
    """Make events (`only`: this one) due again whose worker let the lease run out: it died, or stands still. How many."""
    now = now_sql(conn)
    done = conn.execute(
        text(f"""
        UPDATE webhook_events SET status = 'pending', lease_owner = NULL, lease_until = NULL, due_at = {now}
        WHERE status = 'delivering' AND lease_until < {now} {_only(only)}
        """),
        {} if only is None else {"only": only},
    )
    return done.rowcount


def ahead(conn: Connection, beyond: int = 0) -> list[str]:
    """Events whose wait `bring_forward` would count anew; `beyond` more than it looks at."""
    condition, _ = _ahead(conn)
    statement = f"SELECT id FROM webhook_events AS e WHERE {condition} LIMIT :limit"
    return [row[0] for row in conn.execute(text(statement), {"limit": _SCAN + beyond})]


def bring_forward(conn: Connection, part: Part = ALL, *, limit: int = _SCAN) -> int:
    """After the database's clock was set back: count waits anew that began by the clock as it was. Returns how many.

    One that was never tried since it was made (or replayed) is due. Another one's last attempt lies ahead: from now on it
    waits for as long as was meant after that, if that is less than what the clock was set back by.
    """
    condition, wait = _ahead(conn)
    lock = "FOR UPDATE SKIP LOCKED" if is_postgres(conn) else ""
    rows = conn.execute(
        text(f"""
        WITH waiting AS MATERIALIZED (
            SELECT id, {wait} AS wait FROM webhook_events AS e WHERE {condition} {_only(part.only)} LIMIT :limit {lock}
        )
        UPDATE webhook_events SET due_at = {after_sql(conn, "waiting.wait")}
        FROM waiting WHERE webhook_events.id = waiting.id AND webhook_events.status || '' = 'pending'
        RETURNING 1
        """),
        {"limit": limit} | ({} if part.only is None else {"only": part.only}),
    )
    return len(rows.all())


def _ahead(conn: Connection) -> tuple[str, str]:
    """SQL: which events' waits began by a clock that was ahead, and how long each of them is to wait from now on."""
    now = now_sql(conn)
    tried = (
        f"COALESCE((SELECT at FROM webhook_attempts AS a WHERE a.event_id = e.id AND a.attempt = e.attempts), {now})"
    )
    due, tried = seconds_until_sql(conn, "e.due_at"), seconds_until_sql(conn, tried)
    condition = f"""status = 'pending' AND due_at > {now}
        AND (attempts = replayed_at_attempt OR ({due} > {tried} AND {due} < 2 * {tried}))"""
    return condition, f"CASE WHEN attempts = replayed_at_attempt THEN 0 ELSE {due} - {tried} END"


def seconds_until_due(conn: Connection) -> float | None:
    """Seconds until an event is due (0 or less: one is, or a lease on one ran out); None when none waits."""
    until = seconds_until_sql(conn, "MIN(at)")
    seconds = conn.execute(
        text(f"""
        SELECT {until} FROM (
            SELECT MIN(due_at) AS at FROM webhook_events WHERE status = 'pending'
            UNION ALL SELECT MIN(lease_until) FROM webhook_events WHERE status = 'delivering'
        ) AS soonest
        """)
    ).scalar_one()
    return None if seconds is None else float(seconds)


def record(conn: Connection, verdicts: Sequence[Verdict]) -> dict[Held, float | None]:
    """Write what attempts came to: the events' new state and one attempt row each.

    Returns the claims that were recorded; the events of others had been claimed again, and their verdict is dropped.
    With each comes how many seconds the event took from its making to its delivery; None when it is not delivered,
    or only since it was replayed.
    """
    if not verdicts:
        return {}
    changed = _record_states(conn, verdicts)
    _record_attempts(conn, [verdict for verdict in verdicts if verdict.held in changed and verdict.sent])
    return changed


def _record_states(conn: Connection, verdicts: Sequence[Verdict]) -> dict[Held, float | None]:
    source = _from_rows(
        conn,
        {
            "id": "text",
            "fence": "integer",
            "status": "text",
            "delay": "double precision",
            "attempt": "integer",
            "status_code": "integer",
            "error": "text",
        },
    )
    now = now_sql(conn)
    rows = conn.execute(
        text(f"""
        UPDATE webhook_events SET status = r.status, attempts = r.attempt, lease_owner = NULL, lease_until = NULL,
            due_at = CASE WHEN r.status = 'pending' THEN {after_sql(conn, "r.delay")} ELSE webhook_events.due_at END,
            delivered_at = CASE WHEN r.status = 'delivered' THEN {now} END,
            last_status_code = r.status_code, last_error = r.error
        FROM {source}
        WHERE webhook_events.id = r.id AND webhook_events.fence = r.fence AND webhook_events.status || '' = 'delivering'
        RETURNING webhook_events.id, webhook_events.fence, CASE
            WHEN webhook_events.status = 'delivered' AND webhook_events.replayed_at_attempt = 0
            THEN -({seconds_until_sql(conn, "webhook_events.created_at")})
        END AS took
        """),
        {"rows": _json(verdicts)},
    )
    return {Held(row.id, row.fence): row.took for row in rows}


def _record_attempts(conn: Connection, verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        return
    source = _from_rows(
        conn,
        {
            "id": "text",
            "attempt": "integer",
            "seconds": "double precision",
            "status_code": "integer",
            "error": "text",
            "response_head": "text",
        },
    )
    conn.execute(
        text(f"""
        INSERT INTO webhook_attempts (event_id, attempt, at, seconds, status_code, error, response_head)
        SELECT r.id, r.attempt, {now_sql(conn)}, r.seconds, r.status_code, r.error, r.response_head FROM {source}
        """),
        {"rows": _json(verdicts)},
    )


def _only(event: str | None) -> str:
    return "" if event is None else "AND id = :only"


def _held(held: Sequence[Held]) -> str:
    return orjson.dumps([{"id": one.id, "held": one.fence} for one in held]).decode()


def _json(verdicts: Sequence[Verdict]) -> str:
    return orjson.dumps([asdict(verdict) for verdict in verdicts]).decode()


def _from_rows(conn: Connection, columns: dict[str, str]) -> str:
    """A FROM clause that reads the JSON list in `:rows` as the table `r` with these columns and PostgreSQL types."""
    if is_postgres(conn):
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"json_to_recordset(CAST(:rows AS json)) AS r({typed})"
    read = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
    return f"(SELECT {read} FROM json_each(:rows)) AS r"
