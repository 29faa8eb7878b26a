"""After any sequence of ends, everything that reads what is spent or reserved says the same, on both databases.

The readers: a budget check (`reservations`), a claim (what its job has cost), a batch's counters, and the ledger itself.
The ends: an answer, a failure, a call without the provider's word on its cost (broken off, timed out, too large,
redirected, ambiguous), a cancellation, a drain, a loss with its worker, the late answer of a worker that was taken for
lost, and every verdict of a look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from decimal import Decimal
from typing import TypeVar

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

from api_schemas.ids import uuid7_hex
from tests.factories import claimed, due_now, opened, request, rows, settlement, sql, submitted
from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.db.budgets.reservations import Ask
from worker.db.jobs import leases, ledger
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ledger import Mark
from worker.job.consequences import Consequences
from worker.job.settlements import Settling, write_all

#: Much more than all calls of one run cost together.
LIMIT = 10**9
#: How a call may end without its cost being known. A redirected one is an error of the upstream; that the tokens of a
#: minute count as the money does after each of them is checked in `tests/unit/test_conclude.py`.
UNKNOWN = ["ambiguous", "timeout", "too_large", "truncated", "upstream"]
#: What a job of the machine may cost: never reached, so that its claims count what it has cost.
BOUND = "1"


T = TypeVar("T")


def one_of(data: st.DataObject, values: Sequence[T]) -> T:
    """Draw by place: ids differ from run to run."""
    return values[data.draw(st.integers(0, len(values) - 1))]


class Ends(RuleBasedStateMachine):
    """Calls of a few jobs, of which every second is a line of a batch; `cost` has what each call counts as."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self._exit = ExitStack()
        self.database = self._exit.enter_context(opened(self.url))
        self.running: dict[str, ClaimedJob] = {}
        self.reserved: dict[str, int] = {}
        self.lost: dict[str, ClaimedJob] = {}  # taken back, and not claimed since
        self.cost: dict[tuple[str, int], int] = {}
        self.open: set[tuple[str, int]] = set()  # to be looked up
        self.names: list[str] = []

    def teardown(self) -> None:
        """Close the database."""
        self._exit.close()

    @initialize()
    def begin(self) -> None:
        """A budget, and three jobs."""
        for table in ("jobs", "attempts", "results", "requests", "budgets", "usage_days"):
            sql(self.database, f"DELETE FROM {table}")
        self.database.write(lambda conn: reservations.put(conn, "default", "total", LIMIT))
        given = [request(f"{number}", max_cost_usd=BOUND, max_attempts=100) for number in range(3)]
        self.names = submitted(self.database, *given)

    @rule(data=st.data(), amount=st.integers(1, 50))
    def call(self, data: st.DataObject, amount: int) -> None:
        """A claimed job says what its calls have cost, and reserves for the next."""
        name = one_of(data, self.names)
        due_now(self.database, name)
        for job in claimed(self.database, name):
            assert job.spent_picousd == self._spent(name)
            ask = Ask(job.id, job.attempt, job.fence, job.tenant, amount, bound=True)
            reserved = self.database.write(lambda conn, ask=ask: reservations.reserve(conn, [ask]))  # type: ignore[misc]
            assert (reserved.refused, reserved.picousd) == (set(), {name: amount})
            self.running[name], self.reserved[name] = job, amount
            self.lost.pop(name, None)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=st.integers(0, 70), end=st.sampled_from(["queued", "failed", "cancelled", "released"]))
    def end_with_a_cost(self, data: st.DataObject, cost: int, end: str) -> None:
        """The provider has said what it cost."""
        self._end(data, end, cost, owed=False)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        end=st.sampled_from(["queued", "cancelled", "released", "failed"]),
        why=st.sampled_from(UNKNOWN),
    )
    def end_without_a_word(self, data: st.DataObject, end: str, why: str) -> None:
        """What was reserved stands for it until the log is asked."""
        self._end(data, end, None, owed=True, why=why)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Its worker has died, or is taken for dead."""
        name = one_of(data, sorted(self.running))
        past = "datetime('now', '-1 hour')" if self.database.is_sqlite else "now() - interval '1 hour'"
        sql(self.database, f"UPDATE jobs SET lease_until = {past} WHERE id = :id", id=name)
        self.database.write(lambda conn: Consequences().write(conn, leases.reclaim(conn)))
        job = self.running.pop(name)
        self.lost[name] = job
        self.cost[name, job.attempt] = self.reserved.pop(name)
        self.open.add((name, job.attempt))

    @precondition(lambda self: self.lost)
    @rule(data=st.data(), cost=st.integers(0, 70))
    def answer_late(self, data: st.DataObject, cost: int) -> None:
        """The worker lives; its answer is accepted, since nobody has claimed the job meanwhile."""
        name = one_of(data, sorted(self.lost))
        job = self.lost.pop(name)
        assert self._settle(job, "queued", cost, owed=False)
        self.cost[name, job.attempt] = cost
        self.open.discard((name, job.attempt))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cost=st.integers(0, 70), found=st.sampled_from(["orphaned", "unbilled", "late"]))
    def look_up(self, data: st.DataObject, cost: int, found: str) -> None:
        """The log has it, has it at no cost, or does not have it yet."""
        key = one_of(data, sorted(self.open))
        usd = {"orphaned": Decimal(cost) / PICO, "unbilled": Decimal(0), "late": None}[found]
        for _ in range(2):  # a mark that repeats changes nothing
            self.database.write(lambda conn: ledger.mark(conn, [Mark(*key, found, usd)]))
        if usd is not None:
            self.cost[key] = int(usd * PICO)
            self.open.discard(key)

    @invariant()
    def everybody_agrees(self) -> None:
        """The model, the budget, and the ledger."""
        if not self.names:
            return
        [budget] = self.database.read(reservations.every)
        assert budget.spent_picousd == sum(self.cost.values())
        assert budget.reserved_picousd == sum(self.reserved.values())
        stored = rows(self.database, "SELECT job_id, attempt, cost_picousd AS cost, reconciled FROM attempts")
        costs = {(one["job_id"], one["attempt"]): int(one["cost"]) for one in stored if one["cost"] is not None}
        assert {key: cost for key, cost in costs.items() if cost} == {
            key: cost for key, cost in self.cost.items() if cost
        }
        assert {(one["job_id"], one["attempt"]) for one in stored if one["reconciled"] in {"due", "late"}} == self.open

    def _spent(self, name: str) -> int:
        return sum(cost for (job, _), cost in self.cost.items() if job == name)

    def _end(self, data: st.DataObject, end: str, cost: int | None, *, owed: bool, why: str = "upstream") -> None:
        name = one_of(data, sorted(self.running))
        job, reserved = self.running.pop(name), self.reserved.pop(name)
        estimate = reserved if owed else cost or 0
        assert self._settle(job, end, estimate, owed=owed, why=why)
        self.cost[name, job.attempt] = estimate
        if owed:
            self.open.add((name, job.attempt))
        if end in {"failed", "cancelled"}:
            self.names.remove(name)
            self.names += submitted(self.database, request(uuid7_hex(), max_cost_usd=BOUND, max_attempts=100))

    def _settle(self, job: ClaimedJob, end: str, picousd: int, *, owed: bool, why: str = "upstream") -> bool:
        one = settlement(
            job,
            status="queued" if end == "released" else end,
            outcome=end,
            cost_usd=Decimal(picousd) / PICO,
            cost_source="estimated" if owed else "provider",
            owed=owed,
            error_class=why,
        )
        settling = Settling(job, one, uuid7_hex())

        def write(conn: Connection) -> set[str]:
            return write_all(conn, [settling], Consequences())[0]

        return job.id in self.database.write(write)


@pytest.mark.parametrize("examples", [pytest.param(8), pytest.param(100, marks=pytest.mark.long)])
def test_nobody_disagrees_about_what_is_spent_or_reserved(database_url: str, examples: int) -> None:
    """A Hypothesis state machine."""
    machine = type("Here", (Ends,), {"url": database_url})
    checks = settings(
        max_examples=examples,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(machine, settings=checks)
