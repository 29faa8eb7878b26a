"""Money at night, on both databases: what nobody can price, what only fails, bounds that stay over a retry."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import structlog

from tests.batch_factories import again, claimed, end, over, submit, sweep, write_file
from tests.factories import rows, sql
from worker.base.errors import NotAllowed
from worker.batches.importing import Options
from worker.batches.keeper import BatchKeeper
from worker.db.batches import changes, claims
from worker.db.batches.changes import StaysHeld
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.job.consequences import Consequences
from worker.producer import batch_control as control

REFUSED = {
    "error_class": "not_found",
    "error_code": "model_not_found",
    "error_status": 404,
    "cost_usd": None,
    "usage": None,
}


def kept(database: Database, batch: BatchRow) -> BatchRow:
    database.write(BatchKeeper(Consequences().write).keep)
    return again(database, batch.id)


def resume(database: Database, batch: BatchRow, most: int | None = None) -> BatchRow:
    return database.write(lambda conn: changes.resume(conn, batch.id, tenant="default", max_cost_picousd=most))


def test_a_batch_whose_first_lines_all_fail_alike_holds_itself(database: Database, tmp_path: Path) -> None:
    """So many are called and no more; on resume so many again, until one is answered."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 100))
    first = claimed(database, batch.id)
    assert len(first) == claims.FIRST_LINES
    end(database, *(over(job, "failed", error_message="no such model", **REFUSED) for job in first))
    assert claimed(database, batch.id) == []
    with structlog.testing.capture_logs() as logged:
        held = kept(database, batch)
    assert (held.hold_reason, held.hold_detail) == ("failing", "not_found 404: no such model")
    assert [one["event"] for one in logged] == ["batch_held"]
    assert resume(database, batch).hold_reason is None
    second = claimed(database, batch.id)
    assert len(second) == claims.FIRST_LINES
    end(database, over(second[0]))
    assert len(claimed(database, batch.id)) == 100 - 2 * claims.FIRST_LINES
    assert kept(database, batch).hold_reason is None


def test_a_batch_whose_first_lines_fail_of_different_things_goes_on(database: Database, tmp_path: Path) -> None:
    """Bad prompts are no bad model."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 60))
    first = claimed(database, batch.id)
    end(database, *(over(job, "failed", **REFUSED | {"error_status": 400 + at % 2}) for at, job in enumerate(first)))
    assert kept(database, batch).hold_reason is None
    assert len(claimed(database, batch.id)) == claims.FIRST_LINES


def test_a_bound_on_what_nobody_can_price_holds(database: Database, tmp_path: Path) -> None:
    """After few calls; and the cost is unknown, never zero."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 30), Options(max_cost_usd=Decimal(1)))
    end(database, *(over(job, cost_usd=None, cost_source=None) for job in claimed(database, batch.id)))
    held = kept(database, batch)
    assert (held.completed, held.hold_reason, held.unpriced, held.cost_usd) == (4, "unpriced", 4, None)
    assert rows(database, "SELECT cost_usd FROM batches_v")[0]["cost_usd"] is None
    assert claimed(database, batch.id) == []
    assert resume(database, batch).hold_reason is None
    assert kept(database, batch).hold_reason is None, "somebody has given prices"
    end(database, *(over(job) for job in claimed(database, batch.id)))
    assert kept(database, batch).cost_usd == Decimal("0.04")


def test_a_resume_without_room_says_that_it_stays_held(database: Database, tmp_path: Path) -> None:
    """And changes nothing; a bound that leaves room for a line lets it go on."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 10), Options(max_cost_usd=Decimal("0.03")))
    sql(database, "UPDATE batches SET quoted_picousd = 100000000000")
    end(database, *(over(job) for job in claimed(database, batch.id)))
    assert kept(database, batch).hold_reason == "max_cost"
    for most in (None, 20_000_000_000, 30_000_000_000, 35_000_000_000):
        with pytest.raises(StaysHeld, match=r"stays held: it has cost \$0\.03"):
            resume(database, batch, most)
    assert (again(database, batch.id).hold_reason, again(database, batch.id).max_cost_picousd) == (
        "max_cost",
        30_000_000_000,
    )
    assert resume(database, batch, 50_000_000_000).hold_reason is None
    assert len(claimed(database, batch.id)) == 2


def test_a_retry_keeps_bounds_and_has_a_day_of_its_own(database: Database, tmp_path: Path) -> None:
    """Other ones may be given; twice it is found; cancelled lines are taken on request."""
    asked = Options(
        max_cost_usd=Decimal(5), max_in_flight=3, max_attempts=2, window_seconds=60, daily_window="22:00-06:00"
    )
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 4), asked)
    with pytest.raises(NotAllowed, match="in_progress"):
        control.retry_failed(database, batch.id, tenant="default")
    sql(database, "UPDATE jobs SET expires_at = created_at WHERE line <= 2")
    sweep(database)
    control.cancel(database, batch.id, tenant="default", abort=True)
    assert (again(database, batch.id).expired, again(database, batch.id).cancelled) == (2, 2)
    made, created = control.retry_failed(database, batch.id, tenant="default")
    assert (created, made.total, made.window_seconds) == (True, 2, 86_400)
    assert (made.max_cost_picousd, made.max_in_flight, made.max_attempts) == (5 * 10**12, 3, 2)
    assert made.daily_window == "22:00-06:00"
    assert control.retry_failed(database, batch.id, tenant="default") == (made, False)
    with pytest.raises(NotAllowed, match=f"{made.id}.*--again"):
        control.retry_failed(database, batch.id, {"max_cost_usd": 9}, tenant="default")
    other, created = control.retry_failed(database, batch.id, {"max_cost_usd": 9}, tenant="default", again=True)
    assert (created, other.id != made.id, other.max_cost_picousd) == (True, True, 9 * 10**12)
    all_of_them, created = control.retry_failed(database, batch.id, tenant="default", cancelled=True)
    assert (created, all_of_them.total) == (True, 4)
