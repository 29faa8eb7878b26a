"""What a producer publishes for workers: a cancellation (for those who follow the job, too), or that something waits."""

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
from worker.live.control import publish_cancel, publish_wake
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
        publish_wake(redis)  # its end may have a webhook

    _try(settings, publish)


def announce_lines_cancelled(settings: Settings, job_ids: Sequence[str]) -> None:
    """Ask the workers to stop these lines of a batch, within the publish budget; the heartbeat finds the others."""
    _try(settings, lambda redis: [publish_cancel(redis, job_id) for job_id in job_ids])


def wake_workers(settings: Settings) -> None:
    """Let idle workers look for what was written just now and no doorbell announces, within the publish budget."""
    _try(settings, publish_wake)


def _try(settings: Settings, command: Callable[[Redis], object]) -> None:
    """Run commands in Redis within the publish budget. Errors are ignored."""
    budget = settings.publish_budget_seconds
    with contextlib.suppress(Unreachable, RedisError):
        url = embedded.redis_url(settings)
        redis = blocking(url, seconds=budget)
        with contextlib.closing(redis):
            command(redis)
