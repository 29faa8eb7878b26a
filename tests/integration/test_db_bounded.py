"""A connection whose socket goes in the middle of a question is closed for good, and costs its pool no second error."""

from __future__ import annotations

import logging
import os
import threading

import pytest
from sqlalchemy import Connection, text

from tests.rig.waiting import eventually
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.db.connect import Database


def test_a_socket_that_goes_while_an_answer_is_awaited_is_one_error(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The question fails as unreachable, nothing is logged by the pool's reset, and the next question is answered."""
    database = Database(Settings(database_url=postgres_url))
    try:
        raised: list[Unreachable] = []
        opened: list[int] = []

        def ask() -> None:
            with pytest.raises(Unreachable) as error:
                database.read(lambda conn: _ask(conn, opened))
            raised.append(error.value)

        with caplog.at_level(logging.WARNING):
            asking = threading.Thread(target=ask)
            asking.start()
            [socket] = eventually(lambda: opened, what="the question is asked")
            eventually(lambda: _is_asked(database), what="the server is at work on it")
            os.close(socket)
            asking.join(15)
        assert raised
        assert [record.name for record in caplog.records if record.name.startswith("sqlalchemy")] == []
        assert database.read(lambda conn: conn.execute(text("SELECT 1")).scalar()) == 1
    finally:
        database.close()


def _ask(conn: Connection, opened: list[int]) -> None:
    """Note the connection's descriptor, and put a question that takes long."""
    connection = conn.connection.driver_connection
    assert connection is not None
    opened.append(connection.fileno())
    conn.execute(text("SELECT pg_sleep(20)"))


def _is_asked(database: Database) -> bool:
    asked = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid()")
    return bool(database.read(lambda conn: conn.execute(asked).scalar()))
