"""Submit: insert jobs with their requests. What is committed here is a promise (RELIABILITY P1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, text

from api_schemas import jsontext
from api_schemas.ids import job_id
from api_schemas.jobs import JobRequest
from worker.base.errors import IdempotencyConflict
from worker.base.money import PICO
from worker.base.settings import Settings
from worker.db.clock import after_sql, is_postgres, now_sql
from worker.db.columns import RawJSON
from worker.db.jobs.tables import jobs
from worker.db.recordset import column_types, records, recordset


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is in the database: `created` is False when an idempotency key found it there."""

    id: str
    status: str
    created: bool = True


#: Beside the columns a row has what they are computed from, by the database's clock, and the request's body.
_COMPUTED = {"delay": "float8", "ttl": "float8", "body": "text"}


def insert(conn: Connection, requests: Sequence[JobRequest], settings: Settings) -> list[Submitted]:
    """Insert jobs, in order; the caller commits, in a transaction of ours or of their own.

    Raises:
        IdempotencyConflict: a key is taken by a job with another body. Nothing of the slice is kept then, if the
            caller rolls back.
    """
    rows = [_row(request, settings) for request in requests]
    # An id of the caller's own may stand twice in a slice; its second row is a second submission, to be compared.
    first = {row["id"]: row for row in reversed(rows)}
    created = _insert_rows(conn, list(first.values())[::-1])
    return [
        Submitted(row["id"], "queued") if row["id"] in created and row is first[row["id"]] else _existing(conn, row)
        for row in rows
    ]


def _row(request: JobRequest, settings: Settings) -> dict[str, Any]:
    """The job's row: each column that the request has a field for, and what follows from the others."""
    delay = request.delay_seconds or 0.0
    if request.not_before is not None:
        delay = max(0.0, (request.not_before - datetime.now(UTC)).total_seconds())
    cost = request.max_cost_usd
    keyed = request.idempotency_key is not None or request.id is not None
    return {name: getattr(request, name) for name in _ASKED} | {
        "id": request.id or job_id(),
        "status": "queued",
        "waiting_on": "scheduled" if delay > 0 else None,
        "max_attempts": request.max_attempts or settings.max_attempts,
        "on_ambiguous": request.on_ambiguous or settings.on_ambiguous,
        "request_hash": request.request_hash() if keyed else None,
        "metadata": None if request.metadata is None else jsontext.dumps(request.metadata).decode(),
        "max_cost_picousd": None if cost is None else int(cost * PICO),
        "delay": float(delay),
        # A job that starts later has its whole time to live from then on.
        "ttl": float(delay) + (request.ttl_seconds or settings.job_ttl_seconds),
        "body": request.body_json().decode(),
    }


#: Columns that are called as the request's fields and properties are.
_ASKED = [
    str(column.name)
    for column in jobs.c
    if column.name in JobRequest.model_fields or isinstance(getattr(JobRequest, column.name, None), property)
]


def _insert_rows(conn: Connection, rows: list[dict[str, Any]]) -> set[str]:
    """Insert the rows that do not exist yet, by id or by idempotency key; the ids of those inserted."""
    now = now_sql(conn)
    names = [name for name in rows[0] if name not in _COMPUTED]
    columns = ", ".join(names)
    if is_postgres(conn):
        given = recordset("rows", column_types(jobs, names) | _COMPUTED)
        statement = f"""
            WITH given AS (SELECT * FROM {given}), made AS (
                INSERT INTO jobs ({columns}, created_at, due_at, expires_at)
                SELECT {", ".join(f"CAST({name} AS json)" if name in _JSON else name for name in names)}, {now},
                    {after_sql(conn, "delay")}, {after_sql(conn, "ttl")}
                FROM given ON CONFLICT DO NOTHING RETURNING id
            ), kept AS (
                INSERT INTO requests (job_id, body) SELECT g.id, CAST(g.body AS json) FROM given AS g JOIN made USING (id)
            )
            SELECT id FROM made
        """
        return {row[0] for row in conn.execute(text(statement), {"rows": records(rows)})}
    values = ", ".join(f":{name}" for name in names)
    job = text(f"""
        INSERT INTO jobs ({columns}, created_at, due_at, expires_at)
        VALUES ({values}, {now}, {after_sql(conn, ":delay")}, {after_sql(conn, ":ttl")})
        ON CONFLICT DO NOTHING
    """)
    made = [row for row in rows if conn.execute(job, row).rowcount == 1]
    if made:
        conn.execute(text("INSERT INTO requests (job_id, body) VALUES (:id, :body)"), made)
    return {row["id"] for row in made}


_JSON = {str(column.name) for column in jobs.c if isinstance(column.type, RawJSON)}


def _existing(conn: Connection, row: dict[str, Any]) -> Submitted:
    """The job that stood in the way of `row`: the same one, or a conflict."""
    found = conn.execute(
        text("""
        SELECT id, status, request_hash, tenant FROM jobs
        WHERE id = :id OR (tenant = :tenant AND idempotency_key = :idempotency_key)
        """),
        row,
    ).all()
    if len(found) > 1:
        raise IdempotencyConflict(
            f"id {row['id']} and idempotency key {row['idempotency_key']!r} belong to two different jobs"
        )
    if not found:  # it was purged between the two statements; its key is free, and the caller may submit again
        raise IdempotencyConflict(f"idempotency key {row['idempotency_key']!r}: the job that held it was just purged")
    job = found[0]
    if job.request_hash != row["request_hash"] or job.tenant != row["tenant"]:
        what = f"id {row['id']}" if job.id == row["id"] else f"idempotency key {row['idempotency_key']!r}"
        raise IdempotencyConflict(
            f"{what} belongs to {job.id if job.tenant == row['tenant'] else 'another job'},"
            " whose request is not the same; use a new key for a new request"
        )
    return Submitted(job.id, job.status, created=False)


def drop(conn: Connection, ids: Sequence[str]) -> None:
    """Delete jobs with all that stands beside them. The caller commits."""
    for table, key in (
        ("attempts", "job_id"),
        ("results", "job_id"),
        ("requests", "job_id"),
        ("api_calls", "job_id"),
        ("jobs", "id"),
    ):
        conn.execute(
            text(f"DELETE FROM {table} WHERE {key} IN :ids").bindparams(bindparam("ids", expanding=True)),
            {"ids": list(ids)},
        )
