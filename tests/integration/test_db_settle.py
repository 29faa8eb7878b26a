"""Settling, on both databases: what is written, under which fence, and how often."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from tests.batch_factories import end
from tests.factories import (
    USAGE,
    attempt_rows,
    claimed,
    due_now,
    lease_run_out,
    request,
    row,
    rows,
    settled,
    settlement,
    submitted,
)
from worker.base.money import MOST_CALL_USD
from worker.db.connect import Database
from worker.db.jobs import cancel, leases, lookup
from worker.db.jobs.claim import ClaimedJob


def one_claim(database: Database, **options: Any) -> ClaimedJob:
    return claimed(database, *submitted(database, **options))[0]


@pytest.mark.clear
def test_a_completed_job_has_its_result_and_a_whole_ledger_row(database: Database) -> None:
    """One transaction: job, attempt and result."""
    job = one_claim(database)
    full = settlement(
        job,
        finish_reason="stop",
        response='{"id": "gen-1", "n": 1.0}',
        text="hello",
        provider_id="gen-1",
        model="m/answered",
        inference_id="inf",
        request_id="req",
        error_status=200,
        usage=USAGE,
        cost_usd=Decimal("0.000000000001"),
        cost_source="provider",
        first_token_seconds=0.25,
        total_seconds=1.5,
        seq=9,
    )
    assert settled(database, full) == {job.id}
    stored = row(database, job.id)
    assert (stored["status"], stored["finish_reason"], stored["seq"]) == ("completed", "stop", 9)
    assert stored["finished_at"] is not None
    assert (stored["lease_owner"], stored["lease_until"], stored["error_class"]) == (None, None, None)
    [attempt] = attempt_rows(database, job.id)
    assert attempt["finished_at"] is not None
    told = ("outcome", "status_code", "inference_id", "request_id", "cost_picousd", "cost_source", "total_tokens")
    assert [attempt[name] for name in told] == ["completed", 200, "inf", "req", 1, "provider", 15]
    assert (attempt["first_token_seconds"], attempt["total_seconds"]) == (0.25, 1.5)
    [result] = rows(database, "SELECT CAST(response AS text) AS response, text, provider_id, model FROM results")
    assert dict(result) == {
        "response": '{"id": "gen-1", "n": 1.0}',
        "text": "hello",
        "provider_id": "gen-1",
        "model": "m/answered",
    }


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_a_job_that_ends_otherwise_says_why_and_keeps_its_text(database: Database, status: str) -> None:
    """There is a result row for the partial text, and no response."""
    job = one_claim(database)
    settled(
        database,
        settlement(job, status=status, outcome="partial", error_class="truncated", error_message="cut", text="par"),
    )
    detail = database.read(lambda conn: lookup.job(conn, job.id, tenant="default"))
    assert (detail.status, detail.text, detail.response) == (status, "par", None)
    assert detail.error is not None
    assert (detail.error.error_class, detail.error.message) == ("truncated", "cut")
    assert rows(database, "SELECT job_id FROM results_v") == []


def test_a_failure_without_text_leaves_no_result(database: Database) -> None:
    job = one_claim(database)
    settled(database, settlement(job, status="failed", outcome="terminal", error_class="invalid_request"))
    assert rows(database, "SELECT job_id FROM results") == []


@pytest.mark.clear
def test_a_job_that_is_tried_again_is_due_later_and_keeps_its_error(database: Database) -> None:
    """Its attempt is spent; the partial text stays with the attempt."""
    job = one_claim(database)
    settled(
        database,
        settlement(
            job,
            status="queued",
            outcome="partial",
            due_in=100.5,
            waiting_on="retry",
            error_class="truncated",
            partial_text="par",
        ),
    )
    stored = row(database, job.id)
    assert (stored["status"], stored["waiting_on"], stored["attempts"], stored["error_class"]) == (
        "queued",
        "retry",
        1,
        "truncated",
    )
    assert attempt_rows(database, job.id)[0]["partial_text"] == "par"
    assert rows(database, "SELECT job_id FROM results") == []
    assert claimed(database, job.id) == []
    seconds = "EXTRACT(EPOCH FROM due_at - created_at)"
    if database.is_sqlite:
        seconds = "(julianday(due_at) - julianday(created_at)) * 86400"
    [waits] = rows(database, f"SELECT {seconds} AS seconds FROM jobs")
    assert 100 < float(waits["seconds"]) < 130


def test_waiting_gives_the_attempt_back_and_keeps_the_call_on_record(database: Database) -> None:
    job = one_claim(database)
    settled(database, settlement(job, status="queued", outcome="busy", spent=False))
    stored = row(database, job.id)
    assert (stored["attempts"], stored["calls"]) == (0, 1)
    assert attempt_rows(database, job.id)[0]["outcome"] == "busy"


def test_a_call_that_was_never_sent_leaves_no_row_and_frees_its_number(database: Database) -> None:
    """The next claim's attempt has the same number, under a higher fence."""
    job = one_claim(database)
    settled(database, settlement(job, status="queued", outcome="held", spent=False, called=False))
    stored = row(database, job.id)
    assert (stored["attempts"], stored["calls"]) == (0, 0)
    assert attempt_rows(database, job.id) == []
    due_now(database, job.id)
    [again] = claimed(database, job.id)
    assert (again.attempt, again.fence) == (1, 2)


