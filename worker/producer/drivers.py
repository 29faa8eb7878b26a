"""How the connections of applications take SQL: each kind that a job can be submitted through.

    session=       SQLAlchemy's Session, scoped_session, AsyncSession
    connection=    SQLAlchemy's Connection and AsyncConnection, Django's `connection`, connections of psycopg (awaited ones,
                   too), psycopg2, asyncpg, sqlite3 and aiosqlite

No driver is imported here: a caller with a connection has its own.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from worker.db.jobs.submit import Answer

#: Runs one SQL text with named parameters (`:name`).
Run = Callable[[str, Mapping[str, Any]], Answer]
RunAwaited = Callable[[str, Mapping[str, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Driver:
    """One connection of the caller's. It blocks (`run`) or is awaited (`run_awaited`).

    Args:
        dialect: its SQL.
        in_transaction: whether what is written now waits for a commit.
        on_commit: has something called after the commit, where the framework can.
    """

    dialect: Any
    in_transaction: bool
    run: Run | None = None
    run_awaited: RunAwaited | None = None
    on_commit: Callable[[Callable[[], object]], object] | None = None


async def driver_of(given: Any) -> Driver:
    """As `blocking_driver_of`, and for what is awaited."""
    if _is_from(given, "sqlalchemy.ext.asyncio"):
        session = getattr(given, "sync_session", None)
        connection = given if hasattr(given, "sync_connection") else await given.connection()
        return _sqlalchemy_awaited(connection, session)
    if _is_from(given, "asyncpg"):
        return _asyncpg(given)
    if _is_from(given, "aiosqlite"):
        return _aiosqlite(given)
    if type(given).__name__ == "AsyncConnection" and _is_from(given, "psycopg"):
        return _psycopg_awaited(given)
    return blocking_driver_of(given)


def blocking_driver_of(given: Any) -> Driver:
    """How a caller's session or connection takes SQL. Raises TypeError where it is none that is known, or is awaited."""
    if isinstance(given, Connection):
        return _sqlalchemy(given)
    if isinstance(given, sqlite3.Connection):
        return _sqlite(given)
    if _is_from(given, "sqlalchemy.orm"):
        session = given if not hasattr(given, "registry") or not callable(given.registry) else given.registry()
        return _sqlalchemy(session.connection(), session)
    if hasattr(given, "in_atomic_block"):
        return _django(given)
    if _is_from(given, "psycopg2"):
        return _psycopg2(given)
    if _is_from(given, "psycopg") and type(given).__name__ != "AsyncConnection":
        return _psycopg(given)
    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    if any(_is_from(given, name) for name in ("sqlalchemy.ext.asyncio", "asyncpg", "aiosqlite", "psycopg")):
        raise TypeError(f"a {kind} is awaited: submit through AsyncStockpot")
    raise TypeError(
        f"a {kind} is no session and no connection that Stockpot can submit through: SQLAlchemy, Django, psycopg,"
        " psycopg2, asyncpg, sqlite3 or aiosqlite"
    )


def _is_from(given: Any, package: str) -> bool:
    return any(f"{kind.__module__}.".startswith(f"{package}.") for kind in type(given).__mro__)


# ── SQLAlchemy ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _sqlalchemy(connection: Connection, session: Any = None) -> Driver:
    def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        done = connection.execute(text(sql), _ascii(parameters))
        return Answer([tuple(row) for row in done.all()] if done.returns_rows else [], done.rowcount)

    return Driver(connection.dialect, _begun(connection), run=run, on_commit=_after_commit(session))


def _sqlalchemy_awaited(connection: Any, session: Any) -> Driver:
    async def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        done = await connection.execute(text(sql), _ascii(parameters))
        return Answer([tuple(row) for row in done.all()] if done.returns_rows else [], done.rowcount)

    begun = _begun(connection.sync_connection)
    return Driver(connection.dialect, begun, run_awaited=run, on_commit=_after_commit(session))


