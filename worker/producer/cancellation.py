"""Telling of a cancellation made by a producer: the worker that runs the job, or those who watch it and its webhooks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy import Connection

from api_schemas.errors import JobError
from worker import embedded
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.batches.ends import count_lines
from worker.db.batches.records import Tally
from worker.db.jobs import lookup
from worker.db.jobs.cancel import Cancelled
from worker.db.webhooks.outbox import EventRow
from worker.live.control import publish_cancel
from worker.live.keys import job_key
from worker.live.publish import announce
from worker.webhooks.envelope import Settled
from worker.webhooks.subscriptions import Subscriptions

ERROR = JobError(error_class="cancelled", message="cancelled on request")


def hears_of_cancel(conn: Connection, done: Cancelled, tenant: str) -> list[EventRow]:
    """The webhook events of a job that was cancelled while it was queued; a running job's worker writes its own.

    A line of a batch is counted, and with the last one the batch's own event is among them.
    """
    if not done.changed or done.status != "cancelled":
        return []
    job = lookup.job(conn, done.job_id, tenant=tenant)
    settled = Settled(
        kind="job",
        id=job.id,
        tenant=tenant,
        status="cancelled",
        settled_at=int(time.time()),
        custom_id=job.custom_id,
        metadata=done.metadata,
        error=ERROR,
        webhook=done.webhook,
        batch_id=job.batch_id,
    )
    subscriptions = Subscriptions()
    counted: dict[str, Tally] = {}
    if job.batch_id is not None:
        counted.setdefault(job.batch_id, Tally()).end("cancelled", done.job_id, done.answers)
    return subscriptions.rows(conn, [settled]) + count_lines(conn, counted, subscriptions)


def announce_cancelled(settings: Settings, done: Cancelled) -> None:
    """Tell Redis, within the publish budget. A word that is lost costs time only: the heartbeat and the database know."""

    def say(redis: Redis) -> None:
        if done.status == "in_progress":
            publish_cancel(redis, done.job_id)
            return
        announce(
            redis,
            done.job_id,
            done.fence,
            done.seq,
            "job.cancelled",
            {"usage": None, "cost_usd": None, "error": ERROR.wire()},
            log=done.logged,
            log_entries=settings.live_log_entries,
            ttl_seconds=settings.live_ttl_seconds,
        )

    _try(settings, say)


def announce_lines_cancelled(settings: Settings, job_ids: Sequence[str]) -> None:
    """Tell the workers to stop these lines of a batch, within the publish budget; the heartbeat finds the others."""
    _try(settings, lambda redis: [publish_cancel(redis, job_id) for job_id in job_ids])


def forget_log(settings: Settings, job_id: str) -> None:
    """Drop a job's replay log, within the publish budget."""
    _try(settings, lambda redis: redis.delete(job_key(job_id)))


def _try(settings: Settings, say: Callable[[Redis], object]) -> None:
    """Say something to Redis within the publish budget; what it does not hear is not said."""
    budget = settings.publish_budget_seconds
    with contextlib.suppress(Unreachable, RedisError):
        url = embedded.redis_url(settings)
        redis = Redis.from_url(url, socket_timeout=budget, socket_connect_timeout=budget, retry=Retry(NoBackoff(), 0))
        with contextlib.closing(redis):
            say(redis)
