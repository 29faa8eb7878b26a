"""Submit: insert jobs with their requests. What is committed here is a promise (RELIABILITY P1)."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, bindparam, text

from api_schemas import jsontext
from api_schemas.errors import JobError
from api_schemas.event_numbers import FIRST_END
from api_schemas.ids import job_id
from api_schemas.jobs import JobRequest
from worker.base import tracing
from worker.base.errors import IdempotencyConflict
from worker.base.money import PICO
from worker.base.payloads import Payloads
from worker.base.settings import Settings
from worker.db.clock import Speaker, after_sql, is_postgres, now_sql, unix_sql
from worker.db.columns import RawJSON
from worker.db.jobs.ended import RETURNED, Ended, ended
from worker.db.recordset import column_types, records, recordset


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is in the database: `created` is False when an idempotency key found it there."""

    id: str
    status: str
    created: bool = True


class _Found(NamedTuple):
    """A job that a submission met."""

    id: str
    status: str
    request_hash: str | None
    tenant: str


#: Beside the columns a row has what they are computed from, by the database's clock, and the request's body.
_COMPUTED = {"delay": "float8", "ttl": "float8", "body": "text"}


class Statement(NamedTuple):
    """SQL with named parameters (`:name`), for each of these rows."""

    sql: str
    rows: Sequence[Mapping[str, Any]]


class Answer(NamedTuple):
    """What the last of a statement's rows brought."""

    rows: Sequence[Sequence[Any]]
    written: int


#: Statements, each answered with what it brought, and in the end what was inserted. A connection of any
#: driver, blocking or not, can run them.
Insertion: TypeAlias = Generator[Statement, Answer, list[Submitted]]


def insert(conn: Connection, requests: Sequence[JobRequest], settings: Settings) -> list[Submitted]:
    """Insert jobs, in order; the caller commits.

    Raises:
        IdempotencyConflict: a key is taken by a job with another body. Nothing of the slice is kept then, if the
            caller rolls back.
    """
    steps = insertion(conn, requests, settings)
    statement = next(steps)
    try:
        while True:
            done = conn.execute(text(statement.sql), list(statement.rows))
            statement = steps.send(Answer(done.all() if done.returns_rows else (), done.rowcount))
    except StopIteration as over:
        return list(over.value)


def insertion(speaker: Speaker, requests: Sequence[JobRequest], settings: Settings, schema: str = "") -> Insertion:
    """The statements of `insert`. With `schema` they name their tables' schema: a caller's connection has its own.

    Raises IdempotencyConflict, as `insert`.
    """
    payloads = Payloads.of(settings)
    now = 0.0
    if any(request.not_before is not None for request in requests):  # a moment is one of the database's clock
        now = float((yield Statement(f"SELECT {unix_sql(speaker)}", [{}])).rows[0][0])
    rows = [_row(request, settings, payloads, now) for request in requests]
    # An id of the caller's own may stand twice in a slice; its second row is a second submission, to be compared.
    first = {row["id"]: row for row in reversed(rows)}
    prefix = f'"{schema}".' if schema else ""
    created = yield from _insert_rows(speaker, list(first.values())[::-1], prefix)
    done = []
    for row in rows:
        if row["id"] in created and row is first[row["id"]]:
            done.append(Submitted(row["id"], "queued"))
        else:
            done.append((yield from _existing(row, prefix)))
    return done


def _row(request: JobRequest, settings: Settings, payloads: Payloads, now: float) -> dict[str, Any]:
    """The job's row: each column that the request has a field for, and what follows from the others.

    `now` is the database's, in Unix seconds, if the request names a moment.
    """
    delay = request.delay_seconds or 0.0
    if request.not_before is not None:
        delay = max(0.0, request.not_before.timestamp() - now)
    cost = request.max_cost_usd
    keyed = request.idempotency_key is not None or request.id is not None
    identity = request.id or job_id()
    return {name: getattr(request, name) for name in _columns().asked} | {
        "id": identity,
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
        "traceparent": tracing.current().traceparent,
        "body": payloads.seal_json(request.body_json().decode(), f"requests.body:{identity}"),
    }


class _Columns(NamedTuple):
    """What the columns of `jobs` are, by name."""

    asked: Sequence[str]  # called as the request's fields and properties are
    types: Mapping[str, str]  # for a recordset
    json: Collection[str]


@cache
def _columns() -> _Columns:
    from worker.db.jobs.tables import (
        jobs,
    )  # its indexes bring the dialects of both databases: 80 ms of a script's start

    names = [str(column.name) for column in jobs.c]
    asked = [
        name
        for name in names
        if name in JobRequest.model_fields or isinstance(getattr(JobRequest, name, None), property)
    ]
    json = {str(column.name) for column in jobs.c if isinstance(column.type, RawJSON)}
    return _Columns(asked, column_types(jobs, names), json)


