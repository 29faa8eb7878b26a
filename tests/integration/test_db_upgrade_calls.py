"""The tables of the gateway come to a database of the version before, and leave its rows alone."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from tests.revisions import upgrade_to
from worker.db import schema
from worker.db.calls import limits, tenants

JOB = """
    INSERT INTO jobs (id, endpoint, model, max_attempts, on_ambiguous, created_at, due_at, expires_at)
    VALUES ('job_1', '/v1/responses', 'm', 5, 'retry', '2026-01-01 00:00:00', '2026-01-01 00:00:00', '2026-01-02 00:00:00')
"""
CALL = """
    INSERT INTO api_calls (job_id, tenant, kind, asked, added, fingerprint, stored, background, created_at)
    VALUES ('job_1', 'default', 'response', '{}', '[]', 'f', true, false, '2026-01-01 00:00:00')
"""


def test_a_database_of_the_version_before_keeps_its_jobs(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as conn:
            upgrade_to(conn, "0004")
            conn.execute(text(JOB))
        schema.upgrade(empty_database_url)
        assert schema.differences(engine) == []
        with engine.begin() as conn:
            conn.execute(text(CALL))
            joined = "SELECT j.status, c.joins, c.counted FROM jobs AS j JOIN api_calls AS c ON c.job_id = j.id"
            assert [tuple(row) for row in conn.execute(text(joined))] == [("queued", 0, False)]
    finally:
        engine.dispose()


def test_the_limits_of_tenants_come_to_calls_that_were_made_before(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as conn:
            upgrade_to(conn, "0007")
            conn.execute(text(JOB))
            conn.execute(text(CALL))
        schema.upgrade(empty_database_url)
        assert schema.differences(engine) == []
        with engine.begin() as conn:
            limits.admit(conn, tenant="default", key_id=None, tokens=1, picousd=None)
            tenants.put(conn, tenants.TenantLimits("default", max_in_flight=1))
            with pytest.raises(limits.Refused, match="1 run, the limit is 1"):
                limits.admit(conn, tenant="default", key_id=None, tokens=1, picousd=None)
            conn.execute(text("UPDATE jobs SET status = 'cancelled', finished_at = created_at"))
            limits.admit(conn, tenant="default", key_id=None, tokens=1, picousd=None)
            assert tenants.mark_over(conn, "default") == 0
    finally:
        engine.dispose()
