"""Workers that live and do not work: they end themselves, and what their supervisor starts goes on (F14, T7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from api_schemas.ids import job_id
from tests.rig.stage import SetStage, Stage
from tests.rig.supervisor import Supervisor
from tests.rig.waiting import eventually, steadily
from tests.rig.witness import Witness
from worker.watchdog import STUCK

pytestmark = pytest.mark.fault

#: Put before everything else that Python imports: when the file `go` is there, it is taken away and the harm is done.
HARM = """
import pathlib, sys, threading, time

def harm():
{harm}

def wait():
    while True:
        try:
            pathlib.Path({go!r}).unlink()
        except FileNotFoundError:
            time.sleep(0.02)
        else:
            break
    harm()
    sys.stderr.write("harm is done\\n")

threading.Thread(target=wait, daemon=True).start()
"""

#: The engine's loop runs one callback for ever.
STAND_STILL = """
    from worker import tasks
    tasks._engine._loop.call_soon_threadsafe(threading.Event().wait)
"""

#: Celery's loop goes round and asks the broker for nothing any more: what kombu's reconnecting has left behind.
DEAFEN = """
    from kombu.transport.redis import Channel
    Channel._brpop_start = lambda *_, **__: None
"""

#: So long may a worker be ill here, in seconds.
SECONDS = 2


def _patient(on: Stage, tmp_path: Path, harm: str) -> tuple[Supervisor, Path]:
    """A supervised worker that can be harmed, and the file that does it."""
    go = tmp_path / "go"
    (tmp_path / "sitecustomize.py").write_text(HARM.format(harm=harm, go=str(go)))
    supervisor = on.supervised("patient", env={"PYTHONPATH": str(tmp_path)}, watchdog_seconds=SECONDS)
    supervisor.process.wait_for_line("engine_started")
    return supervisor, go


def test_a_loop_that_stands_still_for_good_ends_its_worker(stage: SetStage, tmp_path: Path) -> None:
    """F14: nobody asks `/livez` here. The next life of the worker does what the first one held."""
    on = stage("postgres", workers=0)
    patient, go = _patient(on, tmp_path, STAND_STILL)
    on.load(8, "slow=25", hooks=False)
    with Witness("a loop stood still, and its worker ended itself") as witness:
        first = patient.process
        eventually(lambda: on.held_by(first), what="it is busy")
        witness.inject(go.touch)
        if witness.faults_on:
            eventually(lambda: patient.restarts, 60, "it ends and is started again")
        witness.saw(patient.returncodes == [STUCK] and '"part": "engine"' in first.output)
    on.quiesce()
    on.check()


def test_a_consumer_that_has_gone_deaf_ends_its_worker(stage: SetStage, tmp_path: Path) -> None:
    """T7: a submission that only the broker has is accepted by the next life. The calls under way are finished first."""
    on = stage("postgres", workers=0, drain_seconds=30)
    patient, go = _patient(on, tmp_path, DEAFEN)
    broker, own = Celery(broker=on.valkey.url, set_as_current=False), job_id()
    with (
        Witness("messages waited for a worker that was connected and took none") as witness,
        on.valkey.client() as redis,
    ):
        first = patient.process
        witness.inject(go.touch)
        if witness.faults_on:
            first.wait_for_line("harm is done")
        on.load(4, "slow=100", hooks=False)
        eventually(lambda: on.held_by(first), what="it finds work in the database all the same")
        broker.send_task("stockpot.submit", kwargs={"job": {"id": own, "body": on.body()}}, queue="interactive")
        if witness.faults_on:
            steadily(lambda: bool(redis.llen("interactive") or patient.restarts), 1, "its message lies there")
            eventually(lambda: patient.restarts, 60, "it ends and is started again")
        witness.saw(patient.returncodes == [STUCK] and '"part": "deaf"' in first.output)
    on.submitted.append(own)
    eventually(lambda: on.count(f"id = '{own}'"), what="the message is taken")
    on.hears_doorbells()
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0
    assert on.logged("drain_gives_back") == 0
