"""Accept a call or join one, find and list them, forget their contents. The caller commits.

A repeat is the same call: by its idempotency key, or, without one, when an SDK marks it as a repeat (its retry count)
and sends the same body with the same key to the same path. A repeat joins the job that runs, or its answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

from sqlalchemy import Connection, text

from api_schemas import jsontext
from api_schemas.jobs import JobRequest
from worker.base.errors import IdempotencyConflict, NotFound
from worker.base.payloads import Payloads
from worker.base.settings import Settings
from worker.db.budgets.tables import ALL_TENANTS
from worker.db.calls.tables import api_calls
from worker.db.clock import after_sql, is_postgres, now_sql
from worker.db.columns import RawJSON
from worker.db.jobs import lookup, submit
from worker.db.jobs.lookup import moment
from worker.db.payloads import of as payloads_of
from worker.db.recordset import column_types

Kind = Literal["chat.completion", "response"]

#: A repeat of an SDK comes within seconds of the loss (two minutes at most, when it was asked to wait so long).
JOIN_AFTER_END_SECONDS = 120
#: A call that still runs is joined for longer than any SDK waits for one.
JOIN_RUNNING_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call to be accepted, beside its job. `retry_count` is the SDK's own count."""

    job_id: str
    tenant: str
    key_id: str | None
    limited: bool  # its key has limits
    kind: Kind
    asked: Mapping[str, Any]
    added: tuple[str, ...]
    fingerprint: str
    idempotency_key: str | None
    retry_count: int
    stored: bool
    background: bool
    metadata: Mapping[str, str] | None
    tokens: int
    reserved_picousd: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it was accepted; `metadata` is what it is now."""

    job_id: str
    kind: Kind
    asked: dict[str, Any]
    added: tuple[str, ...]
    stored: bool
    background: bool
    metadata: dict[str, str] | None
    created_at: datetime

    @property
    def hex(self) -> str:
        """The digits that its ids share."""
        return self.job_id.removeprefix("job_")

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as the client sent it, from the job's body."""
        return {name: value for name, value in body.items() if name not in self.added} | self.asked


_COLUMNS = (
    "c.job_id, c.kind, CAST(c.asked AS text) AS asked, CAST(c.added AS text) AS added, c.stored, c.background,"
    " CAST(c.metadata AS text) AS metadata, c.created_at"
)


def find_repeated(conn: Connection, new: NewCall) -> str | None:
    """The job of the call that this one repeats, if it is a repeat.

    Raises:
        IdempotencyConflict: the key belongs to another request.
    """
    if new.idempotency_key is not None:
        found = conn.execute(
            text("SELECT job_id, fingerprint FROM api_calls WHERE tenant = :tenant AND idempotency_key = :key"),
            {"tenant": new.tenant, "key": new.idempotency_key},
        ).first()
        if found is not None and found.fingerprint != new.fingerprint:
            raise IdempotencyConflict("the idempotency key belongs to a request with another body; use a new one")
        return None if found is None else str(found.job_id)
    return _join(conn, new) if new.retry_count > 0 else None


def _join(conn: Connection, new: NewCall) -> str | None:
    """Of equal calls that ran at once each repeat takes another: the first repeat one that no other has joined yet."""
    lock = "FOR UPDATE OF c SKIP LOCKED" if is_postgres(conn) else ""
    job_id = conn.execute(
        text(f"""
        SELECT c.job_id FROM api_calls AS c JOIN jobs AS j ON j.id = c.job_id
        WHERE c.fingerprint = :fingerprint AND c.tenant = :tenant AND c.deleted_at IS NULL
            AND COALESCE(c.key_id, '') = COALESCE(:key, '') AND c.idempotency_key IS NULL
            AND c.created_at > {after_sql(conn, f"-{JOIN_RUNNING_SECONDS}")}
            AND (j.finished_at IS NULL OR j.finished_at > {after_sql(conn, f"-{JOIN_AFTER_END_SECONDS}")})
        ORDER BY CASE WHEN c.joins = :repeats THEN 0 ELSE 1 END, c.joins, c.created_at DESC LIMIT 1 {lock}
        """),
        {"fingerprint": new.fingerprint, "tenant": new.tenant, "key": new.key_id, "repeats": new.retry_count - 1},
    ).scalar()
    if job_id is not None:
        conn.execute(text("UPDATE api_calls SET joins = joins + 1 WHERE job_id = :id"), {"id": job_id})
    return None if job_id is None else str(job_id)


