"""A database of the version before look-ups of every call, with a ledger in it, is brought up: nothing of it changes."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from tests.revisions import upgrade_to
from worker.db import schema
from worker.db.jobs import leases, ledger

BEFORE = "0005"
TIME = "'2026-01-01 00:00:00.000'"


def test_the_ledger_of_the_version_before_is_kept(empty_database_url: str) -> None:
    """What it had marked as late is looked up by the workers from now on; its elected sweeper keeps its term."""
    engine = create_engine(empty_database_url)
    with engine.begin() as conn:
        upgrade_to(conn, BEFORE)
        for attempt, mark in ((1, "NULL"), (2, "'late'"), (3, "'matched'")):
            conn.execute(
                text(f"""
                INSERT INTO attempts (job_id, attempt, fence, worker, outcome, started_at, finished_at, reconciled)
                VALUES ('job_1', {attempt}, {attempt}, 'w', 'lost', {TIME}, {TIME}, {mark})
                """)
            )
        conn.execute(text("INSERT INTO leases (name, owner, until) VALUES ('sweeper', 'old', '2099-01-01')"))
        before = conn.execute(text("SELECT job_id, attempt, outcome, reconciled FROM attempts ORDER BY attempt")).all()
    schema.upgrade(empty_database_url)
    with engine.begin() as conn:
        after = conn.execute(text("SELECT job_id, attempt, outcome, reconciled FROM attempts ORDER BY attempt")).all()
        assert after == before
        assert [one.attempt for one in ledger.unasked(conn, ledger.LATE, grace=0.0, limit=9)] == [2]
        assert not leases.elect(conn, leases.SWEEPER, "new", seconds=3, lease=30)
        assert leases.elect(conn, leases.SWEEPER, "old", seconds=3, lease=30)
    engine.dispose()
