"""The story of one claimed job: admit, call, decide, settle.

    claim    done before: the job is in progress under our fence, this attempt is on record
    admit    may the call be made now? If not, the job goes back with the reason, or is over
    call     one request; chunks go to the live stream as they come
    decide   what the outcome means: completed, failed, or queued to be tried again
    settle   result, usage, cost, attempt and all consequences: one transaction under our fence; then the terminal event

No database transaction is open during the call. Whatever cuts the story short (a cancellation, a drain, a lost lease)
cancels this task and writes the reason to `slot.stop`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from worker.base import tracing
from worker.base.crashpoints import crashpoint
from worker.db.jobs.settle import Settlement
from worker.job import decide, traces
from worker.job.admission import Admitted, Postponed, Refused, admission
from worker.job.announce import announce_end, announce_start, count, log_end
from worker.job.context import JobContext
from worker.job.limited_call import call
from worker.job.slots import Slot, Stop
from worker.live.publish import LiveStream
from worker.upstream.call import Progress


async def run_job(slot: Slot, context: JobContext) -> None:
    """Run one claimed job to its settlement."""
    progress = Progress()
    with traces.attempt(slot.job):
        try:
            await _run(slot, context, progress)
        finally:
            progress.give_back()


async def _run(slot: Slot, context: JobContext, progress: Progress) -> None:
    job = slot.job
    live = context.publisher.open(job.id, job.fence, log=job.logged)
    try:
        match await admission(slot, context):
            case Admitted(permit):
                announce_start(live, job)
                outcome = await call(slot, context, permit, live, progress)
                settlement = decide.decided(slot, outcome, context)
            case Postponed(settlement) | Refused(settlement):
                pass
    except asyncio.CancelledError:
        if slot.stop not in (Stop.CANCELLED, Stop.DRAIN):
            return  # another worker owns the job; whatever this one wrote now, its fence would refuse
        cancelled = slot.stop is Stop.CANCELLED
        settlement = decide.stopped(job, progress, context.prices, cancelled=cancelled, reserved=slot.reserved)
    slot.settling = True
    await _settle(slot, context, settlement, live)


async def _settle(slot: Slot, context: JobContext, settlement: Settlement, live: LiveStream) -> None:
    """Write it; then publish the end, or look at the job again when it is due."""
    job = slot.job
    if not settlement.terminal:
        crashpoint("release.before", job.id)
    if settlement.status == "completed":
        context.prices.learn(job.model, settlement.known_cost_usd)
    # The number of the terminal event is stored with the end.
    settlement = replace(settlement, seq=live.end() if settlement.terminal else 0)
    with tracing.span("stockpot.settle", "internal"):
        written = await context.settlements.settle(job, settlement)
    traces.settled(settlement if written is None else written, written=written is not None)
    if written is None:
        return
    count(job, written, context)
    if written.owed:
        context.lookups.add(job.id)
    if written.terminal:
        announce_end(live, written)
        log_end(job, written, context.settings.log_jobs)
        return
    context.recall(job, written.due_in, written.waiting_on, called=written.called)
