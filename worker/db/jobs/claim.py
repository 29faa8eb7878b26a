"""Claim: take due jobs for this worker, with an attempt row each, in one statement and one commit.

After `claim` returns, every call that may follow is on record. A claim raises the job's fence; every later write of
this claim names that fence, and a worker that lost its lease finds no row to write to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, text

from api_schemas import jsontext
from worker.base.payloads import Payloads, Unreadable
from worker.db.budgets.tables import SHUT
from worker.db.clock import after_sql, is_postgres, now_sql, seconds_until_sql
from worker.db.jobs.ended import is_logged
from worker.db.jobs.tenant_fairness import ALONE, TenantFairness, Turn, groups
from worker.db.payloads import of as payloads_of
from worker.db.refusals import apart


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker holds: what it needs to call, and what every later write must name."""

    id: str
    fence: int
    attempt: int  # ordinal of this call, from 1; the client request id is `<id>.<attempt>`
    attempts_spent: int  # this one included
    max_attempts: int
    tenant: str
    endpoint: str
    model: str
    lane: str
    stream: bool
    on_ambiguous: str
    body: str  # the request's JSON, verbatim
    batch_id: str | None
    custom_id: str | None
    webhook: str | None
    metadata: str | None
    last_error: str | None  # the class of the error that the attempt before this one ended with
    max_cost_picousd: int | None  # what the job's calls may cost together, in 1e-12 US dollars
    spent_picousd: int  # what its earlier calls cost; counted only where there is a bound
    seconds_left: float  # until the job expires
    queued_seconds: float  # from due to claimed
    last_code: str | None = None  # its error's code
    budgeted: bool = False  # there are budgets, maybe of this job
    unasked: bool = False  # an earlier call may have been paid for, and the provider's log has not been asked
    traceparent: str | None = None  # the trace of its submission
    unreadable: str | None = None  # why the body cannot be decrypted; it is empty then

    @property
    def client_request_id(self) -> str:
        """What `X-Client-Request-Id` carries."""
        return f"{self.id}.{self.attempt}"

    @property
    def logged(self) -> bool:
        """Whether its live events are kept for replay: not for a million lines of a batch."""
        return is_logged(stream=self.stream, lane=self.lane, batch_id=self.batch_id)


#: Fields that are no column of that name, as SQL. JSON as text: the driver would parse PostgreSQL's into Python.
_EXPRESSIONS = {
    "attempt": "calls",
    "attempts_spent": "attempts",
    "last_error": "error_class",
    "last_code": "error_code",
    "metadata": "CAST(metadata AS text)",
    "body": "CAST(r.body AS text)",
    "spent_picousd": "CASE WHEN max_cost_picousd IS NULL THEN 0 ELSE"
    " (SELECT COALESCE(SUM(a.cost_picousd), 0) FROM attempts AS a WHERE a.job_id = id) END",
    "budgeted": "EXISTS (SELECT 1 FROM budgets)",
    "unasked": "CASE WHEN calls > 1 AND on_ambiguous <> 'retry' THEN EXISTS (SELECT 1 FROM attempts AS a"
    " WHERE a.job_id = id AND (a.reconciled = 'due' OR (a.outcome IN ('ambiguous', 'lost') AND a.reconciled IS NULL)))"
    " END",
}
#: `seconds_left` and `queued_seconds` are by the clock of the statement.
_COLUMNS = ", ".join(
    f"{_EXPRESSIONS[name]} AS {name}" if name in _EXPRESSIONS else name
    for name in (field.name for field in fields(ClaimedJob))
    if name not in {"seconds_left", "queued_seconds", "unreadable"}
)
#: What is past its time to live is the sweeper's to end: a call for it would be paid for and thrown away.
_DUE = "due_at <= {now} AND expires_at > {now}"
_MINE = f"status = 'queued' AND {_DUE}"
#: The same for jobs that are named by their ids: no partial index has this spelling in its condition, so that each is
#: found by its id and in no other way.
_THESE = f"status || '' = 'queued' AND {_DUE}"
_UNBOUND = (
    "EXISTS (SELECT 1 FROM batches AS b WHERE b.id = jobs.batch_id AND b.status = 'in_progress' AND b.held IS NULL"
    " AND b.most IS NULL AND b.max_cost_picousd IS NULL)"
)
_AFFORDED = f"NOT {SHUT.format(tenant='jobs.tenant')}"
#: More than any claim asks for.
MOST = 1_000_000


