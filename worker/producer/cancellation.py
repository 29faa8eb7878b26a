"""A producer's cancellation, published: to the worker that runs the job, or to those who follow it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from redis import Redis
from redis.exceptions import RedisError

from worker import embedded
from worker.base.errors import Unreachable
from worker.base.redis import blocking
from worker.base.settings import Settings
from worker.db.jobs.cancel import Cancelled
from worker.live.control import publish_cancel
from worker.live.publish import announce


def announce_cancelled(settings: Settings, done: Cancelled) -> None:
    """Publish it in Redis, within the publish budget. A message that is lost costs time only.

    The worker's heartbeat finds a running job's cancellation, and readers find the end in the database.
    """

    def publish(redis: Redis) -> None:
        ended = done.ended
        if ended is None:
            publish_cancel(redis, done.job_id)
            return
        announce(
            redis,
            ended.job_id,
            ended.fence,
            f"job.{ended.status}",
            {"usage": None, "cost_usd": None, "error": None if ended.error is None else ended.error.wire()},
            log=ended.logged,
            log_entries=settings.live_log_entries,
            ttl_seconds=settings.live_ttl_seconds,
        )

    _try(settings, publish)


def announce_lines_cancelled(settings: Settings, job_ids: Sequence[str]) -> None:
    """Ask the workers to stop these lines of a batch, within the publish budget; the heartbeat finds the others."""
    _try(settings, lambda redis: [publish_cancel(redis, job_id) for job_id in job_ids])


def _try(settings: Settings, command: Callable[[Redis], object]) -> None:
    """Run commands in Redis within the publish budget. Errors are ignored."""
    budget = settings.publish_budget_seconds
    with contextlib.suppress(Unreachable, RedisError):
        url = embedded.redis_url(settings)
        redis = blocking(url, seconds=budget)
        with contextlib.closing(redis):
            command(redis)
