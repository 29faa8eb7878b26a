"""What others see of a job while it runs and when it ends: its live events, and the worker's counters."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from prometheus_client import Counter, Histogram

from worker.base import genai, metrics
from worker.base.log import get_logger
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ended import Ended
from worker.db.jobs.settle import Settlement
from worker.job.context import JobContext
from worker.live.publish import LiveStream, Publisher

M = TypeVar("M", Counter, Histogram)

log = get_logger(__name__)


def end_fields(settlement: Settlement) -> dict[str, Any]:
    """The fields of the terminal event."""
    fields: dict[str, Any] = {
        "usage": settlement.usage.model_dump() if settlement.usage is not None else None,
        "cost_usd": None if settlement.cost_usd is None else float(settlement.cost_usd),
        "finish_reason": settlement.finish_reason,
    }
    if settlement.error_class is not None and (error := settlement.error) is not None:
        fields["error"] = error.wire()
    return fields


def announce_start(live: LiveStream, job: ClaimedJob) -> None:
    """Publish that the job begins, or that what was shown of an earlier attempt is void."""
    if job.attempt == 1:
        live.emit("job.started", {"attempt": 1, "model": job.model})
    else:
        reason = job.last_error or ("restarted" if job.attempts_spent == 1 else "worker_lost")
        live.emit("attempt.reset", {"reason": reason, "attempt": job.attempt})


def announce_settled(live: LiveStream, job: ClaimedJob, settlement: Settlement, context: JobContext) -> None:
    """What was settled: counted, and if the job is over its terminal event and its line of the log."""
    over = settlement.terminal
    names = context.settings.genai_metrics
    count(job, settlement, over=over)
    if settlement.called and settlement.total_seconds is not None and names != "none":
        _count_genai(job, settlement, context.provider_name, old=names == "both")
    if over:
        announce_end(live, settlement)
        log_end(job, settlement, context.settings.log_jobs)


def announce_end(live: LiveStream, settlement: Settlement) -> None:
    """Publish the terminal event, after all chunks."""
    live.emit(f"job.{settlement.status}", end_fields(settlement))


def announce_over(publisher: Publisher, ended: Ended) -> None:
    """Publish the terminal event of a job that ended without its worker, and count it."""
    _labelled(metrics.JOBS, ended.status, ended.lane).inc()
    live = publisher.open(ended.job_id, ended.fence, log=ended.logged)
    error = ended.error.wire() if ended.error is not None else None
    live.emit(f"job.{ended.status}", {"usage": None, "cost_usd": None, "error": error})


def log_end(job: ClaimedJob, settlement: Settlement, which: str) -> None:
    """One line for a job that is over: for those that failed or expired, for `all`, or for `none` (`STOCKPOT_LOG_JOBS`).

    The error's words stay in the database: a provider may quote the prompt in them.
    """
    bad = settlement.status in {"failed", "expired"}
    if which == "none" or not (bad or which == "all"):
        return
    facts = {
        "model": job.model,
        "batch": job.batch_id,
        "attempts": job.attempts_spent,
        "error_class": settlement.error_class,
        "error_code": settlement.error_code,
        "error_status": settlement.error_status,
        "tokens": None if settlement.usage is None else settlement.usage.total_tokens,
        "cost_usd": None if settlement.cost_usd is None else float(settlement.cost_usd),
        "seconds": settlement.total_seconds,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    if bad:
        log.warning("job_failed", job=job.id, status=settlement.status, **known)
    else:
        log.info("job_finished", job=job.id, status=settlement.status, **known)


def count(job: ClaimedJob, settlement: Settlement, *, over: bool) -> None:
    """Count what was settled; `over`: the job is."""
    model = metrics.model_label(job.model)
    _labelled(metrics.ATTEMPTS, settlement.outcome).inc()
    if over:
        _labelled(metrics.JOBS, settlement.status, job.lane).inc()
    if settlement.usage is not None:
        _labelled(metrics.TOKENS, "input", model).inc(settlement.usage.input_tokens)
        _labelled(metrics.TOKENS, "output", model).inc(settlement.usage.output_tokens)
    if settlement.cost_usd is not None:
        _labelled(metrics.COST, settlement.cost_source or "provider", model).inc(float(settlement.cost_usd))
    if settlement.total_seconds is not None:
        _labelled(metrics.CALL_SECONDS, job.endpoint).observe(settlement.total_seconds)
    if settlement.first_token_seconds is not None:
        metrics.FIRST_TOKEN_SECONDS.observe(settlement.first_token_seconds)


def _count_genai(job: ClaimedJob, settlement: Settlement, provider: str, *, old: bool) -> None:
    """Count a call by the field's names: the new ones, and the older ones where they are asked for."""
    labels, usage = (genai.OPERATION, provider, metrics.model_label(job.model)), settlement.usage
    seconds, error = settlement.total_seconds or 0.0, settlement.error_class or ""
    _labelled(metrics.GENAI_SECONDS, *labels, error).observe(seconds)
    if old:
        _labelled(metrics.GENAI_OLD_SECONDS, *labels, error).observe(seconds)
    if (first := settlement.first_token_seconds) is not None:
        _labelled(metrics.GENAI_FIRST_CHUNK, *labels).observe(first)
        if old:
            _labelled(metrics.GENAI_OLD_FIRST_CHUNK, *labels).observe(first)
    if usage is None:
        return
    _labelled(metrics.GENAI_INPUT, *labels).inc(usage.input_tokens)
    _labelled(metrics.GENAI_OUTPUT, *labels).inc(usage.output_tokens)
    if usage.cached_tokens:
        _labelled(metrics.GENAI_CACHED, *labels).inc(usage.cached_tokens)
    if usage.reasoning_tokens:
        _labelled(metrics.GENAI_REASONING, *labels).inc(usage.reasoning_tokens)
    if old:
        _labelled(metrics.GENAI_OLD_TOKENS, *labels, "input").observe(usage.input_tokens)
        _labelled(metrics.GENAI_OLD_TOKENS, *labels, "output").observe(usage.output_tokens)


@functools.lru_cache(maxsize=2_048)
def _labelled(metric: M, *values: str) -> M:
    """The metric with these labels; looking it up takes the client library a lock and 3 µs, six times a job."""
    return metric.labels(*values)
