"""Workers that are killed: others take up what they held, and nobody pays twice for more than was in flight (F1–F4, F8, F10)."""

from __future__ import annotations

import random
import signal
from functools import partial
from typing import Literal

import pytest

from api_schemas.ids import job_id
from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.supervisor import Supervisor
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

#: An answer that streams for about two seconds: long enough to be caught in the middle.
SLOW = "slow=50"


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_an_idle_worker_is_killed_and_the_other_takes_all(stage: SetStage, database: Database) -> None:
    """F1: nothing was in its hands, so no job is called for twice."""
    on = stage(database, lease_seconds=60)
    on.load(10)
    on.quiesce()
    victim, survivor = on.workers
    with Witness("an idle worker died of SIGKILL") as witness:
        witness.inject(victim.kill9)
        witness.saw(victim.returncode == -signal.SIGKILL)
    on.load(60)
    on.quiesce()
    on.check()
    assert survivor.running
    assert on.extra_calls() == 0


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_worker_is_killed_in_the_middle_of_its_streams(stage: SetStage, database: Database) -> None:
    """F2: what it held is called again, once, under a higher epoch; readers are told to start anew."""
    on = stage(database)
    on.load(16, SLOW)
    victim = on.workers[0]
    with Witness("the upstream saw clients leave in the middle of their answers") as witness:
        eventually(lambda: _streaming(on, victim) and len(on.held_by(victim)) >= 2, what="it streams")
        streaming = _streaming(on, victim)
        witness.inject(victim.kill9)
        held = on.held_by(victim)
        on.quiesce()
        witness.saw([call for call in on.calls() if call.outcome == "aborted_by_client" and call.job_id in streaming])
    on.check()
    assert on.unexplained_calls() == 0
    assert on.lost_by(victim) <= 4, "more than it could have in flight"
    for job in streaming:
        assert on.lost_and_done(job)
        events = on.events(job)
        assert "attempt.reset" in {event["type"] for event in events}
        assert {event["epoch"] for event in events} == set(range(1, len(on.attempts(job)) + 1))
    assert set(streaming) <= set(held)


def _streaming(on: Stage, worker: Process) -> list[str]:
    """The jobs of a worker that have published at least three chunks."""
    return [job for job in on.held_by(worker) if sum(event["type"] == "chunk" for event in on.events(job)) >= 3]


#: Where a job may die with its worker: each point that a job passes, and the script that leads it there.
JOB_POINTS = {
    "claim.committed": "ok",
    "call.before": "ok",
    "call.chunk": "ok",
    "call.answered": "ok",
    "settle.before": "ok",
    "settle.written": "ok",
    "settle.committed": "ok",
    "release.before": "429,ok",
}
#: Points that no job is named at, with how a worker comes there.
LOOP_POINTS = ("claim.before", "sweep.reclaimed")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("database", "stream"),
    [
        pytest.param("postgres", True, id="postgres-streamed"),
        pytest.param("sqlite", False, id="sqlite-whole"),
        pytest.param("postgres", False, id="postgres-whole", marks=pytest.mark.long),
        pytest.param("sqlite", True, id="sqlite-streamed", marks=pytest.mark.long),
    ],
)
def test_a_worker_dies_at_every_point_of_a_jobs_life(stage: SetStage, database: Database, stream: bool) -> None:
    """F3: one job and one worker for each point; one result for each job, and one call more at most."""
    points = [point for point in JOB_POINTS if stream or point != "call.chunk"]
    on = stage(database, workers=0, max_attempts=100)
    doomed = {point: job_id() for point in points}
    with Witness("a worker died at every point") as witness:
        for point, job in doomed.items():
            on.submit(JOB_POINTS[point], stream=stream, hook=True, id=job)
            on.load(2)
            witness.inject(partial(_die, on, witness, f"{point}:1:{job}"))
    on.start(1)
    on.quiesce()
    on.check()
    assert len(witness.evidence) == len(points)
    for point, job in doomed.items():
        *before, last = [row["outcome"] for row in on.attempts(job)]
        assert last == "completed", point
        # Only a death after the commit costs nothing; a job may have died with the victims of later points, too.
        assert set(before) == (set() if point == "settle.committed" else {"lost"}), point


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_worker_dies_while_it_claims_and_while_it_sweeps(stage: SetStage, database: Database) -> None:
    """F3: the points of the loops that serve all jobs together."""
    on = stage(database, workers=0, max_attempts=100)
    on.load(4)
    with Witness("workers died as they claimed, held, and swept") as witness:
        witness.inject(lambda: _die(on, witness, "claim.before"))
        witness.inject(lambda: _die(on, witness, "call.before"))
        witness.inject(lambda: _die(on, witness, "sweep.reclaimed"))
    on.start(1)
    on.quiesce()
    on.check()
    assert len(witness.evidence) == 3


