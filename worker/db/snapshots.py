"""Snapshots that others hold: rows that they might still see cannot be cleared away, and every look steps over them."""

from __future__ import annotations

from sqlalchemy import Connection, text

from worker.db.clock import is_postgres


def oldest_seconds(conn: Connection) -> float:
    """The age of the oldest transaction in this database that holds a snapshot, as far as our role may see; 0: none.

    SQLite keeps no list of its readers.
    """
    if not is_postgres(conn):
        return 0.0
    age = conn.execute(
        text("""
        SELECT max(EXTRACT(EPOCH FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
        """)
    ).scalar()
    return float(age or 0.0)
