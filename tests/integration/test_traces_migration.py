"""A database of the version before traces, with jobs in it, is brought up: they are claimed as before."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from tests.factories import claimed, opened
from tests.revisions import upgrade_to
from worker.db import schema

BEFORE = "0009"
TIME, LATER = "'2026-01-01 00:00:00.000'", "'2099-01-01 00:00:00.000'"


def test_a_job_of_before_is_claimed(empty_database_url: str) -> None:
    """It has no trace to be linked to."""
    engine = create_engine(empty_database_url)
    job = "job_" + "0" * 32
    with engine.begin() as conn:
        upgrade_to(conn, BEFORE)
        conn.execute(
            text(f"""
            INSERT INTO jobs (id, endpoint, model, max_attempts, on_ambiguous, created_at, due_at, expires_at)
            VALUES ('{job}', '/v1/chat/completions', 'm', 5, 'retry', {TIME}, {TIME}, {LATER})
            """)
        )
        conn.execute(text(f"INSERT INTO requests (job_id, body) VALUES ('{job}', '{{}}')"))
    engine.dispose()
    schema.upgrade(empty_database_url)
    with opened(empty_database_url) as database:
        [found] = claimed(database, job)
        assert (found.id, found.traceparent, found.body) == (job, None, "{}")
