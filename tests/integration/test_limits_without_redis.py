"""The limits while Redis hangs, is gone, or was emptied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.admissions import KEYS, ROUTE, admission, permits
from tests.rig.servers import ValkeyServer
from tests.rig.waiting import eventually_async
from worker.limits.permit import Held
from worker.limits.route import Limits

pytestmark = pytest.mark.anyio


async def within(seconds: float, what: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, which must not take longer."""
    return await asyncio.wait_for(what(), seconds)


async def test_a_frozen_redis_does_not_hold_up_a_job(own_valkey: ValkeyServer) -> None:
    """Redis stops answering: jobs go on within the local share after a second, and the fleet's limit holds again later."""
    async with (
        admission(own_valkey.url, Limits(concurrency=6)) as one,
        admission(own_valkey.url, Limits(concurrency=6)) as other,
    ):
        mine, theirs = await permits(one, 1, wait=5.0), await permits(other, 1, wait=5.0)

        async def both_known() -> bool:
            return one._route_limiter(ROUTE, ()).holders == other._route_limiter(ROUTE, ()).holders == 2

        await eventually_async(both_known)
        own_valkey.freeze()
        started = time.monotonic()
        mine += await permits(one, 10, wait=5.0)
        assert one.away
        assert len(mine) == 3
        assert time.monotonic() - started < 20
        own_valkey.thaw()

        async def back() -> bool:
            return not one.away and not other.away

        await eventually_async(back)
        theirs += await permits(other, 10, wait=3.0)
        assert len(mine) + len(theirs) == 6


async def test_without_any_redis_a_worker_keeps_to_the_limits_by_itself() -> None:
    """No Redis at all: concurrency, requests per minute and the account's pause hold within the process."""
    async with admission(None, Limits(concurrency=3, rpm=5)) as one:
        given = await permits(one, 10, wait=0.1)
        assert len(given) == 1  # five a minute go out one by one
        given[0].done("account", status=403)
        held = await one.admit(ROUTE, 1)
        assert isinstance(held, Held)
        assert held.reason == "paused"
    async with admission("redis://127.0.0.1:1/0", Limits(concurrency=3)) as one:
        assert len(await within(20, lambda: permits(one, 10, wait=0.5))) == 3


async def test_an_emptied_redis_keeps_the_learned_limit(redis_url: str, valkey: ValkeyServer) -> None:
    """FLUSHALL: the workers bring back what they know, and the limit holds on."""
    async with admission(redis_url) as one:
        (permit,) = await permits(one, 1, wait=5.0)
        with valkey.client() as client:
            client.hset(KEYS.state(ROUTE), "limit", 77)

            async def known() -> bool:
                return one._route_limiter(ROUTE, ()).known == 77

            await eventually_async(known)
            client.flushall()

            async def restored() -> bool:
                return bool(client.hget(KEYS.state(ROUTE), "limit") == "77")

            await eventually_async(restored)
        permit.done("answer")
