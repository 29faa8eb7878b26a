"""The lines of a batch, on both databases: claimed when the batch admits them, counted as they end, each read back once."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from tests.batch_factories import again, cancel_one, claimed, end, export, finished, over, submit, sweep, write_file
from tests.factories import lease_run_out, rows, sql, time_is_up
from worker.base.errors import NotAllowed, NotFound
from worker.batches.importing import Options
from worker.batches.keeper import BatchKeeper
from worker.db.batches import changes, claims, records
from worker.db.batches.claims import OpenBatch
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.db.jobs import cancel, claim, leases
from worker.job.consequences import Consequences
from worker.producer import batch_control as control


def kept(database: Database) -> None:
    """One round of the batch keeper."""
    database.write(BatchKeeper(Consequences().write).keep)


def test_lines_are_claimed_in_the_order_of_the_file_and_only_through_their_batch(
    database: Database, batch: BatchRow
) -> None:
    """The lane's own claim passes them by: there a batch could not be held."""
    assert database.write(lambda conn: claim.claim_due(conn, "bulk", 5, owner="w", lease=30)) == []
    assert [job.custom_id for job in claimed(database, batch.id, 3)] == ["r-1", "r-2", "r-3"]
    assert [job.custom_id for job in claimed(database, batch.id)] == [f"r-{n}" for n in range(4, 11)]


def test_a_paused_batch_admits_no_line_by_any_way(database: Database, batch: BatchRow) -> None:
    """Not even one that is rung for by its id."""
    database.write(lambda conn: changes.pause(conn, batch.id, tenant="default"))
    [job] = rows(database, "SELECT id FROM jobs WHERE line = 1")
    assert claimed(database, batch.id) == []
    assert database.write(lambda conn: claim.claim_ids(conn, [job["id"]], owner="w", lease=30)) == []
    database.write(lambda conn: changes.resume(conn, batch.id, tenant="default"))
    assert len(claimed(database, batch.id)) == 10


def test_the_counters_and_the_end_are_written_with_the_lines(database: Database, batch: BatchRow) -> None:
    """Lines, tokens, money and seconds; the last line ends the batch."""
    jobs = claimed(database, batch.id)
    end(database, *(over(job) for job in jobs[:6]), over(jobs[6], "failed", error_class="upstream"))
    now = again(database, batch.id)
    assert (now.completed, now.failed, now.calls, now.call_seconds, now.status) == (6, 1, 7, 14.0, "in_progress")
    assert (now.total_tokens, now.cost_usd) == (7 * 15, Decimal("0.07"))
    end(database, *(over(job) for job in jobs[7:]))
    now = again(database, batch.id)
    assert (now.completed, now.failed, now.status) == (9, 1, "completed")
    assert now.finished_at is not None
    [view] = rows(database, "SELECT * FROM batches_v")
    assert (view["status"], view["completed"], float(view["cost_usd"])) == ("completed", 9, 0.10)


def test_a_settlement_that_is_repeated_after_a_lost_commit_is_not_counted_twice(
    database: Database, batch: BatchRow
) -> None:
    """The settler tries until somebody has acknowledged."""
    jobs = claimed(database, batch.id, 2)
    for _ in range(3):
        end(database, over(jobs[0]))
    end(database, (jobs[1], replace(over(jobs[1])[1], fence=99)))
    now = again(database, batch.id)
    assert (now.completed, now.calls, now.cost_usd) == (1, 1, Decimal("0.01"))


def test_a_line_that_is_tried_again_costs_money_and_is_not_over(database: Database, batch: BatchRow) -> None:
    """The batch's cost has every call in it."""
    [job] = claimed(database, batch.id, 1)
    end(database, over(job, "queued"))
    now = again(database, batch.id)
    assert (now.done, now.calls, now.cost_usd) == (0, 1, Decimal("0.01"))


