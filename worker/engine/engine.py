"""The engine: one asyncio loop per worker process, in a thread of its own, in which every call runs.

Celery's tasks knock at the thread-safe door (`ring`, `wait_for_room`); everything else happens inside the loop:

    feeder ──claimed──> run_job ──settled──> live stream, webhooks
    heartbeat · sweeper · control (cancellations) · deliverer · prices · watch (the loop's own pulse)

`drain` stops claiming, lets calls finish for `drain_seconds`, or until `hurry`, gives the rest back, and returns when all
is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog
import uvloop

from worker import embedded
from worker.base import metrics
from worker.base.settings import Settings
from worker.base.tasks import end_tasks
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.leases import Reclaimed, resign
from worker.db.threads import DatabaseThreads
from worker.engine.collector import spare_the_lasting
from worker.engine.feeder import Feeder
from worker.engine.health import ConsumerHeartbeat, HealthServer
from worker.engine.heartbeat import Heartbeat
from worker.engine.presence import Presence
from worker.engine.redis_policy import warn_if_redis_evicts
from worker.engine.restarting import restarting
from worker.engine.route_news import RouteNews
from worker.engine.sweeper import Sweeper, error_of
from worker.job.budget_hold import BudgetHold
from worker.job.context import JobContext
from worker.job.group_writer import GroupWriter
from worker.job.lookups import Lookups
from worker.job.run_job import run_job
from worker.job.slots import Slot, Slots, Stop
from worker.limits.admission import Admission
from worker.limits.estimate import Estimator
from worker.limits.route import Limits, Route
from worker.live.control import Control
from worker.live.publish import Publisher
from worker.provider.prices import Prices
from worker.reconcile import ProviderLog
from worker.upstream.client import UpstreamClient
from worker.webhooks.deliver import Deliverer

log = structlog.get_logger(__name__)

#: A price list changes seldom; an hour old is fresh enough for an estimate.
PRICES_SECONDS = 3600.0
#: How often the loop measures how late it wakes.
PULSE_SECONDS = 1.0
#: After the drain time, what is left has this long to be written.
SETTLE_SECONDS = 10.0
#: Then the loop closes, which takes milliseconds.
CLOSE_SECONDS = 10.0


def new_owner() -> str:
    """A name for this worker process that no other has had: host, pid, and something random."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Engine:
    """One worker's engine. Made and driven from another thread; `start` returns when it is ready to claim."""

    def __init__(self, settings: Settings, *, owner: str | None = None) -> None:
        self.settings = settings
        self.owner = owner or new_owner()
        self.slots = Slots(settings.concurrency)
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
        self.closing = False
        #: What ends this process in order when somebody asks its worker to drain; whoever hosts the engine sets it.
        self.on_drain: Callable[[], object] = self.stop_claiming

    # ── the door, for other threads ──────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the loop's thread and wait until it claims. Raises what kept it from starting."""
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
        except BaseException as error:
            self._failed = error
            log.exception("engine_failed")
        finally:
            self._over.set()
            self._ready.set()

    async def _main(self) -> None:
        settings = self.settings
        self._loop = asyncio.get_running_loop()
        database = DatabaseThreads(settings)
        redis_url = embedded.redis_url(settings)
        upstream = UpstreamClient(
            settings.upstream_url,
            connect_timeout=settings.connect_timeout,
            first_event_timeout=settings.first_event_timeout,
            idle_timeout=settings.idle_timeout,
            max_response_bytes=settings.max_response_bytes,
        )
        publisher = Publisher(
            redis_url,
            window_seconds=settings.live_window_seconds,
            log_entries=settings.live_log_entries,
            ttl_seconds=settings.live_ttl_seconds,
            max_ttl_seconds=settings.job_ttl_seconds,
        )
        limits = Limits(settings.max_in_flight, settings.rpm, settings.tpm)
        deliverer = Deliverer.of(settings, database.write, owner=self.owner)
        news = RouteNews(settings, upstream, database, on_resumed=self._reopen, on_hooks=deliverer.wake)
        admission = Admission(
            redis_url,
            limits,
            permit_ttl=settings.lease_seconds,
            worker=self.owner,
            balance=news.balance,
            on_change=news.changed,
        )
        lookups = Lookups(database, ProviderLog(upstream, lambda: settings.key), on_due=self._due)
        prices = Prices()
        context = JobContext(
            settings=settings,
            upstream=upstream,
            admission=admission,
            estimator=Estimator(),
            publisher=publisher,
            group_writer=GroupWriter(database, deliverer.wake),
            prices=prices,
            budget_hold=BudgetHold(database, prices),
            rng=random.Random(),
            recall=self._recall,
            lookups=lookups,
            key_limits=Limits(settings.key_max_in_flight, settings.key_rpm, settings.key_tpm),
            tenant_limits=Limits(settings.tenant_max_in_flight, settings.tenant_rpm, settings.tenant_tpm),
        )
        self._feeder = Feeder(
            database,
            self.slots,
            lambda job: self._begin(job, context),
            owner=self.owner,
            lease=settings.lease_seconds,
            look_every=settings.sweep_seconds,
            weights=settings.weights,
        )
        heartbeat = Heartbeat(
            database, self.slots, owner=self.owner, lease=settings.lease_seconds, every=settings.heartbeat_seconds
        )
        presence = Presence(
            database,
            self.slots,
            owner=self.owner,
            concurrency=settings.concurrency,
            every=settings.heartbeat_seconds,
            on_drain=self.on_drain,
        )
        sweeper = Sweeper(
            database,
            owner=self.owner,
            every=settings.sweep_seconds,
            on_over=lambda job: _announce_over(publisher, job),
            on_due=lambda lane, job_id: self._reclaimed(lookups, lane, job_id),
            on_hooks=deliverer.wake,
            hold=lambda: lookups.hold_seconds,
        )
        health = HealthServer(database, self.consumer, lambda: self.last_beat, lambda: self.closing)
        if settings.http_port is not None:
            await health.start(settings.http_port)
        hosted = [await publisher.start(), await admission.start(), *deliverer.start()]
        loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._feeder.run,
            heartbeat.run,
            presence.run,
            sweeper.run,
            partial(Control(redis_url).listen, self._cancel),
            partial(self._keep_prices, context.prices, upstream),
            partial(self._watch, publisher),
            partial(self._watch_account, admission),
            lookups.run,
        ]
        feeding, *_ = tasks = [asyncio.create_task(restarting(loop)) for loop in loops]
        for task in (*tasks, *hosted):
            task.add_done_callback(self._on_task_end)
        tasks.append(asyncio.create_task(warn_if_redis_evicts(redis_url)))  # it ends by itself
        spare_the_lasting()
        log.info("engine_started", owner=self.owner, concurrency=settings.concurrency)
        self._ready.set()
        await self._drain_asked.wait()
        # A claim under way still brings jobs. They are run or given back like the others, not left to their leases.
        await asyncio.wait([feeding], timeout=SETTLE_SECONDS)
        await self._finish(settings.drain_seconds)
        await end_tasks(tasks)
        await deliverer.stop(min(settings.drain_seconds, 5.0))
        await publisher.aclose()
        await admission.aclose()
        await news.aclose()
        await upstream.close()
        await health.close()
        await presence.leave()
        await database.try_write(lambda conn: resign(conn, self.owner), None, "resign_failed")
        database.close()
        log.info("engine_stopped", owner=self.owner)

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

    def _recall(self, job: ClaimedJob, seconds: float, waiting_on: str | None) -> None:
        """Look at a job again when it is due; a route that is shut is left alone meanwhile."""
        feeder = self._feeder
        if feeder is None:
            return
        if waiting_on == "paused":
            feeder.turned_away(job.model, job.id, seconds)
        else:
            asyncio.get_running_loop().call_later(seconds + 0.002, feeder.due, job.lane, job.id)

    def _reclaimed(self, lookups: Lookups, lane: str, job_id: str) -> None:
        """A job's lease ran out; the call that was lost with it may have been billed."""
        lookups.add(job_id)
        self._due(lane, job_id)

    def _due(self, lane: str, job_id: str) -> None:
        if self._feeder is not None:
            self._feeder.due(lane, job_id)

    def _reopen(self) -> None:
        if self._feeder is not None:
            self._feeder.reopen()

    async def _watch_account(self, admission: Admission) -> None:
        """Notice that the key's account is open again when another worker found it out."""
        route = Route(self.settings.upstream_url, self.settings.key_id, "")
        shut = False
        while True:
            was, shut = shut, admission.closed(route) is not None
            if was and not shut:
                self._reopen()
            await asyncio.sleep(self.settings.sweep_seconds)

    async def _keep_prices(self, prices: Prices, upstream: UpstreamClient) -> None:
        while True:
            await prices.refresh(upstream)
            await asyncio.sleep(PRICES_SECONDS if len(prices) else PRICES_SECONDS / 60)

    async def _watch(self, publisher: Publisher) -> None:
        """The loop's pulse: liveness reads it, and a metric says how late it comes."""
        while True:
            asked = time.monotonic()
            await asyncio.sleep(PULSE_SECONDS)
            self.last_beat = time.monotonic()
            metrics.LOOP_LAG.set(max(0.0, self.last_beat - asked - PULSE_SECONDS))
            metrics.LIVE_DROPPED.set(publisher.dropped)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A loop that is to last for ever has ended: a defect. The process goes down and its supervisor restarts it."""
        if task.cancelled() or self.closing:
            return
        log.critical("engine_task_died", task=task.get_name(), error=repr(task.exception()))
        os._exit(70)


def _announce_over(publisher: Publisher, job: Reclaimed) -> None:
    live = publisher.open(job.job_id, job.fence, job.seq, log=job.logged, ours=False)
    error = error_of(job)
    live.emit(f"job.{job.status}", {"usage": None, "cost_usd": None, "error": error.wire() if error else None})
