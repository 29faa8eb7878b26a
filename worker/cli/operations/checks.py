"""The checks of `stockpot doctor`: each says what it found and how to mend it. No check shows a key or a password."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy import Connection, text

from api_schemas import jsontext
from worker import embedded
from worker.base import urls
from worker.base.errors import SettingsError, Unreachable
from worker.base.settings import Settings
from worker.db.clock import now_sql
from worker.db.connect import Database
from worker.db.jobs import leases, lookup
from worker.db.ready import ensure_schema
from worker.db.url import display_url
from worker.upstream.client import UpstreamClient

#: A clock that is further off makes log lines lie; leases do not mind, they use the database's clock.
_SKEW_SECONDS = 2.0
#: The upstream's Date header has whole seconds, and the answer was some time on its way.
_DATE_SKEW_SECONDS = 5.0
#: Streams with explicit partial ids and XADD trimming came with Redis 6.2, as did what else the scripts use.
_OLDEST_REDIS = (6, 2)
_ANSWER_SECONDS = 3.0

Outcome = Literal["ok", "note", "failed", "unreachable"]


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. `note`: works, but worth knowing; `failed`: reachable and wrong."""

    name: str
    outcome: Outcome
    detail: str
    mend: str = ""


def every(settings: Settings) -> Iterator[Check]:
    """Run all checks, in the order in which they depend on one another."""
    yield from database(settings)
    yield from redis(settings)
    yield from broker(settings)
    yield from asyncio.run(upstream(settings))


def database(settings: Settings) -> Iterator[Check]:
    """Reachable, of this version, writable, and its clock."""
    where = display_url(settings)
    opened = Database(settings, pool_size=1)
    try:
        before = datetime.now(UTC)
        now = lookup.moment(opened.read(lambda conn: conn.execute(text(f"SELECT {now_sql(conn)}")).scalar()))
        yield Check("database", "ok", where)
        try:
            ensure_schema(settings)
        except Unreachable as error:
            yield Check("schema", "failed", _first_line(error), error.mend)
            return
        yield Check("schema", "ok", "of this version")
        opened.write(_try_to_write)
        yield Check("database writes", "ok", "a row was written and removed")
    except Unreachable as error:
        yield Check("database", "unreachable", f"{where}: {_first_line(error)}", error.mend)
        return
    finally:
        opened.close()
    skew = 0.0 if now is None else (now - before).total_seconds()
    yield _clock("clock (database)", skew, _SKEW_SECONDS)


def _try_to_write(conn: Connection) -> None:
    leases.elect(conn, "doctor", "doctor", seconds=1)
    leases.resign(conn, "doctor")


def redis(settings: Settings) -> Iterator[Check]:
    """Reachable, new enough, never evicting, and what it keeps over a restart."""
    with contextlib.ExitStack() as stack:
        try:
            url = (
                settings.redis_url or embedded.find(settings.home) or stack.enter_context(embedded.lease(settings.home))
            )
            client = stack.enter_context(_client(url))
            info: dict[str, Any] = client.info()
        except Unreachable as error:
            yield Check("redis", "unreachable", _first_line(error), error.mend)
            return
        except (RedisError, OSError, ValueError) as error:
            mend = "Start it, or mend STOCKPOT_REDIS_URL; unset it to use the embedded Valkey."
            yield Check("redis", "unreachable", f"{type(error).__name__}: {error}", mend)
            return
    yield Check(
        "redis",
        "ok",
        urls.without_credentials(settings.redis_url) if settings.redis_url else f"embedded under {settings.home}",
    )
    yield from _redis_facts(info)


def _redis_facts(info: dict[str, Any]) -> Iterator[Check]:
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