@pytest.mark.clear
def test_the_end_of_a_batch_is_one_event(database: Database, tmp_path: Path) -> None:
    """Lines have none of their own."""
    options = Options(webhook="https://example.com/hook", metadata={"night": "1"})
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 4), options)
    jobs = claimed(database, batch.id)

    assert end(database, *[over(job) for job in jobs]) == 1
    [event] = rows(database, "SELECT type, url, batch_id, CAST(body AS text) AS body FROM webhook_events")
    body = json.loads(event["body"])
    assert (event["type"], event["url"]) == ("batch.completed", "https://example.com/hook")
    assert event["batch_id"] == batch.id
    assert body["data"]["id"] == batch.id
    assert body["data"]["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    assert (body["data"]["metadata"], body["data"]["usage"]["total_tokens"]) == ({"night": "1"}, 60)
    assert database.write(lambda conn: Consequences().write(conn, [], unexpected=[batch.id])) == 0


def test_a_cancelled_batch_keeps_what_is_done_and_ends_with_its_last_call(database: Database, batch: BatchRow) -> None:
    """Queued lines at once; the one in flight when its worker says so."""
    jobs = claimed(database, batch.id, 2)
    end(database, over(jobs[0]))
    now = control.cancel(database, batch.id, tenant="default", abort=False)
    assert (now.status, now.completed, now.cancelled) == ("cancelling", 1, 8)
    assert claimed(database, batch.id) == []
    end(database, over(jobs[1]))
    now = again(database, batch.id)
    assert (now.status, now.completed, now.cancelled) == ("cancelled", 2, 8)
    assert control.cancel(database, batch.id, tenant="default", abort=True).status == "cancelled"
    with pytest.raises(NotAllowed):
        database.write(lambda conn: changes.pause(conn, batch.id, tenant="default"))


def test_a_cancellation_asks_the_calls_in_flight_to_stop_if_told_to(database: Database, batch: BatchRow) -> None:
    """Their workers learn of it by the control channel, or at the next heartbeat."""
    job = claimed(database, batch.id, 1)[0]
    control.cancel(database, batch.id, tenant="default", abort=True)
    [renewed] = database.write(lambda conn: leases.renew(conn, "w", [job.id], lease=30))
    assert renewed.cancel


def test_what_a_killed_cancellation_left_the_keeper_finishes(database: Database, batch: BatchRow) -> None:
    """Also lines that come back to the queue afterwards."""
    job = claimed(database, batch.id, 1)[0]
    database.write(lambda conn: changes.begin_cancel(conn, batch.id, tenant="default"))
    kept(database)
    assert again(database, batch.id).cancelled == 9
    end(database, over(job, "queued"))
    kept(database)
    now = again(database, batch.id)
    assert (now.status, now.cancelled) == ("cancelled", 10)


def test_a_cancelled_line_counts_as_one(database: Database, batch: BatchRow) -> None:
    """A single job can be cancelled, whatever it belongs to; it cannot be retried, since its result is final."""
    [job] = rows(database, "SELECT id FROM jobs WHERE line = 3")
    cancel_one(database, job["id"])
    assert again(database, batch.id).cancelled == 1
    with pytest.raises(NotAllowed, match="retry-failed"):
        database.write(lambda conn: cancel.retry(conn, job["id"], tenant="default", ttl=60))


def test_expired_and_poisoned_lines_are_counted_by_the_sweeper(database: Database, tmp_path: Path) -> None:
    """A batch with an expired line is expired."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 3), Options(max_attempts=1))
    jobs = claimed(database, batch.id, 2)
    lease_run_out(database, jobs[0].id)
    [last] = rows(database, "SELECT id FROM jobs WHERE line = 3")
    time_is_up(database, last["id"])
    sweep(database)
    now = again(database, batch.id)
    assert (now.failed, now.expired, now.status) == (1, 1, "in_progress")
    end(database, over(jobs[1]))
    assert again(database, batch.id).status == "expired"


def test_all_workers_together_keep_a_bound_on_calls_in_flight(database: Database, tmp_path: Path) -> None:
    """The fourth waits until one of three has ended; it is not claimed by its id either."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 10), Options(max_in_flight=3))
    jobs = claimed(database, batch.id)
    assert len(jobs) == 3
    assert claimed(database, batch.id) == []
    [fourth] = rows(database, "SELECT id FROM jobs WHERE line = 4")
    assert database.write(lambda conn: claim.claim_ids(conn, [fourth["id"]], owner="w", lease=30)) == []
    end(database, over(jobs[0]))
    assert [job.custom_id for job in claimed(database, batch.id)] == ["r-4"]


def test_money_is_reserved_before_it_is_spent(database: Database, tmp_path: Path) -> None:
    """With three cents and a cent per line three are called; then the batch stands until the bound is raised."""
    path = write_file(tmp_path / "in.jsonl", 10)
    batch, _ = submit(database, path, Options(max_cost_usd=Decimal("0.035")))
    sql(database, "UPDATE batches SET quoted_picousd = 100000000000")  # a cent per line
    jobs = claimed(database, batch.id)
    assert len(jobs) == 3
    end(database, *(over(job) for job in jobs))
    assert claimed(database, batch.id) == []
    kept(database)
    assert again(database, batch.id).hold_reason == "max_cost"
    database.write(lambda conn: changes.resume(conn, batch.id, tenant="default", max_cost_picousd=60_000_000_000))
    kept(database)
    assert again(database, batch.id).hold_reason is None
    assert len(claimed(database, batch.id)) == 3


def test_without_a_price_the_first_answers_tell_what_a_line_costs(database: Database, tmp_path: Path) -> None:
    """Few are called until then, and dearer lines than quoted count as what they cost."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 20), Options(max_cost_usd=Decimal("0.10")))
    jobs = claimed(database, batch.id)
    assert len(jobs) == claims.FIRST_UNPRICED
    end(database, *(over(job) for job in jobs))
    assert len(claimed(database, batch.id)) == 6


def test_a_closed_window_holds_a_batch_and_an_open_one_lets_it_go(database: Database, batch: BatchRow) -> None:
    """What people paused stays paused."""
    [now] = rows(
        database,
        "SELECT strftime('%H', 'now') AS h"
        if database.is_sqlite
        else "SELECT to_char(statement_timestamp() AT TIME ZONE 'UTC', 'HH24') AS h",
    )
    hour = int(now["h"])
    closed = f"{(hour + 3) % 24:02d}:00-{(hour + 5) % 24:02d}:00"
    open_ = f"{(hour - 2) % 24:02d}:00-{(hour + 3) % 24:02d}:00"
    sql(database, "UPDATE batches SET daily_window = :w", w=closed)
    kept(database)
    assert again(database, batch.id).hold_reason == "window"
    assert claimed(database, batch.id) == []
    sql(database, "UPDATE batches SET daily_window = :w", w=open_)
    kept(database)
    assert again(database, batch.id).hold_reason is None
    database.write(lambda conn: changes.pause(conn, batch.id, tenant="default"))
    kept(database)
    assert again(database, batch.id).hold_reason == "paused"


def test_an_import_that_nobody_finishes_ends_with_its_window(database: Database, batch: BatchRow) -> None:
    """The lines that came are answered; the others never existed."""
    sql(database, "UPDATE batches SET total = 15")
    jobs = claimed(database, batch.id)
    end(database, *(over(job) for job in jobs))
    kept(database)
    assert again(database, batch.id).status == "in_progress"
    past = "datetime('now', '-1 hour')" if database.is_sqlite else "statement_timestamp() - interval '1 hour'"
    sql(database, f"UPDATE batches SET expires_at = {past}")
    kept(database)
    assert again(database, batch.id).status == "completed"


def test_another_tenant_has_no_such_batch(database: Database, batch: BatchRow) -> None:
    """Neither to read nor to cancel."""
    with pytest.raises(NotFound):
        database.read(lambda conn: records.get(conn, batch.id, tenant="other"))
    with pytest.raises(NotFound):
        control.cancel(database, batch.id, tenant="other", abort=True)
    assert again(database, batch.id).status == "in_progress"


@pytest.mark.parametrize("follow", [False, True])
def test_every_custom_id_is_in_the_output_or_in_the_errors_once(
    database: Database, batch: BatchRow, tmp_path: Path, *, follow: bool
) -> None:
    """In OpenAI's shapes: answers, the upstream's refusals, our own errors, what never ran."""
    finished(database, batch)
    control.cancel(database, batch.id, tenant="default", abort=True)
    assert again(database, batch.id).status == "cancelled"
    output, errors = export(database, batch.id, tmp_path / "out.jsonl", follow=follow)
    found = [line["custom_id"] for line in output + errors]
    assert sorted(found) == sorted(f"r-{n}" for n in range(1, 11))
    assert all(set(line) == {"id", "custom_id", "response", "error"} for line in output + errors)
    by_id = {line["custom_id"]: line for line in output + errors}
    assert by_id["r-5"]["response"]["request_id"] == "req-5"
    assert by_id["r-1"]["response"]["body"]["choices"][0]["message"]["content"] == "a\nb"
    assert by_id["r-2"]["response"] == {"status_code": 400, "request_id": None, "body": {"error": {"message": "no"}}}
    assert by_id["r-3"]["response"]["status_code"] == 502
    assert by_id["r-3"]["response"]["body"]["error"]["type"] == "upstream"
    assert by_id["r-4"]["error"] == {"code": "truncated", "message": "the stream broke"}
    assert by_id["r-9"]["error"]["code"] == "batch_expired"
    assert by_id["r-10"]["error"]["code"] == "batch_cancelled"
    if not follow:
        assert [line["custom_id"] for line in output] == ["r-1", "r-5", "r-6", "r-7", "r-8"]


def test_results_can_be_read_while_the_batch_runs(database: Database, batch: BatchRow, tmp_path: Path) -> None:
    """What is over so far; an error file of an earlier reading does not stay."""
    jobs = claimed(database, batch.id, 2)
    end(database, over(jobs[0], response='{"n": 1}'))
    (tmp_path / "out.errors.jsonl").write_text("stale\n")
    output, errors = export(database, batch.id, tmp_path / "out.jsonl")
    assert ([line["custom_id"] for line in output], errors) == (["r-1"], [])


def test_the_failed_lines_become_a_batch_of_their_own(database: Database, batch: BatchRow) -> None:
    """With their custom ids and requests, once."""
    with pytest.raises(NotAllowed, match="in_progress"):
        control.retry_failed(database, batch.id, tenant="default")
    finished(database, batch)
    control.cancel(database, batch.id, tenant="default", abort=True)
    made, created = control.retry_failed(database, batch.id, tenant="default")
    assert (created, made.total, made.imported, made.retry_of) == (True, 4, 4, batch.id)
    jobs = claimed(database, made.id)
    assert [job.custom_id for job in jobs] == ["r-2", "r-3", "r-4", "r-9"]
    assert json.loads(jobs[1].body)["messages"][0]["content"] == "prompt 3"
    same, created = control.retry_failed(database, batch.id, tenant="default")
    assert (same.id, created) == (made.id, False)


def test_a_bounded_claim_of_a_batch_that_was_held_meanwhile_takes_nothing(database: Database, tmp_path: Path) -> None:
    """The row is asked again under its lock."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 3), Options(max_in_flight=3))
    database.write(lambda conn: changes.pause(conn, batch.id, tenant="default"))
    old = OpenBatch(batch.id, "default", bound=True)
    assert database.write(lambda conn: claims.claim_lines(conn, old, 3, owner="w", lease=30, held=[])) == []
