"""A database of the version before is brought up while PostgreSQL's autovacuum is at its jobs: the vacuum gives way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from tests.revisions import upgrade_to
from tests.rig.postgres import PostgresServer
from tests.rig.waiting import eventually
from worker.db import schema

BEFORE = "0011"
#: Of the table: its vacuum takes minutes.
SLOW = "autovacuum_vacuum_threshold = 10, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"


@pytest.fixture
def vacuuming_server() -> Iterator[PostgresServer]:
    """A server whose autovacuum looks each second."""
    with PostgresServer(durable=False, settings={"autovacuum_naptime": "1s"}) as server:
        yield server


def test_the_upgrade_waits_for_no_automatic_vacuum(vacuuming_server: PostgresServer) -> None:
    """Its lock keeps the settings of a table from being changed; PostgreSQL ends it for who waits for a second."""
    url = vacuuming_server.create_database(name="vacuumed")
    engine = create_engine(url)
    with engine.begin() as conn:
        upgrade_to(conn, BEFORE)
        conn.execute(text(f"ALTER TABLE jobs SET ({SLOW})"))
        conn.execute(
            text("""
            INSERT INTO jobs (id, endpoint, model, max_attempts, on_ambiguous, created_at, due_at, expires_at)
            SELECT 'job_' || lpad(to_hex(n), 32, '0'), '/v1/chat/completions', 'm', 5, 'retry', now(), now(), now()
            FROM generate_series(1, 20000) AS n
            """)
        )
    with engine.begin() as conn:
        conn.execute(text("DELETE FROM jobs WHERE id < 'job_' || lpad(to_hex(15000), 32, '0')"))

    def is_at_it() -> bool:
        with engine.connect() as conn:
            found = "SELECT 1 FROM pg_stat_progress_vacuum WHERE relid = 'jobs'::regclass AND datname = 'vacuumed'"
            return conn.execute(text(found)).first() is not None

    eventually(is_at_it, what="autovacuum is at the jobs")
    waited: list[int] = []
    schema.upgrade(url, on_wait=waited.append)
    assert not waited
    assert "canceling autovacuum task" in vacuuming_server.log
    with engine.connect() as conn:
        options = conn.execute(text("SELECT reloptions FROM pg_class WHERE relname = 'jobs'")).scalar_one()
    assert {"vacuum_index_cleanup=on", "autovacuum_vacuum_threshold=50000"} <= set(options)
    engine.dispose()
