"""Sessions of browsers: begun with a key, found by their cookie, ended. The caller commits."""

from __future__ import annotations

from sqlalchemy import Connection, text

from worker.db.clock import after_sql, now_sql
from worker.db.keys.records import Key, in_force


def begin(conn: Connection, token_hash: str, key_id: str, *, seconds: float) -> None:
    """Begin one, and forget those that ran out."""
    now = now_sql(conn)
    conn.execute(text(f"DELETE FROM ui_sessions WHERE expires_at <= {now}"))
    conn.execute(
        text(f"""
        INSERT INTO ui_sessions (hash, key_id, created_at, expires_at)
        VALUES (:hash, :key, {now}, {after_sql(conn, ":seconds")})
        """),
        {"hash": token_hash, "key": key_id, "seconds": seconds},
    )


def find(conn: Connection, token_hash: str) -> Key | None:
    """The key of a session, while both are in force."""
    key_id = conn.execute(
        text(f"SELECT key_id FROM ui_sessions WHERE hash = :hash AND expires_at > {now_sql(conn)}"),
        {"hash": token_hash},
    ).scalar()
    return None if key_id is None else in_force(conn, key_id)


def end(conn: Connection, token_hash: str) -> None:
    """End one."""
    conn.execute(text("DELETE FROM ui_sessions WHERE hash = :hash"), {"hash": token_hash})
