"""Cancel, retry and the sums of usage, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from api_schemas.usage import Usage
from tests.factories import (
    attempt_rows,
    claimed,
    lease_run_out,
    opened,
    request,
    row,
    rows,
    settled,
    settlement,
    submitted,
    time_is_up,
)
from worker.base.errors import NotAllowed, NotFound, Unreachable
from worker.db.connect import Database
from worker.db.jobs import cancel as verbs
from worker.db.jobs import leases
from worker.db.jobs import usage as using
from worker.db.purge import purge


def cancel(database: Database, job: str, tenant: str = "default") -> verbs.Cancelled:
    return database.write(lambda conn: verbs.cancel(conn, job, tenant=tenant))


def retry(database: Database, job: str, tenant: str = "default", ttl: float = 100) -> None:
    database.write(lambda conn: verbs.retry(conn, job, tenant=tenant, ttl=ttl))


def test_a_queued_job_is_cancelled_at_once(database: Database) -> None:
    [job] = submitted(database, delay_seconds=100, metadata={"k": "v"}, webhook="https://example.com/h")
    done = cancel(database, job)
    assert (done.status, done.changed) == ("cancelled", True)
    assert done.ended is not None
    assert (done.ended.metadata, done.ended.webhook) == ('{"k":"v"}', "https://example.com/h")
    stored = row(database, job)
    assert (stored["status"], stored["error_class"], stored["waiting_on"]) == ("cancelled", "cancelled", None)
    assert claimed(database, job) == []
    again = cancel(database, job)
    assert (again.status, again.changed) == ("cancelled", False)


def test_a_running_job_is_asked_to_stop_and_stays_its_workers(database: Database) -> None:
    """The call's cost is still to come; only its worker can settle it."""
    [job] = submitted(database)
    [mine] = claimed(database, job)
    assert cancel(database, job).status == "in_progress"
    assert row(database, job)["lease_owner"] == "w"
    first = row(database, job)["cancel_requested_at"]
    assert cancel(database, job).status == "in_progress"
    assert row(database, job)["cancel_requested_at"] == first
    assert settled(database, settlement(mine, status="cancelled", outcome="cancelled")) == {job}


def test_an_answer_that_came_first_wins_over_the_cancellation(database: Database) -> None:
    """It was paid for."""
    [job] = submitted(database)
    [mine] = claimed(database, job)
    cancel(database, job)
    settled(database, settlement(mine))
    assert row(database, job)["status"] == "completed"


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
def test_a_finished_job_cannot_be_cancelled(database: Database, status: str) -> None:
    [job] = submitted(database)
    settled(database, settlement(claimed(database, job)[0], status=status))
    with pytest.raises(NotAllowed, match=status):
        cancel(database, job)


def test_nobody_elses_job_and_no_unknown_one_is_touched(database: Database) -> None:
    [job] = submitted(database, tenant="acme")
    for tenant, asked in (("default", job), ("acme", "job_unknown")):
        with pytest.raises(NotFound):
            cancel(database, asked, tenant)
        with pytest.raises(NotFound):
            retry(database, asked, tenant)
    assert row(database, job)["status"] == "queued"


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_a_job_is_tried_again_with_all_its_attempts_and_a_new_time_to_live(database: Database, status: str) -> None:
    """The ledger keeps every call; numbers and fences go on from there."""
    [job] = submitted(database, max_attempts=1)
    settled(
        database,
        settlement(
            claimed(database, job)[0],
            status=status,
            outcome="terminal",
            text="par",
            error_class="upstream",
            error_code="c",
            error_message="m",
            error_status=500,
            finish_reason="x",
        ),
    )
    time_is_up(database, job)
    retry(database, job)
    stored = row(database, job)
    cleared = ("finished_at", "error_class", "error_code", "error_message", "error_status", "finish_reason")
    assert [stored[name] for name in cleared] == [None] * 6
    assert (stored["status"], stored["attempts"], stored["calls"]) == ("queued", 0, 1)
    assert rows(database, "SELECT job_id FROM results") == []
    [again] = claimed(database, job)
    assert (again.attempt, again.attempts_spent, again.fence) == (2, 1, 3)
    assert 90 < again.seconds_left <= 100.001  # SQLite counts in Julian days, which round
    assert settled(database, settlement(again)) == {job}
    assert [one["outcome"] for one in attempt_rows(database, job)] == ["terminal", "completed"]


