"""What a call's outcome means for its job, pure: an outcome in, a `Settlement` out.

The ledger columns are filled in whatever happened: money that was spent is on record for answers, broken streams,
cancellations and calls given back alike.
"""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from api_schemas.usage import Usage
from worker.base.money import PICO, picousd
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement
from worker.job.context import JobContext
from worker.job.retry import Fail, Policy, Retry, Wait, decide
from worker.job.slots import Slot
from worker.limits.permit import Held
from worker.provider.prices import Prices
from worker.upstream.call import Progress
from worker.upstream.outcome import Answer, Failure, Kind, Outcome

#: When a job is looked at again whose request this worker cannot decrypt, in seconds: another may have the key.
UNREADABLE_SECONDS = 30.0


def decided(slot: Slot, outcome: Outcome, context: JobContext) -> Settlement:
    """What the outcome of its call means for a job."""
    job, settings = slot.job, context.settings
    if isinstance(outcome, Answer):
        return answered(job, outcome, context.prices)
    policy = Policy(job.max_attempts, job.on_ambiguous, settings.retry_base_seconds, settings.retry_max_seconds)
    settlement = failed(
        job, outcome, policy, context.prices, context.rng, seconds_left=slot.seconds_left, reserved=slot.reserved
    )
    if to_be_looked_up(job, settlement):
        held = min(context.lookups.hold_seconds, slot.seconds_left / 2)
        settlement = replace(settlement, due_in=max(settlement.due_in, held))
    return settlement


def to_be_looked_up(job: ClaimedJob, settlement: Settlement) -> bool:
    """Whether the job waits until the provider's log was asked about this call, before it is made again."""
    return settlement.owed and not settlement.terminal and job.on_ambiguous != "retry"


def answered(job: ClaimedJob, answer: Answer, prices: Prices) -> Settlement:
    """The job is completed."""
    cost = priced(job, answer.usage, answer.cost_usd, prices)
    return Settlement(
        job_id=job.id,
        fence=job.fence,
        attempt=job.attempt,
        status="completed",
        outcome="completed",
        finish_reason=answer.finish_reason,
        response=answer.body.decode(),
        text=answer.text,
        provider_id=answer.provider_id,
        model=answer.model,
        inference_id=answer.inference_id,
        request_id=answer.request_id,
        error_status=answer.status,
        usage=answer.usage,
        cost_usd=cost.usd,
        cost_source=cost.source,
        first_token_seconds=answer.timings.first_token,
        total_seconds=answer.timings.total,
        owed=cost.source != "provider",
        guessed=cost.guessed,
    )


def failed(
    job: ClaimedJob,
    failure: Failure,
    policy: Policy,
    prices: Prices,
    rng: random.Random,
    *,
    seconds_left: float,
    reserved: int | None = None,
) -> Settlement:
    """The job is tried again, waits, or is over; `seconds_left` until it expires."""
    decision = decide(
        failure,
        attempts_spent=job.attempts_spent,
        calls_made=job.attempt,
        last_code=job.last_code,
        seconds_left=seconds_left,
        policy=policy,
        rng=rng,
    )
    owed = may_have_cost(failure)
    cost = priced(job, failure.usage, failure.cost_usd, prices, owed=owed, reserved=reserved)
    status, due_in, waiting_on, spent = "queued", 0.0, None, True
    match decision:
        case Retry(seconds):
            due_in, waiting_on = seconds, "retry"
        case Wait(seconds, reason):
            due_in, waiting_on, spent = seconds, reason, False
        case Fail(expired, spent):
            status = "expired" if expired else "failed"
    over = status != "queued"
    return Settlement(
        job_id=job.id,
        fence=job.fence,
        attempt=job.attempt,
        status=status,
        outcome=str(failure.kind),
        spent=spent,
        due_in=due_in,
        waiting_on=waiting_on,
        error_class="expired" if status == "expired" else failure.error_class,
        error_code=failure.code,
        error_message=failure.message,
        error_status=failure.status,
        error_body=None if failure.body is None else failure.body.decode(errors="replace"),
        text=failure.partial_text or None if over else None,
        partial_text=failure.partial_text or None,
        inference_id=failure.inference_id,
        request_id=failure.request_id,
        usage=failure.usage,
        cost_usd=cost.usd,
        cost_source=cost.source,
        first_token_seconds=failure.timings.first_token,
        total_seconds=failure.timings.total,
        owed=owed and cost.source != "provider",
    )


def held(job: ClaimedJob, no: Held) -> Settlement:
    """The job goes back to the queue with what it waits on."""
    # A job whose route is paused stays due: no worker that knows of the pause claims it, and none waits afterwards.
    due_in = 0.0 if no.reason == "paused" else min(no.seconds, max(job.seconds_left, 0.0))
    return _back(job, due_in, no.reason)


def asked_first(job: ClaimedJob, seconds: float) -> Settlement:
    """The job goes back for so long at most, until the provider's log was asked about a lost call."""
    return _back(job, min(seconds, max(job.seconds_left, 0.0) / 2), "retry")


