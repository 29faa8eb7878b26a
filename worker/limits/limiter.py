"""The scripts as calls: asks go out in one pipeline, replies come back as values.

Raises `redis.RedisError` (a time-out included) when Redis does not do it; `admission` decides what happens then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, cast

import orjson
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from worker.base.redis import asynchronous
from worker.base.redis_urls import namespace_of
from worker.limits import lua
from worker.limits.breaker import PROBE_MS
from worker.limits.keys import STATE_TTL, Keys
from worker.limits.learned import Learned
from worker.limits.route import Limits, Route, Scope

#: Seconds that a Redis which does not answer may hold up a waiting job before its worker falls back to its own share.
ANSWER_SECONDS = 1.0
#: Milliseconds for which one worker is elected to ask for an account's balance.
_ELECTION_MS = 30_000
#: What a pause of an account consists of; its hash has the refused jobs, too.
_PAUSE = ["paused", "detail", "since", "until"]
#: Refusals of one job, each after others of its key were answered in between, until it is the job. One may be chance: an
#: account that was filled and is empty again.
STRIKES = 2
#: Refused jobs remembered of a key.
REMEMBERED = 4_096
_STATE_TTL_MS = int(STATE_TTL.total_seconds() * 1_000)


@dataclass(frozen=True, slots=True)
class Ask:
    """One holder's report and wishes; the fields are `lua.SYNC`'s."""

    route: Route
    scopes: Sequence[Scope]
    limits: Limits
    body: dict[str, Any]

    def named(self, keys: Keys) -> list[str]:
        """The script's KEYS."""
        named: list[str] = [keys.account(self.route.key_id), keys.state(self.route)]
        everything: list[Route | Scope] = [self.route, *self.scopes]
        for of in everything:
            named += [keys.holders(of), keys.rates(of)]
        return named


