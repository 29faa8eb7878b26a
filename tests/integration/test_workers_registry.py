"""The table of workers: who lives, who fell silent, and a drain that is asked for from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.workers import registry
from worker.db.workers.registry import Presence

PRESENCE = Presence("h:1:aa", "h", 1, "0.1.0", 10.0, 200, 3, 0.01, 50_000_000)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(Settings(database_url=database_url), pool_size=1)
    yield opened
    opened.close()


def test_a_worker_that_announces_itself_is_listed_as_alive(database: Database) -> None:
    assert database.write(lambda conn: registry.announce(conn, PRESENCE)) is False
    [row] = database.read(registry.listed)
    assert (row.owner, row.alive, row.in_flight, row.memory_bytes) == ("h:1:aa", True, 3, 50_000_000)


def test_a_worker_that_was_not_seen_for_three_heartbeats_is_silent_and_later_forgotten(database: Database) -> None:
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    past = "'2020-01-01 00:00:00.000'"
    database.write(lambda conn: conn.execute(text(f"UPDATE workers SET seen_at = {past}")))
    [row] = database.read(registry.listed)
    assert not row.alive
    assert database.write(registry.forget_silent) == 1
    assert database.read(registry.listed) == []


def test_a_request_to_drain_reaches_the_worker_with_its_next_beat(database: Database) -> None:
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    assert database.write(lambda conn: registry.ask_to_drain(conn, PRESENCE.owner))
    assert database.write(lambda conn: registry.announce(conn, PRESENCE)) is True
    assert not database.write(lambda conn: registry.ask_to_drain(conn, "nobody"))