def _insert_rows(conn: Speaker, rows: list[dict[str, Any]], prefix: str) -> Generator[Statement, Answer, set[str]]:
    """Insert the rows that do not exist yet, by id or by idempotency key; the ids of those inserted."""
    names = [name for name in rows[0] if name not in _COMPUTED]
    if is_postgres(conn):
        statement = f"{_with_made(conn, names, prefix)} SELECT id FROM made"
        made = yield Statement(statement, [{"rows": records(rows)}])
        return {row[0] for row in made.rows}
    now = now_sql(conn)
    values = ", ".join(f":{name}" for name in names)
    job = f"""
        INSERT INTO {prefix}jobs ({", ".join(names)}, created_at, due_at, expires_at)
        VALUES ({values}, {now}, {after_sql(conn, ":delay")}, {after_sql(conn, ":ttl")})
        ON CONFLICT DO NOTHING
    """
    kept = []
    for row in rows:
        if (yield Statement(job, [row])).written == 1:
            kept.append(row)
    if kept:
        yield Statement(
            f"INSERT INTO {prefix}requests (job_id, body) VALUES (:id, :body)",
            [{"id": row["id"], "body": row["body"]} for row in kept],
        )
    return {row["id"] for row in kept}


def insert_with(
    conn: Connection, request: JobRequest, settings: Settings, *, where: str, beside: str, values: Mapping[str, Any]
) -> tuple[bool, Any]:
    """PostgreSQL: insert a job, if `where`, and what stands beside it, in one statement. The caller commits.

    Args:
        request: names no moment of its start (`not_before`).
        where: SQL of a condition.
        beside: SQL of an INSERT that selects FROM `made`, where the job's id is if it was inserted, RETURNING one value.
        values: the parameters of `where` and `beside`.

    Returns:
        Whether the job was inserted, and the value that `beside` returned (None: it inserted nothing).
    """
    row = _row(request, settings, Payloads.of(settings), 0.0)
    names = [name for name in row if name not in _COMPUTED]
    statement = f"""
        {_with_made(conn, names, where=where)}, beside(value) AS ({beside})
        SELECT EXISTS (SELECT 1 FROM made), (SELECT value FROM beside)
    """
    made, value = conn.execute(text(statement), {"rows": records([row]), **values}).one()
    return bool(made), value


def _with_made(conn: Speaker, names: Sequence[str], prefix: str = "", where: str = "true") -> str:
    """PostgreSQL: the WITH that inserts the jobs in `:rows` with their requests, if `where`.

    `made` has the ids of those that are new.
    """
    shape = _columns()
    given = recordset("rows", {name: shape.types[name] for name in names} | _COMPUTED)
    return f"""
        WITH given AS (SELECT * FROM {given}), made AS (
            INSERT INTO {prefix}jobs ({", ".join(names)}, created_at, due_at, expires_at)
            SELECT {", ".join(f"CAST({name} AS json)" if name in shape.json else name for name in names)}, {now_sql(conn)},
                {after_sql(conn, "delay")}, {after_sql(conn, "ttl")}
            FROM given WHERE {where} ON CONFLICT DO NOTHING RETURNING id
        ), kept AS (
            INSERT INTO {prefix}requests (job_id, body) SELECT g.id, CAST(g.body AS json) FROM given AS g JOIN made USING (id)
        )
    """


def _existing(row: dict[str, Any], prefix: str) -> Generator[Statement, Answer, Submitted]:
    """The job that stood in the way of `row`: the same one, or a conflict."""
    answer = yield Statement(
        f"""
        SELECT id, status, request_hash, tenant FROM {prefix}jobs
        WHERE id = :id OR (tenant = :tenant AND idempotency_key = :idempotency_key)
        """,
        [{name: row[name] for name in ("id", "tenant", "idempotency_key")}],
    )
    found = [_Found(*one) for one in answer.rows]
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


def insert_failed(conn: Connection, request: JobRequest, error: JobError, settings: Settings) -> Ended | None:
    """Insert a job that has failed before it began: it has no request, no endpoint and no model. The caller commits.

    Args:
        request: names the job, its tenant, its lane, its webhook and its metadata; its body is not looked at.

    Returns:
        The job's end, for what follows from it; None: there is a job with that id, which is left as it is.
    """
    now = now_sql(conn)
    metadata = "CAST(:metadata AS json)" if is_postgres(conn) else ":metadata"
    row = conn.execute(
        text(f"""
        INSERT INTO jobs (id, tenant, endpoint, model, lane, status, max_attempts, on_ambiguous, created_at, due_at,
            expires_at, finished_at, fence, seq, metadata, webhook, error_class, error_code, error_message)
        VALUES (:id, :tenant, '', '', :lane, 'failed', :max_attempts, :on_ambiguous, {now}, {now}, {now}, {now}, 1,
            {FIRST_END}, {metadata}, :webhook, :error_class, :code, :message)
        ON CONFLICT DO NOTHING RETURNING {RETURNED}
        """),
        {
            "id": request.id,
            "tenant": request.tenant,
            "lane": request.lane,
            "max_attempts": settings.max_attempts,
            "on_ambiguous": settings.on_ambiguous,
            "metadata": None if request.metadata is None else jsontext.dumps(request.metadata).decode(),
            "webhook": request.webhook,
            "error_class": error.error_class,
            "code": error.code,
            "message": error.message,
        },
    ).first()
    return None if row is None else ended(row)


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
