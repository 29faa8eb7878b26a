"""Leases, on both databases: renewed, run out, elected; and jobs whose time is up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories import (
    attempt_rows,
    claimed,
    due_now,
    lease_run_out,
    opened,
    request,
    row,
    rows,
    settled,
    settlement,
    sql,
    submitted,
    time_is_up,
)
from worker.db.connect import Database
from worker.db.jobs import cancel, leases
from worker.db.jobs.ended import Ended


def renew(database: Database, *ids: str, owner: str = "w", lease: float = 30) -> dict[str, Any]:
    return {one.job_id: one for one in database.write(lambda conn: leases.renew(conn, owner, ids, lease=lease))}


def reclaim(database: Database, **options: Any) -> list[Ended]:
    return database.write(lambda conn: leases.reclaim(conn, **options))


def expire(database: Database, **options: Any) -> list[Ended]:
    return database.write(lambda conn: leases.expire(conn, **options))


def lost(database: Database, **options: Any) -> str:
    """A job whose worker has let its lease run out."""
    [job] = submitted(database, **options)
    claimed(database, job)
    lease_run_out(database, job)
    return job


def test_renewing_prolongs_what_is_still_held_and_tells_what_is_not(database: Database) -> None:
    """Missing in the answer: finished, taken back, or somebody else's."""
    mine, done, other, taken = submitted(database, *[request(str(number)) for number in range(4)])
    claimed(database, mine, lease=0.001)
    [finished] = claimed(database, done)
    settled(database, settlement(finished))
    claimed(database, other, owner="other")
    claimed(database, taken)
    lease_run_out(database, taken)
    assert {one.job_id for one in reclaim(database)} >= {taken}
    claimed(database, mine, lease=0.001)
    renewed = renew(database, mine, done, other, taken)
    assert set(renewed) == {mine}
    assert renewed[mine].fence == row(database, mine)["fence"]
    assert not renewed[mine].cancel
    assert reclaim(database) == [], "the lease was not prolonged"


def test_a_claim_that_the_worker_knows_nothing_of_runs_out(database: Database) -> None:
    """Its story crashed, or the claim's acknowledgement was lost: renewed, it would stay in progress for ever."""
    known, unknown = submitted(database, request("a"), request("b"))
    claimed(database, known, unknown)
    lease_run_out(database, known)
    lease_run_out(database, unknown)
    assert set(renew(database, known)) == {known}
    assert [one.job_id for one in reclaim(database)] == [unknown]
    assert renew(database) == {}


def test_a_row_that_is_locked_holds_up_no_other_lease_and_is_not_lost(postgres_url: str) -> None:
    """It stands as it is until the next heartbeat; were it waited for, all leases of the worker would run out."""
    with opened(postgres_url) as database:
        locked, free = submitted(database, request("a"), request("b"))
        claimed(database, locked, free, lease=0.001)
        with database.engine.begin() as conn:
            conn.exec_driver_sql(f"SELECT id FROM jobs WHERE id = '{locked}' FOR UPDATE")
            assert set(renew(database, locked, free)) == {locked, free}
            assert reclaim(database) == [], "the free one was renewed, the locked one cannot be taken back"
        assert set(renew(database, locked)) == {locked}
        assert reclaim(database) == [], "the locked one was renewed when it was free"


def test_renewing_tells_of_a_cancellation(database: Database) -> None:
    """Should the control channel have lost the word."""
    [job] = submitted(database)
    claimed(database, job)
    database.write(lambda conn: cancel.cancel(conn, job, tenant="default"))
    assert renew(database, job)[job].cancel


def test_a_lease_that_ran_out_sends_the_job_back_and_its_attempt_is_lost(database: Database) -> None:
    """It is due at once, its attempt is spent, and the call is on record as possibly billed."""
    job = lost(database)
    [back] = reclaim(database)
    assert (back.job_id, back.status, back.fence, back.logged) == (job, "queued", 1, True)
    stored = row(database, job)
    assert (stored["status"], stored["attempts"], stored["lease_owner"]) == ("queued", 1, None)
    [attempt] = attempt_rows(database, job)
    assert (attempt["outcome"], attempt["error_class"]) == ("lost", "ambiguous")
    assert attempt["finished_at"] is not None
    assert claimed(database, job)[0].fence == 2


def test_a_lease_that_runs_is_left_alone(database: Database) -> None:
    [job] = submitted(database)
    claimed(database, job)
    assert reclaim(database) == []
    assert row(database, job)["status"] == "in_progress"


def test_a_job_that_has_cost_as_many_workers_as_it_has_attempts_is_poison(database: Database) -> None:
    """And only then."""
    job = lost(database, max_attempts=2)
    assert [one.status for one in reclaim(database)] == ["queued"]
    claimed(database, job)
    lease_run_out(database, job)
    [over] = reclaim(database)
    assert (over.status, over.error and over.error.error_class) == ("failed", "poison")
    assert over.error is not None
    assert over.error.message
    stored = row(database, job)
    assert (stored["status"], stored["error_class"], stored["attempts"]) == ("failed", "poison", 2)
    assert [one["outcome"] for one in attempt_rows(database, job)] == ["lost", "lost"]


