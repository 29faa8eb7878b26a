"""The story of one claimed job: admit, call, settle. What it needs stands in `Desk`.

    claim    done before: the job is in progress under our fence, this attempt is on record
    admit    the route's limits let it through, or it goes back with the reason
    call     one request; chunks go to the live stream as they come
    settle   result, usage, cost, attempt, webhooks: one transaction under our fence; then the terminal event

No database transaction is open during the call. Whatever cuts the story short (a cancellation, a drain, a lost lease)
is said by `slot.stop`.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from typing import Protocol

from worker import conclude
from worker.crash import crashpoint
from worker.db.claim import ClaimedJob
from worker.db.settle import Settlement
from worker.engine.ending import announce_end, count, hook_of
from worker.engine.lookups import Lookups
from worker.engine.settler import Settler
from worker.engine.slots import Slot, Stop
from worker.limits.estimate import Estimator
from worker.limits.gate import Gate
from worker.limits.permit import Held, Permit
from worker.limits.route import Route
from worker.live.publish import LiveStream, Publisher
from worker.prices import Prices
from worker.retry import Policy
from worker.settings import Settings
from worker.upstream.call import Call, Progress
from worker.upstream.client import UpstreamClient
from worker.upstream.outcome import Answer, Kind, Outcome

#: Seconds that a job waits in line for its route, in a slot that another route's jobs could use.
LINE_SECONDS = 3.0


class Recall(Protocol):
    """What a job that was not finished is handed back to: it is due again in `seconds`."""

    def __call__(self, job: ClaimedJob, seconds: float, waiting_on: str | None, /) -> None:
        """Look at the job again then."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What a story needs at hand."""

    settings: Settings
    upstream: UpstreamClient
    gate: Gate
    estimator: Estimator
    publisher: Publisher
    settler: Settler
    prices: Prices
    rng: random.Random
    recall: Recall
    lookups: Lookups


async def run_job(slot: Slot, desk: Desk) -> None:
    """Run one claimed job to its settlement."""
    job = slot.job
    live = desk.publisher.open(job.id, job.fence, job.seq, log=job.logged)
    progress = Progress()
    try:
        permit = conclude.over_budget(job) or await _admit(slot, desk)
        if isinstance(permit, Settlement):
            settlement = permit
        elif isinstance(permit, Held):
            settlement = conclude.held(job, permit)
        else:
            settlement = _concluded(slot, desk, await _call(slot, desk, permit, live, progress))
            if _unsure(slot, settlement):
                held = min(desk.lookups.hold_seconds, job.seconds_left / 2)
                settlement = replace(settlement, due_in=max(settlement.due_in, held))
    except asyncio.CancelledError:
        if slot.stop not in (Stop.CANCELLED, Stop.DRAIN):
            return  # another worker owns the job; whatever this one wrote now, its fence would refuse
        settlement = conclude.stopped(job, progress, desk.prices, cancelled=slot.stop is Stop.CANCELLED)
    slot.settling = True
    await _settle(slot, desk, settlement, live)


async def _admit(slot: Slot, desk: Desk) -> Permit | Held:
    """Ask the limits of the job's route; wait in line for a while, holding the lease."""
    job, settings = slot.job, desk.settings
    route = route_of(settings, job.model)
    tokens = desk.estimator.estimate(job.model, len(job.body))
    return await desk.gate.admit(
        route, tokens, timeout_hint=min(LINE_SECONDS, job.seconds_left), urgent=job.lane == "interactive"
    )


async def _call(slot: Slot, desk: Desk, permit: Permit, live: LiveStream, progress: Progress) -> Outcome:
    """Make the call; the live stream has each chunk as it comes."""
    job, settings = slot.job, desk.settings
    _announce_start(slot, live)
    crashpoint("call.before", job.id)
    call = Call(
        endpoint=job.endpoint,
        body=job.body.encode(),
        stream=job.stream,
        client_request_id=job.client_request_id,
        key=settings.key,
        total_timeout=max(0.001, min(settings.total_timeout, slot.seconds_left)),
    )
    kind, tokens, failure = "unused", None, None
    try:
        outcome = await desk.upstream.call(call, live.chunk if job.stream else None, progress)
        kind, tokens = conclude.ended(outcome)
        failure = None if isinstance(outcome, Answer) else outcome
    except asyncio.CancelledError:
        kind = "partial" if progress.sent else "unused"
        raise
    finally:
        permit.done(
            kind,
            tokens,
            retry_after=failure.retry_after if failure else None,
            maintenance=failure is not None and failure.code == "maintenance",
            status=failure.status if failure else None,
            detail=failure.message if failure else "",
            headers=progress.rate_limits,
        )
    crashpoint("call.answered", job.id)
    if tokens:
        desk.estimator.learn(job.model, len(job.body), None, tokens)
    return outcome


def _announce_start(slot: Slot, live: LiveStream) -> None:
    job = slot.job
    if job.attempt == 1:
        live.emit("job.started", {"attempt": 1, "model": job.model})
    else:
        live.emit("attempt.reset", {"reason": job.last_error or "worker_lost", "attempt": job.attempt})


def _concluded(slot: Slot, desk: Desk, outcome: Outcome) -> Settlement:
    job, settings = slot.job, desk.settings
    if isinstance(outcome, Answer):
        return conclude.answered(job, outcome, desk.prices)
    policy = Policy(job.max_attempts, job.on_ambiguous, settings.retry_base_seconds, settings.retry_max_seconds)
    return conclude.failed(job, outcome, policy, desk.prices, desk.rng, seconds_left=slot.seconds_left)


async def _settle(slot: Slot, desk: Desk, settlement: Settlement, live: LiveStream) -> None:
    """Write it; then tell whoever watches, or look at the job again when it is due."""
    if settlement.status == "queued":
        crashpoint("release.before", slot.job.id)
    settlement = replace(settlement, seq=live.seq)
    written = await desk.settler.settle(settlement, hook_of(slot.job, settlement))
    if written is None:
        return
    count(slot.job, written)
    if written.terminal:
        announce_end(live, written)
    else:
        if _unsure(slot, written):
            desk.lookups.add(slot.job.id)
        desk.recall(slot.job, written.due_in, written.waiting_on)


def _unsure(slot: Slot, settlement: Settlement) -> bool:
    """Whether the provider's log is to be asked before the call is made again."""
    again = settlement.outcome == Kind.AMBIGUOUS and settlement.status == "queued"
    return again and slot.job.on_ambiguous == "reconcile"


def route_of(settings: Settings, model: str) -> Route:
    """The route of a model under these settings: what limits live on."""
    return Route(settings.upstream_url, settings.key_id, model)