class Overtaken(Exception):
    """Another request with the same idempotency key was committed first; nothing of ours is to be kept."""


def insert(conn: Connection, new: NewCall) -> Call:
    """Insert a call. Raises Overtaken."""
    row = _row(new, payloads_of(conn))
    made = conn.execute(
        text(f"""
        INSERT INTO api_calls ({", ".join(row)}, created_at) VALUES ({", ".join(f":{name}" for name in row)}, {now_sql(conn)})
        ON CONFLICT DO NOTHING RETURNING created_at
        """),
        row,
    ).scalar()
    if made is None:
        raise Overtaken
    return _new_call(new, made)


def insert_free(conn: Connection, new: NewCall, job: JobRequest, settings: Settings) -> Call | None:
    """Insert a call with its job in one statement, if neither limits nor budgets count the calls of its tenant.

    None: nothing was inserted. They count, or it repeats another call, or the database is SQLite, where a statement
    costs no round trip.

    Raises Overtaken.
    """
    if not is_postgres(conn) or new.limited or job.not_before is not None:
        return None
    if new.idempotency_key is None and new.retry_count > 0:
        return None
    row = _row(new, payloads_of(conn))
    types = _types()
    made, created_at = submit.insert_with(
        conn,
        job,
        settings,
        where="""
            NOT EXISTS (SELECT 1 FROM tenant_limits WHERE tenant = :tenant)
            AND NOT EXISTS (SELECT 1 FROM budgets WHERE tenant IN (:tenant, :all_tenants))
            AND NOT EXISTS (SELECT 1 FROM api_calls WHERE tenant = :tenant AND idempotency_key = :idempotency_key)
        """,
        beside=f"""
            INSERT INTO api_calls ({", ".join(row)}, created_at)
            SELECT {", ".join(f"CAST(:{name} AS {types[name]})" for name in row)}, {now_sql(conn)} FROM made
            ON CONFLICT DO NOTHING RETURNING created_at
        """,
        values={**row, "all_tenants": ALL_TENANTS},
    )
    if not made:
        return None
    if created_at is None:
        raise Overtaken
    return _new_call(new, created_at)


@cache
def _types() -> dict[str, str]:
    """PostgreSQL's types of the columns of `api_calls`."""
    names = [str(column.name) for column in api_calls.c]
    json = {name: "json" for name in names if isinstance(api_calls.c[name].type, RawJSON)}
    return column_types(api_calls, names) | json


def _row(new: NewCall, payloads: Payloads) -> dict[str, Any]:
    """The columns of a new call; its time is the database's."""
    asked = jsontext.dumps(dict(new.asked)).decode()
    return {
        "job_id": new.job_id,
        "tenant": new.tenant,
        "key_id": new.key_id,
        "kind": new.kind,
        "asked": payloads.seal_json(asked, f"api_calls.asked:{new.job_id}"),
        "added": jsontext.dumps(list(new.added)).decode(),
        "fingerprint": new.fingerprint,
        "idempotency_key": new.idempotency_key,
        "stored": new.stored,
        "background": new.background,
        "metadata": _json(new.metadata),
        "tokens": new.tokens,
        "reserved_picousd": new.reserved_picousd,
    }


def _new_call(new: NewCall, created_at: Any) -> Call:
    return Call(
        job_id=new.job_id,
        kind=new.kind,
        asked=dict(new.asked),
        added=new.added,
        stored=new.stored,
        background=new.background,
        metadata=None if new.metadata is None else dict(new.metadata),
        created_at=_made_at(created_at),
    )


def get(conn: Connection, job_id: str, *, tenant: str, kind: Kind, stored: bool = True) -> Call:
    """A call of this tenant; with `stored` only one that its client asked to keep, or that runs in the background.

    Raises:
        NotFound: no such call, or it was deleted.
    """
    row = (
        conn.execute(
            text(f"""
            SELECT {_COLUMNS} FROM api_calls AS c
            WHERE c.job_id = :id AND c.tenant = :tenant AND c.kind = :kind AND c.deleted_at IS NULL
            """),
            {"id": job_id, "tenant": tenant, "kind": kind},
        )
        .mappings()
        .first()
    )
    if row is None or (stored and not (row["stored"] or row["background"])):
        raise NotFound(f"there is no {kind} of that id")
    return _call(row, payloads_of(conn))