def broker(settings: Settings) -> Iterator[Check]:
    """Where the doorbells go: Redis again unless STOCKPOT_BROKER_URL says otherwise."""
    url = settings.broker_url
    if url is None:
        yield Check("broker", "ok", "the same Redis")
        return
    mend = "Start it, or mend STOCKPOT_BROKER_URL. Without it jobs wait for the workers' own look."
    try:
        parts = urlsplit(url)
        if parts.scheme in {"redis", "rediss"}:
            with _client(url) as client:
                client.ping()
        elif parts.scheme.endswith("+socket"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_ANSWER_SECONDS)
                probe.connect(parts.path)
        else:
            with socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=_ANSWER_SECONDS):
                pass
    except (RedisError, OSError, ValueError) as error:
        yield Check("broker", "unreachable", f"{urls.without_credentials(url)}: {type(error).__name__}: {error}", mend)
        return
    yield Check("broker", "ok", urls.without_credentials(url))


async def upstream(settings: Settings) -> list[Check]:
    """Reachable, the key known to it, credits left, and its clock."""
    client = UpstreamClient(
        settings.upstream_url,
        connect_timeout=settings.connect_timeout,
        first_event_timeout=settings.first_event_timeout,
        idle_timeout=settings.idle_timeout,
        max_response_bytes=settings.max_response_bytes,
    )
    try:
        key = settings.key
        if key is not None and not (key.isascii() and key.isprintable()):
            return [Check("key", "failed", "it holds characters that no HTTP header can carry", "Copy it again.")]
        return await _ask(client, settings.upstream_url, key)
    except SettingsError as error:
        return [Check("key", "failed", str(error), "Mend STOCKPOT_API_KEY_FILE, or set AIMLAPI_API_KEY.")]
    except Unreachable as error:
        mend = "Check STOCKPOT_UPSTREAM_URL and this machine's way to the network."
        return [Check("upstream", "unreachable", f"{settings.upstream_url}: {_first_line(error)}", mend)]
    finally:
        await client.close()


async def _ask(client: UpstreamClient, where: str, key: str | None) -> list[Check]:
    asked = time.time()
    status, headers, body = await client.get_json("/v1/models", key)
    good = status == 200
    found = [
        Check("upstream", "ok", f"{where}, {_models(body)}")
        if good
        else Check("upstream", "failed", f"{where}: GET /v1/models answered {status}", "Check STOCKPOT_UPSTREAM_URL.")
    ]
    if key is None:
        mend = "Set AIMLAPI_API_KEY (or STOCKPOT_API_KEY, STOCKPOT_API_KEY_FILE), or use `stockpot up --simulate`."
        found.append(Check("key", "failed", "there is none", mend))
    else:
        found.append(await _key(client, key))
    with contextlib.suppress(KeyError, ValueError, TypeError):
        found.append(
            _clock("clock (upstream)", parsedate_to_datetime(headers["date"]).timestamp() - asked, _DATE_SKEW_SECONDS)
        )
    return found


async def _key(client: UpstreamClient, key: str) -> Check:
    """Whether the upstream takes the key and it can pay, where the upstream tells (`GET /v2/billing`)."""
    status, _, body = await client.get_json("/v2/billing", key)
    if status in {401, 403}:
        return Check("key", "failed", f"the upstream refuses it ({status})", "Make a new key, or check the account.")
    if status != 200:
        return Check("key", "note", f"set; this upstream does not tell whether it is good ({status})")
    try:
        balance = float(jsontext.loads(body)["current_balance"])
    except (ValueError, KeyError, TypeError):
        return Check("key", "ok", "accepted")
    if balance <= 0:
        return Check("key", "failed", f"accepted, but its balance is ${balance:,.2f}", "Top the account up.")
    return Check("key", "ok", f"accepted, balance ${balance:,.2f}")


def _models(body: bytes) -> str:
    try:
        return f"{len(jsontext.loads(body)['data']):,} models"
    except (ValueError, KeyError, TypeError):
        return "its list of models is of another form"


def _clock(name: str, skew: float, limit: float) -> Check:
    if abs(skew) <= limit:
        return Check(name, "ok", "agrees with this machine's")
    ahead = "ahead of" if skew > 0 else "behind"
    return Check(name, "failed", f"{abs(skew):.1f} s {ahead} this machine's", "Let both keep time with NTP.")


def _client(url: str) -> Redis:
    return Redis.from_url(
        url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
