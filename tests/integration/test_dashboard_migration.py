"""A database of the version before the dashboard, with a key in it, is brought up: the key signs in."""

from __future__ import annotations

import hashlib

from sqlalchemy import create_engine, text

from tests.factories import opened
from tests.revisions import upgrade_to
from worker.db import schema
from worker.producer.access import Access, Role

BEFORE = "0006"
SECRET = "sk-sp-" + "a" * 43


def test_keys_of_the_version_before_sign_in(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as conn:
        upgrade_to(conn, BEFORE)
        conn.execute(
            text("""
            INSERT INTO api_keys (id, tenant, name, hash, hint, admin, created_at)
            VALUES ('key_1', 'acme', 'old', :hash, 'aaaa', true, '2026-01-01 00:00:00.000')
            """),
            {"hash": hashlib.sha256(SECRET.encode()).hexdigest()},
        )
    engine.dispose()
    schema.upgrade(empty_database_url)
    with opened(empty_database_url) as database:
        access = Access(database)
        begun = access.sign_in(SECRET)
        assert begun is not None and begun[1].role is Role.ADMIN
        line = access.begin(begun[1], "retry", "job_1", None)
        access.end(line, "done")
        [action] = access.actions()
        assert (action.who, action.role, action.outcome) == ("old", "admin", "done")
