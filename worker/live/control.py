"""The control channel: notifies the workers at once that a job was cancelled, or that something waits for idle ones.

A lost message costs only time: the worker learns of the cancellation at its next lease renewal, and finds what waits with
its next look.
"""

from __future__ import annotations

import asyncio
import contextlib
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


def publish_wake(redis: SyncRedis) -> None:
    """Let idle workers look at once: something was written that no doorbell announces. Errors are ignored."""
    with contextlib.suppress(RedisError):
        redis.publish(control_channel(namespace(redis)), dumps({"wake": True}))


class Control:
    """Listens to the control channel, for ever, through every loss of connection."""

    def __init__(self, redis_url: str) -> None:
        limit = CONNECT_LIMIT.total_seconds()
        self._redis = asynchronous(redis_url, seconds=limit)
        self._channel = control_channel(namespace_of(redis_url))
        #: Whether what is published now arrives.
        self.listens = False

    async def listen(self, on_cancel: Callable[[str], None], on_wake: Callable[[], None] = lambda: None) -> None:
        """Call `on_cancel(job_id)` for every cancellation, and `on_wake()` for every wake-up, until cancelled itself."""
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    async with self._redis.pubsub() as pubsub:
                        await pubsub.subscribe(self._channel)
                        async for message in messages(pubsub):
                            pause = FIRST_PAUSE
                            if message["type"] == "subscribe":
                                self.listens = True
                                on_wake()  # what was published meanwhile is lost
                            order = _order(message)
                            if isinstance(job_id := order.get("cancel"), str):
                                on_cancel(job_id)
                            if order.get("wake"):
                                on_wake()
                except AWAY:
                    self.listens = False
                    await asyncio.sleep(pause.total_seconds())
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self.listens = False
            await self._redis.aclose()


def _order(message: dict[str, Any]) -> dict[str, Any]:
    """What is asked for; nothing when it is no order, or from a newer version."""
    if message["type"] != "message" or not isinstance(message["data"], bytes):
        return {}
    try:
        order = loads(message["data"])
    except ValueError:
        return {}
    return order if isinstance(order, dict) else {}
