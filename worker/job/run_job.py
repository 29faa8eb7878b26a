"""The story of one claimed job, from top to bottom: admit, call, decide, settle.

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
from dataclasses import dataclass, replace

from worker.base import metrics, tracing
from worker.base.crashpoints import crashpoint
from worker.base.errors import SettingsError
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.db.jobs.settle import Settlement
from worker.job import decide, traces
from worker.job.announce import announce_settled, announce_start
from worker.job.context import JobContext
from worker.job.slots import Slot, Stop
from worker.limits.permit import Held, Permit
from worker.limits.route import UNLIMITED, Route, Scope
from worker.live.publish import LiveStream
from worker.upstream.call import Call, Progress
from worker.upstream.connections import NO_FILES
from worker.upstream.outcome import Answer, Failure, Kind, Outcome

log = get_logger(__name__)

#: Seconds that a job waits in line for its route, in a slot that another route's jobs could use.
LINE_SECONDS = 3.0
#: When a job is due again that could not be called for want of the key, in seconds.
KEY_SECONDS = 1.0


async def run_job(slot: Slot, context: JobContext) -> None:
    """Run one claimed job to its settlement."""
    progress = Progress()
    with traces.attempt(slot.job) if tracing.on else tracing.NOTHING:
        try:
            await _run(slot, context, progress)
        finally:
            progress.give_back()


async def _run(slot: Slot, context: JobContext, progress: Progress) -> None:
    job = slot.job
    live = context.publisher.open(job.id, job.fence, log=job.logged)
    try:
        match await _admission(slot, context):
            case Admitted(permit):
                announce_start(live, job)
                outcome = await _call(slot, context, permit, live, progress)
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
    job, over = slot.job, settlement.terminal
    if not over:
        crashpoint("release.before", job.id)
    if settlement.status == "completed":
        context.prices.learn(job.model, None if settlement.guessed else settlement.cost_usd)
    # The number of the terminal event is stored with the end.
    settlement = replace(settlement, seq=live.end() if over else 0)
    with tracing.span("stockpot.settle", "internal") if tracing.on else tracing.NOTHING:
        written = await context.settlements.settle(job, settlement)
    if tracing.on:
        traces.settled(settlement if written is None else written, written=written is not None)
    if written is None:
        return
    announce_settled(live, job, written, context)
    if written.owed:
        context.lookups.add(job.id)
    if not written.terminal:
        context.recall(job, written.due_in, written.waiting_on, called=written.called)


# ── admit: nothing has been sent ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Admitted:
    """A permit of the route, the key and the tenant is held: make the call. It is given back however that ends."""

    permit: Permit


@dataclass(frozen=True, slots=True)
class Postponed:
    """The job goes back to the queue with what it waits on; no attempt is spent."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Refused:
    """The job is over without this call: its calls have cost as much as they may."""

    settlement: Settlement


async def _admission(slot: Slot, context: JobContext) -> Admitted | Postponed | Refused:
    """Ask whether the job's call may be made now.

    The questions are asked in the order of what an answer costs: first what this process knows, then the database, then
    the limits in Redis, which may keep the job in line for a while.
    """
    job = slot.job
    if job.unreadable is not None:
        log.error("payload_unreadable", job_id=job.id, error=job.unreadable)
        return Postponed(decide.unreadable(job))
    if job.unasked and (seconds := context.lookups.owed(job.id)):
        return Postponed(decide.asked_first(job, seconds))
    if job.budgeted or job.max_cost_picousd is not None:
        if over := decide.over_budget(job, context.prices):
            return Refused(over)
        reserved = await context.budget_hold.reserve(job)
        if isinstance(reserved, Held):
            return Postponed(decide.held(job, reserved))
        slot.reserved = reserved
    permit = await _permit(slot, context)
    return Postponed(decide.held(job, permit)) if isinstance(permit, Held) else Admitted(permit)


