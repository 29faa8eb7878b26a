"""Batches that are made of stored files: created, read by a worker, refused, and given files of their own.

The caller commits. Each step names the state that it leaves, so that of two workers one finds nothing to do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, text

from api_schemas.ids import batch_id
from worker.base.errors import IdempotencyConflict
from worker.db.batches import records
from worker.db.batches.records import BatchRow
from worker.db.calls.records import JOIN_AFTER_END_SECONDS, JOIN_RUNNING_SECONDS
from worker.db.clock import after_sql, is_postgres, now_sql
from worker.db.files import records as files
from worker.db.sums import MOST_SUM


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A batch to be made of a stored file; the names are the columns'."""

    tenant: str
    input_file_id: str
    input_name: str
    endpoint: str
    max_attempts: int
    window_seconds: float
    metadata: str | None = None
    webhook: str | None = None
    import_key: str | None = None
    fingerprint: str | None = None  # of what was asked; with a key nothing else may be asked by it
    allowed_models: str | None = None
    output_expires_seconds: int | None = None


def create(conn: Connection, order: Order, *, place: str | None) -> tuple[BatchRow, bool]:
    """Make a batch that a worker is to read, with its two empty files; and whether it was made now.

    Args:
        place: where the bytes of its files are to be kept.

    Raises:
        IdempotencyConflict: its `import_key` belongs to a batch with another `fingerprint`.
    """
    new = batch_id()
    values: dict[str, Any] = {"id": new, **asdict(order), "life": order.window_seconds}
    names = ", ".join(name for name in values if name != "life")
    json = {"metadata", "allowed_models"} if is_postgres(conn) else set()
    given = ", ".join(f"CAST(:{name} AS json)" if name in json else f":{name}" for name in values if name != "life")
    now = now_sql(conn)
    made = conn.execute(
        text(f"""
        INSERT INTO batches ({names}, status, total, created_at, due_at, expires_at)
        VALUES ({given}, 'validating', 0, {now}, {now}, {after_sql(conn, ":life")}) ON CONFLICT DO NOTHING
        """),
        values,
    ).rowcount
    if not made:
        [before] = records.same_import(conn, order.tenant, order.import_key or "")
        if before.fingerprint != order.fingerprint:
            raise IdempotencyConflict("the idempotency key belongs to a batch with other parameters")
        return before, False
    _give_files(conn, new, order.tenant, place)
    return records.get(conn, new, tenant=None), True


def repeated(conn: Connection, order: Order) -> BatchRow | None:
    """The batch that an SDK made with the same order before it lost the answer, as with any call that it repeats."""
    found = conn.execute(
        text(f"""
        SELECT id FROM batches WHERE tenant = :tenant AND input_file_id = :file AND fingerprint = :fingerprint
            AND import_key IS NULL AND created_at > {after_sql(conn, f"-{JOIN_RUNNING_SECONDS}")}
            AND (finished_at IS NULL OR finished_at > {after_sql(conn, f"-{JOIN_AFTER_END_SECONDS}")})
        ORDER BY id DESC LIMIT 1
        """),
        {"tenant": order.tenant, "file": order.input_file_id, "fingerprint": order.fingerprint},
    ).scalar()
    return None if found is None else records.get(conn, str(found), tenant=order.tenant)


def follow(conn: Connection, batch: BatchRow, old: BatchRow, *, place: str | None) -> BatchRow:
    """Give a batch that was made of another one's failed lines files of its own, if that one has such."""
    if old.input_file_id is None or batch.output_file_id is not None:
        return batch
    _give_files(conn, batch.id, batch.tenant, place)
    conn.execute(
        text(f"""
        UPDATE batches SET input_file_id = :input, began_at = {now_sql(conn)}, output_expires_seconds = :seconds
        WHERE id = :id
        """),
        {"input": old.input_file_id, "seconds": old.output_expires_seconds, "id": batch.id},
    )
    return records.get(conn, batch.id, tenant=None)


