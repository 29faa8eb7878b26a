"""The checks of Redis and of the broker in `stockpot doctor`: they do what a worker does, over the worker's connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from worker import embedded
from worker.base import urls
from worker.base.errors import Unreachable
from worker.base.redis import blocking, namespace
from worker.base.settings import Settings
from worker.broker.probe import BrokerFailure, probe
from worker.cli.operations.check import Check, first_line
from worker.cli.operations.server_checks import redis_settings
from worker.engine.neighbours import LIVES, databases_key
from worker.engine.redis_policy import unusable

#: Streams with explicit partial ids and XADD trimming came with Redis 6.2, as did what else the scripts use.
_OLDEST_REDIS = (6, 2)
_ANSWER_SECONDS = 3.0
#: Keys that a look for neighbours reads at most: a large Redis is not walked through.
_MOST_KEYS = 20_000
_MEND = "Start it, or mend STOCKPOT_REDIS_URL; unset it to use the embedded Valkey."
_TLS = "Name its certificate authority in STOCKPOT_REDIS_CA_FILE; a certificate must be for the host in the URL."


def redis(settings: Settings, database: str | None) -> Iterator[Check]:
    """Reachable, usable, new enough, never evicting, what it keeps over a restart, and who else is there.

    `database` is who ours is (`db.identity`), None where it is unknown.
    """
    with contextlib.ExitStack() as stack:
        try:
            url = settings.redis_url
            if url is None:
                url = embedded.find(settings.home) or stack.enter_context(embedded.lease(settings.home))
            client = stack.enter_context(blocking(embedded.in_force(settings, url), seconds=_ANSWER_SECONDS))
            info: dict[str, Any] = client.info()
        except Unreachable as error:
            yield Check("redis", "unreachable", first_line(error), error.mend)
            return
        except (RedisError, OSError, ValueError) as error:
            mend = _TLS if "CERTIFICATE" in str(error) else _MEND
            yield Check("redis", "unreachable", f"{type(error).__name__}: {error}", mend)
            return
        place = (
            urls.without_credentials(settings.redis_url) if settings.redis_url else f"embedded under {settings.home}"
        )
        yield Check("redis", "ok", place)
        yield _usable(client, info)
        yield from _facts(info)
        yield redis_settings(client, info)
        yield from _neighbours(client, database)


def _usable(client: Redis, info: dict[str, Any]) -> Check:
    """Write, run a script and publish, as limits, live streams and cancellations do."""
    reason = unusable(info)
    if reason is not None:
        return Check("redis writes", "failed", reason, "Give the URL of a single primary.")
    name = f"{namespace(client)}:doctor"
    try:
        client.set(name, "1", ex=10)
        client.eval("return redis.call('DEL', KEYS[1])", 1, name)
        client.publish(name, "1")
    except (RedisError, OSError) as error:
        mend = "Look at its log: a full disk, a full memory, or rights that are missing (`docs/redis.md`)."
        return Check("redis writes", "failed", f"{type(error).__name__}: {error}", mend)
    return Check("redis writes", "ok", "a key was written, a script run, a message published")


def _facts(info: dict[str, Any]) -> Iterator[Check]:
    version = str(info.get("redis_version", "0"))
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    new_enough = tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) >= _OLDEST_REDIS
    oldest = ".".join(map(str, _OLDEST_REDIS))
    yield Check(
        "redis version", "ok" if new_enough else "failed", name, "" if new_enough else f"Use {oldest} or newer."
    )
    policy = info.get("maxmemory_policy", "unknown")
    keeps = policy == "noeviction"
    mend = "Run `CONFIG SET maxmemory-policy noeviction` (and set it in redis.conf): a full Redis would drop doorbells."
    yield Check("redis eviction", "ok" if keeps else "failed", f"maxmemory-policy {policy}", "" if keeps else mend)
    if info.get("aof_enabled"):
        good = info.get("aof_last_write_status", "ok") == "ok"
        detail = "append-only file" if good else "the last write of the append-only file failed"
        yield Check(
            "redis persistence", "ok" if good else "failed", detail, "" if good else "Look at its log and its disk."
        )
    else:
        detail = "no append-only file; after a crash jobs go on, live streams and learned limits start anew"
        yield Check("redis persistence", "note", detail, "Set `appendonly yes` to keep them.")


def _neighbours(client: Redis, database: str | None) -> Iterator[Check]:
    """Other databases in our namespace take our messages; other namespaces and other applications are only there."""
    ours = namespace(client)
    try:
        now: Any = client.time()
        seen: Any = client.zrangebyscore(databases_key(ours), now[0] - LIVES, "+inf")
        strangers = [name for name in seen if database is None or name.decode() != database]
        others = _others(client, ours)
    except (RedisError, OSError) as error:
        yield Check("redis neighbours", "note", f"cannot be listed: {type(error).__name__}")
        return
    if database is not None and strangers:
        detail = f"workers of {len(strangers)} other database(s) use the namespace {ours}"
        mend = "Give each project a STOCKPOT_REDIS_NAMESPACE of its own: they take each other's submissions."
        yield Check("redis neighbours", "failed", detail, mend)
    elif others:
        yield Check("redis neighbours", "ok", f"namespace {ours}; beside it {', '.join(others)}")
    else:
        yield Check("redis neighbours", "ok", f"namespace {ours}; no other keys beside it")


def _others(client: Redis, ours: str) -> list[str]:
    """Other namespaces of Stockpot, and queues of other Celery applications."""
    found = set()
    for count, raw in enumerate(client.scan_iter(count=1_000)):
        if count >= _MOST_KEYS:
            break
        name = raw.decode(errors="replace")
        if name.endswith(":databases") and name != databases_key(ours):
            found.add(f"Stockpot in {name.removesuffix(':databases')}")
        elif (queue := _bound_queue(name)) is not None and not queue.startswith(f"{ours}."):
            found.add(f"a Celery queue {queue[:40]}")
    return sorted(found)


def _bound_queue(key: str) -> str | None:
    """The queue whose binding kombu keeps under a key; None for another key."""
    prefix, _, queue = key.partition(".")[2].partition(".")
    return queue if key.startswith("_kombu.") and prefix.startswith("binding") and queue else None


def broker(settings: Settings) -> Iterator[Check]:
    """Where the doorbells go, over the connection that sends them: Redis, unless STOCKPOT_BROKER_URL names another."""
    where = "the same Redis" if settings.broker_url is None else urls.without_credentials(settings.broker_url)
    with contextlib.ExitStack() as stack:
        try:
            if settings.redis_url is None and settings.broker_url is None and embedded.find(settings.home) is None:
                stack.enter_context(embedded.lease(settings.home))
            probe(settings)
        except (BrokerFailure, Unreachable) as error:
            mend = "Start it, or mend STOCKPOT_BROKER_URL. Without it jobs wait for the workers' own look."
            yield Check(
                "broker", "unreachable", f"{where}: {first_line(error)}", _TLS if "CERTIFICATE" in str(error) else mend
            )
            return
    yield Check("broker", "ok", f"{where}; a message was sent and removed")