async def _permit(slot: Slot, context: JobContext) -> Permit | Held:
    """Ask the limits of the job's route, key and tenant; wait in line for a while, holding the lease."""
    job = slot.job
    try:
        _, key_id = context.settings.read_key()
    except SettingsError as error:
        return _without_key(error)
    tokens = context.estimator.estimate(job.model, len(job.body))
    patience = min(LINE_SECONDS, job.seconds_left)
    upstream_url = context.settings.upstream_url
    scopes: list[Scope] = []  # what a call counts against beside its route
    if context.key_limits != UNLIMITED:
        scopes.append(Scope(f"key:{key_id}@{upstream_url}", context.key_limits))
    if context.tenant_limits != UNLIMITED:
        scopes.append(Scope(f"tenant:{job.tenant}", context.tenant_limits))
    route = Route(upstream_url, key_id, job.model)
    probes = await context.probing.may_probe(job)
    urgent = job.lane == "interactive"
    return await context.admission.admit(route, tokens, patience, scopes, urgent=urgent, probes=probes)


def _without_key(error: SettingsError) -> Held:
    """Why a job waits while the key's file cannot be read, which may be the moment in which it is replaced."""
    log.warning("key_unreadable", error=str(error))
    return Held("retry", KEY_SECONDS)


# ── call: however it ends, the limits learn how, and the permit is given back ─────────────────────────────────────────


async def _call(slot: Slot, context: JobContext, permit: Permit, live: LiveStream, progress: Progress) -> Outcome:
    """Make the call; the live stream has each chunk as it comes."""
    job, settings = slot.job, context.settings
    crashpoint("call.before", job.id)
    outcome: Outcome | None = None
    try:
        request = _request(slot, settings)
    except SettingsError as error:
        permit.done("unused")
        _without_key(error)
        return Failure(Kind.NOT_SENT, "authentication", "key_unreadable", str(error))
    try:
        with traces.call(job, settings.upstream_url) if tracing.on else tracing.NOTHING as span:
            outcome = await context.upstream.call(request, live.chunk if job.stream else None, progress)
            outcome = await _blamed(slot, context, permit, outcome)
            if tracing.on:
                traces.answered(span, outcome)
    finally:
        _give_back(permit, outcome, progress)
    crashpoint("call.answered", job.id)
    for what, times in progress.odd.items():
        metrics.ODDITIES.labels(what).inc(times)
    if outcome.usage is not None and outcome.usage.total_tokens:
        context.estimator.learn(job.model, len(job.body), None, outcome.usage.total_tokens)
    return outcome


def _request(slot: Slot, settings: Settings) -> Call:
    job = slot.job
    return Call(
        endpoint=job.endpoint,
        body=job.body.encode(),
        stream=job.stream,
        client_request_id=job.client_request_id,
        key=settings.read_key()[0],  # as it is now: its file may have been replaced while the job waited
        total_timeout=max(0.001, min(settings.total_timeout, slot.seconds_left)),
        model=job.model,
    )


async def _blamed(slot: Slot, context: JobContext, permit: Permit, outcome: Outcome) -> Outcome:
    """The outcome, after it was found out whether a refusal is the account's or the job's."""
    job, refusals, key = slot.job, context.refusals, permit.route.key_id
    if isinstance(outcome, Answer):
        refusals.passed(key)
        return outcome
    if outcome.unexplained and refusals.unexplained(key, job.id):
        return replace(outcome, kind=Kind.ACCOUNT, error_class="account")
    if outcome.kind is Kind.ACCOUNT and not await context.admission.believes(permit, job.id):
        return replace(outcome, kind=Kind.TERMINAL, error_class="refused")
    return outcome


def _give_back(permit: Permit, outcome: Outcome | None, progress: Progress) -> None:
    """Report to the limits how it ended. A call that we cut off proves nothing about the upstream.

    The tokens of a minute are counted as money is: what was reserved stands for a call that may have cost something
    without a word on what it used.
    """
    usage = progress.usage if outcome is None else outcome.usage
    tokens = usage.total_tokens if usage is not None else None
    if outcome is None:
        if tokens is None:
            tokens = permit.tokens if decide.cut_may_have_cost(progress) else 0
        permit.done("cut" if progress.sent else "unused", tokens, headers=progress.rate_limits)
        return
    if tokens is None and not isinstance(outcome, Answer) and decide.may_have_cost(outcome):
        tokens = permit.tokens
    if isinstance(outcome, Answer):
        permit.done("answer", tokens, headers=progress.rate_limits)
        return
    permit.done(
        # A worker without file descriptors shall not shut the route for all others.
        "unused" if outcome.code == NO_FILES else str(outcome.kind),
        tokens,
        retry_after=outcome.retry_after,
        maintenance=outcome.code == "maintenance",
        status=outcome.status,
        detail=outcome.message,
        headers=progress.rate_limits,
    )
