"""The trace of a job's attempt: one span for each claim, with the call and the settlement in it. For where tracing is on.

The attributes are OpenTelemetry's for generative AI where it has a name, else our own. Nothing of a prompt or an answer is among them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from worker.base import genai, tracing
from worker.base.tracing import Span, Value
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement
from worker.upstream.outcome import Answer, Outcome


def attempt(job: ClaimedJob) -> AbstractContextManager[Span]:
    """A claim of a job from its beginning to its settlement."""
    facts: dict[str, Value] = {
        "stockpot.job.id": job.id,
        "stockpot.attempt": job.attempt,
        "stockpot.tenant": job.tenant,
        "stockpot.lane": job.lane,
        "stockpot.batch.id": job.batch_id,
        "stockpot.queued_seconds": job.queued_seconds,
    }
    return tracing.span("stockpot.attempt", "consumer", facts, link=job.traceparent, root=True)


def call(job: ClaimedJob, upstream_url: str) -> AbstractContextManager[Span]:
    """The call."""
    url = urlsplit(upstream_url)
    facts: dict[str, Value] = {
        "gen_ai.operation.name": genai.OPERATION,
        "gen_ai.provider.name": genai.provider(upstream_url),
        "gen_ai.request.model": job.model,
        "gen_ai.request.stream": job.stream,
        "server.address": url.hostname,
        "server.port": url.port,
        "stockpot.client_request_id": job.client_request_id,
    }
    return tracing.span(f"{genai.OPERATION} {job.model}", "client", facts)


def answered(span: Span, outcome: Outcome) -> None:
    """What the call came to."""
    usage = outcome.usage
    span.set(
        {
            "gen_ai.response.time_to_first_chunk": outcome.timings.first_token,
            "stockpot.cost_usd": None if outcome.cost_usd is None else float(outcome.cost_usd),
            "http.response.status_code": outcome.status,
        }
    )
    if usage is not None:
        span.set(
            {
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
            }
        )
    if isinstance(outcome, Answer):
        span.set({"gen_ai.response.id": outcome.provider_id, "gen_ai.response.model": outcome.model})
        if outcome.finish_reason is not None:
            span.set({"gen_ai.response.finish_reasons": (outcome.finish_reason,)})
    else:
        span.fail(str(outcome.error_class))


def settled(settlement: Settlement, *, written: bool) -> None:
    """What the attempt around us came to."""
    span = tracing.current()
    span.set(
        {
            "stockpot.outcome": settlement.outcome if written else "fenced",
            "stockpot.job.status": settlement.status,
            "stockpot.waiting_on": settlement.waiting_on,
            "stockpot.seconds_until_retry": settlement.due_in if settlement.status == "queued" else None,
        }
    )
    if settlement.error_class is not None:
        span.fail(settlement.error_class)
