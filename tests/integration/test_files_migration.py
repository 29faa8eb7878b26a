"""A database of the version before stored files, with batches in it, is brought up: nothing of them changes."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from tests.revisions import upgrade_to
from worker.db import schema

BEFORE = "0003"
COLUMNS = "id, tenant, status, input_name, endpoint, total, imported, completed, max_attempts, window_seconds"
TIMES = "'2026-01-01 00:00:00.000'"


def test_batches_of_the_version_before_are_kept(empty_database_url: str) -> None:
    """Rows, constraints and the new states."""
    engine = create_engine(empty_database_url)
    with engine.begin() as conn:
        upgrade_to(conn, BEFORE)
        for status, finished in (("in_progress", "NULL"), ("completed", TIMES)):
            conn.execute(
                text(f"""
                INSERT INTO batches ({COLUMNS}, created_at, due_at, expires_at, finished_at)
                VALUES ('batch_{status}', 't', '{status}', 'in.jsonl', '/v1/responses', 7, 5, 3, 5, 60, {TIMES}, {TIMES},
                    {TIMES}, {finished})
                """)
            )
        before = conn.execute(text(f"SELECT {COLUMNS} FROM batches ORDER BY id")).all()
    schema.upgrade(empty_database_url)
    with engine.begin() as conn:
        assert conn.execute(text(f"SELECT {COLUMNS} FROM batches ORDER BY id")).all() == before
        assert conn.execute(text("SELECT written, input_file_id FROM batches")).all() == [(0, None)] * 2
        conn.execute(text("UPDATE batches SET status = 'finalizing' WHERE id = 'batch_in_progress'"))
    with engine.begin() as conn, pytest.raises(IntegrityError):
        conn.execute(text("UPDATE batches SET status = 'failed' WHERE id = 'batch_in_progress'"))
    engine.dispose()