def test_waiting_is_no_step_towards_poison(database: Database) -> None:
    """A job told to wait a hundred times, whose worker dies once, is tried again."""
    [job] = submitted(database, max_attempts=2)
    for _ in range(5):
        due_now(database, job)
        [mine] = claimed(database, job)
        settled(database, settlement(mine, status="queued", outcome="busy", spent=False))
    due_now(database, job)
    claimed(database, job)
    lease_run_out(database, job)
    assert [one.status for one in reclaim(database)] == ["queued"]


def test_a_call_that_may_have_been_billed_is_not_repeated_under_fail(database: Database) -> None:
    job = lost(database, on_ambiguous="fail")
    [over] = reclaim(database)
    assert (over.status, over.error and over.error.error_class) == ("failed", "ambiguous")
    assert row(database, job)["finished_at"] is not None


def test_a_cancelled_jobs_lease_that_ran_out_ends_it_as_cancelled(database: Database) -> None:
    """Before poison and policy: it is what its submitter asked for."""
    job = lost(database, on_ambiguous="fail", max_attempts=1)
    database.write(lambda conn: cancel.cancel(conn, job, tenant="default"))
    [over] = reclaim(database)
    assert (over.status, over.error and over.error.error_class) == ("cancelled", "cancelled")
    assert row(database, job)["status"] == "cancelled"


def test_taking_back_is_bounded_and_goes_on(database: Database) -> None:
    ids = submitted(database, *[request(str(number)) for number in range(5)])
    claimed(database, *ids)
    for job in ids:
        lease_run_out(database, job)
    assert [len(reclaim(database, limit=2)) for _ in range(4)] == [2, 2, 1, 0]


def test_earlier_attempts_keep_their_outcome_when_a_later_one_is_lost(database: Database) -> None:
    [job] = submitted(database)
    [mine] = claimed(database, job)
    settled(database, settlement(mine, status="queued", outcome="partial", error_class="truncated"))
    claimed(database, job)
    lease_run_out(database, job)
    reclaim(database)
    assert [one["outcome"] for one in attempt_rows(database, job)] == ["partial", "lost"]


def test_a_queued_job_whose_time_is_up_expires_and_says_what_went_wrong_last(database: Database) -> None:
    [job] = submitted(database, webhook="https://example.com/h", metadata={"k": "v"})
    [mine] = claimed(database, job)
    settled(database, settlement(mine, status="queued", outcome="busy", error_message="slow down"))
    time_is_up(database, job)
    [over] = expire(database)
    assert (over.job_id, over.status, over.error and over.error.error_class) == (job, "expired", "expired")
    assert (over.webhook, over.metadata) == ("https://example.com/h", '{"k":"v"}')
    assert over.error and "slow down" in over.error.message
    stored = row(database, job)
    assert (stored["status"], stored["waiting_on"]) == ("expired", None)
    assert expire(database) == []


def test_a_running_job_does_not_expire_under_its_worker(database: Database) -> None:
    """The call may have been paid; its worker bounds it."""
    [job] = submitted(database)
    claimed(database, job)
    time_is_up(database, job)
    assert expire(database) == []


def test_expiring_is_bounded_and_goes_on(database: Database) -> None:
    for job in submitted(database, *[request(str(number)) for number in range(5)]):
        time_is_up(database, job)
    assert [len(expire(database, limit=2)) for _ in range(4)] == [2, 2, 1, 0]


def test_one_is_elected_until_its_term_is_over_or_it_resigns(database: Database) -> None:
    def elect(owner: str, seconds: float = 60) -> bool:
        return database.write(lambda conn: leases.elect(conn, "sweeper", owner, seconds=seconds, lease=30))

    assert elect("a")
    assert not elect("b")
    assert elect("a"), "the elected may prolong its term"
    database.write(lambda conn: leases.resign(conn, "b"))
    assert not elect("b")
    database.write(lambda conn: leases.resign(conn, "a"))
    assert elect("b")
    past = "datetime('now', '-1 hour')" if database.is_sqlite else "now() - interval '1 hour'"
    sql(database, f"UPDATE leases SET until = {past}")
    assert elect("a")
    assert not elect("b")
    assert [one["owner"] for one in rows(database, "SELECT owner FROM leases")] == ["a"]


@pytest.mark.parametrize("lease", [30, 0])
def test_a_clock_that_was_set_back_holds_up_neither_an_election_nor_what_is_to_be_taken_back(
    database: Database, lease: float
) -> None:
    """The elected noted times that lie an hour ahead now, and may be dead; from the next election on the database is steady."""

    def elect(owner: str) -> bool:
        return database.write(lambda conn: leases.elect(conn, leases.SWEEPER, owner, seconds=3, lease=lease))

    def ahead(seconds: int) -> None:
        later = (
            f"datetime('now', '+{seconds} seconds')" if database.is_sqlite else f"now() + interval '{seconds} seconds'"
        )
        sql(database, f"UPDATE leases SET until = {later}, seen_at = {later}, steady_since = {later}")

    assert elect("a")
    ahead(1)
    assert not elect("b"), "clocks of two transactions are never quite the same"
    ahead(3600)
    assert elect("b")
    assert not elect("a")
    ahead(3600)
    assert elect("b"), "who was elected goes on"
    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')" if database.is_sqlite else "now()"
    assert rows(database, f"SELECT * FROM leases WHERE steady_since > {now} OR seen_at > {now}") == []
