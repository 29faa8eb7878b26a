"""Budgets hold whatever happens: a state machine on both databases."""

from __future__ import annotations

from contextlib import ExitStack

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

from tests.budget_factories import DOLLAR, budget, running, settle, sweep
from tests.factories import claimed, lease_run_out, opened, request, rows, sql, submitted
from worker.db.budgets import reservations
from worker.db.budgets.reservations import Ask
from worker.db.jobs.claim import ClaimedJob


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
