"""What others see of a job while it runs and when it ends: its live events, and the worker's counters."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from prometheus_client import Counter, Histogram

from worker.base import metrics
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ended import Ended
from worker.db.jobs.settle import Settlement
from worker.live.publish import LiveStream, Publisher

M = TypeVar("M", Counter, Histogram)


def end_fields(settlement: Settlement) -> dict[str, Any]:
    """The fields of the terminal event."""
    fields: dict[str, Any] = {
        "usage": settlement.usage.model_dump() if settlement.usage is not None else None,
        "cost_usd": None if settlement.cost_usd is None else float(settlement.cost_usd),
        "finish_reason": settlement.finish_reason,
    }
    error = settlement.error
    if error is not None:
        fields["error"] = error.wire()
    return fields


def announce_start(live: LiveStream, job: ClaimedJob) -> None:
    """Publish that the job begins, or that what was shown of an earlier attempt is void."""
    if job.attempt == 1:
        live.emit("job.started", {"attempt": 1, "model": job.model})
    else:
        reason = job.last_error or ("restarted" if job.attempts == 1 else "worker_lost")
        live.emit("attempt.reset", {"reason": reason, "attempt": job.attempt})


def announce_end(live: LiveStream, settlement: Settlement) -> None:
    """Publish the terminal event, after all chunks."""
    live.emit(f"job.{settlement.status}", end_fields(settlement))


def announce_over(publisher: Publisher, ended: Ended) -> None:
    """Publish the terminal event of a job that ended without its worker."""
    live = publisher.open(ended.job_id, ended.fence, log=ended.logged)
    error = ended.error.wire() if ended.error is not None else None
    live.emit(f"job.{ended.status}", {"usage": None, "cost_usd": None, "error": error})


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