def page(
    conn: Connection,
    *,
    tenant: str,
    kind: Kind,
    after: str | None,
    limit: int,
    ascending: bool,
    model: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[Call]:
    """Stored calls that have their answer, one page in the order of their making, after the job `after`."""
    beyond = ">" if ascending else "<"
    where = ["c.tenant = :tenant", "c.kind = :kind", "c.stored", "j.status = 'completed'"]
    values: dict[str, Any] = {"tenant": tenant, "kind": kind, "limit": limit}
    if after is not None:
        where.append(f"c.job_id {beyond} :after")
        values["after"] = after
    if model is not None:
        where.append("j.model = :model")
        values["model"] = model
    for number, (name, value) in enumerate((metadata or {}).items()):
        where.append(f"{_member(conn, number)} = :value{number}")
        values |= {f"name{number}": name if is_postgres(conn) else f'$."{name}"', f"value{number}": value}
    rows = conn.execute(
        text(f"""
        SELECT {_COLUMNS} FROM api_calls AS c JOIN jobs AS j ON j.id = c.job_id
        WHERE {" AND ".join(where)} ORDER BY c.job_id {"ASC" if ascending else "DESC"} LIMIT :limit
        """),
        values,
    ).mappings()
    payloads = payloads_of(conn)
    return [_call(row, payloads) for row in rows]


def _member(conn: Connection, number: int) -> str:
    return (
        f"c.metadata ->> CAST(:name{number} AS text)"
        if is_postgres(conn)
        else f"json_extract(c.metadata, :name{number})"
    )


def set_metadata(conn: Connection, job_id: str, *, tenant: str, metadata: Mapping[str, str] | None) -> None:
    """Replace the metadata of a stored call; its job keeps what it was made with."""
    conn.execute(
        text("UPDATE api_calls SET metadata = :metadata WHERE job_id = :id AND tenant = :tenant"),
        {"id": job_id, "tenant": tenant, "metadata": _json(metadata)},
    )


def delete(conn: Connection, job_id: str, *, tenant: str) -> None:
    """Forget a call: its id is unknown from now on, its idempotency key is free, its contents go; its cost stays."""
    conn.execute(
        text(f"""
        UPDATE api_calls SET deleted_at = {now_sql(conn)}, stored = {"false" if is_postgres(conn) else "0"},
            idempotency_key = NULL, asked = '{{}}', metadata = NULL
        WHERE job_id = :id AND tenant = :tenant
        """),
        {"id": job_id, "tenant": tenant},
    )
    for table in ("results", "requests"):
        conn.execute(
            text(f"""
            DELETE FROM {table} WHERE job_id IN (SELECT id FROM jobs WHERE id = :id AND finished_at IS NOT NULL)
            """),
            {"id": job_id},
        )


def body(conn: Connection, job_id: str) -> dict[str, Any] | None:
    """The job's request body; None once it was purged."""
    found = lookup.request(conn, job_id)
    return None if found is None else dict(jsontext.loads(found))


def first_epoch(conn: Connection, job_id: str) -> int:
    """The fence before which all that a job has shown is void."""
    row = conn.execute(text("SELECT status, fence FROM jobs WHERE id = :id"), {"id": job_id}).one()
    return int(row.fence) + int(row.status == "queued" and row.fence > 0)


def _call(row: Any, payloads: Payloads) -> Call:
    return Call(
        job_id=row["job_id"],
        kind=row["kind"],
        asked=jsontext.loads(payloads.open_json(row["asked"], f"api_calls.asked:{row['job_id']}")),
        added=tuple(jsontext.loads(row["added"])),
        stored=bool(row["stored"]),
        background=bool(row["background"]),
        metadata=None if row["metadata"] is None else jsontext.loads(row["metadata"]),
        created_at=_made_at(row["created_at"]),
    )


def _made_at(value: Any) -> datetime:
    created_at = moment(value)
    if created_at is None:
        raise ValueError("a call has no time at which it was made")
    return created_at


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else jsontext.dumps(dict(value)).decode()
