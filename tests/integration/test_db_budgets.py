"""Budgets on both databases: what fits is reserved, what was spent is counted, and nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from tests.budget_factories import DOLLAR, budget, put, reserve, running, settle, sweep, written
from tests.factories import claimed, lease_run_out, request, rows, settled, settlement, sql, submitted
from worker.db.budgets import reservations
from worker.db.budgets.tables import ALL_TENANTS
from worker.db.connect import Database
from worker.db.jobs import claim, ledger, listing
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ledger import Mark
from worker.db.jobs.tenant_fairness import TenantFairness


def test_what_fits_is_reserved_and_what_does_not_fit_shuts_the_budget(database: Database) -> None:
    """In the order of the asks; the jobs behind are not claimed, and say why they wait."""
    put(database, 1.0)
    jobs = running(database, 4)
    refused = reserve(database, jobs, 0.3)
    assert refused == {jobs[3].id}
    assert budget(database).reserved_picousd == 3 * 300_000_000_000
    behind = submitted(database, request("behind"))
    assert claimed(database, *behind) == []
    turns = TenantFairness()
    assert database.write(lambda conn: claim.claim_due(conn, "interactive", 9, owner="w", lease=30, turns=turns)) == []
    assert database.read(lambda conn: listing.jobs(conn, tenant=None, status="queued"))[0].waiting_on == "budget"


def test_a_budget_opens_again_when_a_call_was_cheaper_than_it_might_have_been(database: Database) -> None:
    """Not before: what is left must be enough for what was refused."""
    put(database, 1.0)
    first, second, third = running(database, 3)
    assert reserve(database, [first, second, third], 0.5) == {third.id}
    settle(database, third, None, status="queued", outcome="held", spent=False, called=False)
    settle(database, first, 0.4)
    database.write(reservations.tend)
    assert claimed(database, third.id) == []
    settle(database, second, 0.1)
    database.write(reservations.tend)
    [again] = claimed(database, third.id)
    assert (again.attempt, again.attempts_spent) == (1, 1)  # waiting has cost nothing
    assert reserve(database, [again], 0.5) == set()
    assert budget(database).spent_picousd == DOLLAR // 2


@pytest.mark.parametrize("end", ["failed", "cancelled", "queued", "lost"])
def test_a_reservation_ends_with_its_claim(database: Database, end: str) -> None:
    """However the claim ends; what the call cost before it broke is counted."""
    put(database, 1.0)
    [job] = running(database)
    assert reserve(database, [job], 1.0) == set()
    if end == "lost":
        lease_run_out(database, job.id)
        sweep(database)
    else:
        settle(database, job, 0.2, status=end, outcome=end, error_class="upstream")
    found = budget(database)
    assert found.reserved_picousd == 0
    # Nobody knows what a lost call cost: what was reserved for it counts as spent until the provider's log says.
    assert found.spent_picousd == (DOLLAR if end == "lost" else DOLLAR // 5)


def test_a_job_that_is_claimed_again_does_not_count_twice(database: Database) -> None:
    """The reservation of the claim before is nobody's, nor is one whose answer was lost on its way."""
    put(database, 1.0)
    [job] = running(database)
    reserve(database, [job], 0.6)
    assert reserve(database, [job], 0.6) == set()
    settle(database, job, None, status="queued", outcome="retryable")
    [again] = claimed(database, job.id)
    assert budget(database).reserved_picousd == 0
    assert reserve(database, [again], 0.9) == set()


def test_every_budget_that_governs_a_call_must_have_room(database: Database) -> None:
    """The tenant's day, the tenant's total, everybody's day; tenants without any are free."""
    put(database, 5.0, "acme")
    put(database, 1.0, "acme", "total")
    put(database, 3.0, ALL_TENANTS)
    acme, other = running(database, 3, "acme"), running(database, 3, "other")
    assert reserve(database, acme, 0.5) == {acme[2].id}
    assert reserve(database, other, 1.0) == {other[2].id}
    assert {(one.tenant, one.period): one.needs_picousd for one in database.read(reservations.every)} == {
        ("*", "day"): DOLLAR,
        ("acme", "day"): None,
        ("acme", "total"): DOLLAR // 2,
    }
    database.write(lambda conn: reservations.remove(conn, ALL_TENANTS, "day"))
    assert len(running(database, 1, "other")) == 1
    assert running(database, 1, "acme") == []


def test_a_call_of_unknown_cost_takes_what_is_left_and_nothing_when_nothing_is(database: Database) -> None:
    """So at most one such call is in flight, and it is there: nobody is stuck."""
    put(database, 1.0)
    first, second = running(database, 2)
    assert reserve(database, [first, second], None) == {second.id}
    settle(database, first, 0.25)
    assert reserve(database, [second], None) == set()
    assert budget(database).room == 0


