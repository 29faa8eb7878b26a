"""Retention by the settings: each class for as long as it says, nothing that is not finished, and usage stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text

from tests.counted import Counted
from tests.factories import USAGE, claimed, settled, settlement, submitted
from worker.base.settings import Settings
from worker.db import purge
from worker.db.connect import Database
from worker.db.jobs import leases, usage
from worker.db.threads import DatabaseThreads
from worker.engine.retention import Retention

pytestmark = pytest.mark.anyio


def finished(database: Database) -> str:
    """A job that has its answer."""
    [job] = claimed(database, *submitted(database))
    settled(database, settlement(job, usage=USAGE))
    return job.id


def rows(database: Database) -> dict[str, int]:
    """How many rows each table has."""
    tables = ("jobs", "requests", "results", "attempts")
    return database.read(
        lambda conn: {one: conn.execute(text(f"SELECT count(*) FROM {one}")).scalar_one() for one in tables}
    )


async def tend(database: Database, **keep: float) -> None:
    """Sweep until nothing more is old enough."""
    settings = Settings(database_url=database.settings.database_url, **keep)  # type: ignore[arg-type]
    threads = DatabaseThreads(settings)
    retention = Retention(settings, threads)
    for _ in range(4):
        await retention.tend()
    threads.close()


A_MOMENT = 1e-9


async def test_each_class_is_kept_for_as_long_as_it_says(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In slices; what waits is left alone, and so is what no setting names."""
    monkeypatch.setattr(purge, "SLICE", 2)
    forgotten = Counted("stockpot_forgotten_total")
    for _ in range(3):
        finished(database)
    submitted(database)
    await tend(database)
    assert rows(database) == {"jobs": 4, "requests": 4, "results": 3, "attempts": 3}
    await tend(database, keep_payloads_days=A_MOMENT, keep_results_days=1)
    assert rows(database) == {"jobs": 4, "requests": 1, "results": 3, "attempts": 3}
    await tend(database, keep_results_days=A_MOMENT)
    assert rows(database) == {"jobs": 4, "requests": 1, "results": 0, "attempts": 3}
    await tend(database, keep_jobs_days=A_MOMENT)
    assert rows(database) == {"jobs": 1, "requests": 1, "results": 0, "attempts": 0}
    assert forgotten() == 9  # three payloads, results and jobs
    [whole] = database.read(usage.usage)
    assert (whole.jobs, whole.total_tokens) == (3, 3 * USAGE.total_tokens)


def test_a_look_for_what_is_old_ends_before_what_is_new(database: Database) -> None:
    """It reads no id that was made after the time it asks for."""
    finished(database)
    long_ago = datetime.now(UTC) - timedelta(days=2)
    ids: list[object] = []

    def note(_conn: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        ids.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    assert database.read(lambda conn: purge.finished(conn, long_ago)) == []
    event.remove(database.engine, "before_cursor_execute", note)
    assert any(f"job_{int((long_ago + timedelta(hours=1)).timestamp() * 1000):012x}" in str(one) for one in ids)


def test_who_loses_the_election_writes_nothing(postgres_url: str) -> None:
    """A hundred of them leave no transaction behind that has to be flushed."""
    database = Database(Settings(database_url=postgres_url))
    assert database.write(lambda conn: leases.elect(conn, "sweeper", "first", seconds=60))

    def lose(conn: object) -> int | None:
        for at in range(100):
            assert not leases.elect(conn, "sweeper", f"other-{at}", seconds=60)  # type: ignore[arg-type]
        return conn.execute(text("SELECT pg_current_xact_id_if_assigned()")).scalar()  # type: ignore[attr-defined, no-any-return]

    assert database.write(lose) is None
    database.close()
