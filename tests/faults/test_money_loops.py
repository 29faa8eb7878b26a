"""Submit, cancel, retry, from many producer processes: budgets hold, and the ledger is the provider's by itself."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from tests.rig import books
from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.base.money import PICO
from worker.db.budgets import reservations

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
#: What these calls may cost each, as the list has it (60 tokens of answer), and what one may be billed.
BUDGET_USD = Decimal("0.006")
BOUND_USD = Decimal("0.0012")
PRODUCERS = 4
#: How often they run at most; once, where the machine has time for them.
ROUNDS = 4


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_tenants_budget_holds_under_loops_of_many_producers(
    stage: SetStage, tmp_path: Path, database: Literal["postgres", "sqlite"]
) -> None:
    """Nobody runs `reconcile`, and no call is billed beyond what the budget has."""
    on = stage(database, workers=2, concurrency=8, first_event_timeout=20, idle_timeout=20, total_timeout=20)
    books.write(on, lambda conn: reservations.put(conn, "default", "total", int(BUDGET_USD * PICO)))
    with Witness("calls were cancelled after they had been sent") as witness:
        jobs = _loop(on, tmp_path, 6.0) if witness.faults_on else {}
        witness.saw(on.count("outcome = 'cancelled'", "attempts_v") >= 5)
    _all_is_looked_up(on)
    bills, ledger = books.billed(on), books.ledger(on)
    assert len(bills) >= 5, "hardly anything was billed: nothing was tried"
    assert any(asked > 1 for asked in jobs.values())
    assert sum(bills.values()) <= BUDGET_USD
    assert _costs(ledger) == {name: bills.get(name, Decimal(0)) for name in ledger}
    assert bills.keys() <= ledger.keys()
    [budget] = books.write(on, reservations.every)
    assert budget.reserved_picousd == 0
    assert budget.spent_usd == sum(bills.values())


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_jobs_bound_holds_under_loops_of_many_producers(
    stage: SetStage, tmp_path: Path, database: Literal["postgres", "sqlite"]
) -> None:
    """The calls of all of a job's lives together cost no more than its `max_cost_usd`."""
    on = stage(database, workers=2, concurrency=8, first_event_timeout=20, idle_timeout=20, total_timeout=20)
    with Witness("calls were cancelled after they had been sent") as witness:
        jobs = _loop(on, tmp_path, 5.0, str(BOUND_USD)) if witness.faults_on else {}
        witness.saw(on.count("outcome = 'cancelled'", "attempts_v") >= 5)
    _all_is_looked_up(on)
    bills, ledger = books.billed(on), books.ledger(on)
    assert any(asked > 1 for asked in jobs.values())
    assert _costs(ledger) == {name: bills.get(name, Decimal(0)) for name in ledger}
    by_job = dict.fromkeys(jobs, Decimal(0))
    for name, usd in bills.items():
        by_job[name.rpartition(".")[0]] += usd
    assert {job: usd for job, usd in by_job.items() if usd > BOUND_USD} == {}


def _loop(on: Stage, logs: Path, seconds: float, *bound: str) -> dict[str, int]:
    """Run the producers, again if a slow machine let them do too little; how often each job was asked for."""
    jobs: dict[str, int] = {}
    for again in range(ROUNDS):
        jobs |= _round(on, logs, seconds, again, *bound)
        cancelled = on.count("outcome = 'cancelled'", "attempts_v")
        if cancelled >= 5 and len(books.billed(on)) >= 5 and any(asked > 1 for asked in jobs.values()):
            break
    return jobs


def _round(on: Stage, logs: Path, seconds: float, again: int, *bound: str) -> dict[str, int]:
    env = on.env() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.rig.cancelling_producer", str(seconds)]
    producers = [
        Process([*command, str(number), *bound], logs=logs, name=f"producer-{number}", env=env, cwd=logs)
        for number in range(again * PRODUCERS, (again + 1) * PRODUCERS)
    ]
    for producer in producers:
        assert producer.wait(120) == 0, producer.tail()
    lines = [line.split() for producer in producers for line in producer.stdout.read_text().splitlines()]
    for producer in producers:
        producer.close()
    on.submitted += [job for job, _ in lines]
    return {job: int(asked) for job, asked in lines}


def _all_is_looked_up(on: Stage) -> None:
    on.quiesce()
    unasked = "outcome = 'running' OR reconciled IN ('due', 'late')"
    eventually(lambda: not on.count(unasked, "attempts"), 150, "every call is looked up by the workers")
    on.check(all_completed=False)


def _costs(ledger: dict[str, dict[str, object]]) -> dict[str, Decimal]:
    return {name: Decimal(str(row["cost_picousd"] or 0)) / PICO for name, row in ledger.items()}
