"""The database's clock, as SQL. Workers never compare moments by their own clocks, which may be hours apart.

On SQLite the database's clock is the machine's, read by the library itself.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, text

_SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f','now')"


class Speaker(Protocol):
    """An object with one of the two dialects: a connection, as a rule."""

    @property
    def dialect(self) -> Any:
        """SQLAlchemy's, with a `name`."""


def is_postgres(conn: Speaker) -> bool:
    """Whether this connection speaks PostgreSQL; the other dialect is SQLite."""
    return bool(conn.dialect.name == "postgresql")


def now_sql(conn: Speaker) -> str:
    """SQL for this moment: the statement's start, so that an index can be searched by it."""
    return "statement_timestamp()" if is_postgres(conn) else _SQLITE_NOW


def after_sql(conn: Speaker, seconds: str) -> str:
    """SQL for `seconds` (an SQL expression, usually a bound parameter such as `:lease`) from now; may be negative."""
    if is_postgres(conn):
        return f"(statement_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))"
    return f"strftime('%Y-%m-%d %H:%M:%f','now', printf('%+.3f seconds', {seconds}))"


def unix_sql(conn: Speaker) -> str:
    """SQL for this moment in Unix seconds."""
    if is_postgres(conn):
        return f"CAST(EXTRACT(EPOCH FROM {now_sql(conn)}) AS double precision)"
    return "(julianday('now') - 2440587.5) * 86400.0"


def unix_seconds(conn: Connection) -> float:
    """This moment by the database's clock, in Unix seconds: for what others compare with theirs."""
    return float(conn.execute(text(f"SELECT {unix_sql(conn)}")).scalar_one())


def seconds_until(conn: Connection, moment: datetime) -> float:
    """Seconds until an aware moment, by the database's clock; 0 where it has passed."""
    return max(0.0, moment.timestamp() - unix_seconds(conn))


def seconds_until_sql(conn: Connection, moment: str) -> str:
    """SQL for the seconds from now until the column or expression `moment`."""
    if is_postgres(conn):
        return f"EXTRACT(EPOCH FROM {moment} - statement_timestamp())::double precision"
    return f"(julianday({moment}) - julianday('now')) * 86400.0"


def day_sql(conn: Connection, moment: str) -> str:
    """SQL for the UTC day of the column or expression `moment`, as text: YYYY-MM-DD."""
    return f"to_char({moment} AT TIME ZONE 'UTC', 'YYYY-MM-DD')" if is_postgres(conn) else f"substr({moment}, 1, 10)"
