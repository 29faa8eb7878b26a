"""A job in the caller's own transaction: it exists when the caller commits, and never if the caller rolls back.

Nothing of the caller's transaction is changed: no setting, no row factory, no savepoint. A connection that commits each
statement is refused, and so is one to another database than the settings name: no worker would find the job there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from sqlalchemy.exc import DBAPIError

from api_schemas import jsontext
from api_schemas.jobs import JobRequest
from worker.base.errors import NotAllowed, Unreachable
from worker.db import identity
from worker.db.jobs.submit import Answer, Insertion, Statement, Submitted, insertion
from worker.producer.connections import Connections

if TYPE_CHECKING:  # with the dialects of both databases, which no other producer needs before it connects
    from worker.producer.drivers import Driver

Ring = Callable[[Sequence[Submitted]], object]


def one_of(session: Any, connection: Any) -> Any:
    """What was given of the two, or None. Raises TypeError for both."""
    if session is not None and connection is not None:
        raise TypeError("give session or connection, not both")
    return connection if session is None else session


def insert(connections: Connections, given: Any, jobs: Sequence[JobRequest], ring: Ring) -> list[Submitted]:
    """Insert jobs in the transaction of a blocking session or connection.

    Args:
        ring: called after the commit, where the framework reports that there was one.

    Raises:
        TypeError: it is none that Stockpot knows, or one that is awaited.
        NotAllowed: it is in no transaction.
        IdempotencyConflict: as `submit`.
        Unreachable: its database has no tables of Stockpot's, or is another one.
    """
    from worker.producer.drivers import blocking_driver_of

    driver = blocking_driver_of(given)
    steps = _steps(connections, connections.whereabouts(), driver, jobs)
    statement = next(steps)
    try:
        while True:
            statement = steps.send(_run(driver, statement))
    except StopIteration as over:
        return _done(driver, over.value, ring)


async def insert_awaited(
    connections: Connections, given: Any, jobs: Sequence[JobRequest], ring: Ring
) -> list[Submitted]:
    """As `insert`, for sessions and connections that are awaited; those that block do so."""
    from worker.producer.drivers import driver_of

    driver = await driver_of(given)
    where = await to_thread.run_sync(connections.whereabouts)
    steps = _steps(connections, where, driver, jobs)
    statement = next(steps)
    try:
        while True:
            statement = steps.send(await _run_awaited(driver, statement))
    except StopIteration as over:
        return _done(driver, over.value, ring)


def _steps(
    connections: Connections, where: tuple[str, str | None], driver: Driver, jobs: Sequence[JobRequest]
) -> Insertion:
    if not driver.in_transaction:
        raise NotAllowed(
            "the connection commits each statement by itself, so there is no transaction that the job could be part of:"
            " begin one (`transaction.atomic()`, `BEGIN`), or submit without it"
        )
    schema, ours = where
    if ours is not None:
        table = f'"{schema}".bookmarks' if schema else "bookmarks"
        answer = yield Statement(
            f"SELECT CAST(place AS text) FROM {table} WHERE name = :name", [{"name": identity.NAME}]
        )
        theirs = jsontext.loads(answer.rows[0][0])["id"] if answer.rows else None
        if theirs != ours:
            raise _elsewhere("it is another database than that of the settings")
    return (yield from insertion(driver, jobs, connections.settings, schema))


def _run(driver: Driver, statement: Statement) -> Answer:
    if driver.run is None:
        raise AssertionError("a driver that blocks")
    answer = Answer([], 0)
    for row in statement.rows:
        try:
            answer = driver.run(statement.sql, row)
        except Exception as error:
            _refuse_missing_tables(error)
            raise
    return answer


async def _run_awaited(driver: Driver, statement: Statement) -> Answer:
    if driver.run_awaited is None:
        return _run(driver, statement)
    answer = Answer([], 0)
    for row in statement.rows:
        try:
            answer = await driver.run_awaited(statement.sql, row)
        except Exception as error:
            _refuse_missing_tables(error)
            raise
    return answer


def _done(driver: Driver, done: list[Submitted], ring: Ring) -> list[Submitted]:
    if driver.on_commit is not None:
        driver.on_commit(lambda: ring(done))
    return done


def _refuse_missing_tables(error: Exception) -> None:
    raw: Any = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(raw, "sqlstate", None) or getattr(raw, "pgcode", None)
    if code == _UNDEFINED_TABLE or "no such table" in str(raw):
        raise _elsewhere("it has no tables of Stockpot") from error


def _elsewhere(detail: str) -> Unreachable:
    return Unreachable(
        "the database of the given connection",
        detail,
        "STOCKPOT_DATABASE_URL (and STOCKPOT_SCHEMA) must name the database that the connection is to.",
    )


_UNDEFINED_TABLE = "42P01"
