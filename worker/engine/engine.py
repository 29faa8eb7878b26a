"""The engine: one asyncio loop per worker process, in a thread of its own, in which every call runs.

Celery's tasks knock at the thread-safe door (`ring`, `wait_for_room`); everything else happens inside the loop:

    feeder ──claimed──> run_job ──settled──> live stream, webhooks
    looks · heartbeat · sweeper · control (cancellations, wake-ups) · deliverer · prices · watch (the loop's own pulse)

`drain` stops claiming, lets calls finish for `drain_seconds`, or until `hurry`, gives the rest back, and returns when all
is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import uvloop

from api_schemas.jobs import LANES
from worker.base import metrics, tracing
from worker.base.collector import freeze_permanent_objects
from worker.base.errors import SettingsError
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.base.tasks import end_tasks
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.leases import resign
from worker.engine import neighbours
from worker.engine.feeder import Feeder
from worker.engine.health import ConsumerHeartbeat, HealthServer
from worker.engine.redis_policy import inspect
from worker.engine.restarting import restarting
from worker.engine.wiring import Parts, build
from worker.job.context import JobContext
from worker.job.run_job import run_job
from worker.job.slots import Slot, Slots, Stop
from worker.live.publish import Publisher
from worker.upstream.room import return_large_blocks

log = get_logger(__name__)

#: How often the loop measures how late it wakes.
PULSE_SECONDS = 1.0
#: What its gauge looks back on, in pulses: a stall is gone a second later, and a scrape comes every fifteen.
LAG_PULSES = 60
#: After the drain time, what is left has this long to be written.
SETTLE_SECONDS = 10.0
#: Then the loop closes, which takes milliseconds.
CLOSE_SECONDS = 10.0


def new_owner() -> str:
    """A name for this worker process that no other has had: host, pid, and something random."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Engine:
    """One worker's engine. Made and driven from another thread; `start` returns when it is ready to claim."""

    def __init__(
        self, settings: Settings, *, owner: str | None = None, lanes: frozenset[str] = frozenset(LANES)
    ) -> None:
        self.settings = settings
        self.lanes = lanes  # what it claims
        self.owner = owner or new_owner()
        self.slots = Slots(settings.concurrency, reserve="interactive" in lanes)
        self.last_beat = time.monotonic()  # when the loop last breathed
        self.consumer = ConsumerHeartbeat()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feeder: Feeder | None = None
        self._thread = threading.Thread(target=self._run, name="stockpot-engine", daemon=True)
        self._ready = threading.Event()
        self._over = threading.Event()
        self._drain_asked = asyncio.Event()
        self._hurry_asked = asyncio.Event()
        self._failed: BaseException | None = None
        #: Ends this process in order when its worker is asked to drain; set by the engine's host.
        self.on_drain: Callable[[], object] = self.stop_claiming
        self.closing = False

    # ── the door, for other threads ──────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the loop's thread and wait until it claims. Raises what kept it from starting."""
        tracing.begin(self.settings, service="stockpot-worker")
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def ring(self, ids: Sequence[str] = (), lane: str | None = None) -> None:
        """There is work: these jobs, or whatever is due in a lane. Returns at once."""
        self._tell(lambda: self._feeder.ring(ids, lane) if self._feeder is not None else None)

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until a slot is free; False when the time is up or the engine is closing (the job is in the database)."""
        return not self.closing and self.slots.wait_for_room(timeout)

    def stop_claiming(self) -> None:
        """Claim no more; calls go on."""
        self.closing = True
        self._tell(lambda: self._feeder.close() if self._feeder is not None else None)

    def hurry(self) -> None:
        """A drain, under way or to come, shall wait for no call: what runs is given back at once."""
        self._tell(self._hurry_asked.set)

    def drain(self) -> None:
        """Stop claiming, let calls finish, give the rest back; returns when the loop has ended."""
        self.stop_claiming()
        self._tell(self._drain_asked.set)
        self._over.wait()
        # Everything is written and closed by now. A loop that does not close is no reason for its process not to end.
        self._thread.join(CLOSE_SECONDS)
        tracing.end()

    @property
    def alive(self) -> bool:
        """Whether the loop's thread runs."""
        return self._thread.is_alive()

    def _tell(self, what: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(what)

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                try:
                    runner.run(self._main())
                finally:
                    self._over.set()
        except SettingsError as error:
            self._failed = error
            log.error("engine_not_started", error=str(error))
        except BaseException as error:
            self._failed = error
            log.exception("engine_failed")
        finally:
            self._over.set()
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        return_large_blocks()
        parts = build(
            self.settings,
            owner=self.owner,
            slots=self.slots,
            on_drain=self.on_drain,
            lanes=self.lanes,
            listens=lambda: self.consumer.silence is not None,
        )
        self._feeder = parts.feeder
        health = HealthServer(parts.database, self.consumer, lambda: self.last_beat, lambda: self.closing)
        if self.settings.http_port is not None:
            await health.start(self.settings.http_port, self.settings.http_host)
        await self.run(parts)
        await health.close()
        parts.database.close()
        log.info("engine_stopped", owner=self.owner)

    async def run(self, parts: Parts) -> None:
        """Start the parts, run until a drain is asked for, drain, and close them."""
        settings = self.settings
        hosted = [await parts.publisher.start(), await parts.admission.start(), *parts.consequences.start()]
        loops = self._loops(parts)
        feeding, *_ = tasks = [asyncio.create_task(restarting(loop)) for loop in loops]
        for task in (*tasks, *hosted):
            task.add_done_callback(self._on_task_end)
        tasks.append(asyncio.create_task(inspect(parts.redis_url)))  # it ends by itself
        freeze_permanent_objects()
        log.info("engine_started", owner=self.owner, concurrency=settings.concurrency, lanes=sorted(self.lanes))
        self._ready.set()
        await self._drain_asked.wait()
        # A claim under way still brings jobs. They are run or given back like the others, not left to their leases.
        await asyncio.wait([feeding], timeout=SETTLE_SECONDS)
        await self._finish(settings.drain_seconds)
        await end_tasks(tasks)
        await asyncio.to_thread(parts.files.close)
        await parts.consequences.stop(min(settings.drain_seconds, 5.0))
        await parts.publisher.aclose()
        await parts.admission.aclose()
        await parts.news.aclose()
        await parts.upstream.close()
        await parts.rates.write()
        await parts.presence.leave()
        await parts.database.try_write(lambda conn: resign(conn, self.owner), None, "resign_failed")

    def _loops(self, parts: Parts) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs as long as the engine; the feeder first."""
        settings, admission = self.settings, parts.admission
        return [
            partial(parts.feeder.run, lambda job: self._begin(job, parts.context)),
            parts.heartbeat.run,
            parts.looks.run,
            *([parts.gauges.run] if self.settings.http_port is not None else []),
            parts.rates.run,
            parts.sweeper.run,
            partial(parts.control.listen, self._cancel, parts.looks.wake),
            partial(parts.context.prices.keep_fresh, parts.upstream),
            partial(self._watch, parts.publisher),
            partial(parts.news.watch, admission.closed, settings.sweep_seconds),
            parts.lookups.run,
            parts.files.import_batches,
            parts.files.write_files,
            partial(neighbours.watch, parts.redis_url, parts.database),
            partial(parts.lookups.rest, lambda: parts.sweeper.elected and parts.sweeper.calls_open),
        ]

    async def _finish(self, seconds: float) -> None:
        log.info("drain_started", jobs=len(self.slots), seconds=seconds)
        finished = asyncio.create_task(self.slots.empty(seconds))
        hurried = asyncio.create_task(self._hurry_asked.wait())
        await asyncio.wait({finished, hurried}, return_when=asyncio.FIRST_COMPLETED)
        await end_tasks([finished, hurried])
        if len(self.slots):
            given_back = self.slots.stop_all(Stop.DRAIN)
            log.info("drain_gives_back", jobs=given_back)
            if not await self.slots.empty(SETTLE_SECONDS):
                log.error("drain_left", jobs=len(self.slots))
        log.info("drain_ended")

    def _begin(self, job: ClaimedJob, context: JobContext) -> None:
        slot = Slot(job)
        self.slots.start(slot, self._run_task(slot, context))

    async def _run_task(self, slot: Slot, context: JobContext) -> None:
        try:
            await run_job(slot, context)
        except Exception:
            # A defect of ours: the lease runs out, the sweeper takes the job back, and the poison cap bounds it.
            log.exception("job_crashed", job=slot.job.id)
        finally:
            self.slots.end(slot)
            if self._feeder is not None:
                self._feeder.ended(slot.job)

    def _cancel(self, job_id: str) -> None:
        self.slots.stop(job_id, Stop.CANCELLED)

    async def _watch(self, publisher: Publisher) -> None:
        """The loop's heartbeat: liveness reads it, and a metric shows how late it comes."""
        lags: deque[float] = deque(maxlen=LAG_PULSES)
        while True:
            asked = time.monotonic()
            await asyncio.sleep(PULSE_SECONDS)
            self.last_beat = time.monotonic()
            lags.append(max(0.0, self.last_beat - asked - PULSE_SECONDS))
            metrics.LOOP_LAG.set(max(lags))
            metrics.LIVE_DROPPED.set(publisher.dropped)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A loop that is to last for ever has ended: a defect. The process goes down and its supervisor restarts it."""
        if task.cancelled() or self.closing:
            return
        log.critical("engine_task_died", task=task.get_name(), error=repr(task.exception()))
        os._exit(70)