def _die(on: Stage, witness: Witness, crash_at: str) -> None:
    """Start a worker that dies there, and see it die."""
    victim = on.worker(crash_at=crash_at, ready=False)
    victim.wait()
    marker = f"crashpoint {crash_at.partition(':')[0]}"
    witness.saw(victim.returncode == -signal.SIGKILL and marker in victim.output)


@pytest.mark.parametrize("database", ["postgres", pytest.param("sqlite", marks=pytest.mark.long)])
def test_a_storm_of_kills(stage: SetStage, database: Database) -> None:
    """F4: random workers are killed again and again while their supervisors start them anew."""
    on = stage(database, workers=0, max_attempts=100)
    storm = random.Random(4)
    workers = [on.supervised(f"stormy-{number}") for number in range(2)]
    on.load(40, "slow=20")
    with Witness("workers died of SIGKILL, eight times at least") as witness:
        for _ in range(8):
            victim = storm.choice(workers)
            victim.process.wait_for_line("engine_started")
            witness.inject(partial(_kill, victim))
            on.load(6, "slow=20")
        deaths = [code for worker in workers for code in worker.returncodes]
        witness.saw(deaths.count(-signal.SIGKILL) >= 8)
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0


def _kill(victim: Supervisor) -> None:
    """Kill the process of the moment and wait for its next life."""
    lives = victim.restarts
    victim.process.kill9()
    eventually(lambda: victim.restarts > lives, what="the supervisor starts it again")


def test_a_worker_is_asked_to_end_and_then_killed(stage: SetStage) -> None:
    """F8: the drain was not over; what it held is lost with it, and taken up."""
    on = stage("postgres", workers=1, drain_seconds=60)
    victim = on.workers[0]
    for _ in range(4):
        on.submit("slow=500,ok", stream=True)
    with Witness("a draining worker died of SIGKILL") as witness:
        eventually(lambda: len(on.held_by(victim)) >= 2, what="it is busy")
        witness.inject(victim.term)
        victim.wait_for_line("drain_started")
        witness.inject(victim.kill9)
        witness.saw(victim.returncode == -signal.SIGKILL and "drain_ended" not in victim.output)
    on.start(1)
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0
    assert on.lost_by(victim) <= 4


def test_a_job_that_kills_every_worker_is_given_up(stage: SetStage) -> None:
    """F10: after its attempts it has failed as poison; its neighbours are done all the same."""
    on = stage("postgres", workers=0)
    poison = job_id()
    workers = [on.supervised(f"w{number}", crash_at=f"call.before:1:{poison}") for number in range(2)]
    with Witness("the job killed three workers") as witness:
        witness.inject(lambda: on.submit(id=poison, hook=True, max_attempts=3))
        neighbours = on.load(30, max_attempts=20)
        on.quiesce()

        def killed() -> bool:
            return sum(worker.returncodes.count(-signal.SIGKILL) for worker in workers) == 3

        if witness.faults_on:
            eventually(killed, what="its supervisor has seen each of them die")
        witness.saw(killed())
    on.check(all_completed=False)
    assert (on.job(poison)["status"], on.job(poison)["error_class"]) == ("failed", "poison")
    assert [row["outcome"] for row in on.attempts(poison)] == ["lost"] * 3
    assert {on.job(job)["status"] for job in neighbours} == {"completed"}
