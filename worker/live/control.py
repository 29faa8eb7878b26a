"""The control channel: notifies the workers at once that a job was cancelled.

A lost message costs only time: the worker learns of the cancellation at its next lease renewal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from redis import Redis as SyncRedis
from redis.exceptions import RedisError

from api_schemas.jsontext import dumps, loads
from worker.base.redis import AWAY, asynchronous, namespace
from worker.base.redis_urls import namespace_of
from worker.live.keys import control_channel
from worker.live.listening import messages

CONNECT_LIMIT = timedelta(seconds=2)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=50), timedelta(seconds=2)


def publish_cancel(redis: SyncRedis, job_id: str) -> bool:
    """Ask the workers to stop a job; False when no worker listened or Redis did not answer."""
    try:
        return int(redis.publish(control_channel(namespace(redis)), dumps({"cancel": job_id}))) > 0
    except RedisError:
        return False


class Control:
    """Listens to the control channel, for ever, through every loss of connection."""

    def __init__(self, redis_url: str) -> None:
        limit = CONNECT_LIMIT.total_seconds()
        self._redis = asynchronous(redis_url, seconds=limit)
        self._channel = control_channel(namespace_of(redis_url))

    async def listen(self, on_cancel: Callable[[str], None]) -> None:
        """Call `on_cancel(job_id)` for every cancellation, until cancelled itself."""
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    async with self._redis.pubsub() as pubsub:
                        await pubsub.subscribe(self._channel)
                        async for message in messages(pubsub):
                            pause = FIRST_PAUSE
                            job_id = _cancelled(message)
                            if job_id is not None:
                                on_cancel(job_id)
                except AWAY:
                    await asyncio.sleep(pause.total_seconds())
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            await self._redis.aclose()


def _cancelled(message: dict[str, Any]) -> str | None:
    if message["type"] != "message" or not isinstance(message["data"], bytes):
        return None
    try:
        order = loads(message["data"])
    except ValueError:
        return None
    job_id = order.get("cancel") if isinstance(order, dict) else None
    return job_id if isinstance(job_id, str) else None
