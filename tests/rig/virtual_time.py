"""Virtual time: an event loop whose clock jumps to the next timer, and the limits' Redis scripts on that clock.

Minutes of waiting pass in milliseconds, and the same seed gives the same run: nothing depends on the machine. The
scripts are the product's own, run by a real Valkey; only where they ask for the time they are given the loop's.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import orjson
import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from worker.limits import limiter, lua
from worker.limits.breaker import PROBE_MS
from worker.limits.keys import Keys
from worker.limits.limiter import Ask, Limiter
from worker.limits.route import Route

T = TypeVar("T")
_NOW = "virtual:now"
#: Where the loop's clock begins, in seconds: any moment that is not 0, which the scripts take for "never".
_BEGIN = 1_000_000.0


class _Leap(selectors.SelectSelector):
    """Instead of waiting for a timer it moves the clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = _BEGIN

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever happen")
        self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        """Virtual seconds."""
        return self._leap.now


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class VirtualRedis:
    """A Redis as the gates of one test see it: `latency()` seconds there and back, away while `away`."""

    def __init__(self, url: str, rng: random.Random, latency: Callable[[], float] = lambda: 0.001) -> None:
        self.client = redis.Redis.from_url(url)
        self.rng, self.latency = rng, latency
        self.away = False
        self._digests: dict[str, str] = {}

    def connect(self, url: str, permit_ttl: float) -> Limiter:
        """For `Gate(connect=…)`."""
        return _VirtualLimiter(self, permit_ttl)

    def digest(self, script: str) -> str:
        """The name under which this Redis knows a script, on the loop's clock."""
        known = self._digests.get(script)
        if known is None:
            timed = script.replace("redis.call('TIME')", f"{{0, tonumber(redis.call('GET', '{_NOW}'))}}")
            known = self._digests[script] = str(self.client.script_load(timed))
        return known

    async def ask(self, what: Callable[[Any], object]) -> list[Any]:
        """Run commands in one round trip. While Redis is away they are lost, or their answers are."""
        await asyncio.sleep(self.latency())
        if self.away and self.rng.random() < 0.5:
            raise RedisConnectionError("away")
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.set(_NOW, int(asyncio.get_running_loop().time() * 1e6))
            what(pipeline)
            said = pipeline.execute()[1:]
        await asyncio.sleep(self.latency())
        if self.away:
            raise RedisConnectionError("away")
        return said


class _VirtualLimiter(Limiter):
    """The limiter's verbs on a virtual Redis, those that a gate uses."""

    def __init__(self, at: VirtualRedis, permit_ttl: float) -> None:
        self.at, self.permit_ttl, self.keys = at, permit_ttl, Keys()

    async def aclose(self) -> None:
        """Nothing is held open."""

    async def _sync_by_digest(self, asks: Sequence[Ask]) -> list[bytes]:
        ttl = {"ttl": int(self.permit_ttl * 1_000), "state_ttl": limiter._STATE_TTL_MS, "probe_ttl": PROBE_MS}

        def all_of_them(pipeline: Any) -> None:
            for ask in asks:
                named = ask.named(self.keys)
                pipeline.evalsha(self.at.digest(lua.SYNC), len(named), *named, orjson.dumps({**ttl, **ask.body}))

        return await self.at.ask(all_of_them)

    async def _run(self, script: str, named: list[str], *arguments: Any) -> Any:
        digest = self.at.digest(script)
        [said] = await self.at.ask(lambda pipeline: pipeline.evalsha(digest, len(named), *named, *arguments))
        return said

    async def is_paused(self, key_id: str) -> bool:
        """See `Limiter`."""
        [said] = await self.at.ask(lambda pipeline: pipeline.hexists(self.keys.account(key_id), "paused"))
        return bool(said)

    async def leave(self, worker: str) -> None:
        """See `Limiter`."""
        await self.at.ask(lambda pipeline: pipeline.zrem(self.keys.workers, worker))

    async def register(self, route: Route) -> None:
        """Nobody lists the routes of a virtual Redis."""
