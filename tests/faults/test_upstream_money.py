"""Money after faults: what was billed is on record, what was reserved is free again, to the last credit."""

from __future__ import annotations

import random
import signal
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import pytest

from api_schemas.ids import job_id
from tests.rig import books
from tests.rig.simulated import Knobs
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.db.budgets.budget import Budget

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

#: What the upstream does to the jobs: answers, refusals, breaks that are billed and breaks that are not.
SCRIPTS = [
    "slow=60",
    "ok+nocost",
    "503,ok",
    "hangup+billed,ok",
    "cut@3,slow=40",
    "cut@3+billed,ok",
    "429,ok",
    "rst@2,ok",
]


def test_a_call_lost_with_its_worker_is_looked_up_before_it_is_repeated(stage: SetStage) -> None:
    """The worker died with a paid answer in its hands, and in the middle of a call that is paid for, too.

    The one job may cost no more than that: it is not called again.
    """
    on = stage("postgres", workers=0)
    poor, rich = job_id(), job_id()
    on.submit("slow=30", id=rich)
    on.submit("slow=20", id=poor, max_cost_usd="0.0000001")
    with Witness("a worker died with an answer that was billed") as witness:
        witness.inject(partial(_die, on, witness, f"call.answered:1:{poor}"))
        on.start(1)
        on.quiesce()
        witness.saw(on.attempts(rich)[0]["outcome"] == "lost")
    on.check(all_completed=False)
    assert (on.job(poor)["status"], on.job(poor)["error_class"]) == ("failed", "account")
    assert [row["reconciled"] for row in on.attempts(poor)] == ["orphaned"]
    assert on.lost_and_done(rich)
    books.reconcile(on)
    assert list(books.differences(on)) == []


def _die(on: Stage, witness: Witness, crash_at: str) -> None:
    victim = on.worker(crash_at=crash_at, ready=False)
    victim.wait()
    witness.saw(victim.returncode == -signal.SIGKILL)


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_every_attempt_of_a_run_with_faults_is_matched_to_the_last_credit(stage: SetStage, database: Database) -> None:
    """Workers killed, jobs cancelled, streams broken; then the ledger and the upstream's journal are one.

    A budget counts along: what it has counted is the ledger's sum, and nothing is reserved any more.
    """
    patient: Any = {"first_event_timeout": 300, "idle_timeout": 300, "total_timeout": 400}
    # Without a price of the model its jobs would wait for the first answer, which is one that never comes.
    on = stage(database, workers=2, concurrency=12, prices="*=1.25/10", **patient)
    books.write(on, lambda conn: reservations.put(conn, "*", "day", int(100 * PICO)))
    rng = random.Random(18)
    doomed = [on.submit("stall@2" if number % 2 else "hold", stream=number % 2 == 1) for number in range(6)]
    jobs = [on.submit(rng.choice(SCRIPTS), stream=number % 2 == 0) for number in range(50)]
    victim = on.workers[0]
    with Witness("a worker died in its calls") as witness:
        eventually(lambda: on.held_by(victim), what="it holds jobs")
        witness.inject(victim.kill9)
        eventually(lambda: on.done(jobs) == len(jobs), 120, "the jobs are done")
        for job in doomed:
            on.pot.cancel(job)
        eventually(lambda: on.done(doomed) == len(doomed), what="they are cancelled")
        Knobs(on.simulator).release()  # an answer in one piece is made to its end and billed, whoever has left
        on.quiesce()
        witness.saw(on.count("outcome = 'lost'", "attempts_v"))
    assert on.count("outcome = 'cancelled'", "attempts_v") >= len(doomed)
    on.check(all_completed=False)
    assert {on.job(job)["status"] for job in jobs} == {"completed"}
    books.reconcile(on)
    assert list(books.differences(on)) == []
    assert sum(books.billed(on).values()) == sum(
        Decimal(row["cost_picousd"] or 0) / PICO for row in books.ledger(on).values()
    )
    found = _budget(on)
    assert found.reserved_picousd == 0
    assert Decimal(found.spent_picousd) / PICO == sum(books.billed(on).values())


def test_what_a_dead_worker_had_reserved_is_free_again(stage: SetStage) -> None:
    """Its call, of unknown cost, had taken all that was left: nobody else could make any."""
    on = stage("postgres", workers=1)
    books.write(on, lambda conn: reservations.put(conn, "default", "day", int(PICO) // 200))
    first = on.submit("stall@2", stream=True)
    victim = on.workers[0]
    with Witness("a worker died that had reserved all there was") as witness:
        eventually(on.running_calls, what="it is called")
        assert _budget(on).room == 0
        on.start(1)
        others = [on.submit() for _ in range(5)]
        eventually(lambda: _budget(on).needs_picousd is not None, what="another has asked in vain")
        witness.inject(victim.kill9)
        on.pot.cancel(first)
        if witness.faults_on:
            on.quiesce()
        witness.saw(victim.returncode == -signal.SIGKILL)
    on.check(all_completed=False)
    assert {on.job(job)["status"] for job in others} == {"completed"}
    # The one that died may have claimed some of them; the wait itself costs no attempt.
    counted = [[row["outcome"] for row in on.attempts(job) if row["outcome"] != "lost"] for job in others]
    assert counted == [["completed"]] * len(others)
    found = _budget(on)
    assert (found.reserved_picousd, found.spent_picousd) == (
        0,
        sum(int(row["cost_picousd"] or 0) for row in books.ledger(on).values()),
    )


def _budget(on: Stage) -> Budget:
    [one] = books.write(on, reservations.every)
    return one
