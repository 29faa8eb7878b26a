"""Workers that live and do not work: they end themselves, and what their supervisor starts goes on (F14, T7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from api_schemas.ids import job_id
from tests.rig.harm import Harm
from tests.rig.stage import SetStage, Stage
from tests.rig.supervisor import Supervisor
from tests.rig.waiting import eventually, steadily
from tests.rig.witness import Witness
from worker.broker.watchdog import STILL_SECONDS, STUCK

pytestmark = pytest.mark.fault

#: The engine's loop runs one callback for ever.
STAND_STILL = """
from worker.broker import tasks
tasks._engine._loop.call_soon_threadsafe(threading.Event().wait)
"""

#: Celery's loop goes round and asks the broker for nothing any more: what kombu's reconnecting has left behind.
DEAFEN = """
from kombu.transport.redis import Channel
Channel._brpop_start = lambda *_, **__: None
"""

#: So long may a worker be ill here, in seconds.
SECONDS = 2


def _patient(on: Stage, harm: Harm) -> Supervisor:
    """A supervised worker that can be harmed, once: nobody opens the pipe for its later lives."""
    supervisor = on.supervised("patient", env=harm.env, watchdog_seconds=SECONDS)
    supervisor.process.wait_for_line("engine_started")
    return supervisor


def test_a_loop_that_stands_still_for_good_ends_its_worker(stage: SetStage, tmp_path: Path) -> None:
    """F14: nobody asks `/livez` here. The next life of the worker does what the first one held."""
    on = stage("postgres", workers=0)
    harm = Harm(tmp_path, STAND_STILL)
    patient = _patient(on, harm)
    on.load(8, "slow=25", hooks=False)
    with Witness("a loop stood still, and its worker ended itself") as witness:
        first = patient.process
        eventually(lambda: on.held_by(first), what="it is busy")
        witness.inject(harm.do)
        if witness.faults_on:
            eventually(lambda: patient.restarts, 60, "it ends and is started again")
        witness.saw(patient.returncodes == [STUCK] and '"part": "engine"' in first.output)
    on.quiesce()
    on.check()


def test_a_consumer_that_has_gone_deaf_ends_its_worker(stage: SetStage, tmp_path: Path) -> None:
    """T7: a submission that only the broker has is accepted by the next life. The calls under way are finished first."""
    on = stage("postgres", workers=0, drain_seconds=30)
    harm = Harm(tmp_path, DEAFEN)
    patient = _patient(on, harm)
    broker, own = Celery(broker=on.valkey.url, set_as_current=False), job_id()
    with (
        Witness("messages waited for a worker that was connected and took none") as witness,
        on.valkey.client() as redis,
    ):
        first = patient.process
        witness.inject(harm.do)
        if witness.faults_on:
            first.wait_for_line("harm is done")
        on.load(4, "slow=100", hooks=False)
        eventually(lambda: on.held_by(first), what="it finds work in the database all the same")
        broker.send_task(
            "stockpot.submit", kwargs={"job": {"id": own, "body": on.body()}}, queue="stockpot.interactive"
        )
        if witness.faults_on:
            steadily(lambda: bool(redis.llen("stockpot.interactive") or patient.restarts), 1, "its message lies there")
            eventually(lambda: patient.restarts, 60, "it ends and is started again")
        witness.saw(patient.returncodes == [STUCK] and '"part": "deaf"' in first.output)
    on.submitted.append(own)
    eventually(lambda: on.count(f"id = '{own}'"), what="the message is taken")
    on.hears_doorbells()
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0
    assert on.logged("drain_gives_back") == 0


def test_a_worker_that_was_stopped_and_goes_on_is_well(stage: SetStage) -> None:
    """To the watchdog every clock is far ahead then. What counts is how often in a row it sees the same."""
    on = stage("postgres", workers=1, lease_seconds=60, watchdog_seconds=4)
    worker = on.workers[0]
    on.load(20, "slow=50", hooks=False)
    with Witness("a worker was stopped for longer than the watchdog's patience") as witness:
        eventually(lambda: on.held_by(worker), what="it is busy")
        witness.inject(worker.stop)
        steadily(lambda: worker.frozen or not witness.faults_on, STILL_SECONDS + 2 * 4, "it stands still")
        witness.saw(worker.frozen)
        witness.inject(worker.cont)
    on.quiesce()
    assert worker.running and on.logged("worker_stuck") == 0
    on.check()
    assert on.extra_calls() == 0
