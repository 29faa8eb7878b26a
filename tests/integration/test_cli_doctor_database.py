"""What `stockpot doctor` says of the database: its safety, and the versions of the workers that use it."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.factories import sql
from worker.base.settings import Settings, load
from worker.cli.operations import checks, safety_checks
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


def test_postgres_says_how_it_is_set_and_whether_the_way_is_encrypted(database: Database) -> None:
    said = found(database)
    if database.is_sqlite:
        assert "database settings" not in said
    else:
        assert said["database encryption"] == "ok: on this machine"
        assert re.fullmatch(r"ok: PostgreSQL \d+, autovacuum on, \d+ connections left", said["database settings"])


def test_what_goes_wrong_quietly_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections in clear, settings without effect, and files that others may read."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("STOCKPOT_CONCURRENCY=5\nSTOCKPOT_LEASE_SECONDS=9\n")
    Path(".env").chmod(0o644)
    monkeypatch.setenv("STOCKPOT_CONCURRENCY", "7")
    well = load(home=tmp_path / "home", redis_url="redis://127.0.0.1:1/0")
    poorly = load(
        home=tmp_path / "home",
        redis_url="redis://redis.example:6379/0",
        redis_ca_file=tmp_path / "ca.pem",
        api_key="k" * 20,
        api_key_file=tmp_path / "key",
    )
    assert [check.outcome for check in safety_checks.safety(well)] == ["ok", "note", "note"]
    clear, ignored, files = safety_checks.safety(poorly)
    assert clear.detail.startswith("redis: not encrypted")
    for name in ("STOCKPOT_CONCURRENCY of .env", "STOCKPOT_API_KEY_FILE", "STOCKPOT_REDIS_CA_FILE"):
        assert name in ignored.detail
    assert "STOCKPOT_LEASE_SECONDS" not in ignored.detail
    assert files.detail.endswith(".env")
    Path(".env").chmod(0o600)
    assert [check.outcome for check in safety_checks.safety(poorly)][-1] == "ok"
