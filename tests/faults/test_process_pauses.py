"""Workers that stand still, lag or live in another hour: fences and leases decide, not luck (F5, F6, F13–F16)."""

from __future__ import annotations

import signal
import urllib.request
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from tests.rig.harm import Harm
from tests.rig.ports import free_port
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually, steadily
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

#: An answer that streams for about a second.
SLOW = "slow=25"


def _busy(on: Stage, number: int = 0) -> list[str]:
    """Wait until a worker has every slot taken; what it holds."""
    worker = on.workers[number]
    eventually(lambda: len(on.held_by(worker)) >= 2, what="it is busy")
    return on.held_by(worker)


def test_a_frozen_worker_thaws_after_others_have_done_its_jobs(stage: SetStage) -> None:
    """F5: a zombie's results and chunks are refused by their fence, and it goes on working.

    Not on SQLite: a process that is frozen in the middle of a commit holds the one lock there is, and all others wait
    for it to thaw. Its fence is proved in tests/integration/test_db_settle.py.
    """
    on = stage("postgres")
    zombie = on.workers[0]
    on.load(16, SLOW)
    with Witness("a worker stood still until others had finished its jobs") as witness:
        held = _busy(on)
        witness.inject(zombie.stop)
        held = [job for job in held if on.job(job)["status"] == "in_progress"]
        eventually(lambda: on.done(held) == len(held), what="another worker finishes them")
        witness.saw(held and zombie.frozen)
        witness.inject(zombie.cont)
        eventually(lambda: _shut_out(on) >= 1, what="the zombie learns that it lost them")
    on.load(30)
    on.quiesce()
    on.check()
    assert zombie.running
    assert all(on.lost_and_done(job) for job in held)


def _shut_out(on: Stage) -> int:
    """How many jobs the workers found to be another's, as they settled them or renewed their leases."""
    return on.logged("settlement_fenced") + on.logged("lease_lost")


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_worker_stands_still_for_less_than_its_lease(stage: SetStage, database: Database) -> None:
    """F6: nothing is taken from it."""
    on = stage(database, lease_seconds=60)
    worker = on.workers[0]
    on.load(16, SLOW)
    with Witness("a busy worker stood still for a while") as witness:
        held = _busy(on)
        witness.inject(worker.stop)
        steadily(lambda: worker.frozen, 1.5, "it stands still")
        witness.saw(held and worker.frozen)
        witness.inject(worker.cont)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0
    assert on.logged("job_reclaimed") == 0


#: Put before everything else that Python imports: another hour, for this process alone.
ANOTHER_HOUR = """
import sys, time
_time, _time_ns, OFFSET = time.time, time.time_ns, {offset}
time.time = lambda: _time() + OFFSET
time.time_ns = lambda: _time_ns() + OFFSET * 10**9
sys.stderr.write(f"clock offset {{OFFSET}} s\\n")
"""


@pytest.mark.parametrize("offset", [7_200, -7_200])
def test_a_worker_lives_two_hours_off(stage: SetStage, tmp_path: Path, offset: int) -> None:
    """F13: leases and due times come from the database's clock, so that nothing is claimed early or twice.

    Without webhooks: they are signed with the worker's own clock, and receivers refuse a signature two hours off.
    """
    on = stage("postgres", workers=1, lease_seconds=60)
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_HOUR.format(offset=offset))
    with Witness("a worker's clock is two hours off") as witness:
        witness.inject(lambda: on.worker(env={"PYTHONPATH": str(tmp_path)}))
        witness.saw(f"clock offset {offset} s" in on.workers[-1].output)
        on.load(60, SLOW, hooks=False)
        on.quiesce()
    on.check()
    assert on.extra_calls() == 0
    claimed = {row["worker"] for row in on.rows("SELECT worker FROM attempts_v")}
    assert len(claimed) == 2, "both workers had a share"


#: The engine's event loop, and nothing else, runs one callback until `enough`.
STAND_STILL = """
from worker.broker import tasks

def stand_still():
    sys.stderr.write("the loop stands still\\n")
    until({enough})
    sys.stderr.write("the loop goes on\\n")

tasks._engine._loop.call_soon_threadsafe(stand_still)
"""


def test_the_event_loop_of_a_worker_stands_still(stage: SetStage, tmp_path: Path) -> None:
    """F14: its leases run out, others take its jobs, and what it writes afterwards is refused; `/livez` is silent."""
    on = stage("postgres", workers=1)
    harm, port = Harm(tmp_path, STAND_STILL, "enough"), free_port()
    blocked = on.worker(env=harm.env, http_port=port)
    on.load(16, SLOW)
    with Witness("a worker's event loop stood still") as witness:
        held = _busy(on, 1)
        witness.inject(harm.do)
        if witness.faults_on:
            blocked.wait_for_line("the loop stands still")
        held = [job for job in held if on.job(job)["status"] == "in_progress"]
        eventually(lambda: on.done(held) == len(held), what="another worker finishes them")
        witness.saw(held and witness.faults_on and "the loop goes on" not in blocked.output)
        if witness.faults_on:
            with pytest.raises(TimeoutError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2)
        witness.inject(partial(harm.open, "enough"))
    blocked.wait_for_line("the loop goes on")
    eventually(lambda: _shut_out(on) >= 1, what="it learns that it lost them")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=60) as page:
        assert page.status == 200
    on.load(20)
    on.quiesce()
    on.check()
    assert all(on.lost_and_done(job) for job in held)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_the_elected_sweeper_is_gone(stage: SetStage, how: str) -> None:
    """F15: another worker is elected and takes back what the first one held."""
    on = stage("postgres")
    on.load(20, SLOW)
    with Witness("another worker was elected") as witness:
        leader = eventually(on.sweeper, what="a sweeper is elected")
        assert leader is not None
        eventually(lambda: on.held_by(leader), what="it is busy")
        witness.inject(leader.kill9 if how == "killed" else leader.stop)
        successor = eventually(lambda: (now := on.sweeper()) is not leader and now, what="a successor")
        witness.saw(successor)
        if how == "frozen":
            on_hold = on.held_by(leader)
            eventually(lambda: on.done(on_hold) == len(on_hold), what="the successor takes its jobs back")
            witness.inject(leader.cont)
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0
    assert on.lost_by(leader) <= 4


def test_nobody_works_for_a_while(stage: SetStage) -> None:
    """F16: submissions are accepted, and done when workers come."""
    on = stage("postgres", lease_seconds=60)
    with Witness("there was no worker") as witness:
        for worker in list(on.workers):
            witness.inject(worker.term)
        for worker in on.workers:
            assert worker.wait() == 0
        gone = list(on.workers)
        on.load(60)
        steadily(lambda: on.count("status <> 'queued'") == 0, 2, "nobody works")
        witness.saw(all(worker.returncode == 0 for worker in gone) and on.count("status = 'queued'") == 60)
    on.start(2)
    on.quiesce()
    on.check(gone=gone)
    assert on.extra_calls() == 0


def test_leases_of_the_killed_are_not_waited_for_longer_than_they_last(stage: SetStage) -> None:
    """F16: every worker was killed with its hands full; those who come later find it all."""
    on = stage("postgres")
    on.load(40, SLOW)
    with Witness("all workers died of SIGKILL") as witness:
        eventually(lambda: on.held_by(on.workers[0]) and on.held_by(on.workers[1]), what="they are busy")
        for worker in list(on.workers):
            witness.inject(worker.kill9)
        witness.saw(all(worker.returncode == -signal.SIGKILL for worker in on.workers))
    on.start(1)
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0
    assert sum(map(on.lost_by, on.workers[:2])) <= 8