def test_a_job_that_goes_back_without_a_call_keeps_the_whole_error_of_its_last_one(database: Database) -> None:
    """Class, code, words and status; once it is called again, the new call's word counts."""
    job = one_claim(database)
    refused = {"error_class": "authentication", "error_code": "invalid_api_key", "error_message": "Invalid API key"}
    settled(database, settlement(job, status="queued", outcome="account", spent=False, error_status=401, **refused))
    names = (*refused, "error_status")
    for _ in range(2):
        due_now(database, job.id)
        [again] = claimed(database, job.id)
        held = settlement(again, status="queued", outcome="held", spent=False, called=False, waiting_on="paused")
        settled(database, held)
        stored = row(database, job.id)
        assert [stored[name] for name in names] == [*refused.values(), 401]
        assert stored["waiting_on"] == "paused"
    due_now(database, job.id)
    [again] = claimed(database, job.id)
    settled(database, settlement(again))
    assert [row(database, job.id)[name] for name in names] == [None] * 4


@pytest.mark.clear
def test_nothing_is_written_under_an_old_fence(database: Database) -> None:
    """Neither the job, nor the ledger, nor a result."""
    job = one_claim(database)
    lease_run_out(database, job.id)
    database.write(leases.reclaim)
    [newer] = claimed(database, job.id)
    before = [dict(row(database, job.id)), [dict(one) for one in attempt_rows(database, job.id)]]
    assert settled(database, settlement(job)) == set()
    assert [dict(row(database, job.id)), [dict(one) for one in attempt_rows(database, job.id)]] == before
    assert settled(database, settlement(newer)) == {job.id}
    assert settled(database, settlement(job, text="stale")) == set()
    [result] = rows(database, "SELECT text FROM results")
    assert result["text"] == "ok"


def test_nothing_is_written_to_a_job_that_was_taken_back_and_not_claimed_again(database: Database) -> None:
    """Its fence is still ours; its claim is not."""
    job = one_claim(database)
    lease_run_out(database, job.id)
    database.write(leases.reclaim)
    assert settled(database, settlement(job)) == set()
    assert row(database, job.id)["status"] == "queued"
    assert [one["outcome"] for one in attempt_rows(database, job.id)] == ["lost"]


def test_settling_twice_after_a_lost_acknowledgement_is_once(database: Database) -> None:
    """The second time says that it is written, and changes nothing (RELIABILITY D1)."""
    job = one_claim(database)
    first = settlement(job, usage=USAGE, cost_usd=Decimal(1), cost_source="provider")
    assert settled(database, first) == {job.id}
    assert settled(database, first) == {job.id}
    assert len(rows(database, "SELECT job_id FROM results")) == 1
    retried = one_claim(database)
    again = settlement(retried, status="queued", outcome="busy", spent=False)
    assert settled(database, again) == {retried.id}
    assert settled(database, again) == {retried.id}
    assert row(database, retried.id)["attempts"] == 0


def test_a_slice_is_written_whole_with_each_settlement_under_its_own_fence(database: Database) -> None:
    """Good, fenced off, retried and unsent ones share a transaction."""
    jobs = claimed(database, *submitted(database, *[request(str(number)) for number in range(5)]))
    done, stale, again, unsent, late = jobs
    written = settled(
        database,
        settlement(done, total_seconds=0, first_token_seconds=0.5),
        replace(settlement(stale), fence=7),
        settlement(again, status="queued", outcome="retryable", due_in=1),
        settlement(unsent, status="queued", outcome="held", spent=False, called=False, due_in=0.5),
        settlement(late, status="expired", outcome="retryable", error_class="expired"),
    )
    assert written == {done.id, again.id, unsent.id, late.id}
    found = [row(database, job.id)["status"] for job in jobs]
    assert found == ["completed", "in_progress", "queued", "queued", "expired"]
    assert [len(attempt_rows(database, job.id)) for job in jobs] == [1, 1, 1, 0, 1]


def test_a_settlement_that_no_sweep_overtook_is_written_by_one_update(database: Database) -> None:
    """The statement is large: planning it for nothing, a second time, cost PostgreSQL 2 ms a group."""
    job = one_claim(database)
    updates: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "UPDATE jobs" in statement:
            updates.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    end(database, (job, settlement(job)))
    assert len(updates) == 1
    assert row(database, job.id)["status"] == "completed"


