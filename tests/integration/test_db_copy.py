"""`stockpot db copy`: every row moves to another database, once, whatever breaks it off, and nothing is left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.batch_factories import submit, write_file
from tests.factories import claimed, opened, request, settled, settlement, submitted
from tests.rig.environment import environment
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from worker.base.errors import Unreachable
from worker.db import copying, identity
from worker.db.connect import Database, OtherSchema
from worker.db.ready import ensure_schema
from worker.db.schema import upgrade
from worker.db.workers import registry

STOCKPOT = Path(sys.executable).with_name("stockpot")
PRESENCE = registry.Presence("w:1:a", "w", 1, "1", 10.0, 5, 0, 0.0, None)


@pytest.fixture
def target(postgres_server: PostgresServer) -> Iterator[Database]:
    """An empty PostgreSQL database with the tables."""
    url = postgres_server.create_database()
    upgrade(url)
    with opened(url) as database:
        yield database


def _filled(database: Database, tmp_path: Path, lines: int = 10) -> None:
    """One of most kinds of rows: jobs of each state, answers that other text formats break on, a batch, a budget."""
    ids = submitted(
        database, *[request(f"prompt {n}", idempotency_key=f"k{n}", metadata={"n": str(n)}) for n in range(4)]
    )
    one, two, _ = claimed(database, *ids[:3])
    settled(database, settlement(one, response='{"a":  "\\u0000é\\ud83d"}', text="é\u2028\U0001f600"))
    settled(database, settlement(two, status="failed", outcome="failed"))
    submit(database, write_file(tmp_path / "in.jsonl", lines))
    database.write(identity.ensure)


def _counts(database: Database) -> dict[str, int]:
    return {table.name: database.read(partial(copying._count, table=table)) for table in copying.tables()}


@pytest.mark.clear
def test_every_row_moves_and_the_new_database_works(database: Database, target: Database, tmp_path: Path) -> None:
    """From either kind; jobs go on in the new one, and answers are the same to the letter."""
    _filled(database, tmp_path)
    before = _counts(database)
    assert copying.copy(database, target, lambda _: None) == before == _counts(target)
    assert before["jobs"] == 14
    ensure_schema(target.settings)
    raw = "SELECT CAST(response AS text) FROM results WHERE response IS NOT NULL"
    assert target.read(lambda conn: conn.execute(text(raw)).scalar()) == '{"a":  "\\u0000é\\ud83d"}'
    assert target.read(identity.read) == database.read(identity.read)
    alone = text("SELECT id FROM jobs WHERE status = 'queued' AND batch_id IS NULL")
    assert len(claimed(target, *target.read(lambda conn: conn.execute(alone).scalars().all()))) == 1


def test_a_move_back_to_a_file_is_a_move_too(database: Database, tmp_path: Path) -> None:
    """A moment keeps its milliseconds; what a file cannot keep is no difference."""
    _filled(database, tmp_path)
    with opened(f"sqlite:///{tmp_path}/moved.db") as file:
        copying.prepare(file)
        assert copying.copy(database, file, lambda _: None) == _counts(file)


def test_the_old_database_takes_no_more_work(database: Database, target: Database) -> None:
    """Nothing is accepted there that would be left behind; `reopen` gives a move up."""
    (job,) = submitted(database)
    copying.copy(database, target, lambda _: None)
    with pytest.raises(Unreachable, match="moved by stockpot db copy"):
        submitted(database)
    with pytest.raises(Unreachable, match="moved by stockpot db copy"):
        claimed(database, job)
    with pytest.raises(OtherSchema, match="takes no more work"):
        ensure_schema(database.settings)
    assert copying.reopen(database)
    ensure_schema(database.settings)
    assert len(claimed(database, job)) == 1


def test_a_copy_that_cannot_be_right_is_refused(database: Database, target: Database) -> None:
    """Workers live, the target has rows, it is the same database, or it was copied there: nothing is changed."""
    submitted(database)
    database.write(lambda conn: registry.announce(conn, PRESENCE))
    with pytest.raises(copying.CopyRefused, match="w:1:a"):
        copying.copy(database, target, lambda _: None)
    database.write(lambda conn: registry.leave(conn, PRESENCE.owner))
    with pytest.raises(copying.CopyRefused, match="same database"):
        copying.copy(database, database, lambda _: None)
    submitted(database)  # it is still open
    submitted(target)
    with pytest.raises(copying.CopyRefused, match="rows already"):
        copying.copy(database, target, lambda _: None)
    submitted(database)


def test_a_difference_keeps_the_new_database_closed(database: Database, target: Database) -> None:
    """A row that is not the same is found by the comparison, with the counts equal."""
    submitted(database)

    def tamper(at: copying.Progress) -> None:
        if at.table == "jobs" and not at.comparing:
            target.write(lambda conn: conn.execute(text("UPDATE jobs SET max_attempts = 99")))

    with pytest.raises(copying.CopyDiffers, match="jobs has other rows"):
        copying.copy(database, target, tamper)
    with pytest.raises(OtherSchema, match="not finished"):
        ensure_schema(target.settings)


def test_kill_9_in_the_middle_and_the_same_command_goes_on(
    sqlite: Database, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Killed after every third slice until it is through: no row is missing, none is there twice."""
    _filled(sqlite, tmp_path, 230)
    before = _counts(sqlite)
    url = postgres_server.create_database()
    env = environment(tmp_path, database_url=sqlite.settings.database_url)
    kills = 0
    for _ in range(30):
        command: list[str | Path] = [STOCKPOT, "db", "copy", "--to", url, "--json"]
        with Process(command, logs=tmp_path, name="copy", env=env | {"STOCKPOT_CRASH_AT": "copy.slice:3"}) as copier:
            code = copier.wait(60)
        if code == 0:
            break
        assert code == -9, copier.tail()
        kills += 1
        if kills == 1:
            with opened(url) as half, pytest.raises(OtherSchema, match="not finished"):
                ensure_schema(half.settings)
    assert kills >= 3
    with opened(url) as copied:
        assert _counts(copied) == before
        ensure_schema(copied.settings)
