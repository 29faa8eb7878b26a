"""Budgets on both databases: what fits is reserved, what was spent is counted, and nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection

from tests.factories import claimed, lease_run_out, opened, request, rows, settled, settlement, sql, submitted
from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.db.budgets.reservations import Ask, Budget
from worker.db.budgets.tables import ALL_TENANTS
from worker.db.connect import Database
from worker.db.jobs import claim, leases, ledger, listing, usage_days
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ledger import Mark
from worker.db.jobs.settle import Settlement, write
from worker.db.jobs.tenant_fairness import TenantFairness
from worker.job.consequences import Consequences

DOLLAR = int(PICO)


def put(database: Database, dollars: float, tenant: str = "default", period: str = "day") -> None:
    """Set a budget."""
    database.write(lambda conn: reservations.put(conn, tenant, period, int(dollars * DOLLAR)))


def budget(database: Database, tenant: str = "default", period: str = "day") -> Budget:
    """A budget as it stands."""
    [one] = [one for one in database.read(reservations.every) if (one.tenant, one.period) == (tenant, period)]
    return one


def running(database: Database, count: int = 1, tenant: str = "default") -> list[ClaimedJob]:
    """Jobs that have just been claimed."""
    ids = submitted(database, *[request(f"{number}", tenant=tenant) for number in range(count)])
    return claimed(database, *ids)


def reserve(database: Database, jobs: list[ClaimedJob], dollars: float | None) -> set[str]:
    """Ask for the same amount for each; the ids of those that do not fit."""
    amount = None if dollars is None else int(dollars * DOLLAR)
    asks = [Ask(job.id, job.attempt, job.fence, job.tenant, amount) for job in jobs]
    return database.write(lambda conn: reservations.reserve(conn, asks)).refused


def settle(database: Database, job: ClaimedJob, dollars: float | None, **fields: Any) -> None:
    """Settle as the worker does: the result, then the charge, in one transaction."""
    cost = None if dollars is None else Decimal(str(dollars))
    written(database, settlement(job, cost_usd=cost, cost_source="provider" if cost else None, **fields))


def written(database: Database, one: Settlement) -> None:
    """Write and charge one settlement."""

    def verb(conn: Connection) -> None:
        if write(conn, [one]) and one.cost_usd:
            usage_days.count(conn, [(one.job_id, one.attempt)])
            reservations.charge(conn, [(one.job_id, one.attempt)])

    database.write(verb)


def sweep(database: Database) -> None:
    """Take back what was lost, as the sweeper does."""
    database.write(lambda conn: Consequences().write(conn, leases.reclaim(conn)))


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


class Money(RuleBasedStateMachine):
    """Claims, reservations, ends of every kind, deaths, days and changed limits, in any order.

    Never over by more than what calls cost beyond their reservations; never wrong by a credit; never stuck.
    """

    url: str

    def __init__(self) -> None:
        super().__init__()
        self._exit = ExitStack()
        self.database = self._exit.enter_context(opened(self.url))
        self.jobs: dict[str, ClaimedJob] = {}
        self.reserved: dict[str, int] = {}
        self.beyond = 0  # what calls have cost beyond their reservations
        self.least = 0  # what was spent when the limit was last set

    def teardown(self) -> None:
        """Every job that fits gets through in the end; then the books are closed."""
        if self.jobs:
            self._drain()
        self._exit.close()

    def _drain(self) -> None:
        for job in list(self.jobs.values()):
            self._end(job, 0, "completed")
        self.database.write(reservations.tend)
        [one] = self.database.read(reservations.every)
        room = one.room
        [name] = submitted(self.database, request("last"))
        if room > 0:
            # Shut only for those that need more than is there.
            assert one.needs_picousd is None or one.needs_picousd > room
            sql(self.database, "UPDATE budgets SET needs_picousd = NULL")
            [last] = claimed(self.database, name)
            assert self.database.write(lambda conn: reservations.reserve(conn, [_ask(last, room)])).refused == set()

    @initialize(limit=st.integers(0, 30))
    def begin(self, limit: int) -> None:
        for table in ("jobs", "attempts", "results", "requests", "budgets", "usage_days"):
            sql(self.database, f"DELETE FROM {table}")
        self.limit = limit
        self.database.write(lambda conn: reservations.put(conn, "default", "day", limit))

    @rule(asks=st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 12)), st.booleans()), min_size=1, max_size=4))
    def call(self, asks: list[tuple[int | None, bool]]) -> None:
        """Claim jobs and reserve for them together."""
        jobs = running(self.database, len(asks))
        if not jobs:
            assert budget(self.database).needs_picousd is not None
            return
        given = [_ask(job, amount, guess=guess) for job, (amount, guess) in zip(jobs, asks, strict=True)]
        refused = self.database.write(lambda conn: reservations.reserve(conn, given)).refused
        for job, ask in zip(jobs, given, strict=True):
            if job.id in refused:
                self._end(job, 0, "held")
            else:
                self.jobs[job.id] = job
                self.reserved[job.id] = self._reserved(job)
                assert ask.guess or ask.picousd in {None, self.reserved[job.id]}

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), cost=st.integers(0, 15), end=st.sampled_from(["completed", "failed", "cancelled", "queued"]))
    def end(self, data: st.DataObject, cost: int, end: str) -> None:
        """A call ends, cheaper or dearer than reserved."""
        self._end(self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))], cost, end)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A worker dies in the call; its lease runs out."""
        name = data.draw(st.sampled_from(sorted(self.jobs)))
        lease_run_out(self.database, name)
        sweep(self.database)
        late = self.jobs.pop(name)
        self.reserved.pop(name)
        settle(self.database, late, 1)  # its last word is refused, and costs nothing

    @rule(limit=st.integers(0, 60))
    def change(self, limit: int) -> None:
        """Somebody sets another limit, maybe below what is spent already."""
        self.database.write(lambda conn: reservations.put(conn, "default", "day", limit))
        self.limit = limit
        self.least = self._ledger() + sum(self.reserved.values())

    @rule()
    def sweep(self) -> None:
        self.database.write(reservations.tend)

    @invariant()
    def the_books_agree(self) -> None:
        """The counter is the ledger's sum, and the limit holds but for what was beyond reservations."""
        if not hasattr(self, "limit"):
            return
        [one] = self.database.read(reservations.every)
        assert one.spent_picousd == self._ledger()
        assert one.reserved_picousd == sum(self.reserved.values())
        assert one.spent_picousd + one.reserved_picousd <= max(self.limit, self.least) + self.beyond

    def _ledger(self) -> int:
        [found] = rows(self.database, "SELECT COALESCE(SUM(cost_picousd), 0) AS n FROM attempts")
        return int(found["n"])

    def _reserved(self, job: ClaimedJob) -> int:
        [found] = rows(self.database, "SELECT reserved_picousd AS n FROM attempts WHERE job_id = :id", id=job.id)
        return int(found["n"])

    def _end(self, job: ClaimedJob, cost: int, end: str) -> None:
        held = end == "held"
        self.jobs.pop(job.id, None)
        self.beyond += max(0, cost - self.reserved.pop(job.id, 0))
        settle(
            self.database,
            job,
            cost / DOLLAR or None,
            status="queued" if held else end,
            outcome=end,
            called=not held,
            spent=not held,
            error_class=None if end == "completed" else "upstream",
            due_in=3_600.0 if end in {"held", "queued"} else 0.0,
        )


def _ask(job: ClaimedJob, picousd: int | None, *, guess: bool = False) -> Ask:
    return Ask(job.id, job.attempt, job.fence, job.tenant, picousd, guess)


def test_budgets_hold_whatever_happens(database_url: str) -> None:
    """A Hypothesis state machine, on both databases."""
    machine = type("Here", (Money,), {"url": database_url})
    checks = settings(
        max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=checks)
