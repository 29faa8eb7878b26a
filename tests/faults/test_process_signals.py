"""Workers that are told to end: they claim no more, finish or give back what they hold, and lose nothing (F7, F9)."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any, Literal

import pytest

from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

#: An answer of about a second, which a drain waits for; and one of a minute, which it does not.
SHORT, LONG = "slow=25", "slow=1500"
#: Long enough that no lease is lost and no drain is over too soon, however busy the machine is, in seconds.
PATIENT: dict[str, Any] = {"lease_seconds": 60, "drain_seconds": 90}


def _busy(on: Stage, worker: Process) -> list[str]:
    eventually(lambda: len(on.held_by(worker)) >= 2, what="it is busy")
    return on.held_by(worker)


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_worker_drains_on_sigterm(stage: SetStage, database: Database) -> None:
    """F7: what it holds is finished, nothing is called twice, and it ends with 0."""
    on = stage(database, **PATIENT)
    worker = on.workers[0]
    on.load(20, SHORT)
    with Witness("a busy worker drained") as witness:
        held = _busy(on, worker)
        witness.inject(worker.term)
        witness.saw(held and worker.wait_for_line("drain_started"))
        assert worker.wait(120) == 0
    on.quiesce()
    on.check(gone=[worker])
    assert on.extra_calls() == 0
    assert "drain_ended" in worker.output


def test_a_drain_gives_back_what_takes_too_long(stage: SetStage) -> None:
    """F7: the calls are cut off and on record as released; another worker makes them again at once."""
    on = stage("postgres", drain_seconds=0.5, lease_seconds=60)
    worker = on.workers[0]
    for _ in range(8):
        on.submit(f"{LONG},{SHORT}", stream=True)  # a stream is cut off upstream too; a whole answer runs to its end
    with Witness("a draining worker gave jobs back") as witness:
        # Both have their hands full: what the one gives back is not the other's at once.
        eventually(lambda: len(on.running_calls()) == 8, what="every slot has its call")
        held = on.held_by(worker)
        witness.inject(worker.term)
        witness.saw(held and worker.wait_for_line("drain_gives_back"))
        assert worker.wait() == 0
    other = on.workers[1]
    with Witness("the other one gave its own back, too") as witness:
        witness.inject(other.term)
        assert other.wait() == 0
        witness.saw(on.logged("drain_gives_back") == 2)
    on.start(1, drain_seconds=5)
    on.quiesce()
    on.check(gone=[worker, other])
    assert all([row["outcome"] for row in on.attempts(job)] == ["released", "completed"] for job in held)
    assert on.logged("job_reclaimed") == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_other_signals_drain_too(stage: SetStage, name: str) -> None:
    """F9: Ctrl-C in a terminal; and the hang-up, after which the worker begins anew under its pid."""
    on = stage("postgres", **PATIENT)
    worker = on.workers[0]
    on.load(20, SHORT)
    with Witness("a busy worker got the signal and drained") as witness:
        _busy(on, worker)
        witness.inject(partial(worker.send, signal.Signals[name]))
        witness.saw(worker.wait_for_line("drain_started"))
    if name == "SIGHUP":
        worker.wait_for_line("engine_started", count=2)
    else:
        assert worker.wait(120) == 1, "Celery's code for an interrupt"
    on.quiesce()
    on.check(gone=[worker])
    assert on.extra_calls() == 0


@pytest.mark.parametrize("sequence", ["SIGINT SIGINT", "SIGTERM SIGTERM", "SIGQUIT"])
def test_who_asks_twice_is_not_kept_waiting(stage: SetStage, sequence: str) -> None:
    """F9: what runs is given back at once, with its call on record, although the drain could last; nothing waits for a lease."""
    on = stage("postgres", workers=1, **PATIENT)
    worker = on.workers[0]
    held = [on.submit(f"{LONG},{SHORT}", stream=True) for _ in range(4)]
    with Witness("a worker with its hands full gave its jobs back") as witness:
        eventually(lambda: len(on.running_calls()) == 4, what="every slot has its call")
        for count, name in enumerate(sequence.split()):
            # Two of a kind that come before Python has looked are one, so the first is acted upon before the second.
            if count:
                worker.wait_for_line("drain_started")
            witness.inject(partial(worker.send, signal.Signals[name]))
        witness.saw(worker.wait_for_line("drain_gives_back"))
        assert worker.wait() == (1 if sequence == "SIGINT SIGINT" else 0)
    on.start(1)
    on.quiesce()
    on.check(gone=[worker])
    assert all([row["outcome"] for row in on.attempts(job)] == ["released", "completed"] for job in held)
    assert on.logged("job_reclaimed") == 0
