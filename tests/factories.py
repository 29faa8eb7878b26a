"""Values for tests: requests, claimed jobs, settlements and outcomes, each valid unless the test says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.engine import RowMapping

from api_schemas.ids import job_id
from api_schemas.jobs import JobRequest, parse_job
from api_schemas.usage import Usage
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.jobs import claim, settle, submit, usage_days
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement
from worker.upstream.outcome import Answer, Failure, Kind, Timings

MODEL = "m/one"
USAGE = Usage(input_tokens=10, cached_tokens=2, output_tokens=5, reasoning_tokens=1, total_tokens=15)


def chat(prompt: str = "hi", *, model: str = MODEL, **more: Any) -> dict[str, Any]:
    """A chat completions body."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


def request(prompt: str = "hi", *, model: str = MODEL, stream: bool = False, **options: Any) -> JobRequest:
    """A submission; `options` are fields of `JobRequest`."""
    return parse_job(chat(prompt, model=model, **({"stream": True} if stream else {})), **options)


def opened(url: str, **settings: Any) -> AbstractContextManager[Database]:
    """A database with settings of its own, closed at the end of the block."""
    return closing(Database(Settings(database_url=url, **settings), pool_size=8))


def submitted(database: Database, *requests: JobRequest, **options: Any) -> list[str]:
    """Insert jobs (one of `request(**options)` when none is given) and return their ids."""
    given = requests or (request(**options),)
    return [one.id for one in database.write(lambda conn: submit.insert(conn, given, database.settings))]


def claimed(database: Database, *ids: str, owner: str = "w", lease: float = 30) -> list[ClaimedJob]:
    """Claim jobs by their ids."""
    return database.write(lambda conn: claim.claim_ids(conn, ids, owner=owner, lease=lease))


def settlement(job: ClaimedJob, **fields: Any) -> Settlement:
    """What became of a claim: completed, unless told."""
    given = {"status": "completed", "outcome": "completed", "response": "{}", "text": "ok"} | fields
    if given["status"] != "completed" and "response" not in fields:
        given["response"] = None
        given["text"] = fields.get("text")
    return Settlement(job_id=job.id, fence=job.fence, attempt=job.attempt, **given)


def settled(database: Database, *settlements: Settlement) -> set[str]:
    """Write settlements in one transaction; the ids of those that were written."""

    def verb(conn: Connection) -> set[str]:
        written = settle.settle(conn, settlements)
        usage_days.count(conn, [(one.job_id, one.attempt) for one in settlements if one.job_id in written])
        return written

    return database.write(verb)


def claimed_job(**fields: Any) -> ClaimedJob:
    """A claimed job that stands in no database."""
    job = ClaimedJob(
        id=job_id(),
        fence=1,
        attempt=1,
        attempts_spent=1,
        max_attempts=5,
        tenant="default",
        endpoint="/v1/chat/completions",
        model=MODEL,
        lane="interactive",
        stream=False,
        on_ambiguous="reconcile",
        body="{}",
        batch_id=None,
        custom_id=None,
        webhook=None,
        metadata=None,
        last_error=None,
        max_cost_picousd=None,
        spent_picousd=0,
        seconds_left=100.0,
        queued_seconds=0.0,
    )
    return replace(job, **fields)


def answer(**fields: Any) -> Answer:
    """A finished answer."""
    given = Answer(
        status=200,
        body=b'{"id": "gen-1"}',
        text="hello",
        finish_reason="stop",
        usage=USAGE,
        cost_usd=Decimal("0.001"),
        provider_id="gen-1",
        model=MODEL,
        inference_id="inf-1",
        request_id=None,
        timings=Timings(0.1, 0.2, 0.3, 0.4),
    )
    return replace(given, **fields)


def failure(kind: Kind = Kind.RETRYABLE, **fields: Any) -> Failure:
    """A call that gave no complete answer."""
    given = Failure(kind=kind, error_class="upstream", code=None, message="it broke", status=503)
    return replace(given, **fields)


def rows(database: Database, statement: str, **values: Any) -> Sequence[RowMapping]:
    """Rows of a query, as mappings."""

    def query(conn: Connection) -> Sequence[RowMapping]:
        return conn.execute(text(statement), values).mappings().all()

    return database.read(query)


def row(database: Database, job: str) -> RowMapping:
    """A job's row."""
    return rows(database, "SELECT * FROM jobs WHERE id = :id", id=job)[0]


def attempt_rows(database: Database, job: str) -> Sequence[RowMapping]:
    """A job's ledger, oldest first."""
    return rows(database, "SELECT * FROM attempts WHERE job_id = :id ORDER BY attempt", id=job)


def sql(database: Database, statement: str, **values: Any) -> None:
    """Run one statement, for states that no verb makes."""
    database.write(lambda conn: conn.execute(text(statement), values))


def lease_run_out(database: Database, job: str, *, fence: int | None = None) -> None:
    """Set a job's lease back, as if its worker had been silent for an hour, and the database there all the time.

    `fence`: only that claim's.
    """
    past = "statement_timestamp() - interval '1 hour'" if not database.is_sqlite else "datetime('now', '-1 hour')"
    sql(database, f"UPDATE leases SET steady_since = {past}")
    which = "id = :id AND status = 'in_progress' AND fence = COALESCE(CAST(:fence AS integer), fence)"
    sql(database, f"UPDATE jobs SET lease_until = {past} WHERE {which}", id=job, fence=fence)


def time_is_up(database: Database, job: str) -> None:
    """Set a job's expiry back, as if its time to live had passed an hour ago."""
    past = "statement_timestamp() - interval '1 hour'" if not database.is_sqlite else "datetime('now', '-1 hour')"
    sql(database, f"UPDATE jobs SET expires_at = {past} WHERE id = :id", id=job)


def due_now(database: Database, job: str) -> None:
    """Make a queued job due."""
    past = "statement_timestamp() - interval '1 second'" if not database.is_sqlite else "datetime('now', '-1 second')"
    sql(database, f"UPDATE jobs SET due_at = {past} WHERE id = :id AND status = 'queued'", id=job)


def sqlite_path(url: str) -> Path:
    """The file of a SQLite URL."""
    return Path(url.removeprefix("sqlite:///"))