def _give_files(conn: Connection, batch: str, tenant: str, place: str | None) -> None:
    output, errors = (
        files.begin(
            conn,
            tenant=tenant,
            filename=f"{batch}_{kind}.jsonl",
            purpose="batch_output",
            place=place,
            state="growing",
        )
        for kind in ("output", "error")
    )
    conn.execute(
        text("UPDATE batches SET output_file_id = :output, error_file_id = :errors WHERE id = :id"),
        {"output": output, "errors": errors, "id": batch},
    )


def to_import(conn: Connection) -> list[str]:
    """The batches whose stored file is still to be read, oldest first."""
    rows = conn.execute(
        text("""
        SELECT id FROM batches WHERE output_file_id IS NOT NULL AND finished_at IS NULL AND retry_of IS NULL
            AND (status = 'validating' OR (status = 'in_progress' AND imported < total))
        ORDER BY id LIMIT 100
        """)
    )
    return [row[0] for row in rows]


def start(conn: Connection, batch: str, *, total: int, model: str | None, tokens: int, picousd: int | None) -> bool:
    """A batch's file was read and is valid: its lines may be imported. False when it is not `validating` any more."""
    done = conn.execute(
        text(f"""
        UPDATE batches SET status = 'in_progress', total = :total, model = :model, quoted_tokens = :tokens,
            quoted_picousd = :picousd, began_at = {now_sql(conn)}, due_at = {now_sql(conn)}
        WHERE id = :id AND status = 'validating'
        """),
        {
            "id": batch,
            "total": total,
            "model": model,
            "tokens": min(tokens, MOST_SUM),
            "picousd": None if picousd is None else min(picousd, MOST_SUM),
        },
    ).rowcount
    return done == 1


def refuse(conn: Connection, batch: str, *, errors: str, status: str = "failed") -> list[BatchRow]:
    """A batch's file is not valid (`errors` is JSON): it has ended. Itself in a list, or nothing if it had moved on."""
    json = "CAST(:errors AS json)" if is_postgres(conn) else ":errors"
    done = conn.execute(
        text(f"""
        UPDATE batches SET status = :status, errors = {json}, finished_at = {now_sql(conn)}
        WHERE id = :id AND status = 'validating'
        """),
        {"id": batch, "errors": errors, "status": status},
    ).rowcount
    if not done:
        return []
    row = records.get(conn, batch, tenant=None)
    for file in (row.output_file_id, row.error_file_id):
        if file is not None:
            files.discard(conn, file)
    conn.execute(text("UPDATE batches SET output_file_id = NULL, error_file_id = NULL WHERE id = :id"), {"id": batch})
    return [records.get(conn, batch, tenant=None)]


#: Batches whose files are behind: lines have ended that do not stand in them, or they are to be finished.
_BEHIND = """output_file_id IS NOT NULL AND finished_at IS NULL
    AND (status = 'finalizing' OR completed + failed + cancelled + expired > written)"""


def is_any_to_write(conn: Connection) -> bool:
    """Whether `to_write` would find a batch."""
    return conn.execute(text(f"SELECT 1 FROM batches WHERE {_BEHIND} LIMIT 1")).first() is not None


def to_write(conn: Connection) -> list[BatchRow]:
    """The batches that have ended lines which do not stand in their files, and those whose files are to be finished."""
    rows = conn.execute(text(f"SELECT id FROM batches WHERE {_BEHIND} ORDER BY id LIMIT 100")).all()
    return [records.get(conn, row[0], tenant=None) for row in rows]


def advance(conn: Connection, batch: str, before: int, after: int) -> bool:
    """The ended lines `before` … `after` stand in the files now. False when another process has written them."""
    moved = conn.execute(
        text("UPDATE batches SET written = :after WHERE id = :id AND written = :before"),
        {"id": batch, "before": before, "after": after},
    ).rowcount
    return moved == 1


def finish(conn: Connection, batch: str, *, output: str | None, errors: str | None) -> list[BatchRow]:
    """A batch whose files are whole has ended: itself in a list, or nothing when it had ended before."""
    done = conn.execute(
        text(f"""
        UPDATE batches SET status = {records.VERDICT}, finished_at = {now_sql(conn)}, output_file_id = :output,
            error_file_id = :errors
        WHERE id = :id AND status = 'finalizing'
        """),
        {"id": batch, "output": output, "errors": errors},
    ).rowcount
    return [records.get(conn, batch, tenant=None)] if done else []
