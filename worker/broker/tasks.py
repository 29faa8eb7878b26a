"""The Celery tasks: thin edges that hand a message to the engine or to the database, and nothing more.

stockpot.run      a doorbell: these job ids, or this lane, have work
stockpot.submit   a submission by a producer that has the broker and no database
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from celery.exceptions import Reject, WorkerShutdown
from celery.worker import state

from api_schemas.errors import InvalidRequest
from api_schemas.ids import is_job_id
from api_schemas.jobs import LANES
from worker import embedded
from worker.base import metrics
from worker.base.errors import SettingsError, Unreachable
from worker.base.log import get_logger
from worker.base.settings import Settings, settings
from worker.broker import submissions
from worker.broker.app import app
from worker.broker.messages import ENDS, STARTS
from worker.broker.queues import lanes_of
from worker.broker.watchdog import Watchdog
from worker.db import identity
from worker.db.connect import Database
from worker.db.ready import await_database
from worker.engine.engine import Engine
from worker.webhooks import shared_key

log = get_logger(__name__)

#: How long one wait for a free slot lasts before it is looked whether the worker is closing, in seconds.
ROOM_SECONDS = 0.5
#: How often a worker that waits for its database looks whether it was asked to stop, in seconds.
STOP_SECONDS = 0.2
#: A submission to another database is put back, and not taken up again at once: its own workers shall come first.
FOREIGN_SECONDS = 1.0

_engine: Engine | None = None
_database: str | None = None  # who the database of this worker is (`db.identity`)
_open = contextlib.ExitStack()
_hurried = False  # the worker was asked to stop, and what runs is to be given back at once


def start_engine(worker: Any) -> None:
    """Start this process's engine, once the database is there; the worker goes down if the engine does not start."""
    global _engine
    ours = settings()
    await_database(ours, _wait_for_database)
    if ours.redis_url is None:
        _open.enter_context(embedded.lease(ours.home))
    _remember_database(ours)
    engine = Engine(ours, lanes=lanes_of(app.amqp.queues.consume_from, ours.redis_namespace))
    engine.on_drain = lambda: os.kill(os.getpid(), signal.SIGTERM)  # as a supervisor would stop it
    try:
        engine.start()
    except SettingsError:
        raise SystemExit(1) from None  # the log has what to mend
    _engine = engine
    if ours.watchdog_seconds:
        Watchdog(engine, app, seconds=ours.watchdog_seconds).start()


def _remember_database(ours: Settings) -> None:
    global _database
    opened = Database(ours, pool_size=1)
    try:
        _database = opened.write(identity.ensure)
        differs = opened.write(lambda conn: shared_key.agree(conn, ours))
        if differs is not None:
            log.error("secret_key_differs", reason=differs)
    except Unreachable as error:
        # It answered a moment ago. Jobs do not hang on this; foreign messages are taken until the next start.
        log.warning("database_awaited", error=str(error).splitlines()[0], next_try_seconds=None)
    finally:
        opened.close()


def _is_foreign(database: Any) -> bool:
    """Whether a message names another database than this worker's. One that names none may be from any program."""
    return isinstance(database, str) and _database is not None and database != _database


def _wait_for_database(error: Unreachable, seconds: float) -> None:
    """Log why the worker does not start, and wait; if it is asked to stop meanwhile, it ends."""
    log.warning("database_awaited", error=str(error).splitlines()[0], next_try_seconds=seconds)
    until = time.monotonic() + seconds
    while state.should_stop is None and time.monotonic() < until:
        # In slices: a signal handler may not take the lock that waiting on an event would hold.
        time.sleep(min(STOP_SECONDS, seconds))
    if state.should_stop is not None:
        raise WorkerShutdown(state.should_stop)


def stop_claiming() -> None:
    """The worker was asked to stop: claim no more, from this moment."""
    if _engine is not None:
        _engine.stop_claiming()


def hurry() -> None:
    """The worker was asked to stop at once: give back what runs."""
    global _hurried
    _hurried = True
    if _engine is not None:
        _engine.hurry()


def stop_engine(worker: Any) -> None:
    """Drain the engine."""
    global _engine
    if _engine is not None:
        if _hurried:
            _engine.hurry()
        _engine.drain()
        _engine = None
    _open.close()


def consumer_beats() -> None:
    """Celery's consumer loop is alive and connected."""
    if _engine is not None:
        _engine.consumer.beat()


def consumer_lost() -> None:
    """Celery's consumer has no broker to listen to."""
    if _engine is not None:
        _engine.consumer.lost()


@app.task(name="stockpot.run", ignore_result=True)
def run(ids: Any = None, lane: Any = None, database: Any = None, **_later: Any) -> None:
    """A doorbell. While no slot is free it waits here, so that the messages behind it go to a worker that has one.

    Arguments that a newer version may add are ignored; what is no id and no lane is counted and dropped.
    """
    metrics.DOORBELLS.labels("run").inc()
    if _is_foreign(database):
        metrics.REFUSED.inc()
        log.warning("message_of_another_database", task="run")
        return
    known = [job_id for job_id in ids or () if is_job_id(job_id)] if isinstance(ids, list | None) else []
    wanted = lane if lane in LANES else None
    if not known and wanted is None:
        metrics.REFUSED.inc()
        log.warning("doorbell_refused")
        return
    engine = _engine
    while engine is not None and not engine.wait_for_room(ROOM_SECONDS):
        engine = _engine
        if engine is None or engine.closing:
            return  # the jobs are in the database, and other workers look there
    if engine is not None:
        engine.ring(known, wanted)


@app.task(bind=True, name="stockpot.submit", ignore_result=True, acks_late=True)
def submit(self: Any, /, job: Any = None, database: Any = None, **_later: Any) -> None:
    """Insert a job for a producer without a database. Until it is committed, this message is the job.

    So it is acknowledged late and the insert is tried until the database takes it; the id or idempotency key that the
    job must carry makes a second delivery harmless.
    """
    metrics.DOORBELLS.labels("submit").inc()
    if _is_foreign(database):
        metrics.REFUSED.inc()
        log.warning("message_of_another_database", task="submit")
        time.sleep(FOREIGN_SECONDS)
        raise Reject(requeue=True)  # the message is the job: whom it belongs to shall find it
    times = {"starts": self.request.get(STARTS), "ends": self.request.get(ENDS)}
    opened = Database(settings(), pool_size=1)
    try:
        pause = 0.1
        while True:
            try:
                taken = submissions.take(opened, job, settings(), **times)
                break
            except Unreachable as error:
                if _engine is None or _engine.closing:
                    raise Reject(requeue=True) from error  # another worker shall go on trying
                metrics.DATABASE_ERRORS.inc()
                log.warning("submission_delayed", error=str(error).splitlines()[0])
                time.sleep(pause)
                pause = min(pause * 2, 5.0)
    finally:
        opened.close()
    if isinstance(taken.error, InvalidRequest):
        metrics.REFUSED.inc()
        log.error("submission_refused", job=taken.id, problems=[problem.field for problem in taken.error.problems])
    elif taken.error is not None:
        metrics.REFUSED.inc()
        log.error("submission_conflicts", job=taken.id)
    elif taken.created and taken.id is not None and _engine is not None:
        _engine.ring([taken.id])
