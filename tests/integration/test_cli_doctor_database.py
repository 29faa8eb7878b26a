"""What `stockpot doctor` says of the database: its safety, and the versions of the workers that use it."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from tests.factories import sql
from worker.base.settings import Settings
from worker.cli.operations import checks
from worker.db.connect import Database
from worker.db.workers import registry


def found(database: Database) -> dict[str, str]:
    """Each check of the database with its detail."""
    settings = Settings(database_url=database.settings.database_url)
    return {check.name: f"{check.outcome}: {check.detail}" for check in checks.database(settings)}


@pytest.mark.parametrize(("theirs", "outcome"), [(version("stockpot"), "ok"), ("0.0.1", "note")])
def test_workers_of_another_version_are_named(database: Database, theirs: str, outcome: str) -> None:
    presence = registry.Presence("w:1:a", "w", 1, theirs, 10.0, 5, 0, 0.0, None)
    database.write(lambda conn: registry.announce(conn, presence))
    said = found(database)["workers"]
    assert said.startswith(f"{outcome}: 1 alive")
    assert theirs in said


def test_a_database_that_may_forget_what_it_confirmed_is_named(database: Database) -> None:
    """The suite's PostgreSQL is fast and not durable; a SQLite file has no such switch."""
    said = found(database)
    if database.is_sqlite:
        assert "database safety" not in said
    else:
        assert said["database safety"].startswith("note: fsync, full_page_writes")


def test_a_missing_table_and_missing_workers_are_named(database: Database) -> None:
    """A version on record is not enough; no worker is no failure, and a word on what then happens."""
    assert found(database)["workers"].startswith("note: none is running")
    assert found(database)["schema"].startswith("ok: of this version, 2")
    sql(database, "DROP TABLE usage_keys")
    assert found(database)["schema"] == "failed: of this version, but without usage_keys"
