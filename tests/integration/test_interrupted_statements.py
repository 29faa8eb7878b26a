"""Ctrl-C in the middle of a statement is Ctrl-C for the caller, and the next transaction goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from worker.base.settings import Settings
from worker.db.connect import Database

_ONE = "SELECT 1"
#: Long enough to be interrupted in: some tenths of a second on SQLite, longer than any test on PostgreSQL.
_LONG = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT COUNT(*) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}


def _interrupt(once: Callable[[], object]) -> threading.Thread:
    """What `once` returns has happened: Ctrl-C. The thread has ended when it was sent."""

    def send() -> None:
        once()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def _long(database: Database, begun: threading.Event) -> Callable[[Connection], object]:
    def begins() -> int:
        begun.set()
        return 0

    def verb(conn: Connection) -> object:
        if database.is_sqlite:
            raw = conn.connection.driver_connection
            assert raw is not None
            raw.create_function("begun", 0, begins)
        else:
            begins()
        return conn.execute(text(_LONG[database.engine.dialect.name])).scalar()

    return verb


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_statement_that_ctrl_c_ends_is_rolled_back_quietly(database: Database, way: str) -> None:
    """Its connection is given up; the caller sees KeyboardInterrupt and nothing else."""
    begun = threading.Event()
    sender = _interrupt(begun.wait)
    with pytest.raises(KeyboardInterrupt):
        getattr(database, way)(_long(database, begun))
    sender.join()
    assert getattr(database, way)(lambda conn: conn.execute(text(_ONE)).scalar()) == 1


def test_ctrl_c_in_the_wait_for_another_writer_ends_the_wait(tmp_path: Path) -> None:
    """SQLite notices after its time-out; the other writer keeps its transaction."""
    file = tmp_path / "jobs.db"
    with contextlib.closing(Database(Settings(database_url=f"sqlite:///{file}"), pool_size=1)) as database:
        database.read(lambda conn: conn.execute(text(_ONE)).scalar())
        with contextlib.closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = threading.Event()
            with database.engine.connect() as conn:  # the only one of the pool: the same is taken again
                conn.connection.driver_connection.set_trace_callback(lambda _statement: waiting.set())  # type: ignore[union-attr]
            sender = _interrupt(waiting.wait)
            with pytest.raises(KeyboardInterrupt):
                database.write(lambda conn: conn.execute(text(_ONE)).scalar())
            sender.join()
            other.execute("COMMIT")
        assert database.write(lambda conn: conn.execute(text(_ONE)).scalar()) == 1
