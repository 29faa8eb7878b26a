"""Look up: a job with all that came of it. Reads only.

The columns are those of the views; money alone is read from the tables, since SQLite's view divides in floating point.
Stored JSON is read as text and parsed by `jsontext`: a driver's own parser stops at what providers do send.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.engine import RowMapping

from api_schemas import jsontext
from api_schemas.errors import JobError
from api_schemas.jobs import TERMINAL_STATUSES, Attempt, Job, JobDetail
from api_schemas.usage import TOKENS, Usage
from worker.base.errors import NotFound
from worker.base.money import PICO
from worker.db.payloads import of as payloads_of

#: A job's columns in `jobs_v`.
COLUMNS = ", ".join("CAST(metadata AS text) AS metadata" if name == "metadata" else name for name in Job.model_fields)
#: In lists the answers stay in the database: a page of them may be hundreds of megabytes.
LISTED = COLUMNS.removesuffix("text") + "NULL AS text"
_ATTEMPT = (
    "a.attempt, a.fence, a.started_at, a.finished_at, a.outcome, a.error_class, a.error_code, a.error_message,"
    " a.status_code AS status, a.input_tokens, a.cached_tokens, a.output_tokens, a.reasoning_tokens, a.total_tokens,"
    " a.cost_picousd, a.cost_source, a.inference_id, a.request_id, a.queued_seconds, a.first_token_seconds,"
    " a.total_seconds"
)
_TIMES = ("created_at", "due_at", "started_at", "finished_at")


def job(conn: Connection, job_id: str, *, tenant: str | None) -> JobDetail:
    """A job with its response, usage, cost and attempts. `tenant` None: of any tenant.

    `usage` is that of the call that completed it; `cost_usd` is what all of its calls cost, exactly, and None while
    no call has a price; `error` is why it ended otherwise.

    Raises:
        NotFound: no such job of this tenant.
    """
    response = "(SELECT CAST(r.response AS text) FROM results_v AS r WHERE r.job_id = jobs_v.id) AS response"
    row = _one(conn, f"SELECT {COLUMNS}, error_code, error_status, {response} FROM jobs_v", job_id, tenant)
    payloads = payloads_of(conn)
    answer = payloads.open_json(row["response"], f"results.response:{job_id}")
    calls = conn.execute(
        text(f"SELECT {_ATTEMPT} FROM attempts AS a WHERE a.job_id = :id ORDER BY a.attempt"),
        {"id": job_id},
    ).mappings()
    attempts = [_attempt(job_id, call) for call in calls]
    costs = [attempt.cost_usd for attempt in attempts if attempt.cost_usd is not None]
    return JobDetail(
        **fields(row) | {"text": payloads.open(row["text"], f"results.text:{job_id}")},
        response=None if answer is None else jsontext.loads(answer),
        usage=_usage(row["status"], attempts),
        cost_usd=sum(costs, Decimal(0)) if costs else None,
        error=error_of(row),
        attempt_log=attempts,
    )


def request(conn: Connection, job_id: str) -> str | None:
    """A job's request, the JSON as it was given; None when it was forgotten."""
    body = conn.execute(text("SELECT CAST(body AS text) FROM requests WHERE job_id = :id"), {"id": job_id}).scalar()
    found: str | None = payloads_of(conn).open_json(body, f"requests.body:{job_id}")
    return found


def error_bodies(conn: Connection, job_id: str) -> dict[int, str]:
    """What the provider answered to a job's calls that failed, by attempt."""
    query = text("SELECT attempt, error_body FROM attempts WHERE job_id = :id AND error_body IS NOT NULL")
    payloads = payloads_of(conn)
    return {
        row.attempt: payloads.open(row.error_body, f"attempts.error_body:{job_id}.{row.attempt}")
        for row in conn.execute(query, {"id": job_id})
    }


def _one(conn: Connection, select: str, job_id: str, tenant: str | None) -> RowMapping:
    mine = "" if tenant is None else " AND tenant = :tenant"
    found = conn.execute(text(f"{select} WHERE id = :id{mine}"), {"id": job_id, "tenant": tenant}).mappings().first()
    if found is None:
        whose = "" if tenant in {None, "default"} else f" of tenant {tenant}"
        raise NotFound(f"there is no job {job_id[:64]}{whose}")
    return found


def fields(row: RowMapping) -> dict[str, Any]:
    """The fields of a `Job` from a row of `COLUMNS`."""
    fields = {name: row[name] for name in Job.model_fields}
    fields.update((name, moment(row[name])) for name in _TIMES)
    metadata = row["metadata"]
    fields["metadata"] = None if metadata is None else jsontext.loads(metadata)
    return fields


def _attempt(job_id: str, row: RowMapping) -> Attempt:
    fields = dict(row)
    picousd = fields.pop("cost_picousd")
    fields["started_at"], fields["finished_at"] = moment(row["started_at"]), moment(row["finished_at"])
    return Attempt(
        **fields,
        cost_usd=None if picousd is None else Decimal(picousd) / PICO,
        client_request_id=f"{job_id}.{row['attempt']}",
    )


def _usage(status: str, attempts: list[Attempt]) -> Usage | None:
    if status != "completed":
        return None
    completing = next((attempt for attempt in reversed(attempts) if attempt.outcome == "completed"), None)
    if completing is None or completing.total_tokens is None:
        return None
    return Usage(**{name: getattr(completing, name) or 0 for name in TOKENS})


def error_of(row: RowMapping) -> JobError | None:
    """Why the job ended. A queued job may carry the error of its last attempt, which is not its end."""
    if row["error_class"] is None or row["status"] not in TERMINAL_STATUSES:
        return None
    return JobError(
        error_class=row["error_class"],
        code=row["error_code"],
        message=row["error_message"] or row["error_class"],
        status=row["error_status"],
    )


def moment(value: datetime | str | None) -> datetime | None:
    """A time as the driver gave it, in UTC and aware: SQLite keeps text, PostgreSQL answers in its session's zone."""
    if value is None:
        return None
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value.astimezone(UTC)
