"""The one place that makes Redis clients: verified TLS, no hidden retries, and a bound on every wait.

A URL in force (`redis_urls.in_force`) goes in; the maker of the client knows the namespace from the same URL.
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.base.redis_urls import DEFAULT_NAMESPACE, for_client, namespace_of

#: What a Redis that cannot be talked to looks like to who uses an asynchronous client. RuntimeError is uvloop's word for a
#: write to a connection that was reset a moment ago, where asyncio's own loop stays silent and the read fails.
AWAY = (RedisError, OSError, RuntimeError)


def blocking(url: str, *, seconds: float, **options: Any) -> Redis:
    """A client that waits at most `seconds` to connect and for each answer, and tries once."""
    client = Redis.from_url(
        for_client(url), socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0), **options
    )
    setattr(client, _NAMESPACE, namespace_of(url))
    return client


def asynchronous(url: str, *, seconds: float, **options: Any) -> AsyncRedis:
    """As `blocking`, for an event loop."""
    return AsyncRedis.from_url(
        for_client(url),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=AsyncRetry(NoBackoff(), 0),
        **options,
    )


def pooled(url: str, *, seconds: float, connections: int) -> AsyncRedis:
    """As `asynchronous`; beyond `connections` callers wait for one, and a broken one is tried again once."""
    pool = BlockingConnectionPool.from_url(
        for_client(url),
        max_connections=connections,
        timeout=seconds,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=AsyncRetry(NoBackoff(), 1),
    )
    return AsyncRedis.from_pool(pool)


_NAMESPACE = "stockpot_namespace"


def namespace(client: Redis) -> str:
    """The namespace of the URL that a blocking client was made from."""
    return str(getattr(client, _NAMESPACE, DEFAULT_NAMESPACE))