@dataclass(frozen=True, slots=True)
class WindowDue:
    """A learning window that the receiver is to decide on."""

    win: int
    ok: int
    overloaded: int
    bad: int
    ms: int
    pressed: bool
    learned: str
    breaker: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What `lua.SYNC` answers; times in milliseconds."""

    hold: int = 0
    n: int = 0
    why: str | None = None
    wait: float = 0.0
    probe: str | None = None
    paused: str | None = None
    detail: str | None = None
    route_epoch: int = 0
    account_epoch: int = 0
    trips: int = 0
    limit: int = 1
    trial: bool = False
    background: int = 0
    holders: int = 1
    now: float = 0.0
    bucket: int = 0
    stale: bool = False
    due: WindowDue | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause to write down: `why` in a word, `detail` for people, seconds to the first or next probe."""

    why: str
    detail: str = ""
    wait: float = 0.0
    trips: int = 1
    epoch: int | None = None
    probed: bool = False
    calls: bool = False  # one call may go out as the probe


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route as `stockpot routes` shows it. `since` and `until` are Unix seconds."""

    route: Route
    limit: int | None
    in_flight: int
    paused: str | None = None  # the reason, or None
    paused_by: str | None = None  # "route" or "account"
    detail: str = ""
    since: float | None = None
    until: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "route": self.route.name,
            "upstream": self.route.upstream_url,
            "key": self.route.key_id,
            "model": self.route.model,
            "limit": self.limit,
            "in_flight": self.in_flight,
            "paused": self.paused,
            "paused_by": self.paused_by,
            "detail": self.detail,
            "since": self.since,
            "until": self.until,
        }


@dataclass(slots=True)
class Limiter:
    """The limits' Redis. `permit_ttl` seconds is how long a dead worker's permits stay taken."""

    redis: Redis
    permit_ttl: float = 30.0
    keys: Keys = field(default_factory=Keys)
    _digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def connect(cls, url: str, permit_ttl: float) -> Limiter:
        """A client whose calls fail rather than wait: no retries, a second for an answer."""
        redis = asynchronous(url, seconds=ANSWER_SECONDS, max_connections=8)
        return cls(redis, permit_ttl, Keys(namespace_of(url)))

    async def aclose(self) -> None:
        """Give the connections back."""
        await self.redis.aclose()

    async def sync(self, asks: Sequence[Ask]) -> list[Reply]:
        """One `SYNC` per ask, all in one round trip."""
        try:
            replies = await self._sync_by_digest(asks)
        except NoScriptError:
            await cast("Any", self.redis.script_load(lua.SYNC))
            replies = await self._sync_by_digest(asks)
        return [_reply(one) for one in replies]

    async def _sync_by_digest(self, asks: Sequence[Ask]) -> list[bytes]:
        ttl = {"ttl": int(self.permit_ttl * 1_000), "state_ttl": _STATE_TTL_MS, "probe_ttl": PROBE_MS}
        async with self.redis.pipeline(transaction=False) as pipeline:
            for ask in asks:
                named = ask.named(self.keys)
                body = orjson.dumps({**ttl, **ask.body})
                pipeline.evalsha(self._digest(lua.SYNC), len(named), *named, body)
            replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return cast("list[bytes]", replies)

    async def learn(self, route: Route, win: int, now: Learned, breaker: bytes, length: float) -> bool:
        """Close a window; False when another worker has closed it already. `length` of the next one in seconds."""
        body = {
            "win": win,
            "limit": now.limit,
            "learned": orjson.dumps(now.to_json()).decode(),
            "breaker": breaker.decode(),
            "length": int(length * 1_000),
            "trial": int(now.base > 0),
            "background": now.background,
        }
        return bool(await self._run(lua.LEARN, [self.keys.state(route)], orjson.dumps(body)))

    async def pause(self, key: str, pause: Pause) -> bool:
        """Write a pause down; True for the one caller that made the transition."""
        body: dict[str, Any] = {
            "why": pause.why,
            "detail": pause.detail[:500],
            "wait": int(pause.wait * 1_000),
            "trips": pause.trips,
            "probed": pause.probed,
            "calls": pause.calls,
            "ttl": _STATE_TTL_MS,
        }
        if pause.epoch is not None:
            body["epoch"] = pause.epoch
        return bool(await self._run(lua.PAUSE, [key], orjson.dumps(body)))

    async def resume(self, key: str, *, by_hand: bool = False) -> bool:
        """Lift a pause; True for the one caller that made the transition."""
        return bool(await self._run(lua.RESUME, [key], "1" if by_hand else "0"))

    async def is_paused(self, key_id: str) -> bool:
        """Whether the key's account is paused."""
        return bool(await cast("Any", self.redis.hexists(self.keys.account(key_id), "paused")))

    async def believes(self, route: Route, job: str, epoch: int, *, probed: bool = False) -> bool:
        """Whether a refusal of this job in words about the account is the account's, by what all workers have seen.

        It is, unless the job was refused so before, again and again, although others of its key were answered in between
        (or its model has jobs like that, and was not answered since).

        Args:
            epoch: of the refused call's permit.
            probed: whether that call was the account's probe, so that nothing but this job's refusal had paused it.
        """
        body = {
            "job": job,
            "epoch": epoch,
            "probed": probed,
            "strikes": STRIKES,
            "most": REMEMBERED,
            "ttl": _STATE_TTL_MS,
        }
        named = [self.keys.account(route.key_id), self.keys.state(route)]
        return bool(await self._run(lua.REFUSED, named, orjson.dumps(body)))

    async def elect(self, key_id: str) -> int:
        """Stand for prober of a paused account: its trips if elected, -1 if not, -2 if it is not paused."""
        return int(await self._run(lua.ELECT, [self.keys.account(key_id)], _ELECTION_MS))

    async def beat(self, worker: str) -> int:
        """Be counted for another lease. → how many workers there are."""
        return int(await self._run(lua.BEAT, [self.keys.workers], worker, int(self.permit_ttl * 1_000)))

    async def leave(self, worker: str) -> None:
        """No longer be counted."""
        await cast("Any", self.redis.zrem(self.keys.workers, worker))

    async def register(self, route: Route) -> None:
        """Put the route on the list that `states` reads."""
        parts = orjson.dumps([route.upstream_url, route.key_id, route.model])
        await cast("Any", self.redis.hset(self.keys.routes, route.digest, parts))
        await self.redis.expire(self.keys.routes, STATE_TTL)

    async def states(self) -> list[RouteState]:
        """All routes of the last days, by name. A route without a call for `STATE_TTL` is forgotten."""
        listed = await cast("Any", self.redis.hgetall(self.keys.routes))
        routes = [Route(*orjson.loads(parts)) for parts in listed.values()]
        found = [state for route in routes if (state := await self._state(route)) is not None]
        return sorted(found, key=lambda state: state.route.name)

    async def _state(self, route: Route) -> RouteState | None:
        async with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self.keys.state(route))
            pipeline.hmget(self.keys.account(route.key_id), _PAUSE)
            pipeline.eval(lua.IN_FLIGHT, 1, self.keys.holders(route))
            state, pause, in_flight = await pipeline.execute()
        account = {name.encode(): value for name, value in zip(_PAUSE, pause, strict=True) if value is not None}
        if not state and not int(in_flight):
            return None
        by = next((name for name, fields in (("account", account), ("route", state)) if b"paused" in fields), None)
        fields = account if by == "account" else state
        return RouteState(
            route=route,
            limit=int(state[b"limit"]) if b"limit" in state else None,
            in_flight=int(in_flight),
            paused=fields[b"paused"].decode() if by else None,
            paused_by=by,
            detail=fields.get(b"detail", b"").decode() if by else "",
            since=float(fields[b"since"]) / 1_000 if by else None,
            until=float(fields[b"until"]) / 1_000 if by and fields[b"paused"] != b"manual" else None,
        )

    async def _run(self, script: str, named: list[str], *arguments: Any) -> Any:
        try:
            return await cast("Any", self.redis.evalsha(self._digest(script), len(named), *named, *arguments))
        except NoScriptError:
            return await cast("Any", self.redis.eval(script, len(named), *named, *arguments))

    def _digest(self, script: str) -> str:
        known = self._digests.get(script)
        if known is None:
            # Redis names a script by its SHA-1; nothing secret hangs on it.
            known = self._digests[script] = sha1(script.encode(), usedforsecurity=False).hexdigest()
        return known


def _reply(raw: bytes) -> Reply:
    fields = orjson.loads(raw)
    due = fields.pop("due", None)
    return Reply(**fields, due=WindowDue(**due) if due else None)
