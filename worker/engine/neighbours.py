"""Who else uses our namespace of Redis: workers of another database would take each other's messages.

Each worker writes who its database is into `<namespace>:databases` (a sorted set: database → when it was last seen,
in Unix seconds) once a minute. `stockpot doctor` reads it, too.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from worker.base.log import get_logger
from worker.base.redis import AWAY, asynchronous
from worker.base.redis_urls import namespace_of
from worker.db import identity
from worker.db.threads import DatabaseThreads

log = get_logger(__name__)

#: Between two looks, and how long a database that shows itself no more counts, in seconds.
EVERY, LIVES = 60, 600
#: Until the database is asked again who it is, in seconds.
AGAIN = 1.0
_ANSWER_SECONDS = 2.0


def databases_key(namespace: str) -> str:
    """The sorted set of the databases whose workers use a namespace."""
    return f"{namespace}:databases"


async def watch(redis_url: str, database: DatabaseThreads) -> None:
    """Show ourselves and log `redis_namespace_shared` when others are there; until cancelled."""
    namespace = namespace_of(redis_url)
    while not (ours := await database.try_write(identity.ensure, "", "neighbours_delayed")):
        await asyncio.sleep(AGAIN)  # the database is away as this worker starts; that ends no worker
    redis = asynchronous(redis_url, seconds=_ANSWER_SECONDS)
    known: set[str] = set()
    try:
        while True:
            try:
                others = await _look(redis, databases_key(namespace), ours)
            except AWAY:
                others = known
            if others - known:
                mend = "give each project a STOCKPOT_REDIS_NAMESPACE of its own"
                log.error("redis_namespace_shared", namespace=namespace, databases=len(others) + 1, mend=mend)
            known = others
            await asyncio.sleep(EVERY)
    finally:
        await redis.aclose()


async def _look(redis: Redis, key: str, ours: str) -> set[str]:
    now, _ = await redis.time()  # of all workers the one clock
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.zadd(key, {ours: now})
        pipeline.zremrangebyscore(key, "-inf", now - LIVES)
        pipeline.expire(key, 2 * LIVES)
        pipeline.zrange(key, 0, -1)
        answers: list[Any] = await pipeline.execute()
    return {member.decode() for member in answers[-1]} - {ours}
