"""The story of one claimed job: admit, call, settle.

    claim    done before: the job is in progress under our fence, this attempt is on record
    admit    the budgets and the route's limits let it through, or it goes back with the reason; likewise while an
             earlier call, which may have been paid for, is still to be looked up
    call     one request; chunks go to the live stream as they come
    settle   result, usage, cost, attempt, webhooks: one transaction under our fence; then the terminal event

No database transaction is open during the call. Whatever cuts the story short (a cancellation, a drain, a lost lease)
is said by `slot.stop`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from worker.base.crashpoints import crashpoint
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement
from worker.job import decide
from worker.job.announce import announce_end, announce_start, count, hook_of
from worker.job.context import JobContext
from worker.job.limited_call import admit, call
from worker.job.retry import Policy
from worker.job.slots import Slot, Stop
from worker.limits.permit import Held
from worker.live.publish import LiveStream
from worker.upstream.call import Progress
from worker.upstream.outcome import Answer, Kind, Outcome


async def run_job(slot: Slot, context: JobContext) -> None:
    """Run one claimed job to its settlement."""
    job = slot.job
    live = context.publisher.open(job.id, job.fence, job.seq, log=job.logged)
    progress = Progress()
    try:
        no = _ask_first(job, context) or decide.over_budget(job)
        permit = no or await context.budget_hold.reserve(job) or await admit(slot, context)
        if isinstance(permit, Settlement):
            settlement = permit
        elif isinstance(permit, Held):
            settlement = decide.held(job, permit)
        else:
            announce_start(live, job)
            settlement = _concluded(slot, context, await call(slot, context, permit, live, progress))
    except asyncio.CancelledError:
        if slot.stop not in (Stop.CANCELLED, Stop.DRAIN):
            return  # another worker owns the job; whatever this one wrote now, its fence would refuse
        settlement = decide.stopped(job, progress, context.prices, cancelled=slot.stop is Stop.CANCELLED)
    slot.settling = True
    await _settle(slot, context, settlement, live)


def _ask_first(job: ClaimedJob, context: JobContext) -> Settlement | None:
    """An earlier call may have been paid for and was not looked up, since whoever was to do it has died: that comes first."""
    seconds = context.lookups.owed(job.id) if job.unasked else 0.0
    if not seconds:
        return None
    context.lookups.add(job.id)  # which waits for longer than it takes to give the job back
    return decide.asked_first(job, seconds)


def _concluded(slot: Slot, context: JobContext, outcome: Outcome) -> Settlement:
    """What the outcome means for the job."""
    job, settings = slot.job, context.settings
    if isinstance(outcome, Answer):
        return decide.answered(job, outcome, context.prices)
    policy = Policy(job.max_attempts, job.on_ambiguous, settings.retry_base_seconds, settings.retry_max_seconds)
    settlement = decide.failed(job, outcome, policy, context.prices, context.rng, seconds_left=slot.seconds_left)
    if _unsure(slot, settlement):
        held = min(context.lookups.hold_seconds, slot.seconds_left / 2)
        settlement = replace(settlement, due_in=max(settlement.due_in, held))
    return settlement


async def _settle(slot: Slot, context: JobContext, settlement: Settlement, live: LiveStream) -> None:
    """Write it; then tell whoever watches, or look at the job again when it is due."""
    if settlement.status == "queued":
        crashpoint("release.before", slot.job.id)
    settlement = replace(settlement, seq=live.seq, budgeted=slot.job.budgeted)
    if settlement.status == "completed":
        context.prices.learn(slot.job.model, settlement.cost_usd)
    written = await context.group_writer.settle(settlement, hook_of(slot.job, settlement))
    if written is None:
        return
    count(slot.job, written)
    if written.terminal:
        announce_end(live, written)
        return
    if _unsure(slot, written):
        context.lookups.add(slot.job.id)
    context.recall(slot.job, written.due_in, written.waiting_on)


def _unsure(slot: Slot, settlement: Settlement) -> bool:
    """Whether the provider's log is to be asked before the call is made again."""
    again = settlement.outcome == Kind.AMBIGUOUS and settlement.status == "queued"
    return again and slot.job.on_ambiguous == "reconcile"