@pytest.mark.clear
def test_a_stale_settlement_beside_the_new_one_of_the_same_job_writes_nothing(database: Database) -> None:
    """One worker may hold both: it lost the lease, took the job back, and both calls end at once."""
    job = one_claim(database)
    lease_run_out(database, job.id)
    database.write(leases.reclaim)
    [newer] = claimed(database, job.id)
    settled(database, settlement(job, text="stale", outcome="completed"), settlement(newer, text="new"))
    assert [one["outcome"] for one in attempt_rows(database, job.id)] == ["lost", "completed"]
    [result] = rows(database, "SELECT text FROM results")
    assert result["text"] == "new"


def test_a_job_whose_cancellation_was_asked_for_is_not_called_again(database: Database) -> None:
    """The call failed before its worker heard of it: the job ends as cancelled at the next sweep, without a call."""
    job = one_claim(database)
    assert database.write(lambda conn: cancel.cancel(conn, job.id, tenant="default")).status == "in_progress"
    settled(database, settlement(job, status="queued", outcome="retryable", error_class="upstream"))
    assert claimed(database, job.id) == []
    [over] = database.write(leases.expire)
    assert (over.job_id, over.status, over.error and over.error.error_class) == (job.id, "cancelled", "cancelled")
    assert row(database, job.id)["status"] == "cancelled"


TORTURE = {
    "nul": "a\0b",
    "surrogate": "a\ud800b",
    "half emoji": "\ude00",
    "quotes": "'; DROP TABLE jobs; -- \" \\ %s :name {}",
    "newlines": "\r\n\u2028\u0085\t\x01\x1f",
    "astral": "\U0001f600" * 100,
    "long": "x" * 2_000_000,
    "braces": '{1,2,NULL,"x"}',
    "empty": "",
}


@pytest.mark.clear
@pytest.mark.parametrize("name", TORTURE)
def test_any_text_of_an_upstream_can_be_stored(database: Database, name: str) -> None:
    """What no database takes is replaced by U+FFFD; the rest comes back to the letter."""
    text = TORTURE[name]
    job, broken = claimed(database, *submitted(database, request("a"), request("b")))
    words = dict.fromkeys(("error_code", "error_message", "error_body", "finish_reason"), text[:1000])
    ids = dict.fromkeys(("provider_id", "model", "inference_id", "request_id"), text[:1000])
    response = json.dumps({"text": text})
    settled(
        database,
        settlement(job, text=text, response=response, **words, **ids),
        settlement(broken, status="queued", outcome="partial", partial_text=text, **words),
    )
    clean = "".join("\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text)
    [stored] = rows(database, "SELECT text, CAST(response AS text) AS response FROM results")
    assert stored["text"] == clean
    assert stored["response"] == response
    assert attempt_rows(database, broken.id)[0]["partial_text"] == clean
    detail = database.read(lambda conn: lookup.job(conn, job.id, tenant="default"))
    assert detail.response == {"text": text}
    assert detail.text == clean


@pytest.mark.clear
@pytest.mark.parametrize("number", ["1" * 5000, "1e400", "-0.0", "123456789012345678901234567890.5"])
def test_a_response_is_stored_to_the_letter(database: Database, number: str) -> None:
    """Numbers that no float holds too: nothing parses it on the way."""
    job = one_claim(database)
    response = f'{{ "n":{number},"n":1,  "u":"\\u0000\\ud800" }}'
    settled(database, settlement(job, response=response))
    [stored] = rows(database, "SELECT CAST(response AS text) AS response FROM results")
    assert stored["response"] == response


def test_the_most_tokens_and_the_dearest_call_fit(database: Database) -> None:
    """The largest that the readers let through: 2**53 tokens, and what a call costs at most."""
    job = one_claim(database)
    usage = USAGE.model_copy(update={"input_tokens": 2**53 - 1, "total_tokens": 2**53 - 1})
    settled(database, settlement(job, usage=usage, cost_usd=MOST_CALL_USD, cost_source="provider"))
    [attempt] = attempt_rows(database, job.id)
    assert (attempt["total_tokens"], attempt["cost_picousd"]) == (2**53 - 1, 10**16)


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE jobs SET status = 'completed'",
        "UPDATE jobs SET finished_at = created_at",
        "UPDATE jobs SET lease_owner = 'w'",
        "UPDATE jobs SET status = 'in_progress'",
        "UPDATE jobs SET attempts = 1",
        "UPDATE jobs SET attempts = -1",
        "UPDATE jobs SET status = 'done'",
        "UPDATE jobs SET lane = 'fast'",
    ],
)
def test_the_database_itself_refuses_states_that_cannot_be(database: Database, broken: str) -> None:
    """CHECK constraints: whoever writes, these hold."""
    submitted(database)
    with pytest.raises(SQLAlchemyError):
        database.write(lambda conn: conn.exec_driver_sql(broken))
