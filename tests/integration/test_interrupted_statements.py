"""Ctrl-C in the middle of a statement is Ctrl-C for the caller, and the next transaction goes on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from worker.base.settings import Settings
from worker.db.connect import Database

_STATEMENT = "SELECT 1 UNION SELECT 2"


def _verb(conn: Connection) -> object:
    return conn.execute(text(_STATEMENT)).scalar()


@contextlib.contextmanager
def _ctrl_c_in(database: Database, statement: str) -> Iterator[list[str]]:
    """SIGINT comes where the interpreter sees it that came while the driver was at work: as its call returns, rows unread."""
    interrupted: list[str] = []

    def execute(cursor: Any, given: str, parameters: Any, _context: object) -> None:
        if given == statement:
            cursor.execute(given, parameters)
            interrupted.append(given)
            signal.raise_signal(signal.SIGINT)

    event.listen(database.engine, "do_execute", execute)
    try:
        yield interrupted
    finally:
        event.remove(database.engine, "do_execute", execute)


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_statement_that_ctrl_c_ends_is_rolled_back_quietly(database: Database, way: str) -> None:
    """Its connection is given up, though a traceback refers to it; the caller sees KeyboardInterrupt and nothing else."""
    with _ctrl_c_in(database, _STATEMENT) as interrupted, pytest.raises(KeyboardInterrupt) as kept:
        getattr(database, way)(_verb)
    assert interrupted == [_STATEMENT]
    with contextlib.closing(Database(database.settings)) as other:  # as another process: the file is free
        assert other.write(_verb) == 1
    assert getattr(database, way)(_verb) == 1
    del kept


def test_ctrl_c_in_the_beginning_of_a_write_ends_it(sqlite_url: str) -> None:
    """There SQLite waits for its turn, for seconds where others write; what it has begun is over."""
    with contextlib.closing(Database(Settings(database_url=sqlite_url), pool_size=1)) as database:
        with _ctrl_c_in(database, "BEGIN IMMEDIATE") as interrupted, pytest.raises(KeyboardInterrupt) as kept:
            database.write(_verb)
        assert interrupted == ["BEGIN IMMEDIATE"]
        assert database.write(_verb) == 1
        del kept