def claim_ids(
    conn: Connection,
    ids: Sequence[str],
    *,
    owner: str,
    lease: float,
    held: Sequence[str] = (),
    any_lane: bool = False,
) -> list[ClaimedJob]:
    """Claim those of `ids` that are interactive, queued and due; the others are claimed or finished.

    A line of a batch that admits none now, or only so many, waits for its batch's turn; jobs of the models in `held`
    wait for their route. `any_lane` claims bulk jobs, too: the one that is sent ahead to a route that was shut.
    """
    where = f"{_THESE.format(now=now_sql(conn))} AND (batch_id IS NULL OR {_UNBOUND}) AND {_AFFORDED}"
    if not any_lane:
        where += " AND lane = 'interactive'"
    if held:
        where += f" AND {_not_held(conn)}"
    given = {**_held(conn, held), "owner": owner, "lease": lease}
    if is_postgres(conn):
        due = f"""
            SELECT d.id FROM unnest(CAST(:ids AS text[])) AS given(value) CROSS JOIN LATERAL (
                SELECT id FROM jobs WHERE id = given.value AND {where} FOR UPDATE SKIP LOCKED
            ) AS d
        """
        return _claim(conn, due, {**given, "ids": list(ids)})
    due = f"SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(:ids)) AND {where}"
    return _claim(conn, due, {**given, "ids": jsontext.dumps(list(ids)).decode()})


def claim_due(
    conn: Connection,
    lane: str,
    limit: int,
    *,
    owner: str,
    lease: float,
    held: Sequence[str] = (),
    batch: str | None = None,
    turns: TenantFairness | None = None,
) -> list[ClaimedJob]:
    """Claim up to `limit` due jobs of a lane, leaving out models whose route is held.

    Jobs that belong to no batch, or the lines of one: `batch_claims` knows which batches admit any. The former take
    `turns`, which a worker keeps from one claim to the next; of one tenant and model the longest due go first.
    """
    if batch is None:
        return _claim_in_turns(conn, lane, limit, owner, lease, held, TenantFairness() if turns is None else turns)
    postgres = is_postgres(conn)
    where = f"{_MINE.format(now=now_sql(conn))} AND lane = :lane AND batch_id = :batch"
    if held:
        where += f" AND {_not_held(conn)}"
    due = f"""
        SELECT id FROM jobs {"" if postgres else "INDEXED BY ix_jobs_queued_line"} WHERE {where}
        ORDER BY due_at, id LIMIT :limit {"FOR UPDATE SKIP LOCKED" if postgres else ""}
    """
    given = {"lane": lane, "batch": batch, "owner": owner, "lease": lease, **_held(conn, held)}
    return _claim(conn, due, {**given, "limit": limit + _beyond(conn)}, limit)


