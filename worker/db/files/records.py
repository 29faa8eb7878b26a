"""Files: begun, finished, read, listed, deleted, expired, collected. The caller commits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, text

from api_schemas.ids import file_id
from worker.base.errors import NotFound
from worker.db.clock import after_sql, now_sql
from worker.db.jobs.lookup import moment

_MOMENTS = ("created_at", "expires_at")
#: Files looked at in one transaction of the collector.
SLICE = 100


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file as in its row."""

    id: str
    tenant: str
    purpose: str
    filename: str
    state: str
    bytes: int
    lines: int
    sha256: str | None
    place: str | None
    created_at: datetime
    expires_at: datetime | None


_COLUMNS = ", ".join(one.name for one in fields(FileRow))


def _row(row: Any) -> FileRow:
    return FileRow(**{**row, **{name: moment(row[name]) for name in _MOMENTS}})


def begin(
    conn: Connection,
    *,
    tenant: str,
    filename: str,
    purpose: str,
    place: str | None,
    state: Literal["uploading", "growing"] = "uploading",
) -> str:
    """Make an empty file; its id."""
    new = file_id()
    conn.execute(
        text(f"""
        INSERT INTO files (id, tenant, purpose, filename, state, place, created_at, touched_at)
        VALUES (:id, :tenant, :purpose, :filename, :state, :place, {now_sql(conn)}, {now_sql(conn)})
        """),
        {"id": new, "tenant": tenant, "purpose": purpose, "filename": filename, "state": state, "place": place},
    )
    return new


def touch(conn: Connection, file: str) -> None:
    """Record that an upload still goes on."""
    conn.execute(
        text(f"UPDATE files SET touched_at = {now_sql(conn)} WHERE id = :id AND state = 'uploading'"), {"id": file}
    )


def finish(
    conn: Connection,
    file: str,
    *,
    state: Literal["uploading", "growing"],
    purpose: str,
    sha256: str | None,
    expires_seconds: float | None,
) -> FileRow:
    """Make a file whole: from now on it is visible, and it exists from now on.

    Raises:
        NotFound: it was given up meanwhile.
    """
    expires = "NULL" if expires_seconds is None else after_sql(conn, ":life")
    done = conn.execute(
        text(f"""
        UPDATE files SET state = 'ready', purpose = :purpose, sha256 = :sha256, created_at = {now_sql(conn)},
            expires_at = {expires}
        WHERE id = :id AND state = :state
        """),
        {"id": file, "state": state, "purpose": purpose, "sha256": sha256, "life": expires_seconds},
    ).rowcount
    if done != 1:
        raise NotFound(f"the upload {file} was given up: nothing came for too long")
    return get(conn, file, tenant=None)


def get(conn: Connection, file: str, *, tenant: str | None) -> FileRow:
    """A visible file. `tenant` None: of any tenant.

    Raises:
        NotFound: no such file of this tenant, or it was deleted, or its time is up.
    """
    row = (
        conn.execute(text(f"SELECT {_COLUMNS} FROM files WHERE id = :id AND {_visible(conn)}"), {"id": file})
        .mappings()
        .first()
    )
    if row is None or (tenant is not None and row["tenant"] != tenant):
        raise NotFound(f"No such File object: {file[:64]}")
    return _row(row)


def for_import(conn: Connection, file: str, *, tenant: str) -> FileRow:
    """A file whose import has begun; it may have been deleted since.

    Raises:
        NotFound: no such file of this tenant.
    """
    row = whatever(conn, file)
    if row is None or row.tenant != tenant:
        raise NotFound(f"No such File object: {file[:64]}")
    return row


def _visible(conn: Connection) -> str:
    return f"state IN ('ready', 'growing') AND (expires_at IS NULL OR expires_at > {now_sql(conn)})"


