"""A look at Redis's eviction policy when a worker starts: any but `noeviction` may drop doorbells and limits at will.

No job is lost by it, the rows are in the database; but doorbells go, and what several workers share of a route's limits
is forgotten, without an error anywhere. So it is logged as an error (RELIABILITY T16).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from worker.base.log import get_logger
from worker.base.redis import AWAY, asynchronous

log = get_logger(__name__)

SAFE = "noeviction"
#: A Redis that does not answer by then is asked at the next start; its absence is another log line's business.
LIMIT = timedelta(seconds=2)


def unusable(info: Mapping[str, Any]) -> str | None:
    """Why a server cannot be our Redis, in one sentence, from its INFO; None when it can."""
    if info.get("cluster_enabled"):  # the mode itself has another name in Valkey's INFO
        return "it is a node of a Redis Cluster, where a script may not touch keys of several slots"
    if info.get("role") == "slave":
        return "it is a read-only replica, which takes no writes"
    return None


async def inspect(redis_url: str) -> None:
    """Log what is wrong with the server: `redis_unusable`, or `redis_evicts` when it may evict keys.

    From INFO rather than CONFIG, which managed servers refuse. A server that does not answer is not reported.
    """
    redis = asynchronous(redis_url, seconds=LIMIT.total_seconds())
    info: Mapping[str, Any] = {}
    try:
        with contextlib.suppress(*AWAY):
            info = await redis.info()
    finally:
        await redis.aclose()
    reason = unusable(info)
    if reason is not None:
        log.error("redis_unusable", reason=reason, mend="give the URL of a single primary")
    policy = info.get("maxmemory_policy", SAFE)
    if policy != SAFE:
        log.error("redis_evicts", policy=str(policy), wanted=SAFE)
