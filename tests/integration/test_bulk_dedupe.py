"""Lines that ask the same, on both databases: called once, answered each, counted exactly whatever happens."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.batch_factories import (
    ANSWER,
    DEDUPE,
    again,
    cancel_one,
    claimed,
    end,
    export,
    over,
    submit,
    sweep,
    write_asked,
)
from tests.factories import lease_run_out, rows
from worker.base.errors import NotAllowed
from worker.batches import importing
from worker.batches.importing import Options
from worker.batches.keeper import BatchKeeper
from worker.db import purge as purging
from worker.db.batches import claims, lines_in, records
from worker.db.batches.lines_in import ImportCopy
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.job.consequences import Consequences
from worker.producer import batch_control as control

#: What the lines ask, in the order of the file: three requests, one of them five times.
ASKED = ["a", "b", "a", "c", "a", "b", "a", "a"]


@pytest.fixture
def batch(database: Database, tmp_path: Path) -> BatchRow:
    return submit(database, write_asked(tmp_path / "in.jsonl", ASKED), DEDUPE)[0]


def custom_ids(lines: list[Any]) -> list[str]:
    return [line["custom_id"] for line in lines]


ALL = [f"r-{number}" for number in range(1, len(ASKED) + 1)]


def test_equal_requests_are_one_job_and_every_line_has_an_answer(
    database: Database, batch: BatchRow, tmp_path: Path
) -> None:
    """Counted as lines; called, and paid for, once; each output line has an id of its own."""
    assert (batch.total, batch.imported, batch.duplicates, batch.copies) == (8, 8, 5, 5)
    jobs = claimed(database, batch.id)
    assert custom_ids([{"custom_id": job.custom_id} for job in jobs]) == ["r-1", "r-2", "r-4"]
    end(database, *(over(job, response=ANSWER, error_status=200) for job in jobs))
    now = again(database, batch.id)
    assert (now.completed, now.copied, now.calls, now.status) == (8, 5, 3, "completed")
    assert (now.cost_usd, now.saved_usd, now.total_tokens) == (Decimal("0.03"), Decimal("0.05"), 45)
    for follow in (False, True):
        output, errors = export(database, batch.id, tmp_path / f"out-{follow}.jsonl", follow=follow)
        assert (sorted(custom_ids(output)), errors) == (ALL, [])
        assert len({line["id"] for line in output}) == 8
    assert custom_ids(export(database, batch.id, tmp_path / "out.jsonl")[0]) == ALL
    found = rows(database, "SELECT line, job_id FROM batch_lines_v WHERE batch_id = :b ORDER BY line", b=batch.id)
    assert [row["line"] for row in found] == list(range(1, 9))
    assert len({row["job_id"] for row in found}) == 3


def test_without_the_option_equal_requests_are_called_for_each(database: Database, tmp_path: Path) -> None:
    """Whoever samples one prompt ten times wants ten answers; the same file so is another batch, on request."""
    path = write_asked(tmp_path / "in.jsonl", ASKED)
    plain, _ = submit(database, path)
    assert (plain.duplicates, len(claimed(database, plain.id))) == (0, 8)
    assert submit(database, path, DEDUPE, again=True)[0].id != plain.id


def test_a_copy_fails_with_its_line_and_is_retried_with_it(database: Database, batch: BatchRow, tmp_path: Path) -> None:
    """The new batch calls once for all of them."""
    jobs = {job.custom_id: job for job in claimed(database, batch.id)}
    end(
        database,
        over(jobs["r-1"], "failed", error_class="upstream", error_status=500),
        over(jobs["r-2"], response=ANSWER, error_status=200),
        over(jobs["r-4"], "failed", error_class="timeout"),
    )
    now = again(database, batch.id)
    assert (now.completed, now.failed, now.status) == (2, 6, "completed")
    output, errors = export(database, batch.id, tmp_path / "out.jsonl")
    assert (custom_ids(output), custom_ids(errors)) == (["r-2", "r-6"], ["r-1", "r-3", "r-4", "r-5", "r-7", "r-8"])
    made, created = control.retry_failed(database, batch.id, tenant="default")
    assert (created, made.total, made.imported, made.duplicates, made.copies) == (True, 6, 6, 4, 4)
    again_claimed = claimed(database, made.id)
    assert [job.custom_id for job in again_claimed] == ["r-1", "r-4"]
    end(database, *(over(job, response=ANSWER, error_status=200) for job in again_claimed))
    assert again(database, made.id).status == "completed"
    output, errors = export(database, made.id, tmp_path / "second.jsonl")
    assert (custom_ids(output), errors) == (["r-1", "r-3", "r-4", "r-5", "r-7", "r-8"], [])


def test_cancelling_a_batch_or_one_line_cancels_its_copies(database: Database, batch: BatchRow, tmp_path: Path) -> None:
    """What is in flight answers its copies, too."""
    [running] = claimed(database, batch.id, 1)
    [second] = rows(database, "SELECT id FROM jobs WHERE line = 2")
    cancel_one(database, second["id"])
    assert again(database, batch.id).cancelled == 2
    control.cancel(database, batch.id, tenant="default", abort=False)
    end(database, over(running, response=ANSWER, error_status=200))
    now = again(database, batch.id)
    assert (now.completed, now.cancelled, now.status) == (5, 3, "cancelled")
    for follow in (False, True):
        output, errors = export(database, batch.id, tmp_path / f"out-{follow}.jsonl", follow=follow)
        assert sorted(custom_ids(output) + custom_ids(errors)) == ALL
        assert len(output) == 5


def test_a_dead_workers_poisoned_line_takes_its_copies_with_it(database: Database, tmp_path: Path) -> None:
    """As the sweeper counts."""
    path = write_asked(tmp_path / "in.jsonl", ASKED)
    batch, _ = submit(database, path, Options(dedupe=True, max_attempts=1))
    [job] = claimed(database, batch.id, 1)
    lease_run_out(database, job.id)
    sweep(database)
    assert again(database, batch.id).failed == 5


def test_a_kill_in_any_slice_of_the_import_leaves_each_line_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its commit or behind it, among the copies or the jobs; lines may end before the import does."""
    monkeypatch.setattr(importing, "SLICE", 7)
    monkeypatch.setattr(importing, "SQLITE_SLICE", 7)
    asked = [f"p{number * number % 37}" for number in range(100)]
    path = write_asked(tmp_path / "in.jsonl", asked)
    write = database.write
    left, behind = 0, False

    def dies(verb: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not behind:
            raise ConnectionError("killed before the commit")
        done = write(verb)
        if left == 0:
            raise ConnectionError("killed behind it")
        return done

    deaths = 0
    while True:
        left, behind = 1 + deaths % 3, deaths % 2 == 1
        monkeypatch.setattr(database, "write", dies)
        try:
            batch, _ = submit(database, path, DEDUPE)
            break
        except ConnectionError:
            deaths += 1
        finally:
            monkeypatch.setattr(database, "write", write)
        for row in database.read(lambda conn: records.newest(conn, tenant="default")):
            end(database, *(over(job, response=ANSWER) for job in claimed(database, row.id, 2)))
    assert deaths >= 10
    unique = len(set(asked))
    assert (batch.total, batch.imported, batch.duplicates, batch.copies) == (100, 100, 100 - unique, 100 - unique)
    found = rows(database, "SELECT line, custom_id FROM batch_lines_v ORDER BY line")
    assert [(row["line"], row["custom_id"]) for row in found] == [(n, f"r-{n}") for n in range(1, 101)]
    while jobs := claimed(database, batch.id):
        end(database, *(over(job, response=ANSWER) for job in jobs))
    now = again(database, batch.id)
    assert (now.completed, now.calls, now.copied, now.status) == (100, unique, 100 - unique, "completed")


def test_of_two_imports_of_copies_the_second_is_refused_and_writes_nothing(database: Database, batch: BatchRow) -> None:
    """It says what it follows, as a slice of jobs does."""
    copy = ImportCopy(99, 1, "r-99")
    with pytest.raises(NotAllowed, match="another command"):
        database.write(lambda conn: lines_in.insert_copies(conn, batch, [copy], after=4))
    assert rows(database, "SELECT count(*) AS n FROM batch_copies")[0]["n"] == 5


def test_an_import_that_is_given_up_answers_no_line_that_never_came(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies count with their job: those whose job was not imported are not expected any more."""
    monkeypatch.setattr(importing, "SLICE", 1)
    monkeypatch.setattr(importing, "SQLITE_SLICE", 1)
    insert = lines_in.insert

    def dies(conn: Any, row: BatchRow, lines: Any, **how: Any) -> None:
        if lines[0].number > 1:
            raise ConnectionError("killed")
        insert(conn, row, lines, **how)

    monkeypatch.setattr(lines_in, "insert", dies)
    with pytest.raises(ConnectionError):
        submit(database, write_asked(tmp_path / "in.jsonl", ASKED), DEDUPE)
    [batch] = database.read(lambda conn: records.newest(conn, tenant="default"))
    assert (batch.imported, batch.copies) == (5, 5)
    control.cancel(database, batch.id, tenant="default", abort=True)
    now = again(database, batch.id)
    assert (now.total, now.cancelled, now.status) == (5, 5, "cancelled")
    _, errors = export(database, batch.id, tmp_path / "out.jsonl")
    assert custom_ids(errors) == ["r-1", "r-3", "r-5", "r-7", "r-8"]
    assert custom_ids(export(database, batch.id, tmp_path / "ended.jsonl", follow=True)[1]) == custom_ids(errors)


def test_money_is_reserved_for_calls_and_not_for_copies(database: Database, tmp_path: Path) -> None:
    """A cent per call: three calls are three cents, although they answer eight lines."""
    path = write_asked(tmp_path / "in.jsonl", ASKED)
    batch, _ = submit(database, path, Options(dedupe=True, max_cost_usd=Decimal("0.031")))
    with database.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE batches SET quoted_picousd = 30000000000")
    [job] = claimed(database, batch.id, 1)
    end(database, over(job, response=ANSWER))
    database.write(BatchKeeper(Consequences().write).keep)
    assert again(database, batch.id).hold_reason is None
    row = again(database, batch.id)
    assert claims.line_picousd(row.cost_picousd, row.completed - row.copied, None, 3) == 10_000_000_000
    assert len(claimed(database, batch.id)) == 2


def test_purge_forgets_copies_and_the_order_of_ends(database: Database, batch: BatchRow) -> None:
    """Nothing of a purged batch's lines stays."""
    from datetime import UTC, datetime, timedelta

    end(database, *(over(job, response=ANSWER) for job in claimed(database, batch.id)))
    later = datetime.now(UTC) + timedelta(hours=1)
    ids, gone = database.write(lambda conn: purging.purge(conn, later))
    assert (len(ids), gone) == (3, 3)
    database.write(lambda conn: purging.purge(conn, later, after=ids[-1]))
    for table in ("jobs", "batch_copies", "batch_ends"):
        assert rows(database, f"SELECT count(*) AS n FROM {table}")[0]["n"] == 0