def waiting_lanes(conn: Connection) -> list[str]:
    """The lanes in which jobs wait that belong to no batch: one row of each is read."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_queued"
    one = text(f"SELECT 1 FROM jobs {hint} WHERE {ALONE} AND lane = :lane LIMIT 1")
    return [lane for lane in ("interactive", "bulk") if conn.execute(one, {"lane": lane}).first() is not None]


def _not_held(conn: Connection) -> str:
    if is_postgres(conn):
        return "model <> ALL (CAST(:held AS text[]))"
    return "model NOT IN (SELECT value FROM json_each(:held))"


def _held(conn: Connection, held: Sequence[str]) -> dict[str, Any]:
    if not held:
        return {}
    return {"held": list(held) if is_postgres(conn) else jsontext.dumps(list(held)).decode()}


def _claim_in_turns(
    conn: Connection, lane: str, limit: int, owner: str, lease: float, held: Sequence[str], turns: TenantFairness
) -> list[ClaimedJob]:
    jobs: list[ClaimedJob] = []
    listed = False
    began, short = turns.now, turns.short and is_postgres(conn)
    while len(jobs) < limit:
        dealt = [] if turns.stale and not listed and not short else turns.deal(limit - len(jobs), held)
        if not dealt:
            if listed and (short or turns.after is None):
                break
            listed = True
            if short:
                turns.again()
            else:
                turns.learn(*groups(conn, lane, turns.after))
            continue
        at = turns.now
        taken = _claim_dealt(conn, lane, turns.shortened(dealt) if short else dealt, owner, lease)
        newest: dict[tuple[str, str], float] = {}
        for job in taken:
            group = job.tenant, job.model
            newest[group] = min(job.queued_seconds, newest.get(group, job.queued_seconds))
        found = Counter((job.tenant, job.model) for job in taken)
        for turn in dealt:
            group = turn.tenant, turn.model
            if found[group] < turn.quota:
                turns.dry(turn)
                turns.reached(turn, at)
            else:
                turns.reached(turn, at - newest[group])
        jobs += taken
    if not short:
        turns.looked(began)
    return jobs


def _claim_dealt(conn: Connection, lane: str, dealt: Sequence[Turn], owner: str, lease: float) -> list[ClaimedJob]:
    mine = f"{_MINE.format(now=now_sql(conn))} AND {ALONE} AND lane = :lane"
    params: dict[str, Any] = {"lane": lane, "owner": owner, "lease": lease}
    limit, beyond = sum(turn.quota for turn in dealt), _beyond(conn)
    if is_postgres(conn):
        due = f"""
            SELECT d.id FROM unnest(
                CAST(:tenants AS text[]), CAST(:models AS text[]), CAST(:quotas AS int[]), CAST(:backs AS float8[])
            ) AS t(tenant, model, quota, back)
            CROSS JOIN LATERAL (
                SELECT id FROM jobs WHERE {mine} AND jobs.tenant = t.tenant AND jobs.model = t.model
                    AND due_at >= {after_sql(conn, "-t.back")}
                ORDER BY due_at, id LIMIT t.quota FOR UPDATE SKIP LOCKED
            ) AS d LIMIT :limit
        """
        # Of a limit that it cannot see PostgreSQL expects a tenth of the table, and would read all of it.
        params["limit"] = limit + beyond
        params["tenants"] = [turn.tenant for turn in dealt]
        params["models"] = [turn.model for turn in dealt]
        params["quotas"] = [turn.quota + beyond for turn in dealt]
        params["backs"] = [turn.back for turn in dealt]
        return _claim(conn, due, params, limit)
    parts = []
    for at, turn in enumerate(dealt):
        parts.append(
            f"SELECT id FROM (SELECT id FROM jobs INDEXED BY ix_jobs_queued WHERE {mine}"
            f" AND tenant = :t{at} AND model = :m{at} ORDER BY due_at, id LIMIT :q{at})"
        )
        params |= {f"t{at}": turn.tenant, f"m{at}": turn.model, f"q{at}": turn.quota + beyond}
    return _claim(conn, " UNION ALL ".join(parts), params, limit)


def _claim(conn: Connection, due: str, params: dict[str, Any], limit: int = MOST) -> list[ClaimedJob]:
    """Claim what a query finds, `limit` of it; where one of them was refused (`refusals.apart`), each by itself."""
    take = _postgres if is_postgres(conn) else _sqlite
    refused = apart(conn)
    if refused is None:
        return take(conn, due, params)
    ids = [row[0] for row in conn.execute(text(due), params)]
    one = "SELECT CAST(:one AS text) AS id"
    return refused.each(conn, ids, lambda job: take(conn, one, params | {"one": job}), limit)


def _beyond(conn: Connection) -> int:
    """How many more to look at than are asked for: so many are refused."""
    refused = apart(conn)
    return 0 if refused is None else len(refused.rows)


def _postgres(conn: Connection, due: str, params: dict[str, Any]) -> list[ClaimedJob]:
    now = now_sql(conn)
    rows = conn.execute(
        text(f"""
        WITH due AS MATERIALIZED ({due}), claimed AS (
            UPDATE jobs AS j SET status = 'in_progress', waiting_on = NULL, fence = j.fence + 1, calls = j.calls + 1,
                attempts = j.attempts + 1, lease_owner = :owner, lease_until = {after_sql(conn, ":lease")},
                started_at = COALESCE(j.started_at, {now})
            FROM due WHERE j.id = due.id RETURNING j.*
        ), noted AS (
            INSERT INTO attempts (job_id, attempt, fence, worker, started_at, queued_seconds)
            SELECT id, calls, fence, :owner, {now}, EXTRACT(EPOCH FROM {now} - due_at) FROM claimed
        )
        SELECT {_COLUMNS}, {seconds_until_sql(conn, "expires_at")} AS seconds_left,
            EXTRACT(EPOCH FROM {now} - due_at)::double precision AS queued_seconds
        FROM claimed JOIN requests AS r ON r.job_id = claimed.id ORDER BY due_at, id
        """),
        params,
    )
    payloads = payloads_of(conn)
    return [_job(row, payloads) for row in rows]


def _sqlite(conn: Connection, due: str, params: dict[str, Any]) -> list[ClaimedJob]:
    now = now_sql(conn)
    claimed = [
        row[0]
        for row in conn.execute(
            text(f"""
            UPDATE jobs SET status = 'in_progress', waiting_on = NULL, fence = fence + 1, calls = calls + 1,
                attempts = attempts + 1, lease_owner = :owner, lease_until = {after_sql(conn, ":lease")},
                started_at = COALESCE(started_at, {now})
            WHERE id IN ({due})
            RETURNING id
            """),
            params,
        )
    ]
    if not claimed:
        return []
    names = {f"j{index}": job_id for index, job_id in enumerate(claimed)}
    listed = ", ".join(f":{name}" for name in names)
    queued = f"-({seconds_until_sql(conn, 'due_at')})"
    conn.execute(
        text(f"""
        INSERT INTO attempts (job_id, attempt, fence, worker, started_at, queued_seconds)
        SELECT id, calls, fence, :owner, {now}, {queued} FROM jobs WHERE id IN ({listed})
        """),
        {"owner": params["owner"], **names},
    )
    rows = conn.execute(
        text(f"""
        SELECT {_COLUMNS}, {seconds_until_sql(conn, "expires_at")} AS seconds_left, {queued} AS queued_seconds
        FROM jobs JOIN requests AS r ON r.job_id = jobs.id WHERE id IN ({listed}) ORDER BY due_at, id
        """),
        names,
    )
    payloads = payloads_of(conn)
    return [_job(row, payloads) for row in rows]


def _job(row: Any, payloads: Payloads) -> ClaimedJob:
    """A row's columns are called as the fields are; SQLite has numbers for booleans."""
    given = row._asdict()
    given |= {name: bool(given[name]) for name in _BOOLEANS}
    given |= {"spent_picousd": int(row.spent_picousd), "queued_seconds": max(0.0, float(row.queued_seconds))}
    try:
        given["body"] = payloads.open_json(row.body, f"requests.body:{row.id}")
    except Unreadable as error:
        given |= {"body": "", "unreadable": str(error)}
    return ClaimedJob(**given)


_BOOLEANS = [field.name for field in fields(ClaimedJob) if field.type == "bool"]
