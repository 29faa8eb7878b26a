"""The space of purged rows goes back to the disk, beside work that goes on; no row is lost or changed by it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.factories import claimed, opened, request, settlement, sqlite_path, submitted
from tests.grown import ID, NUMBERS
from worker.db import compacting, connect, purge
from worker.db.clock import is_postgres
from worker.db.connect import Database
from worker.db.jobs import lookup, settle

ROWS = 12_000
TABLES = ("jobs", "requests", "results", "attempts")


def filled(conn: Connection) -> None:
    """Finished jobs with half a kilobyte on each side; every tenth is of today, and stays."""
    dialect = conn.dialect.name
    some, job = NUMBERS[dialect], ID[dialect]
    old, young = "'2024-01-01 00:00:00.000'", "'2099-01-01 00:00:00.000'"
    at = f"CASE WHEN n % 10 = 0 THEN {young} ELSE {old} END"
    at = f"CAST({at} AS timestamptz)" if is_postgres(conn) else at
    within = f"WHERE n <= {ROWS}"
    for statement in (
        f"""INSERT INTO jobs (id, endpoint, model, status, fence, calls, attempts, max_attempts, on_ambiguous, created_at,
                due_at, started_at, finished_at, expires_at)
            SELECT {job}, '/v1/chat/completions', 'm', 'completed', 1, 1, 1, 5, 'retry', {at}, {at}, {at}, {at}, {at}
            FROM {some} {within}""",
        f'INSERT INTO requests (job_id, body) SELECT {job}, \'{{"asked"\\: "{"x" * 500}"}}\' FROM {some} {within}',
        f"INSERT INTO results (job_id, response, text) SELECT {job}, '{{}}', '{'y' * 500}' || n FROM {some} {within}",
        f"""INSERT INTO attempts (job_id, attempt, fence, worker, outcome, started_at, finished_at)
            SELECT {job}, 1, 1, 'w', 'completed', {at}, {at} FROM {some} {within}""",
    ):
        conn.execute(text(statement))


def everything(conn: Connection) -> list[Any]:
    """What is in the tables, in the order of its keys."""
    return [
        conn.execute(text(f"SELECT * FROM {table} ORDER BY {'id' if table == 'jobs' else 'job_id'}")).all()
        for table in TABLES
    ]


def test_files_shrink_after_a_purge(database: Database) -> None:
    """By what was purged; what stays is as it was, and is found by its indexes."""
    database.write(filled)
    before, after = datetime.now(UTC) - timedelta(days=30), ""
    while ids := database.write(lambda conn, after=after: purge.purge(conn, before, after=after))[0]:  # type: ignore[misc]
        after = ids[-1]
    left = database.read(everything)
    assert [len(rows) for rows in left] == [ROWS // 10] * 4
    found = {one.table: one for one in compacting.compact(database)}
    shrunk = ("the file",) if database.is_sqlite else TABLES
    assert all(found[name].after < 0.35 * found[name].before for name in shrunk), found
    assert database.read(everything) == left
    assert database.read(lambda conn: lookup.job(conn, left[0][0].id, tenant=None)).status == "completed"
    again = compacting.compact(database)
    assert sum(one.moved for one in again) == 0, "there is nothing to do any more"


def test_a_snapshot_that_is_held_costs_nothing(postgres_url: str) -> None:
    """Nothing waits for it and no file grows by more than some slices; when it is gone, the space goes back."""
    with opened(postgres_url) as database, opened(postgres_url) as other:
        database.write(filled)
        database.write(
            lambda conn: conn.execute(text(f"DELETE FROM results WHERE job_id IN (SELECT id FROM jobs WHERE {OLD})"))
        )
        with other.engine.connect() as conn:
            conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            conn.execute(text("SELECT count(*) FROM jobs"))
            [held] = [one for one in compacting.compact(database) if one.table == "results"]
        [free] = [one for one in compacting.compact(database) if one.table == "results"]
    assert held.after < held.before + 4 * compacting.SLICE_PAGES * 8192
    assert free.after < 0.35 * held.before


@pytest.mark.clear
def test_work_goes_on_meanwhile(postgres_url: str) -> None:
    """Jobs are submitted, claimed and settled while their tables are compacted: none is fenced off, none is lost."""
    over = threading.Event()
    done: list[str] = []
    with opened(postgres_url) as database, opened(postgres_url) as other:
        database.write(filled)

        def work() -> None:
            while not over.is_set():
                for job in submitted(other):
                    while not (mine := claimed(other, job)):
                        pass  # its row is just being moved: a claim goes past rows that are locked
                    one = settlement(mine[0], text="a broth")
                    done.extend(other.write(lambda conn, one=one: settle.settle(conn, [one])))  # type: ignore[misc]

        database.write(lambda conn: conn.execute(text(f"DELETE FROM jobs WHERE {OLD}")))
        thread = threading.Thread(target=work)
        thread.start()
        try:
            while not done:
                assert thread.is_alive()
            compacting.compact(database)
        finally:
            over.set()
            thread.join()
        counted = database.read(
            lambda conn: conn.execute(text("SELECT count(*) FROM jobs_v WHERE text = 'a broth'")).scalar()
        )
        assert counted == len(done) == len(set(done)) > 0


OLD = "id < (SELECT max(id) FROM jobs) AND finished_at < '2025-01-01'"


def test_the_log_of_sqlite_is_small_again_after_a_reader_that_stayed(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows beside a reader, and kept that size for as long as any process had the database open."""
    monkeypatch.setattr(connect, "WAL_BYTES", 1_000_000)
    path = sqlite_path(sqlite_url)
    log = path.with_name(f"{path.name}-wal")
    with opened(sqlite_url) as database:
        with contextlib.closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchone()
            for _ in range(8):
                submitted(database, *(request("x" * 100_000) for _ in range(5)))
            grown = log.stat().st_size
        for _ in range(3):
            submitted(database)
        assert grown > 4_000_000
        assert log.stat().st_size <= 1_000_000