def page(
    conn: Connection, *, tenant: str, purpose: str | None, after: str | None, limit: int, newest_first: bool
) -> list[FileRow]:
    """Files of a tenant behind the id `after`, in the order of their ids, which is that of their making.

    Raises:
        NotFound: `after` is no file of this tenant.
    """
    if after is not None:
        get(conn, after, tenant=tenant)
    where = f"tenant = :tenant AND {_visible(conn)}" + (" AND purpose = :purpose" if purpose else "")
    if after is not None:
        where += f" AND id {'<' if newest_first else '>'} :after"
    rows = conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM files WHERE {where} ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT :limit"
        ),
        {"tenant": tenant, "purpose": purpose, "after": after, "limit": limit},
    )
    return [_row(row) for row in rows.mappings()]


def delete(conn: Connection, file: str, *, tenant: str) -> None:
    """Make a file invisible at once; its bytes are collected later.

    Raises:
        NotFound: no such file of this tenant.
    """
    get(conn, file, tenant=tenant)
    discard(conn, file)


def discard(conn: Connection, file: str) -> None:
    """Give a file up, whatever its state."""
    conn.execute(text(f"UPDATE files SET state = 'deleted', touched_at = {now_sql(conn)} WHERE id = :id"), {"id": file})


#: The condition of `ix_files_left`, to the letter: SQLite draws no conclusions.
_LEFT = "state IN ('uploading', 'deleted')"


def left(conn: Connection, *, idle_seconds: float) -> bool:
    """Whether there is anything for `expire` or for the collector: a cheap question for every sweep."""
    found = conn.execute(
        text(f"""
        SELECT 1 FROM files WHERE {_LEFT}
            AND (state = 'deleted' OR (state = 'uploading' AND touched_at < {after_sql(conn, ":idle")}))
        UNION ALL SELECT 1 FROM files WHERE expires_at <= {now_sql(conn)} LIMIT 1
        """),
        {"idle": -idle_seconds},
    ).first()
    return found is not None


def expire(conn: Connection, *, idle_seconds: float) -> int:
    """Give up the files whose time is up, and uploads that have not moved for `idle_seconds`; how many."""
    now = now_sql(conn)
    timed = conn.execute(
        text(f"UPDATE files SET state = 'deleted', touched_at = {now} WHERE state = 'ready' AND expires_at <= {now}")
    ).rowcount
    broken = conn.execute(
        text(f"""
        UPDATE files SET state = 'deleted' WHERE {_LEFT} AND state = 'uploading' AND touched_at < {after_sql(conn, ":idle")}
        """),
        {"idle": -idle_seconds},
    ).rowcount
    return timed + broken


def collectable(conn: Connection) -> list[tuple[str, str | None]]:
    """Ids and places of deleted files whose bytes are no longer needed: no batch is importing them."""
    rows = conn.execute(
        text(f"""
        SELECT id, place FROM files WHERE {_LEFT} AND state = 'deleted' AND NOT EXISTS (
            SELECT 1 FROM batches WHERE batches.input_file_id = files.id AND batches.status = 'in_progress'
                AND batches.imported < batches.total
        ) ORDER BY touched_at LIMIT :limit
        """),
        {"limit": SLICE},
    )
    return [(row.id, row.place) for row in rows]


def remove(conn: Connection, file: str, *, pieces: int) -> bool:
    """Remove up to `pieces` pieces of a deleted file, and with the last of them its row; whether it is gone."""
    starts = [
        row[0]
        for row in conn.execute(
            text("SELECT start FROM file_pieces WHERE file_id = :id ORDER BY start LIMIT :limit"),
            {"id": file, "limit": pieces},
        )
    ]
    if starts:
        listed: Any = bindparam("starts", expanding=True)
        conn.execute(
            text("DELETE FROM file_pieces WHERE file_id = :id AND start IN :starts").bindparams(listed),
            {"id": file, "starts": starts},
        )
    if len(starts) == pieces:
        return False
    conn.execute(text("DELETE FROM files WHERE id = :id AND state = 'deleted'"), {"id": file})
    return True


def whatever(conn: Connection, file: str) -> FileRow | None:
    """A file in whatever state; None when its row is gone."""
    row = conn.execute(text(f"SELECT {_COLUMNS} FROM files WHERE id = :id"), {"id": file}).mappings().first()
    return None if row is None else _row(row)