def _back(job: ClaimedJob, due_in: float, waiting_on: str) -> Settlement:
    """Nothing was sent: the job is queued as it was."""
    return Settlement(
        job_id=job.id,
        fence=job.fence,
        attempt=job.attempt,
        status="queued",
        outcome="held",
        spent=False,
        called=False,
        due_in=due_in,
        waiting_on=waiting_on,
    )


def unreadable(job: ClaimedJob) -> Settlement:
    """The job goes back until its worker, or another, has the key of its request."""
    return _back(job, min(UNREADABLE_SECONDS, max(job.seconds_left, 0.0) / 2), "payload_key")


def over_budget(job: ClaimedJob, prices: Prices) -> Settlement | None:
    """The end of a job that has no money for one more call; None while it may go on. Nothing was sent.

    The first call is always made. A further one is taken to cost the list's price or, where it has no price, as much
    as those before it.
    """
    if job.max_cost_picousd is None or (job.spent_picousd == 0 and job.max_cost_picousd > 0):
        return None
    if job.spent_picousd < job.max_cost_picousd:
        expected = prices.expected(job.model, job.body)
        known = None if expected.guess else picousd(expected.cost_usd)
        another = known if known is not None else job.spent_picousd // max(1, job.attempt - 1)
        if job.spent_picousd + another <= job.max_cost_picousd:
            return None
    spent, most = (Decimal(amount) / PICO for amount in (job.spent_picousd, job.max_cost_picousd))
    return Settlement(
        job_id=job.id,
        fence=job.fence,
        attempt=job.attempt,
        status="failed",
        outcome="refused",
        spent=False,
        called=False,
        error_class="account",
        error_code="budget_exceeded",
        error_message=f"its calls have cost {spent.normalize():f} USD; max_cost_usd is {most.normalize():f}",
    )


def stopped(
    job: ClaimedJob, progress: Progress, prices: Prices, *, cancelled: bool, reserved: int | None = None
) -> Settlement:
    """The call was cut off: by its submitter, and the job is over with the text so far; or by a drain, and it goes back.

    A drain under `on_ambiguous=fail` ends a job whose call had been sent: that call may have been paid for.
    """
    owed = cut_may_have_cost(progress)
    cost = priced(job, progress.usage, progress.cost_usd, prices, owed=owed, reserved=reserved)
    text = progress.text or None
    if not cancelled and progress.sent and job.on_ambiguous == "fail":
        status, outcome, error_class, message = "failed", "ambiguous", "ambiguous", "its worker was stopped in the call"
    elif cancelled:
        status, outcome, error_class, message = "cancelled", "cancelled", "cancelled", "cancelled on request"
    else:
        status, outcome, error_class, message = "queued", "released", None, None
    over = status != "queued"
    return Settlement(
        job_id=job.id,
        fence=job.fence,
        attempt=job.attempt,
        status=status,
        outcome=outcome,
        spent=over and progress.sent,  # what was not sent is no call and no attempt
        called=progress.sent,
        error_class=error_class,
        error_message=message,
        error_status=progress.status,
        text=text if over else None,
        partial_text=text,
        inference_id=progress.inference_id,
        request_id=progress.request_id,
        usage=progress.usage,
        cost_usd=cost.usd,
        cost_source=cost.source,
        first_token_seconds=progress.first_token_after,
        total_seconds=progress.total,
        owed=owed and cost.source != "provider",
    )


class Priced(NamedTuple):
    """What a call cost, and the source of that figure; `guessed` when not even its tokens are known."""

    usd: Decimal | None
    source: str | None
    guessed: bool = False


def may_have_cost(failure: Failure) -> bool:
    """Whether a call that failed may have been billed although no answer stated it.

    It was sent, and no answer with an error's status came back whole: such an answer is the provider's word that it
    billed nothing.
    """
    if failure.begun or failure.kind in {Kind.AMBIGUOUS, Kind.PARTIAL}:
        return True
    refused = failure.status is not None and failure.status >= 400
    return failure.kind is not Kind.NOT_SENT and failure.timings.sent is not None and not refused


def cut_may_have_cost(progress: Progress) -> bool:
    """As `may_have_cost`, of a call that was cut off here."""
    return progress.sent and (progress.status is None or progress.status < 400)


def priced(
    job: ClaimedJob,
    usage: Usage | None,
    cost: Decimal | None,
    prices: Prices,
    *,
    owed: bool = False,
    reserved: int | None = None,
) -> Priced:
    """The cost of a call and its source.

    The provider's own word; else its price list times the tokens. Of a call that broke and may have been billed (`owed`)
    and of which neither is known: what was reserved for it, or an estimate of what such a call costs.
    """
    if cost is not None:
        return Priced(cost, "provider")
    estimate = None if usage is None else prices.cost(job.model, usage)
    guessed = estimate is None
    if estimate is None and owed:
        reservation = None if reserved is None else Decimal(reserved) / PICO
        estimate = reservation if reservation is not None else prices.expected(job.model, job.body).cost_usd
    return Priced(estimate, None if estimate is None else "estimated", guessed=guessed)
