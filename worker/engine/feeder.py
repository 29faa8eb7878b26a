"""The feeder: what this worker claims, and when.

A doorbell names job ids, or a lane that has work. The feeder reads the database when one arrives. The worker's looks
(`looks`) also ask for it once in each sweep interval while anything waits: a lost doorbell, an absent Redis, or a worker
that died with a doorbell delays a job by one interval. While a claim returns as many jobs as it asked for, the next
claim follows at once, so a batch of a million rows needs no doorbell.

Bulk work comes from the jobs without a batch and from each batch that admits lines now; these take turns
(`BatchFairness`). Bulk claims run beside the interactive ones and use slots of their own, so that an interactive job
never waits for a bulk claim to return.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from sqlalchemy import Connection

from api_schemas.jobs import LANES
from worker.base import metrics
from worker.base.backoff import Backoff
from worker.base.crashpoints import crashpoint
from worker.base.errors import Unreachable
from worker.base.log import get_logger
from worker.db.batches import claims
from worker.db.batches.claims import OpenBatch
from worker.db.jobs import claim, scouts
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.tenant_fairness import TenantFairness
from worker.db.refusals import APART, REFUSED, Refusals
from worker.db.threads import DatabaseThreads
from worker.engine.batch_fairness import BatchFairness
from worker.engine.paused_models import PausedModels
from worker.job.slots import Slots

log = get_logger(__name__)

#: Jobs in one claim: 64 share a statement and a commit at about 0.05 ms each; more would only delay the first.
SLICE = 64
#: Doorbell ids remembered while no slot is free; the look by itself finds the rest.
MOST_IDS = 4_096
#: The pause after a failed claim doubles from the first to the second, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.15, 2.0


#: What is claimed while the database does not answer: every lane.
_UNKNOWN: tuple[list[OpenBatch], list[str]] = ([], ["interactive", "bulk"])


def ask(conn: Connection) -> tuple[list[OpenBatch], list[str]]:
    """Batches that admit lines, and lanes in which anything waits."""
    return claims.open_batches(conn), claim.waiting_lanes(conn)


class Feeder:
    """Claims jobs and hands each to the function that `run` is given."""

    def __init__(
        self,
        database: DatabaseThreads,
        slots: Slots,
        *,
        owner: str,
        lease: float,
        weights: Mapping[str, int] = MappingProxyType({}),
        lanes: frozenset[str] = frozenset(LANES),
    ) -> None:
        self._database = database
        self._slots = slots
        self._start: Callable[[ClaimedJob], None] | None = None
        self._owner = owner
        self._lease = lease
        self._ids: deque[str] = deque(maxlen=MOST_IDS)
        self._mine = lanes  # what this worker claims
        self._lanes = set(lanes)
        self._batch_fairness = BatchFairness(weights)
        self._paused = PausedModels()
        self._tenant_fairness = {lane: TenantFairness(weights=weights) for lane in lanes}
        self._bulk_claim: asyncio.Task[None] | None = None
        self._expected = {"interactive": 0, "bulk": 0}  # at most so many jobs come from claims under way
        self._refused = Refusals("job")
        self._bell = asyncio.Event()
        self.open = True

    def ring(self, ids: Sequence[str] = (), lane: str | None = None) -> None:
        """Look at these jobs, or at this lane, as soon as there is a free slot."""
        if "interactive" in self._mine:
            self._ids.extend(ids)
        if lane is not None and lane in self._mine:
            self._lanes.add(lane)
        self._bell.set()

    def due(self, lane: str, job_id: str) -> None:
        """A job is due. Bulk work keeps its order and its share of the slots, so there only the lane counts."""
        if lane == "bulk":
            self.ring(lane=lane)
        else:
            self.ring([job_id])

    def recall(self, job: ClaimedJob, seconds: float, waiting_on: str | None, *, called: bool) -> None:
        """Claim a job that was not finished again in `seconds`. If its route is paused, claim no other job of its model until then."""
        if waiting_on in {"paused", "price"}:
            refused = called or job.last_error in scouts.REFUSED_CLASSES
            self.turned_away(job.model, job.id, seconds, refused=refused)
        else:
            asyncio.get_running_loop().call_later(seconds + 0.002, self.due, job.lane, job.id)

    def freed(self) -> None:
        """A slot became free: claim at once if work is known to wait."""
        if self._lanes or self._ids or self._batch_fairness:
            self._bell.set()

    def turned_away(self, model: str, job_id: str, seconds: float, *, refused: bool = False) -> None:
        """A job came back because its route is paused: claim no other job of this model until one call succeeds.

        This job is due again in `seconds`; `refused`: it was sent and refused itself, not only held back.
        """
        self._paused.turned_away(model, job_id, seconds, asyncio.get_running_loop().time(), refused=refused)

    def ended(self, job: ClaimedJob) -> None:
        """A job left its slot. If it was its model's scout and got through, claim the model's jobs again."""
        if self._paused.ended(job.model, job.id):
            self._ring_all()
        self.freed()

    def reopen(self) -> None:
        """A route or an account was resumed: claim the jobs of every paused model again."""
        if self._paused.models:
            self._paused.clear()
            self._ring_all()

    def _ring_all(self) -> None:
        self.ring(lane="interactive")
        self.ring(lane="bulk")

    async def run(self, start: Callable[[ClaimedJob], None]) -> None:
        """Claim for as long as `open`, and hand each claimed job to `start`."""
        self._start = start
        self._bell.set()
        pauses = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        try:
            while self.open:
                await self._bell.wait()
                self._bell.clear()
                try:
                    await self._claim_all()
                    pauses.reset()
                except Unreachable as error:
                    metrics.DATABASE_ERRORS.inc()
                    log.warning("claim_delayed", error=str(error).splitlines()[0])
                    await asyncio.sleep(pauses.next())
                    self._bell.set()
        finally:
            with contextlib.suppress(Unreachable):  # that claim returned no job
                if self._bulk_claim is not None:
                    await self._bulk_claim

    def close(self) -> None:
        """Claim no more."""
        self.open = False
        self._bell.set()

    def look(self, found: tuple[list[OpenBatch], list[str]] = _UNKNOWN) -> float | None:
        """Take what `ask` found: claim from there. 0 while there is work, None when there is none."""
        batches, lanes = found
        lanes = [lane for lane in lanes if lane in self._mine]
        if "bulk" not in self._mine:
            batches = []
        self._batch_fairness.learn(batches)
        for lane in lanes:
            self.ring(lane=lane)
        if batches:
            self._bell.set()
        return 0.0 if batches or lanes else None

    async def _claim_all(self) -> None:
        await self._send_scouts()
        while self.open and self._ids and (room := self._room("interactive")) > 0:
            ids = [self._ids.popleft() for _ in range(min(len(self._ids), room, SLICE))]
            await self._claim_ids([job_id for job_id in ids if job_id not in self._slots])
        while self.open and not self._ids and "interactive" in self._lanes and (room := self._room("interactive")) > 0:
            await self._claim_lane("interactive", min(room, SLICE))
        if self._ids and self._room("interactive") > 0:
            self._bell.set()
        if self._bulk_claim is not None and self._bulk_claim.done():
            over, self._bulk_claim = self._bulk_claim, None
            over.result()
        if self._bulk_claim is None and self.open and ("bulk" in self._lanes or self._batch_fairness):
            self._bulk_claim = asyncio.create_task(self._claim_bulk(), name="feeder-bulk")
            self._bulk_claim.add_done_callback(self._bulk_claimed)

    def _bulk_claimed(self, over: asyncio.Task[None]) -> None:
        if not over.cancelled() and over.exception() is not None:
            self._bell.set()  # `run` wakes, and raises the error

    async def _claim_bulk(self) -> None:
        """Claim from the bulk lane and from the batches in turn, until none has more or no slot is free."""
        more = True
        while self.open and more and (room := self._room("bulk")) > 0:
            more = False
            if "bulk" in self._lanes:
                await self._claim_lane("bulk", min(room, SLICE))
                more = "bulk" in self._lanes
            more = await self._claim_batches() or more

    async def _claim_batches(self) -> bool:
        """Claim one slice of each batch in turn, until none has more or no slot is free; True when the lane is next."""
        bounded: list[OpenBatch] = []
        turn_over = False
        while self.open and (room := self._room("bulk")) > 0:
            # A paused model admits no line, and its batch may have a million of them: such a batch is skipped.
            batch = self._batch_fairness.take(self._paused.models)
            if batch is None:
                break
            asked = min(room, SLICE)
            claimed = await self._claim_batch(batch, asked)
            self._batch_fairness.claimed(batch, claimed, dry=claimed < asked)
            if claimed == asked:
                self._batch_fairness.again([batch])
            elif batch.bound:
                bounded.append(batch)  # it may have room for the next when one of its calls has ended
            if self._batch_fairness and "bulk" in self._lanes:
                turn_over = True
                break
        self._batch_fairness.again(bounded)
        return turn_over

    async def _claim_batch(self, batch: OpenBatch, limit: int) -> int:
        crashpoint("claim.before")
        held = self._held_now()
        with self._expecting("bulk", limit):
            jobs = await self._claimed(
                lambda conn: claims.claim_lines(conn, batch, limit, owner=self._owner, lease=self._lease, held=held)
            )
        self._take(jobs)
        return len(jobs)

    def _room(self, lane: str) -> int:
        """Free slots, less those that a claim under way may fill."""
        if lane == "bulk":
            return min(self._slots.free_for_bulk, self._slots.free - self._expected["interactive"])
        return self._slots.free - self._expected["bulk"]

    @contextlib.contextmanager
    def _expecting(self, lane: str, jobs: int) -> Iterator[None]:
        self._expected[lane] += jobs
        try:
            yield
        finally:
            self._expected[lane] -= jobs
            if lane == "bulk" and (self._ids or "interactive" in self._lanes):
                self._bell.set()  # it may have the slots that were kept for this claim

    async def _send_scouts(self) -> None:
        now = asyncio.get_running_loop().time()
        for model in self._paused.without_scout(now):
            found = await self._database.read(partial(scouts.next_of, model=model, lanes=self._mine))
            self._paused.found(model, found)
        sent = self._paused.scouts(now)
        if not sent:
            return
        jobs = await self._claimed(
            lambda conn: claim.claim_ids(conn, sent, owner=self._owner, lease=self._lease, any_lane=True)
        )
        for missed in set(sent) - {job.id for job in jobs}:
            self._paused.missed(missed)
        self._take(jobs)

    async def _claim_ids(self, ids: list[str]) -> None:
        if not ids:
            return
        held = self._held_now()
        try:
            with self._expecting("interactive", len(ids)):
                jobs = await self._claimed(
                    lambda conn: claim.claim_ids(conn, ids, owner=self._owner, lease=self._lease, held=held),
                    urgent=True,
                )
        except Unreachable:
            self._ids.extendleft(reversed(ids))
            raise
        self._take(jobs)

    async def _claim_lane(self, lane: str, limit: int) -> None:
        """Claim up to `limit` jobs of a lane, and remember whether it may have more: a doorbell came meanwhile, or the claim was full."""
        crashpoint("claim.before")
        held = self._held_now()
        self._lanes.discard(lane)
        try:
            with self._expecting(lane, limit):
                jobs = await self._claimed(
                    lambda conn: claim.claim_due(
                        conn,
                        lane,
                        limit,
                        owner=self._owner,
                        lease=self._lease,
                        held=held,
                        turns=self._tenant_fairness[lane],
                    ),
                    urgent=lane == "interactive",
                )
        except Unreachable:
            self._lanes.add(lane)
            raise
        if len(jobs) == limit:
            self._lanes.add(lane)
        self._take(jobs)

    async def _claimed(
        self, claim_some: Callable[[Connection], list[ClaimedJob]], *, urgent: bool = False
    ) -> list[ClaimedJob]:
        """Claim; where the database refuses one of the jobs, all the others."""
        try:
            return await self._database.write(claim_some, urgent=urgent)
        except REFUSED:
            refused = {APART: self._refused}
            return await self._database.write(
                lambda conn: claim_some(conn.execution_options(**refused)),
                urgent=urgent,
            )

    def _take(self, jobs: Sequence[ClaimedJob]) -> None:
        for job in jobs:
            crashpoint("claim.committed", job.id)
            metrics.CLAIMED.labels(job.lane).inc()
            metrics.QUEUED_SECONDS.labels(job.lane).observe(job.queued_seconds)
            if self._start is not None:
                self._start(job)

    def _held_now(self) -> list[str]:
        held = self._paused.models
        metrics.HELD_MODELS.set(len(held))
        return list(held)
