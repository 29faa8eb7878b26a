"""One place for a job's end: whoever ends it, every consequence is written in that very transaction, on both databases."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.batch_factories import claimed as claimed_lines
from tests.batch_factories import end, over, write_file
from tests.batch_factories import submit as submit_batch
from tests.factories import claimed, lease_run_out, request, rows, settlement, sql, submitted, time_is_up
from tests.refusing import refuse
from tests.sweeping import sweeping
from worker.batches.keeper import BatchKeeper
from worker.db.batches import changes
from worker.db.connect import Database
from worker.db.jobs import leases
from worker.db.threads import DatabaseThreads
from worker.job import consequences
from worker.job.consequences import Consequences, Ends
from worker.job.settlements import SettlementWriter
from worker.producer import batch_control
from worker.producer.stockpot import Stockpot

pytestmark = pytest.mark.anyio


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a made-up consequence is called with: the status of each job and batch that is over."""
    found: dict[str, str] = {}

    def made_up(conn: Connection, ends: Ends) -> None:
        assert conn.in_transaction()
        found.update({one.job_id: one.status for one in ends.jobs if one.over})
        found.update({batch.id: batch.status for batch in ends.batches})

    monkeypatch.setattr(consequences, "STEPS", [*consequences.STEPS, made_up])
    return found


async def sweep(database: Database, *lost: str) -> None:
    """Sweep as the elected worker, after the leases of these jobs have run out."""
    with sweeping(database.settings) as sweeper:
        for job in lost:
            await sweeper.sweep()  # the database has not answered for a lease yet
            lease_run_out(database, job)
        await sweeper.sweep()


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
async def test_a_settlement_has_all_consequences(database: Database, seen: dict[str, str], status: str) -> None:
    """A worker ends its job; one that goes back to the queue is not over."""
    job, other = claimed(database, *submitted(database, request("a"), request("b")))
    threads = DatabaseThreads(database.settings)
    writer = SettlementWriter(threads, Consequences())
    await writer.settle(job, settlement(job, status=status, outcome="terminal"))
    await writer.settle(other, settlement(other, status="queued", outcome="busy"))
    threads.close()
    assert seen == {job.id: status}


async def test_a_sweep_has_all_consequences(database: Database, seen: dict[str, str]) -> None:
    """A job whose worker has died for the last time, and one whose time is up."""
    [poison] = submitted(database, max_attempts=1)
    claimed(database, poison)
    [late] = submitted(database)
    time_is_up(database, late)
    await sweep(database, poison)
    assert seen == {poison: "failed", late: "expired"}


def test_a_cancellation_has_all_consequences(database: Database, seen: dict[str, str]) -> None:
    """A producer cancels a queued job; a running one's end is its worker's to write."""
    queued, running = submitted(database)[0], submitted(database)[0]
    claimed(database, running)
    with Stockpot(database.settings) as pot:
        assert pot.cancel(queued) == "cancelled"
        assert pot.cancel(running) == "in_progress"
    assert seen == {queued: "cancelled"}


async def test_a_cancelled_batch_has_all_consequences(database: Database, tmp_path: Path, seen: dict[str, str]) -> None:
    """A producer cancels its lines; what a killed command leaves is the keeper's."""
    first, _ = submit_batch(database, write_file(tmp_path / "a.jsonl", 2))
    batch_control.cancel(database, first.id, tenant="default", abort=False)
    second, _ = submit_batch(database, write_file(tmp_path / "b.jsonl", 3))
    database.write(lambda conn: changes.begin_cancel(conn, second.id, tenant="default"))
    database.write(BatchKeeper(Consequences().write).keep)
    lines = {one["id"]: "cancelled" for one in rows(database, "SELECT id FROM jobs")}
    assert seen == {**lines, first.id: "cancelled", second.id: "cancelled"}


async def test_an_import_that_is_given_up_has_all_consequences(
    database: Database, tmp_path: Path, seen: dict[str, str]
) -> None:
    """Its lines are over; those that were to come are no longer expected at the end of the window."""
    batch, _ = submit_batch(database, write_file(tmp_path / "a.jsonl", 1))
    sql(database, "UPDATE batches SET total = 5")
    end(database, *[over(job) for job in claimed_lines(database, batch.id)])
    sql(database, "UPDATE batches SET expires_at = created_at")
    seen.clear()
    database.write(BatchKeeper(Consequences().write).keep)
    assert seen == {batch.id: "completed"}


@pytest.mark.parametrize("at_once", [256, 1])
async def test_a_job_that_the_database_refuses_to_change_stops_no_other(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Whatever the reason, and also where as many are refused as are looked at: it was the end of each elected worker."""
    monkeypatch.setattr(leases, "overdue", partial(leases.overdue, limit=at_once))
    stuck, other = submitted(database, request("a"), request("b"))
    claimed(database, stuck, other)
    [late] = submitted(database)
    time_is_up(database, late)
    refuse(database, "jobs", f"OLD.id = '{stuck}' AND NEW.status = 'queued'")
    await sweep(database, stuck, other)
    statuses = {
        job: rows(database, "SELECT status FROM jobs WHERE id = :id", id=job)[0]["status"]
        for job in (stuck, other, late)
    }
    assert statuses == {stuck: "in_progress", other: "queued", late: "expired"}
    assert sum("row_refused" in str(one.msg) for one in caplog.records) == 1