def _begun(connection: Connection) -> bool:
    """SQLAlchemy begins by itself, unless its isolation level is AUTOCOMMIT."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return False
    raw, driver = connection.connection.dbapi_connection, connection.connection.driver_connection
    if str(getattr(raw, "isolation_level", "")).lower() == "autocommit":
        return False
    if isinstance(driver, sqlite3.Connection):
        return _sqlite_waits(driver)
    if _is_from(driver, "psycopg"):
        return _psycopg_waits(driver)
    return _psycopg2_waits(driver) if _is_from(driver, "psycopg2") else True


def _after_commit(session: Any) -> Callable[[Callable[[], object]], object] | None:
    """Calls wait in the session until it commits; a rollback forgets them. It is listened to once."""
    if session is None:
        return None
    if _CALLS not in session.info:
        session.info[_CALLS] = []
        event.listen(session, "after_commit", _call_all)
        event.listen(session, "after_rollback", lambda session: session.info[_CALLS].clear())
    append: Callable[[Callable[[], object]], object] = session.info[_CALLS].append
    return append


def _call_all(session: Any) -> None:
    calls = list(session.info[_CALLS])
    session.info[_CALLS].clear()
    for call in calls:
        call()


_CALLS = "stockpot_after_commit"


# ── Django and the drivers themselves ────────────────────────────────────────────────────────────────────────────────


def _django(connection: Any) -> Driver:
    if connection.vendor not in {"postgresql", "sqlite"}:
        raise TypeError(f"Django's connection is to {connection.vendor}: Stockpot's tables are in PostgreSQL or SQLite")
    dialect = _PG if connection.vendor == "postgresql" else _SQLITE_PYFORMAT

    def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        with connection.cursor() as cursor:
            cursor.execute(*_rendered(sql, parameters, dialect))
            return _answer(cursor)

    begun = connection.in_atomic_block or not connection.get_autocommit()
    return Driver(dialect, begun, run=run, on_commit=connection.on_commit if connection.in_atomic_block else None)


def _psycopg(connection: Any) -> Driver:
    psycopg: Any = sys.modules["psycopg"]

    def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        # Not `connection.cursor()`: the application may have given it another class, or other rows.
        with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            cursor.execute(*_rendered(sql, parameters, _PG))
            return _answer(cursor)

    return Driver(_PG, _psycopg_waits(connection), run=run)


def _psycopg_awaited(connection: Any) -> Driver:
    psycopg: Any = sys.modules["psycopg"]

    async def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            await cursor.execute(*_rendered(sql, parameters, _PG))
            return Answer(await cursor.fetchall() if cursor.description else [], cursor.rowcount)

    return Driver(_PG, _psycopg_waits(connection), run_awaited=run)


def _psycopg_waits(connection: Any) -> bool:
    return not connection.autocommit or connection.info.transaction_status != 0


def _psycopg2(connection: Any) -> Driver:
    cursor_of = sys.modules["psycopg2.extensions"].cursor

    def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        with cursor_of(connection) as cursor:
            cursor.execute(*_rendered(sql, parameters, _PG))
            return _answer(cursor)

    return Driver(_PG, _psycopg2_waits(connection), run=run)


def _psycopg2_waits(connection: Any) -> bool:
    return not connection.autocommit or connection.info.transaction_status != 0


def _asyncpg(connection: Any) -> Driver:
    async def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        rendered, values = _rendered(sql, parameters, _ASYNCPG)
        rows = await connection.fetch(rendered, *values)
        return Answer([tuple(row) for row in rows], len(rows))

    return Driver(_ASYNCPG, connection.is_in_transaction(), run_awaited=run)


def _sqlite(connection: sqlite3.Connection) -> Driver:
    def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        cursor = connection.cursor(sqlite3.Cursor)
        cursor.row_factory = None
        try:
            cursor.execute(sql, dict(parameters))
            return _answer(cursor)
        finally:
            cursor.close()

    return Driver(_SQLITE, _sqlite_waits(connection), run=run)


def _aiosqlite(connection: Any) -> Driver:
    async def run(sql: str, parameters: Mapping[str, Any]) -> Answer:
        async with connection.execute(sql, dict(parameters)) as cursor:
            return Answer([tuple(row) for row in await cursor.fetchall()], cursor.rowcount)

    waits = connection.in_transaction or connection.isolation_level is not None
    return Driver(_SQLITE, waits, run_awaited=run)


def _sqlite_waits(connection: sqlite3.Connection) -> bool:
    """Whether a transaction is open, or Python opens one before the first change."""
    mode: Any = getattr(connection, "autocommit", -1)  # since 3.12: True, False, or -1 for the way before
    opens = connection.isolation_level is not None if mode == -1 else not mode
    return connection.in_transaction or opens


def _answer(cursor: Any) -> Answer:
    return Answer([tuple(row) for row in cursor.fetchall()] if cursor.description else [], cursor.rowcount)


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────────

_PG: Dialect = postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]
_ASYNCPG: Dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
_SQLITE: Dialect = sqlite.dialect(paramstyle="named")
_SQLITE_PYFORMAT: Dialect = sqlite.dialect(paramstyle="pyformat")


def _rendered(sql: str, parameters: Mapping[str, Any], dialect: Dialect) -> tuple[str, Any]:
    """The SQL as the driver takes it, and its parameters: by name, or in order."""
    rendered, order = _compiled(sql, dialect)
    given = _ascii(parameters)
    return rendered, given if order is None else [given[name] for name in order]


@functools.lru_cache(maxsize=64)
def _compiled(sql: str, dialect: Dialect) -> tuple[str, Sequence[str] | None]:
    compiled: Any = text(sql).compile(dialect=dialect)
    return str(compiled), compiled.positiontup if dialect.positional else None


def _ascii(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rows as JSON that every `client_encoding` can carry: the connection's is the application's to choose."""
    rows = parameters.get("rows")
    if isinstance(rows, str) and not rows.isascii():
        return {**parameters, "rows": json.dumps(json.loads(rows))}
    return dict(parameters)
