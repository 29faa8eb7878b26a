"""How the beginning and the end of a job are told: live events, the webhook, the counters."""

from __future__ import annotations

import functools
import time
from typing import Any, TypeVar, cast

from prometheus_client import Counter, Histogram

from api_schemas.errors import ErrorClass, JobError
from worker.base import metrics
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement
from worker.live.publish import LiveStream
from worker.webhooks.envelope import Settled

M = TypeVar("M", Counter, Histogram)


def end_fields(settlement: Settlement) -> dict[str, Any]:
    """The fields of the terminal event."""
    fields: dict[str, Any] = {
        "usage": settlement.usage.model_dump() if settlement.usage is not None else None,
        "cost_usd": None if settlement.cost_usd is None else float(settlement.cost_usd),
        "finish_reason": settlement.finish_reason,
    }
    error = error_of(settlement)
    if error is not None:
        fields["error"] = error.wire()
    return fields


def announce_start(live: LiveStream, job: ClaimedJob) -> None:
    """Publish that the job begins, or that what was shown of an earlier attempt is void."""
    if job.attempt == 1:
        live.emit("job.started", {"attempt": 1, "model": job.model})
    else:
        live.emit("attempt.reset", {"reason": job.last_error or "worker_lost", "attempt": job.attempt})


def announce_end(live: LiveStream, settlement: Settlement) -> None:
    """Publish the terminal event, after all chunks."""
    live.emit(f"job.{settlement.status}", end_fields(settlement))


def error_of(settlement: Settlement) -> JobError | None:
    """The error that a settlement tells, if any."""
    if settlement.error_class is None:
        return None
    return JobError(
        error_class=cast("ErrorClass", settlement.error_class),
        code=settlement.error_code,
        message=settlement.error_message or settlement.error_class,
        status=settlement.error_status,
    )


def hook_of(job: ClaimedJob, settlement: Settlement) -> Settled | None:
    """What the webhooks are told; None while the job is not over."""
    if not settlement.terminal:
        return None
    return Settled(
        kind="job",
        id=job.id,
        tenant=job.tenant,
        status=settlement.status,
        settled_at=int(time.time()),
        custom_id=job.custom_id,
        metadata=job.metadata,
        usage=settlement.usage,
        cost_usd=settlement.cost_usd,
        response=None if settlement.response is None else settlement.response.encode(),
        error=error_of(settlement),
        webhook=job.webhook,
        batch_id=job.batch_id,
    )


def count(job: ClaimedJob, settlement: Settlement) -> None:
    """Count what was settled."""
    _labelled(metrics.ATTEMPTS, settlement.outcome).inc()
    if settlement.terminal:
        _labelled(metrics.JOBS, settlement.status, job.lane).inc()
    if settlement.usage is not None:
        _labelled(metrics.TOKENS, "input", job.model).inc(settlement.usage.input_tokens)
        _labelled(metrics.TOKENS, "output", job.model).inc(settlement.usage.output_tokens)
    if settlement.cost_usd is not None:
        _labelled(metrics.COST, settlement.cost_source or "provider", job.model).inc(float(settlement.cost_usd))
    if settlement.total_seconds is not None:
        _labelled(metrics.CALL_SECONDS, job.endpoint).observe(settlement.total_seconds)
    if settlement.first_token_seconds is not None:
        metrics.FIRST_TOKEN_SECONDS.observe(settlement.first_token_seconds)


@functools.lru_cache(maxsize=512)
def _labelled(metric: M, *values: str) -> M:
    """The metric with these labels; looking it up takes the client library a lock and 3 µs, six times a job."""
    return metric.labels(*values)