def test_a_retried_job_has_forgotten_that_it_was_cancelled(database: Database) -> None:
    """Else the first lost lease, or the first heartbeat, would cancel it again."""
    [job] = submitted(database)
    claimed(database, job)
    cancel(database, job)
    lease_run_out(database, job)
    database.write(leases.reclaim)
    retry(database, job)
    claimed(database, job)
    [renewed] = database.write(lambda conn: leases.renew(conn, "w", [job], lease=30))
    assert not renewed.cancel


def test_a_job_without_its_request_cannot_be_retried_and_keeps_what_it_answered(database: Database) -> None:
    """It was purged: every claim of it would be lost, attempt by attempt."""
    [job] = submitted(database)
    [mine] = claimed(database, job)
    settled(database, settlement(mine, status="failed", outcome="failed", text="half an answer"))
    later = datetime.now(UTC) + timedelta(hours=1)
    database.write(lambda conn: purge(conn, later, "payloads"))
    with pytest.raises(NotAllowed, match="no request"):
        retry(database, job)
    assert row(database, job)["status"] == "failed"
    [kept] = rows(database, "SELECT text FROM results")
    assert database.payloads.open(kept["text"], f"results.text:{job}") == "half an answer"


def test_only_what_is_over_without_an_answer_can_be_retried(database: Database) -> None:
    queued, running, done = submitted(database, request("a"), request("b"), request("c"))
    claimed(database, running)
    settled(database, settlement(claimed(database, done)[0]))
    for job, status in ((queued, "queued"), (running, "in_progress"), (done, "completed")):
        with pytest.raises(NotAllowed, match=status):
            retry(database, job)
    assert len(rows(database, "SELECT job_id FROM results")) == 1


def test_sums_are_exact_to_the_pico_dollar(database: Database) -> None:
    """Ten thousand parts of what no float can hold, in both sources, over several attempts of a job."""
    jobs = claimed(database, *submitted(database, *[request(str(number)) for number in range(100)]))
    parts = [Decimal("0.000000000001") * (number + 1) + Decimal("0.1") for number in range(100)]
    usage = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
    settled(
        database,
        *[
            settlement(job, usage=usage, cost_usd=part, cost_source="provider" if number % 2 else "estimated")
            for number, (job, part) in enumerate(zip(jobs, parts, strict=True))
        ],
    )
    [total] = database.read(using.usage)
    assert total.cost_usd == sum(parts)
    assert total.cost_provider_usd == sum(parts[1::2])
    assert total.cost_estimated_usd == sum(parts[0::2])
    assert (total.jobs, total.attempts, total.total_tokens, total.unpriced) == (100, 100, 700, 0)


def test_money_of_failed_and_lost_work_is_counted_too(database: Database) -> None:
    """What was paid for an attempt that broke is in the sum; what cost nothing is not."""
    [job] = submitted(database)
    [first] = claimed(database, job)
    usage = Usage(input_tokens=1, total_tokens=1)
    settled(
        database,
        settlement(
            first, status="queued", outcome="partial", usage=usage, cost_usd=Decimal("0.3"), cost_source="provider"
        ),
    )
    claimed(database, job)
    lease_run_out(database, job)
    database.write(leases.reclaim)
    [third] = claimed(database, job)
    settled(database, settlement(third, usage=usage, cost_usd=Decimal("0.6"), cost_source="provider"))
    [total] = database.read(using.usage)
    assert (total.cost_usd, total.jobs, total.attempts) == (Decimal("0.9"), 1, 2)


def test_a_read_only_database_is_one_that_is_away(postgres_url: str) -> None:
    """A standby after a failover: what was to be written is tried again when it takes writes (RELIABILITY F44)."""
    with opened(postgres_url) as database:
        [job] = submitted(database)
        name = postgres_url.rsplit("/", 1)[1]
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database.engine.dispose()
        with pytest.raises(Unreachable, match="read-only"):
            claimed(database, job)
