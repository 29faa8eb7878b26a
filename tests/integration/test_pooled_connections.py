"""A connection whose server has gone is replaced before it is used, and an idle one that stands costs no question."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import Connection, event, text

from tests.rig.postgres import PostgresServer
from tests.rig.waiting import eventually
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.db.connect import Database

Verb = Callable[[Database, Callable[[Connection], int]], int]


def _backend(conn: Connection) -> int:
    return int(conn.execute(text("SELECT pg_backend_pid()")).scalar_one())


def _pooled(database: Database) -> int:
    """The socket of the only pooled connection; it is idle again afterwards."""
    with database.engine.connect() as conn:
        socket: int = conn.connection.driver_connection.pgconn.socket  # type: ignore[union-attr]
        return socket


def _end(postgres: PostgresServer, backend: int, socket: int) -> None:
    """End a session as an administrator or a restart does, and wait until its end has arrived here."""
    postgres.execute(f"SELECT pg_terminate_backend({backend})")
    look = select.poll()
    look.register(socket, select.POLLIN)
    eventually(lambda: bool(look.poll(0)), what="the server has closed the connection")


def test_a_connection_that_the_server_closed_is_replaced(postgres_server: PostgresServer, postgres_url: str) -> None:
    """The caller, who does not try again, sees nothing of it."""
    with contextlib.closing(Database(Settings(database_url=postgres_url), pool_size=1)) as database:
        before = database.read(_backend)
        _end(postgres_server, before, _pooled(database))
        after = database.read(_backend)
    assert after != before


def test_without_the_look_the_caller_sees_it(postgres_server: PostgresServer, postgres_url: str) -> None:
    """The engine, which tries again, does without: so the test above has a witness."""
    with contextlib.closing(Database(Settings(database_url=postgres_url), pool_size=1, ask_first=False)) as database:
        _end(postgres_server, database.read(_backend), _pooled(database))
        with pytest.raises(Unreachable):
            database.read(_backend)


@pytest.mark.parametrize("verb", [Database.read, Database.write])
@pytest.mark.parametrize("ask_first", [True, False])
def test_one_that_goes_between_the_look_and_the_transaction_is_replaced(
    postgres_server: PostgresServer, postgres_url: str, verb: Verb, *, ask_first: bool
) -> None:
    """Its session stands still as it is looked at, and ends as it is to begin. Who tries again by himself sees it."""
    database = Database(Settings(database_url=postgres_url), pool_size=1, ask_first=ask_first)
    with contextlib.closing(database), ThreadPoolExecutor(1) as pool:
        before = database.read(_backend)
        os.kill(before, signal.SIGSTOP)
        postgres_server.execute(f"SELECT pg_terminate_backend({before})")
        looked = threading.Event()
        event.listen(database.engine, "before_cursor_execute", lambda *_: looked.set())
        after = pool.submit(verb, database, _backend)
        assert looked.wait(60)
        os.kill(before, signal.SIGCONT)
        if ask_first:
            assert after.result(60) != before
        else:
            with pytest.raises(Unreachable):
                after.result(60)


def test_a_connection_that_stands_is_kept_and_not_asked(postgres_server: PostgresServer, postgres_url: str) -> None:
    """What the server was asked last on it is the statement before, not a question whether it stands."""
    with contextlib.closing(Database(Settings(database_url=postgres_url), pool_size=1)) as database:
        backend = database.read(_backend)
        with database.engine.connect():  # taken out of the pool, and nothing is asked yet
            last = postgres_server.execute(f"SELECT query FROM pg_stat_activity WHERE pid = {backend}")[0][0]
        assert database.read(_backend) == backend
    assert last == "ROLLBACK"


def test_words_of_the_server_that_are_no_goodbye_keep_the_connection(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    """A notification waits in the socket: the connection is asked, stands, and is kept."""
    with contextlib.closing(Database(Settings(database_url=postgres_url), pool_size=1)) as database:
        backend = database.write(lambda conn: (conn.execute(text("LISTEN here")), _backend(conn))[1])
        socket = _pooled(database)
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("NOTIFY here")
        look = select.poll()
        look.register(socket, select.POLLIN)
        eventually(lambda: bool(look.poll(0)), what="the notification has arrived")
        assert database.read(_backend) == backend
