"""One call under the limits of its route. However it ends, the limits learn how, and its permit is given back."""

from __future__ import annotations

from dataclasses import replace

from worker.base import metrics
from worker.base.crashpoints import crashpoint
from worker.base.errors import SettingsError
from worker.job import decide, traces
from worker.job.context import JobContext
from worker.job.slots import Slot
from worker.limits.permit import Permit
from worker.live.publish import LiveStream
from worker.upstream.call import Call, Progress
from worker.upstream.outcome import Answer, Failure, Kind, Outcome


async def call(slot: Slot, context: JobContext, permit: Permit, live: LiveStream, progress: Progress) -> Outcome:
    """Make the call; the live stream has each chunk as it comes."""
    job = slot.job
    crashpoint("call.before", job.id)
    outcome: Outcome | None = None
    try:
        request = _request(slot, context)
    except SettingsError as error:
        permit.done("unused")
        context.without_key(error)
        return Failure(Kind.NOT_SENT, "authentication", "key_unreadable", str(error))
    try:
        with traces.call(job, context.settings.upstream_url) as span:
            outcome = await context.upstream.call(request, live.chunk if job.stream else None, progress)
            outcome = await _blamed(slot, context, permit, outcome)
            traces.answered(span, outcome)
    finally:
        _give_back(permit, outcome, progress)
    crashpoint("call.answered", job.id)
    for what, times in progress.odd.items():
        metrics.ODDITIES.labels(what).inc(times)
    if outcome.usage is not None and outcome.usage.total_tokens:
        context.estimator.learn(job.model, len(job.body), None, outcome.usage.total_tokens)
    return outcome


def _request(slot: Slot, context: JobContext) -> Call:
    job, settings = slot.job, context.settings
    return Call(
        endpoint=job.endpoint,
        body=job.body.encode(),
        stream=job.stream,
        client_request_id=job.client_request_id,
        key=context.key(),
        total_timeout=max(0.001, min(settings.total_timeout, slot.seconds_left)),
        model=job.model,
    )


async def _blamed(slot: Slot, context: JobContext, permit: Permit, outcome: Outcome) -> Outcome:
    """The outcome, after it was found out whether a refusal is the account's or the job's."""
    job, refusals, key = slot.job, context.refusals, context.settings.key_id
    if isinstance(outcome, Answer):
        refusals.passed(key)
        return outcome
    if outcome.unexplained and refusals.unexplained(key, job.id):
        return replace(outcome, kind=Kind.ACCOUNT, error_class="account")
    if outcome.kind is Kind.ACCOUNT and not await context.admission.believes(permit, job.id):
        return replace(outcome, kind=Kind.TERMINAL, error_class="refused")
    return outcome


def _give_back(permit: Permit, outcome: Outcome | None, progress: Progress) -> None:
    """Report to the limits how it ended. A call that we cut off proves nothing about the upstream, but it has cost something."""
    if outcome is None:
        permit.done("cut" if progress.sent else "unused", headers=progress.rate_limits)
        return
    kind, tokens = decide.ended(outcome)
    failure = None if isinstance(outcome, Answer) else outcome
    permit.done(
        kind,
        tokens,
        retry_after=failure.retry_after if failure else None,
        maintenance=failure is not None and failure.code == "maintenance",
        status=failure.status if failure else None,
        detail=failure.message if failure else "",
        headers=progress.rate_limits,
    )
