"""Workers that are told to end: they claim no more, finish or give back what they hold, and lose nothing (F7, F9)."""

from __future__ import annotations

import signal
from functools import partial
from typing import Literal

import pytest

from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

#: An answer of about a second, which a drain waits for; and one of a minute, which it does not.
SHORT, LONG = "slow=25", "slow=1500"


def _busy(on: Stage, worker: Process) -> list[str]:
    eventually(lambda: len(on.held_by(worker)) >= 2, what="it is busy")
    return on.held_by(worker)


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_worker_drains_on_sigterm(stage: SetStage, database: Database) -> None:
    """F7: what it holds is finished, nothing is called twice, and it ends with 0."""
    on = stage(database)
    worker = on.workers[0]
    on.load(20, SHORT)
    with Witness("a busy worker drained") as witness:
        held = _busy(on, worker)
        witness.inject(worker.term)
        witness.saw(held and worker.wait_for_line("drain_started", 10))
        assert worker.wait() == 0
    on.quiesce()
    on.check(gone=[worker])
    assert on.extra_calls() == 0
    assert "drain_ended" in worker.output


def test_a_drain_gives_back_what_takes_too_long(stage: SetStage) -> None:
    """F7: the calls are cut off and on record as released; another worker makes them again at once."""
    on = stage("postgres", drain_seconds=0.5)
    worker = on.workers[0]
    on.load(12, f"{LONG},{SHORT}")
    with Witness("a draining worker gave jobs back") as witness:
        held = _busy(on, worker)
        witness.inject(worker.term)
        witness.saw(held and worker.wait_for_line("drain_gives_back", 10))
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


@pytest.mark.parametrize(
    "sequence",
    ["SIGINT", pytest.param("SIGINT SIGINT", marks=pytest.mark.long), "SIGTERM SIGTERM", "SIGQUIT", "SIGHUP"],
)
def test_other_signals_lose_nothing(stage: SetStage, sequence: str) -> None:
    """F9: however impatient the operator, every job is done once the leases are over."""
    on = stage("postgres")
    worker = on.workers[0]
    on.load(20, SHORT)
    with Witness("a busy worker got the signals and drained, ended or began anew") as witness:
        _busy(on, worker)
        for name in sequence.split():
            witness.inject(partial(_send, worker, name))
        witness.saw(worker.wait_for_line("drain_started", 20))
    on.quiesce()
    on.check(gone=[worker])
    assert on.extra_calls() <= 4
    if sequence == "SIGHUP":
        worker.wait_for_line("engine_started", count=2)
    else:
        assert worker.wait() in ENDS[sequence]


def _send(worker: Process, name: str) -> None:
    """Send a signal, and see that the first of two has arrived before the second: one alone would be merged."""
    if worker.running:
        worker.send(signal.Signals[name])
        if name in {"SIGINT", "SIGTERM"}:
            worker.wait_for_line("Warm shutdown|drain_started")


#: How a worker may end after these signals (Celery: 1 after an interrupt); on SIGHUP it drains and begins anew.
ENDS = {"SIGINT": {1}, "SIGINT SIGINT": {0, 1}, "SIGTERM SIGTERM": {0, 1}, "SIGQUIT": {0, 1}}
