"""A look at Redis's eviction policy when a worker starts: any but `noeviction` may drop doorbells and limits at will.

No job is lost by it, the rows are in the database; but doorbells go, and what several workers share of a route's limits
is forgotten, without an error anywhere. So it is said loudly (RELIABILITY T16).
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

import structlog
from redis.exceptions import RedisError

from worker.base.redis import asynchronous

log = structlog.get_logger(__name__)

SAFE = "noeviction"
#: A Redis that does not answer by then is asked at the next start; its absence is another log line's business.
LIMIT = timedelta(seconds=2)


async def eviction_policy(redis_url: str) -> str | None:
    """The server's `maxmemory_policy`; None when it cannot be asked or does not say.

    From INFO rather than CONFIG, which managed servers refuse.
    """
    seconds = LIMIT.total_seconds()
    redis = asynchronous(redis_url, seconds=seconds)
    try:
        with contextlib.suppress(RedisError, OSError):
            policy = (await redis.info("memory")).get("maxmemory_policy")
            return None if policy is None else str(policy)
    finally:
        await redis.aclose()
    return None


async def warn_if_redis_evicts(redis_url: str) -> None:
    """Log `redis_evicts` when the server may evict keys."""
    policy = await eviction_policy(redis_url)
    if policy is not None and policy != SAFE:
        log.error("redis_evicts", policy=policy, wanted=SAFE)