def test_a_call_of_unknown_cost_does_not_take_less_than_the_last_one_like_it_was_billed(database: Database) -> None:
    """Whichever worker made that one; less would be exceeded as surely as the last was."""
    put(database, 1.0)
    first, second = running(database, 2)
    assert reserve(database, [first], None) == set()
    settle(database, first, 0.6)
    assert reserve(database, [second], None, guess=True) == {second.id}
    put(database, 1.5)
    assert reserve(database, [second], None, guess=True) == set()


def test_the_day_turns_and_the_total_does_not(database: Database) -> None:
    """What was spent on another day is not of this day."""
    put(database, 1.0)
    put(database, 5.0, period="total")
    [job] = running(database)
    settle(database, job, 1.0)
    [late] = running(database)
    assert reserve(database, [late], 0.5) == {late.id}
    sql(database, "UPDATE budgets SET day = '2020-01-01' WHERE period = 'day'")
    assert (budget(database).spent_picousd, budget(database, period="total").spent_picousd) == (0, DOLLAR)
    database.write(reservations.tend)
    assert reserve(database, [late], 0.5) == set()
    settle(database, late, 0.5)
    assert (budget(database).spent_picousd, budget(database, period="total").spent_picousd) == (
        DOLLAR // 2,
        DOLLAR * 3 // 2,
    )


def test_a_clock_that_was_set_back_leaves_no_day_without_its_budget(database: Database) -> None:
    """The day that was counted last is in the future then, and may be for a year: today's calls count all the same."""
    put(database, 1.0)
    first, second, third = running(database, 3)
    settle(database, first, 0.4)
    sql(database, "UPDATE budgets SET day = '2999-01-01', spent_picousd = 5")
    assert budget(database).spent_picousd == DOLLAR * 4 // 10
    settle(database, second, 0.5)
    assert budget(database).spent_picousd == DOLLAR * 9 // 10
    assert reserve(database, [third], 0.2) == {third.id}
    database.write(reservations.tend)
    assert [row["day"] < "2999" for row in rows(database, "SELECT day FROM budgets")] == [True]
    settle(database, third, 0.1)
    assert budget(database).spent_picousd == DOLLAR


def test_a_new_budget_begins_with_what_the_day_has_cost_and_waits_for_calls_that_nobody_counts(
    database: Database,
) -> None:
    """Calls that were in flight when it was set are counted by the recount, once, and not twice."""
    [early, unaware] = running(database, 2)
    assert not unaware.budgeted
    written_only(database, early, "0.3")
    put(database, 1.0)
    assert budget(database).spent_picousd == 3 * DOLLAR // 10
    database.write(reservations.tend)
    assert budget(database).recount
    written_only(database, unaware, "0.2")  # its worker knows of no budget
    sql(database, f"UPDATE budgets SET set_at = {ago(database)}")
    database.write(reservations.tend)
    found = budget(database)
    assert (found.recount, found.spent_picousd) == (False, DOLLAR // 2)
    [aware] = running(database)
    assert aware.budgeted
    settle(database, aware, 0.1)
    database.write(reservations.tend)
    assert budget(database).spent_picousd == 6 * DOLLAR // 10
    put(database, 9.0)
    assert budget(database).spent_picousd == 6 * DOLLAR // 10


def written_only(database: Database, job: ClaimedJob, cost: str) -> None:
    """Settle without a charge."""
    settled(database, settlement(job, cost_usd=Decimal(cost), cost_source="provider"))


def ago(database: Database) -> str:
    """SQL for a minute ago."""
    return (
        "strftime('%Y-%m-%d %H:%M:%f', 'now', '-60 seconds')"
        if database.is_sqlite
        else "statement_timestamp() - interval '60 seconds'"
    )


def test_what_is_found_later_in_the_providers_books_counts(database: Database) -> None:
    """An orphan's cost is added, an estimate is put right, and a mark that repeats changes nothing."""
    put(database, 1.0)
    lost, guessed = running(database, 2)
    settle(database, lost, None, status="queued", outcome="ambiguous")
    written(database, settlement(guessed, cost_usd=Decimal("0.5"), cost_source="estimated"))
    marks = [
        Mark(lost.id, 1, "orphaned", Decimal("0.2")),
        Mark(guessed.id, 1, "matched", Decimal("0.4")),
    ]
    for _ in range(2):
        database.write(lambda conn: ledger.mark(conn, marks))
    assert budget(database).spent_picousd == 6 * DOLLAR // 10


def test_reservations_are_exact_when_many_ask_at_once(database: Database) -> None:
    """Forty calls of a dime at once under a budget of two dollars: twenty go, whoever is first."""
    put(database, 2.0)
    jobs = running(database, 40)
    barrier = threading.Barrier(4)
    refused: set[str] = set()

    def ask(part: list[ClaimedJob]) -> None:
        barrier.wait()
        for job in part:
            refused.update(reserve(database, [job], 0.1))
            if job.id not in refused:
                settle(database, job, 0.1)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(ask, jobs[number::4]) for number in range(4)]:
            done.result()
    found = budget(database)
    assert (len(refused), found.spent_picousd, found.reserved_picousd) == (20, 2 * DOLLAR, 0)
